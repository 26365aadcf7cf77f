//! Requests whose form is unusual, or contradicts itself: what is served, and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use http::Request;
use tests::{Connection, Http2, Http2Backend, Key, Policies, StoreKind, Trust, World};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn world() -> (World, Key) {
    World::with_admin(StoreKind::Sqlite, "", |policy| policy)
}

fn get(key: &Key, version: &str) -> String {
    format!("GET /v2/packs HTTP/{version}\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n\r\n", key.secret)
}

/// RFC 9112 section 2.2: some clients send one behind a body.
#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for before in ["", "\r\n", "\r\n"] {
        client.send(format!("{before}{}", get(&key, "1.1")).as_bytes());
        assert_eq!(client.receive().status, 200, "{before:?}");
    }
    client.send(format!("{0}\r\n{0}", get(&key, "1.1")).as_bytes());
    assert_eq!((client.receive().status, client.receive().status), (200, 200), "pipelined");
    assert_eq!(world.live.received().len(), 5);
}

#[test]
fn a_tls_client_speaks_a_protocol_of_ours_or_is_refused() {
    let (world, key) = world();
    let authority = world.folder.path().join("ca.pem");
    let connect =
        |protocols: &[&[u8]]| Connection::try_tls(world.gateway().tls, &Trust::speaking(&authority, protocols), HOST);
    for (protocols, version) in [(&[][..], "1.1"), (&[&b"http/1.1"[..]], "1.1"), (&[b"http/1.0"], "1.0")] {
        let mut client = connect(protocols).unwrap();
        client.send(get(&key, version).as_bytes());
        assert_eq!(client.receive().status, 200, "{protocols:?}");
    }
    for protocols in [&[&b"spdy/3"[..]][..], &[b"http/0.9", b"h3"]] {
        assert!(connect(protocols).is_err(), "{protocols:?}");
    }
}

#[test]
fn a_length_that_contradicts_its_body_over_http2_is_no_whole_request() {
    let (mut world, key) = world();
    let port = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |lengths: &[&str], pieces: Option<&[&[u8]]>| {
        runtime.block_on(async {
            let client = Http2::connect(port).await;
            let mut request = Request::put("https://api.iconflow.dev/v2/packs/7")
                .header("authorization", format!("Bearer {}", key.secret));
            for length in lengths {
                request = request.header("content-length", *length);
            }
            let request = request.body(()).unwrap();
            match pieces {
                None => client.ask(request).await.map(|answer| answer.status),
                Some(pieces) => client.stream(request, pieces).await.map(|answer| answer.status),
            }
        })
    };
    assert_eq!(ask(&["2"], Some(&[b"ok"])).unwrap(), 200);
    assert_eq!(ask(&["0"], None).unwrap(), 200);
    let whole = || world.live.received().iter().filter(|request| request.line.starts_with("PUT")).count();
    let before = whole();
    for (lengths, pieces) in [
        (&["5"][..], None),
        (&["5"], Some(&[&b"ok"[..]][..])),
        (&["1"], Some(&[b"ok"])),
        (&["2", "2"], Some(&[b"ok"])),
        (&["2", "3"], Some(&[b"ok"])),
        (&["2, 2"], Some(&[b"ok"])),
        (&["+2"], Some(&[b"ok"])),
        (&["-1"], None),
    ] {
        let answered = ask(lengths, pieces);
        assert!(answered.as_ref().map_or(true, |status| *status == 400), "{lengths:?} {pieces:?}: {answered:?}");
        assert_eq!(whole(), before, "{lengths:?} {pieces:?}");
    }
    assert_eq!(ask(&["2"], Some(&[b"ok"])).unwrap(), 200);
}

#[test]
fn a_field_that_is_too_long_over_http2_is_431_and_its_connection_goes_on() {
    let (mut world, key) = world();
    let port = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Http2::connect(port).await;
        let request = |long: usize| {
            let request = Request::get(PACKS).header("authorization", format!("Bearer {}", key.secret));
            request.header("x-long", "x".repeat(long)).body(()).unwrap()
        };
        for long in [10_000, 40_000, 60_000] {
            let expected = if long < 32_000 { 200 } else { 431 };
            assert_eq!(client.ask(request(long)).await.unwrap().status, expected, "{long}");
            assert_eq!(client.ask(request(1)).await.unwrap().status, 200);
        }
    });
}

#[test]
fn a_request_pipelined_behind_one_to_a_backend_over_http2_is_answered() {
    let backend = Http2Backend::start();
    let port = backend.port;
    let edit = move |policy: Policies| {
        let address = format!("addresses: [\"127.0.0.1:{port}\"]\n        http: h2");
        policy.replace("addresses: [\"127.0.0.1:9101\"]", &address)
    };
    let (world, key) = World::with_admin(StoreKind::Sqlite, "", edit);
    let mut client = world.gateway().connect(HOST);
    client.send(get(&key, "1.1").repeat(3).as_bytes());
    for n in 0..3 {
        assert_eq!(client.receive().status, 200, "{n}");
    }
}
