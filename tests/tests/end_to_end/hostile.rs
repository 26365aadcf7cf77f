//! What a hostile client sends, byte by byte, and that the upstream never sees it.
//! Sections are those of SECURITY.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tests::{Connection, Key, Response, StoreKind, World, until};

const HOST: &str = "api.iconflow.dev";

fn world() -> (World, Key) {
    world_with("")
}

fn world_with(settings: &str) -> (World, Key) {
    World::with_admin(StoreKind::Sqlite, settings, |policy| policy)
}

/// Sends raw bytes; `{key}` stands for the credential.
fn raw(world: &World, key: &Key, bytes: &str) -> Option<Response> {
    let mut connection = world.gateway().connect(HOST);
    connection.send(bytes.replace("{key}", &key.secret).as_bytes());
    connection.try_receive(false).unwrap_or(None)
}

fn refused(world: &World, key: &Key, cases: &[(&str, u16)]) {
    for (bytes, status) in cases {
        let answer = raw(world, key, bytes).unwrap_or_else(|| panic!("no answer to {bytes:?}"));
        assert_eq!(answer.status, *status, "{bytes:?}: {answer:?}");
    }
    assert_eq!(world.live.received().len(), 0, "nothing of it may reach the upstream: {:?}", world.live.received());
}

const AUTH: &str = "Host: api.iconflow.dev\r\nAuthorization: Bearer {key}\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /v2/packs HTTP/1.1\r\n{AUTH}{fields}\r\n{body}")
}

#[test]
fn a_body_with_two_lengths_is_refused() {
    let (world, key) = world();
    let smuggled = "GET /v2/billing/invoices HTTP/1.1\r\nHost: api.iconflow.dev\r\n\r\n";
    let cases = [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &format!("0\r\n\r\n{smuggled}")),
        post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef"),
        post("Content-Length: 5\r\nContent-Length: 5\r\n", "abcde"),
        post("Content-Length: 5, 5\r\n", "abcde"),
        post("Content-Length: +5\r\n", "abcde"),
        post("Content-Length: -1\r\n", ""),
        post("Content-Length: 0x5\r\n", "abcde"),
        post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer_Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        format!("POST /v2/packs HTTP/1.0\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ];
    for case in &cases {
        refused(&world, &key, &[(case, 400)]);
    }
}

#[test]
fn a_malformed_chunk_never_becomes_a_request() {
    let (world, key) = world();
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
    ] {
        let smuggled = "GET /v2/billing/x HTTP/1.1\r\nHost: api.iconflow.dev\r\n\r\n";
        let _ = raw(&world, &key, &post("Transfer-Encoding: chunked\r\n", &format!("{body}{smuggled}")));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(world.live.received().iter().all(|r| !r.line.contains("billing")), "{:?}", world.live.received());
    assert!(world.gateway().ask("GET", "https://api.iconflow.dev/v2/packs", Some(&key.secret), &[]).status == 200);
}

#[test]
fn a_head_with_two_readings_is_refused() {
    let (world, key) = world();
    let cases = [
        "GET /v2/packs HTTP/1.1\r\nHost: api.iconflow.dev\nAuthorization: Bearer {key}\r\n\r\n".to_owned(),
        format!("GET /v2/packs HTTP/1.1\r\n{AUTH}Host: api.icodrip.com\r\n\r\n"),
        format!("GET /v2/packs HTTP/1.1\r\n{AUTH}Authorization: Bearer {{key}}\r\n\r\n"),
        format!("GET /v2/packs HTTP/1.1\r\n{AUTH}X-A: b\r\n folded\r\n\r\n"),
        format!("GET /v2/packs HTTP/1.1\r\n{AUTH}X-A : b\r\n\r\n"),
        format!("GET /v2/packs HTTP/1.1\r\n{AUTH}X-A: b\0c\r\n\r\n"),
        "GET /v2/packs HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n".to_owned(),
        "GET /v2/packs HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer {key}\r\n\r\n".to_owned(),
        "GET /v2/packs HTTP/1.1\r\nHost: api.iconflow.dev.\r\nAuthorization: Bearer {key}\r\n\r\n".to_owned(),
        "GET /v2/packs HTTP/1.1\r\nHost: user@api.iconflow.dev\r\nAuthorization: Bearer {key}\r\n\r\n".to_owned(),
        "GET http://api.icodrip.com/v2/packs HTTP/1.1\r\nHost: api.iconflow.dev\r\nAuthorization: Bearer {key}\r\n\r\n"
            .to_owned(),
        format!("GET  /v2/packs HTTP/1.1\r\n{AUTH}\r\n"),
        format!("GET /v2/packs HTTP/3.0\r\n{AUTH}\r\n"),
    ];
    for case in &cases {
        let answer = raw(&world, &key, case);
        assert!(answer.as_ref().is_none_or(|a| a.status == 400), "{case:?}: {answer:?}");
    }
    assert_eq!(world.live.received().len(), 0, "{:?}", world.live.received());
    assert_eq!(raw(&world, &key, &format!("CONNECT {HOST}:443 HTTP/1.1\r\n{AUTH}\r\n")).unwrap().status, 405);
}

/// A connection that is closed with bytes unread is reset, and takes the answer with it.
#[test]
fn a_client_that_goes_on_behind_a_head_that_cannot_be_read_still_sees_its_answer() {
    let (world, key) = world();
    for (head, status) in [
        (post("Content-Length: 1\r\nContent-Length: 2\r\n", ""), 400),
        ("GET /v2/packs HTTP/1.1\r\nno field\r\n".to_owned(), 400),
        (post(&format!("A: {}\r\n", "a".repeat(70_000)), ""), 431),
    ] {
        for _ in 0..5 {
            let mut client = world.gateway().connect(HOST);
            client.send(head.replace("{key}", &key.secret).as_bytes());
            client.send(&[b'x'; 30_000]);
            let answer = client.try_receive(false).unwrap().unwrap();
            assert_eq!(answer.status, status, "{}", head.len());
            client.send(&[b'x'; 1_000]);
        }
    }
}

#[test]
fn a_path_that_two_programs_read_differently_is_refused() {
    let (world, key) = world();
    for path in [
        "/v2/packs/../billing",
        "/v2/./packs",
        "/v2/packs/..",
        "/v2//packs",
        "//v2/packs",
        "/v2/%2e%2e/billing",
        "/v2/packs%2f..%2fbilling",
        "/v2/packs/..%5cbilling",
        "/v2/packs;/../billing",
        "/v2/packs/..;/billing",
        "/v2/packs%00",
        "/v2/packs%0d%0aX:1",
        "/v2/packs%",
        "/v2/packs%zz",
        "/v2/packs%c0%af",
        "/v2/packs%252e",
        "/v2\\packs",
        "/v2/packs%3b",
        "/v2/packs%23x",
        "/v2/packs%3fx",
        "*",
        "v2/packs",
        "/v2/pa\"cks",
        "/v2/pa<cks",
        "/v2/packs#x",
        "/v2/packs/e%CC%81",
        "/v2/packs/%EF%BC%8E%EF%BC%8E/billing",
        "/v2/packs/%25%32%65",
    ] {
        refused(&world, &key, &[(&format!("GET {path} HTTP/1.1\r\n{AUTH}\r\n"), 400)]);
    }
    for (path, status) in [
        ("/v2/packsX", 404),
        ("/V2/packs", 404),
        ("/v2/packs.", 404),
        ("/", 404),
        ("/v2/%e2%80%ae", 400),
        ("/v2/packs%20", 404),
    ] {
        refused(&world, &key, &[(&format!("GET {path} HTTP/1.1\r\n{AUTH}\r\n"), status)]);
    }
    refused(&world, &key, &[(&format!("GET /v2/packs/{} HTTP/1.1\r\n{AUTH}\r\n", "a".repeat(3000)), 414)]);
    refused(&world, &key, &[(&format!("GET /v2/packs?{} HTTP/1.1\r\n{AUTH}\r\n", "a".repeat(9000)), 414)]);
}

#[test]
fn what_is_matched_is_byte_for_byte_what_is_forwarded() {
    let (world, key) = world();
    for (sent, seen) in [
        ("/v2/packs/a%41%2d?x=%2e%2e/..//&y", "/v2/packs/aA-?x=%2e%2e/..//&y"),
        ("/v2/packs/%3a%2b", "/v2/packs/%3A%2B"),
        ("https://api.iconflow.dev/v2/icons/7", "/v2/icons/7"),
        ("/v2/packs/?", "/v2/packs/?"),
    ] {
        let answer = raw(&world, &key, &format!("GET {sent} HTTP/1.1\r\n{AUTH}\r\n")).unwrap();
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(world.live.last().line, format!("GET {seen} HTTP/1.1"));
    }
}

#[test]
fn client_made_identity_fields_never_arrive() {
    let (world, key) = world();
    let spoofed = "X-Tollgate-Org: evil\r\nX-Tollgate-Key-Id: evil\r\nx-tollgate-admin: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\
        X-Forwarded-Proto: http\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nTrue-Client-IP: 1.2.3.4\r\nX-User-Id: evil\r\n\
        X-Auth-User: evil\r\nRemote-User: evil\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\
        X-RateLimit-Limit: 9\r\nProxy-Authorization: Basic x\r\nProxy: evil\r\nX-Consumer-Id: evil\r\nmy_header: x\r\nX-Mine: kept\r\n\
        TE: trailers, deflate\r\nKeep-Alive: timeout=9999\r\nX-Request-Id: bad id!\r\n";
    let answer = raw(&world, &key, &format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{spoofed}\r\n")).unwrap();
    assert_eq!(answer.status, 200);
    let seen = world.live.last();
    assert_eq!(seen.field("x-tollgate-org"), Some("acme"));
    assert_eq!(seen.field("x-tollgate-key-id"), Some(key.id.as_str()));
    assert_eq!(seen.field("x-tollgate-user"), Some(""), "always all of them, also empty ones");
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-mine"), Some("kept"));
    assert_eq!(seen.field("x-request-id"), answer.field("x-request-id"));
    for name in [
        "x-tollgate-admin",
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "x-user-id",
        "x-auth-user",
        "remote-user",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-ratelimit-limit",
        "proxy-authorization",
        "proxy",
        "x-consumer-id",
        "my_header",
        "authorization",
        "keep-alive",
    ] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    let text = format!("{seen:?}");
    assert!(!text.contains("evil") && !text.contains("1.2.3.4") && !text.contains(&key.secret));
}

#[test]
fn our_names_in_another_spelling_are_refused() {
    let (world, key) = world();
    for name in [
        "X_Tollgate_Org",
        "x-tollgate_org",
        "X.Forwarded.For",
        "X_Forwarded_For",
        "X_Real_IP",
        "Remote_User",
        "x_http_method_override",
    ] {
        refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{name}: evil\r\n\r\n"), 400)]);
    }
}

#[test]
fn connection_cannot_take_our_fields_away() {
    let (world, key) = world();
    for nominated in [
        "X-Tollgate-Org",
        "close, X-Forwarded-For",
        "host",
        "authorization",
        "x-tollgate-key-id, keep-alive",
        ":path",
        "a,b,c,d,e,f,g,h,i,j,k",
    ] {
        refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}Connection: {nominated}\r\n\r\n"), 400)]);
    }
    let answer =
        raw(&world, &key, &format!("GET /v2/packs HTTP/1.1\r\n{AUTH}X-Hop: 1\r\nConnection: x-hop\r\n\r\n")).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(world.live.last().field("x-hop"), None);
}

#[test]
fn only_one_readable_credential_in_authorization_counts() {
    let (world, key) = world();
    let with = |fields: &str| format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    refused(
        &world,
        &key,
        &[
            (&with("Authorization: Bearer\r\n"), 400),
            (&with("Authorization: Bearer  {key}\r\n"), 400),
            (&with("Authorization: Bearer {key},{key}\r\n"), 400),
            (&with("Authorization: Bearer {key} x\r\n"), 400),
            (&with("Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n"), 400),
            (&with("Authorization: Basic dXNlcjpwYXNz\r\n"), 401),
            (&with("Authorization: {key}\r\n"), 401),
            (&with("X-Api-Key: {key}\r\n"), 401),
            (&with("Cookie: access_token={key}\r\n"), 401),
        ],
    );
    let query = format!("GET /v2/packs?access_token={{key}} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    refused(&world, &key, &[(&query, 401)]);
}

#[test]
fn an_anonymous_caller_cannot_tell_routes_from_nothing() {
    let (world, _) = world();
    let ask = |path: &str| {
        let mut answer = world.gateway().ask("GET", &format!("https://{HOST}{path}"), None, &[]);
        let mut body = answer.json();
        for name in ["instance", "request_id"] {
            body.as_object_mut().unwrap().remove(name);
        }
        answer.fields.retain(|(n, _)| n != "x-request-id" && n != "date");
        (answer.status, answer.fields, body)
    };
    assert_eq!(ask("/v2/packs"), ask("/v2/nothing/here"));
    assert_eq!(ask("/v2/packs").0, 401);
}

#[test]
fn too_large_heads_and_bodies_are_refused_early() {
    let (world, key) = world();
    let many = "A: b\r\n".repeat(120);
    refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{many}\r\n"), 431)]);
    let long = format!("A: {}\r\n", "b".repeat(40_000));
    refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{long}\r\n"), 431)]);
    let name = format!("{}: b\r\n", "a".repeat(300));
    refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{name}\r\n"), 400)]);
    refused(&world, &key, &[(&post("Content-Length: 99999999999\r\n", ""), 413)]);
    refused(&world, &key, &[(&format!("GET /v2/packs HTTP/1.1\r\n{AUTH}Expect: 200-ok\r\n\r\n"), 417)]);
}

#[test]
fn a_streamed_body_over_the_limit_ends_with_413() {
    let (world, key) = world();
    let world_text = world.policy_text("iconflow.yaml").replace("body_max: 50MiB", "body_max: 64KiB");
    world.write_policy("iconflow.yaml", &world_text);
    until("the policy is in force", || {
        world.gateway().metric("tollgate_reloads_total{result=\"ok\",what=\"policy\"}") >= 1.0
    });
    let mut connection = world.gateway().connect(HOST);
    connection.send(post("Transfer-Encoding: chunked\r\n", "").replace("{key}", &key.secret).as_bytes());
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..8 {
        if connection.try_send(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let answer = connection.try_receive(false).unwrap().unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
}

#[test]
fn a_refused_requests_body_never_becomes_the_next_request() {
    let (world, key) = world();
    let smuggled = format!("GET /v2/packs HTTP/1.1\r\n{AUTH}\r\n").replace("{key}", &key.secret);
    let mut connection = world.gateway().connect(HOST);
    let refused =
        format!("POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    connection.send(refused.as_bytes());
    assert_eq!(connection.receive().status, 401);
    let next = connection.try_receive(false).unwrap_or(None);
    assert!(next.is_none(), "{next:?}");
    assert!(world.live.received().is_empty());
}

#[test]
fn keep_alive_survives_a_refusal_without_a_body() {
    let (world, key) = world();
    let mut connection = world.gateway().connect(HOST);
    let bearer = format!("Bearer {}", key.secret);
    for _ in 0..3 {
        assert_eq!(connection.ask("GET", "/v2/packs", &[("host", HOST)], b"").status, 401);
        assert_eq!(connection.ask("GET", "/v2/packs", &[("host", HOST), ("authorization", &bearer)], b"").status, 200);
        assert_eq!(connection.ask("HEAD", "/v2/packs", &[("host", HOST)], b"").status, 401);
    }
}

#[test]
fn expect_continue_is_answered_after_the_decision() {
    let (world, key) = world();
    let mut connection = world.gateway().connect(HOST);
    connection.send(
        format!("POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .as_bytes(),
    );
    let started = Instant::now();
    assert_eq!(connection.receive().status, 401, "refused before any body was sent");
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut connection = world.gateway().connect(HOST);
    let head = post("Content-Length: 5\r\nExpect: 100-continue\r\n", "").replace("{key}", &key.secret);
    connection.send(head.as_bytes());
    let interim = connection.read_some().unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{:?}", String::from_utf8_lossy(&interim));
    connection.send(b"hello");
    assert_eq!(connection.receive().status, 200);
    assert_eq!(world.live.last().body, b"hello");
}

#[test]
fn an_upgrade_that_no_route_allows_is_not_passed_on() {
    let (world, key) = world();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let smuggled = "GET /v2/billing/x HTTP/1.1\r\nHost: x\r\n\r\n";
    let _ = raw(&world, &key, &format!("GET /v2/packs HTTP/1.1\r\n{AUTH}{upgrade}\r\n{smuggled}"));
    std::thread::sleep(Duration::from_millis(200));
    for seen in world.live.received() {
        assert_eq!(seen.field("upgrade"), None);
        assert!(!seen.line.contains("billing"), "bytes after an unanswered upgrade are not a request");
    }
}

#[test]
fn an_upstream_that_lies_costs_its_connection_and_is_a_502() {
    let (world, key) = world();
    for behave in ["garbage", "two-lengths", "reset"] {
        let answer = world.gateway().ask(
            "POST",
            "https://api.iconflow.dev/v2/packs",
            Some(&key.secret),
            &[("x-behave", behave)],
        );
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unreachable"), "{behave}");
    }
    assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).status, 200);
}

#[test]
fn the_upstreams_own_limit_and_cors_fields_are_replaced() {
    let (world, key) = world();
    let read = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let fields = [("x-behave", "limits"), ("origin", "https://app.example")];
    let answer = world.gateway().ask("GET", "https://api.iconflow.dev/v2/packs", Some(&read.secret), &fields);
    assert_eq!(answer.number("x-ratelimit-limit"), 1000);
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert!(answer.field("ratelimit").unwrap().starts_with("\"minute\";r="));
    assert!(answer.field("access-control-expose-headers").unwrap().contains("X-RateLimit-Remaining"));
    drop(key);
}

#[test]
fn a_preflight_is_answered_without_a_credential_and_costs_nothing() {
    let (world, _) = world();
    let fields = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = world.gateway().ask("OPTIONS", "https://api.iconflow.dev/v2/packs", None, &fields);
    assert_eq!(answer.status, 204);
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert!(answer.field("access-control-allow-headers").unwrap().contains("Authorization"));
    assert!(world.live.received().is_empty());
}

#[test]
fn a_slow_head_is_cut_off_in_all_and_not_per_byte() {
    let (world, _) = world_with("bounds: { head: 2s }");
    let mut slow = world.gateway().connect(HOST);
    let started = Instant::now();
    slow.send(b"GET /v2/packs HTTP/1.1\r\n");
    while started.elapsed() < Duration::from_secs(10) {
        if slow.try_send(b"A: b\r\n").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(slow.is_closed());
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
}

#[test]
fn a_connection_that_says_nothing_is_closed_before_and_after_tls() {
    let (world, _) = world_with("bounds: { head: 1s, handshake: 1s }");
    let mut silent = TcpStream::connect(("127.0.0.1", world.gateway().tls)).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let started = Instant::now();
    let read = silent.read(&mut [0u8; 16]);
    assert!(matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    let mut quiet = world.gateway().connect(HOST);
    assert!(quiet.is_closed());
    let mut plain = Connection::plain(world.gateway().plain);
    assert!(plain.is_closed());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_body_that_drips_is_cut_off() {
    let (world, key) = world();
    let mut connection = world.gateway().connect(HOST);
    connection.send(post("Content-Length: 100000\r\n", "").replace("{key}", &key.secret).as_bytes());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(15) {
        if connection.try_send(b"x").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(started.elapsed() < Duration::from_secs(14), "a dripping body was accepted for {:?}", started.elapsed());
}

#[test]
fn one_address_cannot_take_all_connections() {
    let (world, _) = world_with("bounds: { connections_per_address: 5 }");
    until("earlier connections are gone", || world.gateway().metric("tollgate_open_connections") == 0.0);
    let held: Vec<Connection> = (0..5).map(|_| world.gateway().connect(HOST)).collect();
    assert!(Connection::try_tls(world.gateway().tls, &world.gateway().trust, HOST).is_err());
    drop(held);
    until("a seat is free again", || Connection::try_tls(world.gateway().tls, &world.gateway().trust, HOST).is_ok());
}

#[test]
fn guessing_keys_is_stopped_before_any_look_up_and_known_keys_go_on() {
    let (world, key) = world_with("bounds: { failures_per_minute: 10 }");
    let url = "https://api.iconflow.dev/v2/packs";
    assert_eq!(world.gateway().get(url, &key).status, 200);
    let guess = |n: u32| world.gateway().ask("GET", url, Some(&format!("ifk_live_guess{n:08}")), &[]).status;
    assert_eq!(guess(0), 401);
    // Wherever the edge of a minute falls, 10 failures in a row lie inside one of 40.
    assert!((1..40).any(|n| guess(n) == 429));
    assert_eq!(world.gateway().get(url, &key).status, 200, "a cached key works from the same address");
}

#[test]
fn http2_is_held_to_the_same_rules() {
    let (world, key) = world();
    let ask = |arguments: &[&str]| {
        let ca = world.folder.path().join("ca.pem");
        let out = std::process::Command::new("curl")
            .args([
                "-s",
                "--http2",
                "--path-as-is",
                "-o",
                "/dev/null",
                "-w",
                "%{http_version} %{http_code}",
                "--cacert",
            ])
            .arg(ca)
            .args(["--connect-to", &format!("::127.0.0.1:{}", world.gateway().tls)])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let bearer = format!("Authorization: Bearer {}", key.secret);
    let packs = "https://api.iconflow.dev/v2/packs";
    assert_eq!(ask(&["-H", &bearer, packs]), "2 200");
    assert_eq!(world.live.last().field("host"), Some(HOST));
    let forwarded = world.live.received().len();
    for (arguments, expected) in [
        (vec![packs], "2 401"),
        (vec!["-H", &bearer, "https://api.iconflow.dev/v2/../v2/packs"], "2 400"),
        (vec!["-H", &bearer, "https://api.iconflow.dev/v2//packs"], "2 400"),
        (vec!["-H", &bearer, "https://api.iconflow.dev/v2/packs%2f"], "2 400"),
        (vec!["-H", &bearer, "-H", "X_Tollgate_Org: evil", packs], "2 400"),
        (vec!["-H", &bearer, "-H", "Authorization: Bearer x", packs], "2 400"),
        (vec!["-H", &bearer, "-H", "Host: api.icodrip.com", packs], "2 401"),
    ] {
        assert_eq!(ask(&arguments), expected, "{arguments:?}");
    }
    assert_eq!(world.live.received().len(), forwarded);
}

#[test]
fn an_http2_connection_lives_longer_than_the_deadline_of_a_head() {
    let (world, key) = world_with("bounds: { head: 1s }");
    let ca = world.folder.path().join("ca.pem");
    let out = std::process::Command::new("curl")
        .args(["-s", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code} %{num_connects}\n", "--cacert"])
        .arg(ca)
        .args(["--connect-to", &format!("::127.0.0.1:{}", world.gateway().tls)])
        .args(["-H", &format!("Authorization: Bearer {}", key.secret), "-H", "x-behave: slow"])
        .args(["https://api.iconflow.dev/v2/packs", "https://api.iconflow.dev/v2/icons"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("2 200 1") && text.contains("2 200 0"), "{text}");
}

#[test]
fn pipelined_requests_are_each_judged() {
    let (world, key) = world();
    let one = format!("GET /v2/packs HTTP/1.1\r\n{AUTH}\r\n").replace("{key}", &key.secret);
    let anonymous = format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut connection = world.gateway().connect(HOST);
    connection.send(format!("{one}{anonymous}{one}").as_bytes());
    let statuses: Vec<u16> = (0..3).map(|_| connection.receive().status).collect();
    assert_eq!(statuses, [200, 401, 200]);
    assert_eq!(world.live.received().len(), 2);
}

#[test]
fn an_http_1_0_client_that_does_not_ask_to_be_kept_is_not_kept() {
    let (world, key) = world();
    let mut connection = world.gateway().connect(HOST);
    connection.send(format!("GET /v2/packs HTTP/1.0\r\n{AUTH}\r\n").replace("{key}", &key.secret).as_bytes());
    assert_eq!(connection.receive().status, 200);
    assert!(connection.is_closed());
}

#[test]
fn many_refusals_on_one_connection_do_not_use_up_its_time() {
    let (world, _) = world_with("bounds: { head: 1s }");
    let mut connection = world.gateway().connect(HOST);
    for _ in 0..8 {
        assert_eq!(connection.ask("GET", "/v2/packs", &[("host", HOST)], b"").status, 401);
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn only_strong_tls_is_spoken() {
    let (world, _) = world();
    let openssl = |arguments: &[&str]| {
        let out = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", world.gateway().tls), "-servername", HOST])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(openssl(&["-tls1_2"]).contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"));
    assert!(openssl(&["-tls1_3"]).contains("TLS_AES_256_GCM_SHA384"));
    for weak in [
        &["-tls1_1"][..],
        &["-tls1"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
    ] {
        assert!(openssl(weak).contains("Cipher is (NONE)"), "{weak:?}");
    }
    let unknown = openssl(&["-servername", "unknown.example"]);
    assert!(unknown.contains("no peer certificate available"), "{unknown}");
}

#[test]
fn the_admin_listener_answers_to_its_own_name_only() {
    let (world, _) = world();
    let ask =
        |host: &str| Connection::plain(world.gateway().admin).ask("GET", "/metrics", &[("host", host)], b"").status;
    assert_eq!(ask("localhost"), 200);
    assert_eq!(ask("127.0.0.1:9090"), 200);
    assert_eq!(ask("evil.example"), 421);
}

#[test]
fn no_client_input_is_a_5xx_and_nothing_secret_is_logged() {
    let (world, key) = world();
    for n in 0..400u32 {
        let junk: Vec<u8> =
            (0..200u32).map(|i| (n.wrapping_mul(2_654_435_761).wrapping_add(i * 40_503) >> 7) as u8).collect();
        let mut connection = world.gateway().connect(HOST);
        let mut bytes = format!("GET /v2/packs HTTP/1.1\r\n{AUTH}").replace("{key}", &key.secret).into_bytes();
        let at = (n as usize * 7) % bytes.len();
        bytes.splice(at..at, junk);
        bytes.extend(b"\r\n\r\n");
        let _ = connection.try_send(&bytes);
        if let Ok(Some(answer)) = connection.try_receive(false) {
            assert!(answer.status < 500, "{answer:?}");
        }
    }
    assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).status, 200);
    let output = world.gateway().output();
    assert!(!output.contains(&key.secret) && !output.contains("panicked"));
}

/// The TLS library warns of each such name (RFC 6066 section 3); the log is bounded.
#[test]
fn a_client_that_makes_us_warn_at_each_handshake_does_not_fill_the_log() {
    let (world, _) = world();
    let warnings = || world.gateway().output().matches("Illegal SNI").count();
    for _ in 0..40 {
        let mut client = std::process::Command::new("openssl");
        client.args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{}", world.gateway().tls),
            "-servername",
            "192.0.2.1",
        ]);
        assert!(client.stdin(std::process::Stdio::null()).output().is_ok());
    }
    until("it warns", || warnings() > 0);
    assert!(warnings() <= 20, "{} lines", warnings());
}
