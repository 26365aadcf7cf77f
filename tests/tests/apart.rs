//! Callers are kept apart: whatever one of them streams, none gets an answer meant for another.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use http::Request;
use tests::{Http2, Key, StoreKind, World};

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
