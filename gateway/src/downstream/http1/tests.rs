//! What the session of HTTP/1.1 promises: byte by byte, and in virtual time.

use std::pin::pin;
use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const DEADLINES: Deadlines = Deadlines { head: Duration::from_secs(10), idle: Duration::from_secs(60), body_rate: 100 };
const BOUNDS: Bounds = Bounds { bytes: 1_024, fields: 20 };

fn connected() -> (Http1, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Http1::new(Box::new(ours), DEADLINES, BOUNDS), theirs)
}

/// A connection whose client has sent this, which begins with a whole head.
async fn asked(sent: &str) -> (Http1, DuplexStream) {
    let (mut session, mut client) = connected();
    client.write_all(sent.as_bytes()).await.unwrap();
    assert_eq!(next(&mut session).await, Incoming::Request);
    (session, client)
}

async fn next(session: &mut Http1) -> Incoming {
    session.read_head(pin!(std::future::pending())).await
}

async fn body(session: &mut Http1) -> Result<Vec<u8>, ClientFault> {
    let mut all = Vec::new();
    while let Some(piece) = session.read_body().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn answer(fields: &HeaderMap, delimited: Delimited) -> AnswerHead<'_, HeaderMap> {
    AnswerHead { status: 200, reason: b"", fields, delimited, now_ms: 784_111_777_000 }
}

/// Requests as they were read: target and body.
async fn requests(session: &mut Http1) -> (Vec<(String, Vec<u8>)>, Incoming) {
    let mut all = Vec::new();
    loop {
        match next(session).await {
            Incoming::Request => {
                let target = String::from_utf8(session.head().target.to_vec()).unwrap();
                match body(session).await {
                    Ok(body) => all.push((target, body)),
                    Err(_) => return (all, Incoming::End),
                }
                if !session.finish().await {
                    return (all, Incoming::End);
                }
            }
            end @ (Incoming::Faulty(_) | Incoming::End) => return (all, end),
        }
    }
}

const PIPELINED: &[u8] = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
    POST /three HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n\
    \r\nGET /four HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn requests_are_the_same_however_their_bytes_are_cut() {
    let expected = [("/one", ""), ("/two", "hello"), ("/three", "abcde"), ("/four", "")];
    let expected = expected.map(|(target, body)| (target.to_owned(), body.as_bytes().to_vec()));
    for piece in [1, 2, 3, 7, 50, PIPELINED.len()] {
        let (mut session, mut client) = connected();
        let send = async {
            for bytes in PIPELINED.chunks(piece) {
                client.write_all(bytes).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (_, (seen, _)) = tokio::join!(send, requests(&mut session));
        assert_eq!(seen, expected, "in pieces of {piece}");
    }
}

#[tokio::test]
async fn a_head_and_the_first_bytes_of_its_body_leave_together() {
    let (mut session, mut client) = asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let fields = HeaderMap::from_iter([(CONTENT_LENGTH, "5".parse().unwrap())]);
    session.write_head(&answer(&fields, Delimited::Length)).unwrap();
    let mut seen = [0; 256];
    assert!(futures_util::poll!(pin!(client.read(&mut seen))).is_pending(), "it waits for what follows");
    session.write_body(b"hello", true).await.unwrap();
    let length = client.read(&mut seen).await.unwrap();
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nhello";
    assert_eq!(std::str::from_utf8(&seen[..length]).unwrap(), expected);
    assert!(session.finish().await);
    assert_eq!(session.body_bytes(), (0, 5));
}

#[tokio::test]
async fn an_answer_says_that_it_is_the_last_one() {
    for (head, delimited) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Delimited::NoBody),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Delimited::NoBody),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Delimited::Close),
    ] {
        let (mut session, mut client) = asked(head).await;
        session.write_head(&answer(&HeaderMap::new(), delimited)).unwrap();
        session.write_body(b"bytes", true).await.unwrap();
        assert!(!session.finish().await);
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        assert!(seen.contains("\r\nconnection: close\r\n"), "{seen}");
        assert_eq!(seen.ends_with("\r\n\r\nbytes"), delimited == Delimited::Close, "{seen}");
    }
}

#[tokio::test]
async fn a_request_whose_body_was_not_read_is_the_last_one() {
    let (mut session, _client) =
        asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nGET / HTTP/1.1\r\n").await;
    session.write_head(&answer(&HeaderMap::new(), Delimited::NoBody)).unwrap();
    session.write_body(b"", true).await.unwrap();
    assert!(!session.finish().await);
}

#[tokio::test]
async fn a_faulty_head_is_the_last_one_and_its_method_is_known_where_it_can_be() {
    for (head, fault, method) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", Fault::Field, "GET"),
        ("PUT / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Fault::Host, "PUT"),
        ("nonsense\r\n\r\n", Fault::RequestLine, ""),
        ("GET / HTTP/1.1\r\nHost: a\n", Fault::Line, "GET"),
    ] {
        let (mut session, mut client) = connected();
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(next(&mut session).await, Incoming::Faulty(fault), "{head:?}");
        assert_eq!(session.head().method, method);
        assert!(!session.finish().await);
    }
    let (mut session, mut client) = connected();
    client.write_all(&[b'a'; BOUNDS.bytes]).await.unwrap();
    assert_eq!(next(&mut session).await, Incoming::Faulty(Fault::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_head_has_a_time_of_its_own_and_the_wait_for_it_another() {
    let start = Instant::now();
    let (mut session, _client) = connected();
    assert_eq!(next(&mut session).await, Incoming::End);
    assert_eq!(start.elapsed(), DEADLINES.head, "a new connection has the time of a head");
    let (start, (mut session, mut client)) = (Instant::now(), connected());
    let drip = async {
        loop {
            client.write_all(b"G").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let read = async { next(&mut session).await };
    tokio::select! { () = drip => {}, end = read => assert_eq!(end, Incoming::End) }
    assert_eq!(start.elapsed(), DEADLINES.head, "however many bytes came");
    let (mut session, mut client) = connected();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(next(&mut session).await, Incoming::Request);
    assert!(session.finish().await);
    let start = Instant::now();
    assert_eq!(next(&mut session).await, Incoming::End);
    assert_eq!(start.elapsed(), DEADLINES.idle);
    assert!(session.input.capacity() < 64, "while it waited it held no buffer");
}

#[tokio::test(start_paused = true)]
async fn a_body_must_keep_its_rate() {
    let (mut session, mut client) = asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n").await;
    let drip = async {
        for _ in 0..100 {
            client.write_all(b"0123456789").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let start = Instant::now();
    tokio::select! { () = drip => {}, read = body(&mut session) => assert_eq!(read, Err(ClientFault::BodySlow)) }
    assert!(start.elapsed() <= Duration::from_secs(6));
}

#[tokio::test]
async fn a_body_that_ends_early_or_is_malformed_is_the_clients_fault() {
    for (sent, fault) in [
        ("Content-Length: 9\r\n\r\nhello", ClientFault::BodyCut),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhel", ClientFault::BodyCut),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", ClientFault::BodyMalformed),
        ("Transfer-Encoding: chunked\r\n\r\nx\r\n", ClientFault::BodyMalformed),
    ] {
        let (mut session, mut client) = connected();
        client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{sent}").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(next(&mut session).await, Incoming::Request);
        assert_eq!(body(&mut session).await, Err(fault), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_that_it_sends_no_more_has_a_moment_for_its_answer() {
    let (mut session, mut client) = asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.shutdown().await.unwrap();
    let start = Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(900), session.left()).await.is_err());
    session.write_head(&answer(&HeaderMap::new(), Delimited::NoBody)).unwrap();
    session.write_body(b"", true).await.unwrap();
    assert!(!session.finish().await, "no other request can come");
    assert_eq!(session.left().await, ClientFault::Gone);
    assert_eq!(start.elapsed(), HALF_CLOSED);
}

#[tokio::test]
async fn what_a_client_sends_ahead_is_bounded_and_kept() {
    let (mut session, mut client) = asked("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.write_all(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.write_all(&vec![b'x'; 4 * AHEAD_MAX]).await.unwrap();
    assert!(futures_util::poll!(pin!(session.left())).is_pending());
    assert!(session.input.len() <= 2 * AHEAD_MAX);
    assert!(session.finish().await);
    assert_eq!(next(&mut session).await, Incoming::Request);
    assert_eq!(session.head().target, b"/second");
}

#[tokio::test]
async fn trailers_are_for_clients_that_want_them_and_only_known_ones() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("set-cookie", "a=b".parse().unwrap());
    for (te, end) in [("TE: trailers\r\n", "2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"), ("", "2\r\nok\r\n0\r\n\r\n")] {
        let (mut session, mut client) =
            asked(&format!("GET / HTTP/1.1\r\nHost: a\r\n{te}Connection: close\r\n\r\n")).await;
        session.write_head(&answer(&HeaderMap::new(), Delimited::Itself)).unwrap();
        session.write_body(b"ok", false).await.unwrap();
        session.put_trailers(&trailers);
        session.flush().await.unwrap();
        assert!(!session.finish().await);
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        assert!(seen.ends_with(&format!("\r\n\r\n{end}")), "{seen}");
    }
}

proptest! {
    #[test]
    fn a_chunked_answer_is_read_back_as_it_was_written(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40_000), 0..4),
        ends_with_a_piece in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seen = runtime.block_on(async {
            let (mut session, mut client) = asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            session.write_head(&answer(&HeaderMap::new(), Delimited::Itself)).unwrap();
            for (i, piece) in pieces.iter().enumerate() {
                let is_last = ends_with_a_piece && i + 1 == pieces.len();
                session.write_body(piece, is_last).await.unwrap();
            }
            if !ends_with_a_piece || pieces.is_empty() {
                session.write_body(b"", true).await.unwrap();
            }
            assert!(!session.finish().await);
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.unwrap();
            seen
        });
        let body = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let (mut decoder, mut read, mut rest) = (Decoder::new(Framing::Chunked), Vec::new(), &seen[body..]);
        while !decoder.is_done() {
            let found = decoder.decode(rest).unwrap();
            read.extend_from_slice(&rest[found.data.clone()]);
            rest = &rest[found.used..];
        }
        prop_assert_eq!(read, pieces.concat());
        prop_assert!(rest.is_empty());
    }
}
