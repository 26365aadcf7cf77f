//! What a stream promises, in virtual time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use http1::head::Bounds;
use tokio::io::duplex;

use super::*;
use crate::downstream::{AnswerHead, ClientFault, Delimited};

const LIMITS: Limits = Limits {
    deadlines: Deadlines { head: Duration::from_secs(10), idle: Duration::from_secs(60), body_rate: 100 },
    head: Bounds { bytes: 1_024, fields: 20 },
};

/// A client whose streams have such a window.
async fn connected(window: u32) -> (SendRequest<Bytes>, Connection<tokio::io::DuplexStream, Bytes>) {
    let (ours, theirs) = duplex(1 << 20);
    let client = tokio::spawn(async move {
        let mut builder = h2::client::Builder::new();
        let (client, connection) = builder.initial_window_size(window).handshake(theirs).await.unwrap();
        tokio::spawn(connection);
        client
    });
    let server = options().handshake(ours).await.unwrap();
    (client.await.unwrap(), server)
}

/// The next stream; the connection is looked after from then on.
async fn next(mut server: Connection<tokio::io::DuplexStream, Bytes>) -> (Http2, Option<Fault>) {
    let (request, respond) = server.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    Http2::new(request, respond, (IpAddr::V4(Ipv4Addr::LOCALHOST), LIMITS, Arc::default()))
}

fn post() -> http::request::Builder {
    Request::post("https://api.example/")
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_left_after_a_while() {
    let (mut client, server) = connected(0).await;
    let _asked = client.send_request(post().body(()).unwrap(), true).unwrap();
    let (mut stream, fault) = next(server).await;
    assert_eq!(fault, None);
    let fields = HeaderMap::new();
    let head = AnswerHead { status: 200, reason: b"", fields: &fields, delimited: Delimited::Itself, now_ms: 0 };
    stream.write_head(&head, false).unwrap();
    let start = tokio::time::Instant::now();
    let written = stream.write_body(Bytes::from_static(b"hello"), true).await;
    assert_eq!((written, start.elapsed().as_secs()), (Err(ClientFault::TakesNothing), 60));
    stream.cut();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_cut_off() {
    let (mut client, server) = connected(65_535).await;
    let (_answer, mut body) = client.send_request(post().body(()).unwrap(), false).unwrap();
    let (mut stream, _) = next(server).await;
    tokio::spawn(async move {
        // Ten bytes a second, where a hundred is the least.
        while body.send_data(Bytes::from_static(b"0123456789"), false).is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let start = tokio::time::Instant::now();
    let fault = loop {
        match stream.read_body().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it does not end"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault, ClientFault::BodySlow);
    assert!((5..=6).contains(&start.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_streams_may_pause() {
    let (mut client, server) = connected(65_535).await;
    let (_answer, mut body) = client.send_request(post().body(()).unwrap(), false).unwrap();
    let (mut stream, _) = next(server).await;
    stream.may_pause();
    tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(600)).await;
            body.send_data(Bytes::from_static(b"0123456789"), false).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(stream.read_body().await.unwrap().unwrap().len(), 10);
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_fault_and_forgotten() {
    for (count, expected) in [(1, None), (21, Some(Fault::TooManyFields)), (200, Some(Fault::TooLarge))] {
        let (mut client, server) = connected(65_535).await;
        let request = (0..count).fold(post(), |request, i| request.header(format!("x-{i}"), "a"));
        let _asked = client.send_request(request.body(()).unwrap(), true).unwrap();
        let (stream, fault) = next(server).await;
        assert_eq!(fault, expected);
        assert_eq!(stream.head().fields.len(), if expected.is_some() { 0 } else { count });
    }
}

#[tokio::test]
async fn a_cookie_in_many_pieces_is_one_field() {
    let (mut client, server) = connected(65_535).await;
    let request = (0..50).fold(post(), |request, i| request.header("cookie", format!("{i}=x")));
    let _asked = client.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(next(server).await.1, None);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_with_a_goodbye() {
    let (ours, theirs) = duplex(1 << 20);
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let served =
        tokio::spawn(
            async move { serve(Box::new(ours), LIMITS, shutdown, |_, _| async { panic!("nobody asks") }).await },
        );
    let (client, connection) = h2::client::handshake(theirs).await.unwrap();
    let connection = tokio::spawn(connection);
    let start = tokio::time::Instant::now();
    assert_eq!(served.await.unwrap(), Ended::Well);
    assert_eq!(start.elapsed().as_secs(), 60);
    connection.await.unwrap().unwrap();
    let refused = client.ready().await.unwrap_err();
    assert_eq!((refused.is_go_away(), refused.reason()), (true, Some(Reason::NO_ERROR)));
}
