//! gRPC: HTTP/2 on both sides, streams and trailers passed, refusals as `grpc-status`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tests::{Policies, StoreKind, World};
use tokio::net::{TcpListener, TcpStream};

/// Answers each call with what it was sent, and the trailers of a call that went well.
async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<HeaderMap>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                seen.lock().unwrap().push(request.headers().clone());
                tokio::spawn(async move {
                    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut answer = respond.send_response(head, false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        answer.send_data(data, false).unwrap();
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    answer.send_trailers(trailers).unwrap();
                });
            }
        });
    }
}

/// A client says nothing for a while.
const PAUSE: &str = "(pause)";

struct Call {
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn call(port: u16, key: Option<&str>, messages: &[&'static str]) -> Call {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut request = Request::post("https://api.iconflow.dev/v2/packs")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let (answer, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    for message in messages {
        if *message == PAUSE {
            // Longer than the least rate of a body is looked at.
            tokio::time::sleep(std::time::Duration::from_secs(6)).await;
            continue;
        }
        // A refused call is reset; the client need not be able to send all.
        let _ = stream.send_data(Bytes::from_static(message.as_bytes()), false);
    }
    let _ = stream.send_data(Bytes::new(), true);
    let answer = answer.await.unwrap();
    let (status, fields) = (answer.status().as_u16(), answer.headers().clone());
    let mut incoming = answer.into_body();
    let mut body = Vec::new();
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        body.extend(data);
    }
    let trailers = incoming.trailers().await.ok().flatten();
    Call { status, fields, body, trailers }
}

#[test]
fn grpc_passes_with_its_trailers_and_is_refused_with_its_status() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let upstream = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    runtime.spawn(serve(listener, seen.clone()));

    let edit = move |p: Policies| {
        p.replace(
            "addresses: [\"127.0.0.1:9101\"]",
            &format!("addresses: [\"127.0.0.1:{upstream}\"]\n        http: h2"),
        )
        .replace("        body_max: 50MiB # packs are uploaded here\n", "        allow: [grpc]\n")
    };
    let mut world = World::start_with(StoreKind::Sqlite, "", edit);
    world.organization("acme");
    let write = world.key("iconflow", "write", &["--scopes", "packs:write"]);
    let read = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    // gRPC without TLS needs a listener that somebody else ends TLS for.
    let port = world.add_trusted_listener();

    let went_well = runtime.block_on(call(port, Some(&write.secret), &["one ", "two ", PAUSE, "three"]));
    assert_eq!((went_well.status, went_well.body.as_slice()), (200, &b"one two three"[..]));
    assert_eq!(went_well.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(went_well.fields["x-ratelimit-limit"], "200");
    let received = seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(received["x-tollgate-key-id"], write.id.as_str());
    assert_eq!(received["te"], "trailers");
    assert!(!received.contains_key("authorization"));

    for (key, status, code) in [
        (None, "16", "missing_credential"),
        (Some("nonsense"), "16", "invalid_credential"),
        (Some(read.secret.as_str()), "7", "insufficient_scope"),
    ] {
        let refused = runtime.block_on(call(port, key, &["one"]));
        assert_eq!((refused.status, refused.fields["grpc-status"].to_str().unwrap()), (200, status));
        assert_eq!(refused.fields["grpc-message"], code);
        assert_eq!(refused.fields["content-type"], "application/grpc");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}
