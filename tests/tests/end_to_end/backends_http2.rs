//! Backends over HTTP/2: what they say they did not process, heads before the final one, answers that stop.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::Ordering;

use http::Request;
use tests::{Http2, Http2Backend, Key, StoreKind, World};

use crate::backends::last_record;

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

/// A gateway whose live backend is this one.
fn world(backend: &Http2Backend) -> (World, Key) {
    let addresses = format!("addresses: [\"127.0.0.1:{}\"]\n        http: h2", backend.port);
    World::with_admin(StoreKind::Sqlite, "", |policy| policy.replace("addresses: [\"127.0.0.1:9101\"]", &addresses))
}

/// gRPC is all POST: every rolling deploy of its backends meets these.
#[test]
fn what_a_backend_over_http2_says_it_did_not_process_is_tried_again_whatever_the_method() {
    let backend = Http2Backend::start();
    let (mut world, key) = world(&backend);
    let trusted = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let over_http2 = |body: &[u8]| {
        runtime.block_on(async {
            let request = Request::post(PACKS).header("authorization", key.bearer());
            Http2::connect(trusted).await.stream(request.body(()).unwrap(), &[body]).await.unwrap()
        })
    };
    let over_http1 = |method: &str| world.gateway().ask_with_body(method, PACKS, Some(&key.secret), &[], b"payload");
    assert_eq!(
        (over_http1("POST").body.as_slice(), over_http2(b"payload").body.as_slice()),
        (&b"payload"[..], &b"payload"[..])
    );
    for told in [&backend.refuse, &backend.go_away] {
        for _ in 0..2 {
            told.store(true, Ordering::SeqCst);
            let answer = over_http1("POST");
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"payload"[..]));
            told.store(true, Ordering::SeqCst);
            let answer = over_http2(b"payload");
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"payload"[..]));
        }
    }
    backend.want_http1.store(true, Ordering::SeqCst);
    assert_eq!(over_http1("POST").body, b"HTTP/1.1");
    // A connection that is lost says nothing: only what may be done twice is.
    backend.drop.store(true, Ordering::SeqCst);
    assert_eq!(over_http1("POST").status, 502);
    backend.drop.store(true, Ordering::SeqCst);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
}

#[test]
fn heads_in_between_of_a_backend_over_http2_are_passed_on() {
    let backend = Http2Backend::start();
    let (world, key) = world(&backend);
    let mut client = world.gateway().connect(HOST);
    let line = format!("GET /v2/packs?hints HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n\r\n", key.secret);
    client.send(line.as_bytes());
    let received = client.read_until_text("\r\n\r\nHTTP/1.1 200").unwrap();
    assert!(received.starts_with("HTTP/1.1 103") && received.contains("link: </style.css>"), "{received}");
}

/// What follows on the client's connection would be taken for the rest.
#[test]
fn an_answer_over_http2_that_is_reset_in_the_middle_does_not_end_cleanly() {
    let backend = Http2Backend::start();
    let (mut world, key) = world(&backend);
    let trusted = world.add_trusted_listener();
    let mut client = world.gateway().connect(HOST);
    let head = format!("Host: {HOST}\r\nAuthorization: Bearer {}\r\n\r\n", key.secret);
    client.send(format!("GET /v2/packs?short HTTP/1.1\r\n{head}GET /v2/packs HTTP/1.1\r\n{head}").as_bytes());
    let mut seen = Vec::new();
    while let Ok(more) = client.read_some() {
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    let seen = String::from_utf8(seen).unwrap();
    assert_eq!(seen.matches("HTTP/1.1 200").count(), 1, "{seen}");
    assert!(seen.ends_with("xxx"), "{seen}");
    assert_eq!(last_record(&world, "upstream_broke_off")["bytes_out"], 500);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = Request::get(format!("{PACKS}?short")).header("authorization", key.bearer());
    let answer =
        runtime.block_on(async { Http2::connect(trusted).await.ask(request.body(()).unwrap()).await.map(|_| ()) });
    assert!(answer.unwrap_err().is_reset());
}
