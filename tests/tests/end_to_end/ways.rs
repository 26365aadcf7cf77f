//! A request on its way to its backend and the answer on its way back, over HTTP/1.1: bodies of every
//! kind, answers of every kind, connections that are kept or not.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use tests::{Connection, Key, StoreKind, World};

const HOST: &str = "api.iconflow.dev";

fn world() -> (World, Key) {
    World::with_admin(StoreKind::Sqlite, "", |policy| policy)
}

fn head(key: &Key, line: &str, more: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n{more}\r\n", key.secret).into_bytes()
}

fn send(client: &mut Connection, key: &Key, line: &str, more: &str, body: &[u8]) {
    let mut bytes = head(key, line, more);
    bytes.extend_from_slice(body);
    client.send(&bytes);
}

fn behaving(behave: &str) -> String {
    format!("x-behave: {behave}\r\n")
}

#[test]
fn small_bodies_and_none_share_one_connection_to_the_backend() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for n in 0..3 {
        send(&mut client, &key, "GET /v2/packs", "", b"");
        assert_eq!(client.receive().status, 200);
        let body = format!("{{\"name\":\"pack {n}\"}}");
        send(&mut client, &key, "POST /v2/packs", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes());
        assert_eq!(client.receive().status, 200);
        assert_eq!(world.live.last().body, body.as_bytes());
        assert_eq!(world.live.last().field("content-length"), Some(body.len().to_string().as_str()));
    }
    assert_eq!(world.live.connections(), 1);
}

#[test]
fn bodies_of_every_kind_arrive_whole_and_the_client_keeps_its_connection() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    let large = vec![b'x'; 300_000];
    send(&mut client, &key, "POST /v2/packs", "Content-Length: 300000\r\n", &large);
    assert_eq!(client.receive().status, 200);
    assert_eq!(world.live.last().body, large);
    send(&mut client, &key, "POST /v2/packs", "Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    assert_eq!(world.live.last().body, b"abcde");
    send(&mut client, &key, "PUT /v2/packs/7", "Content-Length: 2\r\n", b"ok");
    assert_eq!(client.receive().status, 200);
    assert_eq!(
        (world.live.last().line.as_str(), &world.live.last().body[..]),
        ("PUT /v2/packs/7 HTTP/1.1", &b"ok"[..])
    );
    send(&mut client, &key, "GET /v2/packs", "", b"");
    assert_eq!(client.receive().status, 200);
}

#[test]
fn a_head_in_two_pieces_is_forwarded_as_one() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    let bytes = head(&key, "POST /v2/packs", "Transfer-Encoding: chunked\r\n");
    client.send(&bytes[..40]);
    client.send(&bytes[40..]);
    client.send(b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    assert_eq!(world.live.last().body, b"abc");
}

#[test]
fn requests_pipelined_with_bodies_of_every_kind_are_answered_in_their_order() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    let mut bytes = head(&key, "GET /v2/packs?1", "");
    bytes.extend(head(&key, "POST /v2/packs?2", "Transfer-Encoding: chunked\r\n"));
    bytes.extend_from_slice(b"3\r\nabc\r\n0\r\n\r\n");
    bytes.extend(head(&key, "GET /v2/packs?3", ""));
    bytes.extend(head(&key, "POST /v2/packs?4", "Content-Length: 2\r\n"));
    bytes.extend_from_slice(b"ok");
    client.send(&bytes);
    for n in 1..=4 {
        let answer = client.receive();
        assert_eq!(answer.status, 200);
        assert!(answer.json()["line"].as_str().unwrap().contains(&format!("?{n} ")), "{n}: {}", answer.json());
    }
    assert_eq!(world.live.received().len(), 4);
}

#[test]
fn a_backend_that_closes_an_idle_connection_costs_nobody_an_answer() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for _ in 0..5 {
        send(&mut client, &key, "GET /v2/packs", &behaving("last"), b"");
        assert_eq!(client.receive().status, 200);
        send(&mut client, &key, "GET /v2/packs", "", b"");
        assert_eq!(client.receive().status, 200);
    }
}

#[test]
fn fields_of_the_backends_connection_stop_here() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    send(&mut client, &key, "GET /v2/packs", &behaving("inner"), b"");
    let answer = client.receive();
    assert_eq!((answer.field("x-inner"), answer.field("keep-alive")), (None, None));
    assert_eq!((answer.field("x-outer"), answer.field("connection")), (Some("1"), None));
}

#[test]
fn an_answer_without_a_length_arrives_whole_and_the_client_keeps_its_connection() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for _ in 0..2 {
        send(&mut client, &key, "GET /v2/packs", &behaving("until-close"), b"");
        let answer = client.receive();
        assert_eq!((answer.status, answer.field("transfer-encoding")), (200, Some("chunked")));
        assert_eq!(answer.json()["upstream"], "iconflow-live");
    }
}

#[test]
fn a_chunked_answer_in_pieces_is_the_same_answer_and_nothing_is_left_over() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for _ in 0..2 {
        send(&mut client, &key, "GET /v2/packs", &behaving("pieces"), b"");
        assert_eq!(client.receive().body, b"helloworld");
        send(&mut client, &key, "GET /v2/packs", "", b"");
        assert_eq!(client.receive().json()["upstream"], "iconflow-live");
    }
}

#[test]
fn answers_without_a_body_keep_the_connection_to_the_backend() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    for (behave, status) in [("nothing", 204), ("not-modified", 304), ("nothing", 204), ("not-modified", 304)] {
        send(&mut client, &key, "GET /v2/packs", &behaving(behave), b"");
        assert_eq!(client.receive().status, status);
    }
    for _ in 0..3 {
        send(&mut client, &key, "HEAD /v2/packs", "", b"");
        assert_eq!(client.try_receive(true).unwrap().unwrap().status, 200);
    }
    assert_eq!(world.live.connections(), 1);
}

#[test]
fn an_answer_that_comes_before_the_body_is_passed_on_at_once_and_the_rest_is_no_request() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    let smuggled = head(&key, "GET /v2/packs?smuggled", "");
    let more = format!("Content-Length: {}\r\n{}", smuggled.len() + 10, behaving("early"));
    send(&mut client, &key, "POST /v2/packs", &more, b"0123456789");
    let answer = client.receive();
    assert_eq!((answer.status, &answer.body[..], answer.field("connection")), (413, &b"no"[..], Some("close")));
    let _ = client.try_send(&smuggled);
    assert!(client.is_closed());
    let mut other = world.gateway().connect(HOST);
    send(&mut other, &key, "GET /v2/packs", "", b"");
    assert_eq!(other.receive().status, 200);
    assert!(!world.live.received().iter().any(|request| request.line.contains("smuggled")));
    assert_eq!(world.live.connections(), 2, "a connection with half a request on it is not used again");
}

#[test]
fn early_hints_come_before_the_answer() {
    let (world, key) = world();
    let mut client = world.gateway().connect(HOST);
    send(&mut client, &key, "GET /v2/packs", &behaving("hints"), b"");
    let seen = client.read_until_text("\"upstream\"").unwrap();
    let (hints, answer) = (seen.find("HTTP/1.1 103").unwrap(), seen.find("HTTP/1.1 200").unwrap());
    assert!(hints < answer && seen.to_lowercase().contains("link: </style.css>"), "{seen}");
}

#[test]
fn a_broken_backend_is_a_502_whatever_the_body() {
    let (world, key) = world();
    for (line, more, body) in [
        ("GET /v2/packs", "", ""),
        ("POST /v2/packs", "Content-Length: 2\r\n", "ok"),
        ("POST /v2/packs", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
    ] {
        for behave in ["garbage", "reset", "two-lengths"] {
            let mut client = world.gateway().connect(HOST);
            send(&mut client, &key, line, &format!("{more}{}", behaving(behave)), body.as_bytes());
            let answer = client.receive();
            assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"), "{line} {behave}");
        }
    }
}
