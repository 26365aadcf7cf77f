//! Callers are kept apart: whatever one of them streams, none gets an answer meant for another.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request};
use tests::{Http2, Key, Manners, Policies, StoreKind, TagServer, World};

fn post(key: &Key) -> Request<()> {
    let request = Request::post("https://api.iconflow.dev/v2/packs");
    request.header("authorization", format!("Bearer {}", key.secret)).body(()).unwrap()
}

/// See https://github.com/cloudflare/pingora/issues/935: the end of the body was sent twice.
#[test]
fn a_streamed_body_whose_last_piece_is_empty_ends_once() {
    let mut world = World::start(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    world.organization("acme");
    let key = world.key("iconflow", "admin", &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Http2::connect(port).await;
        for _ in 0..3 {
            let answer = client.stream(post(&key), &[&[b'x'; 500]]).await.unwrap();
            assert_eq!(answer.status, 200);
        }
    });
    let lines: Vec<String> = world.live.received().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["POST /v2/packs HTTP/1.1"; 3]);
    assert!(world.live.received().iter().all(|request| request.body == [b'x'; 500]));
}

/// How a streamed body ends.
const ENDINGS: [&str; 8] =
    ["empty frame", "with the last piece", "trailers", "no body at all", "reset", "a length", "too short", "too long"];

/// Streams bodies of every ending, over and over; what becomes of them does not matter here.
async fn stream_bodies(port: u16, key: &Key, stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    let mut client = Http2::connect(port).await;
    while !stop.load(Ordering::SeqCst) {
        for ending in ENDINGS {
            let mut request = Request::post("https://api.iconflow.dev/v2/packs");
            request = request.header("authorization", format!("Bearer {}", key.secret)).header("x-tag", "streamed");
            match ending {
                "a length" | "too short" => request = request.header("content-length", "500"),
                "too long" => request = request.header("content-length", "300"),
                _ => {}
            }
            let request = request.body(()).unwrap();
            let (answer, mut body) = client.begin(request, ending == "no body at all").await;
            let piece = || Bytes::from_static(&[b'x'; 250]);
            let sent = match ending {
                "no body at all" => Ok(()),
                "empty frame" => body.send_data(piece(), false).and_then(|()| body.send_data(Bytes::new(), true)),
                "trailers" => body.send_data(piece(), false).and_then(|()| body.send_trailers(HeaderMap::new())),
                "reset" => body.send_data(piece(), false).map(|()| body.send_reset(h2::Reason::CANCEL)),
                "too short" => body.send_data(piece(), true),
                _ => body.send_data(piece(), false).and_then(|()| body.send_data(piece(), true)),
            };
            let whole = tests::whole(answer).await;
            if let (Ok(()), Ok(answer)) = (sent, &whole)
                && answer.status == 200
            {
                assert!(answer.body.starts_with(b"streamed "), "a foreign answer: {answer:?}");
            }
            if whole.is_err_and(|error| error.is_io() || error.is_go_away()) {
                client = Http2::connect(port).await;
            }
            rounds += 1;
        }
    }
    rounds
}

/// The other caller: tagged requests over HTTP/1.1 and HTTP/2, each of which must get its own answer.
async fn ask_tagged(port: u16, key: &Key, stop: &AtomicBool) {
    let client = Http2::connect(port).await;
    for n in 0..600 {
        let tag = format!("tag-{n}");
        let request = Request::put("https://api.iconflow.dev/v2/packs/7");
        let request = request.header("authorization", format!("Bearer {}", key.secret)).header("x-tag", &tag);
        let answer = client.stream(request.body(()).unwrap(), &[b"\x01\x02", b"\x03"]).await.unwrap();
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, format!("{tag} 6").as_str()));
    }
    stop.store(true, Ordering::SeqCst);
}

fn nobody_gets_a_foreign_byte(manners: Manners) {
    let backend = TagServer::start(manners);
    let port = backend.port;
    let edit = move |policy: Policies| {
        let policy = policy.replace("1000/min", "1000000/min").replace("200/min", "200000/min");
        policy.replace("addresses: [\"127.0.0.1:9101\"]", &format!("addresses: [\"127.0.0.1:{port}\"]"))
    };
    let mut world = World::start_with(StoreKind::Sqlite, "", edit);
    let port = world.add_trusted_listener();
    world.organization("acme");
    let (streamer, tagged) = (world.key("iconflow", "admin", &[]), world.key("iconflow", "admin", &[]));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = AtomicBool::new(false);
    let rounds = runtime.block_on(async {
        let (rounds, _, ()) = tokio::join!(
            stream_bodies(port, &streamer, &stop),
            stream_bodies(port, &streamer, &stop),
            ask_tagged(port, &tagged, &stop),
        );
        rounds
    });
    assert!(rounds >= ENDINGS.len());
    // The same over HTTP/1.1, on connections that the streams before may have left behind.
    let mut client = world.gateway().connect("api.iconflow.dev");
    for n in 0..200 {
        let (tag, bearer) = (format!("h1-{n}"), format!("Bearer {}", tagged.secret));
        let fields = [("host", "api.iconflow.dev"), ("authorization", bearer.as_str()), ("x-tag", tag.as_str())];
        let answer = client.ask("PUT", "/v2/packs/7", &fields, b"\x05");
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, format!("{tag} 5").as_str()));
    }
    assert_eq!(backend.strays(), 0, "no byte beyond a request reached the backend");
}

#[test]
fn nobody_gets_a_foreign_byte_from_a_strict_backend() {
    nobody_gets_a_foreign_byte(Manners::Strict);
}

#[test]
fn nobody_gets_a_foreign_byte_from_a_lax_backend() {
    nobody_gets_a_foreign_byte(Manners::Lax);
}
