//! Answers of backends whose framing is wrong, doubtful or unusual, over HTTP/1.1 and HTTP/2: a client gets
//! what has one reading, and nobody gets what belongs to somebody else.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use http::Request;
use tests::{Connection, Http2, Key, StoreKind, World};

const HOST: &str = "api.iconflow.dev";

/// A request whose backend sends exactly these bytes, and keeps its connection.
fn behaving(answer: &str) -> String {
    format!("raw-{}", answer.bytes().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn ask(client: &mut Connection, key: &Key, answer: &str) -> std::io::Result<Option<tests::Response>> {
    let head = format!(
        "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: {}\r\n\r\n",
        key.secret,
        behaving(answer)
    );
    client.send(head.as_bytes());
    client.try_receive(false)
}

fn over_http2(port: u16, key: &Key, answer: &str) -> Result<tests::Answer, h2::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Http2::connect(port).await;
        let request = Request::get(format!("https://{HOST}/v2/packs"))
            .header("authorization", format!("Bearer {}", key.secret))
            .header("x-behave", behaving(answer));
        client.ask(request.body(()).unwrap()).await
    })
}

/// A gateway with a listener for HTTP/2 without TLS, and a key.
fn world() -> (World, Key, u16) {
    let (mut world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    let port = world.add_trusted_listener();
    (world, key, port)
}

#[test]
fn a_head_with_two_readings_is_a_502_and_its_connection_is_not_used_again() {
    let (world, key, port) = world();
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(1_024));
    let mut client = world.gateway().connect(HOST);
    assert_eq!(ask(&mut client, &key, &large).unwrap().unwrap().status, 200);
    for head in [
        "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let before = world.live.connections();
        let mut client = world.gateway().connect(HOST);
        let answer = ask(&mut client, &key, head).unwrap().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"), "{head:?}");
        let answer = over_http2(port, &key, head).unwrap();
        assert_eq!(answer.status, 502, "{head:?}");
        assert!(world.live.connections() > before, "{head:?}");
    }
    // Of one place there are at most 20 lines in ten seconds: the first ten heads are there.
    let log = world.gateway().output();
    for words in ["a body whose length is ambiguous", "a malformed line in a head", "a malformed field", "status line"]
    {
        assert!(log.contains(words), "the log says what is wrong: {words}");
    }
}

#[test]
fn lengths_that_agree_become_one_and_void_ones_go() {
    let (world, key, port) = world();
    for (head, status, body, length) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 02\r\nContent-Length: 2\r\n\r\nok", 200, "ok", Some("2")),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            200,
            "ok",
            None,
        ),
        ("HTTP/1.1 204 None\r\nContent-Length: 2\r\n\r\n", 204, "", None),
        (
            "HTTP/1.1 103 Hint\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
            Some("2"),
        ),
    ] {
        let mut client = world.gateway().connect(HOST);
        let mut answer = ask(&mut client, &key, head).unwrap().unwrap();
        if answer.status == 103 {
            assert_eq!(answer.field("content-length"), None);
            answer = client.receive();
        }
        let lengths = answer.fields.iter().filter(|(name, _)| name == "content-length").count();
        assert_eq!(
            (answer.status, answer.body.as_slice(), answer.field("content-length")),
            (status, body.as_bytes(), length)
        );
        assert_eq!(lengths, usize::from(length.is_some()));
        let answer = over_http2(port, &key, head).unwrap();
        assert_eq!(
            (answer.status, answer.body.as_slice(), answer.field("content-length")),
            (status, body.as_bytes(), length)
        );
    }
}

#[test]
fn a_malformed_chunk_or_trailer_cuts_the_answer_off() {
    let (world, key, port) = world();
    for body in [
        "2\nok\r\n0\r\n\r\n",
        "2 \r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "2;a\nb\r\nok\r\n0\r\n\r\n",
        "2\r\nokay\r\n0\r\n\r\n",
        "2\r\nok0\r\n\r\n",
        "1000000000000000\r\nok",
        "2\r\nok\r\n0\r\nA : b\r\n\r\n",
        "2\r\nok\r\n0\r\nA: b\n\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let mut client = world.gateway().connect(HOST);
        assert!(ask(&mut client, &key, &answer).is_err(), "an answer that looks whole: {body:?}");
        assert!(over_http2(port, &key, &answer).is_err(), "an answer that looks whole: {body:?}");
    }
    assert!(world.gateway().ask("GET", "https://api.iconflow.dev/v2/packs", Some(&key.secret), &[]).status == 200);
}

/// Bytes behind an answer would be the answer to whoever comes next.
#[test]
fn what_stands_behind_an_answer_is_nobodys_answer() {
    let (world, key, port) = world();
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 None\r\n\r\n",
        "HTTP/1.1 304 Same\r\nContent-Length: 90\r\n\r\n",
    ] {
        let two = format!("{first}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        for _ in 0..2 {
            let mut client = world.gateway().connect(HOST);
            assert!(ask(&mut client, &key, &two).unwrap().is_some());
            assert!(over_http2(port, &key, &two).is_ok());
            let mut other = world.gateway().connect(HOST);
            let answer = ask(&mut other, &key, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine").unwrap().unwrap();
            assert_eq!(answer.body, b"mine", "{first:?}");
        }
    }
}

#[test]
fn known_trailers_of_http_1_1_reach_http_2_and_no_others() {
    let (world, key, port) = world();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nServer-Timing: db;dur=5\r\n\
                  Set-Cookie: a=b\r\nContent-Length: 7\r\nX-RateLimit-Limit: 9\r\n\r\n";
    let told = over_http2(port, &key, answer).unwrap();
    assert_eq!((told.status, told.body.as_slice()), (200, &b"ok"[..]));
    let trailers = told.trailers.unwrap();
    assert_eq!((trailers.len(), trailers.get("server-timing").unwrap()), (1, &"db;dur=5".parse().unwrap()));
    let mut client = world.gateway().connect(HOST);
    assert_eq!(ask(&mut client, &key, answer).unwrap().unwrap().body, b"ok");
    assert_eq!(ask(&mut client, &key, answer).unwrap().unwrap().body, b"ok", "the connection goes on");
}
