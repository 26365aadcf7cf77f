//! Backends as they are: dead, silent, broken, lying. What is tried again, what is not,
//! and what is on record. Those over HTTP/2 are in `backends_http2.rs`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use http::Request;
use tests::{Connection, Dark, Http2, Key, Policies, StoreKind, World, free_port, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";
/// What the path takes, once PROPFIND and QUERY are among it.
const ALLOW: &str = "DELETE, GET, HEAD, PATCH, POST, PROPFIND, PUT, QUERY";

fn world_with(edit: impl Fn(Policies) -> Policies) -> (World, Key) {
    World::with_admin(StoreKind::Sqlite, "", edit)
}

fn on_first_route(lines: &'static str) -> impl Fn(Policies) -> Policies {
    move |policy| policy.replacen("        public_keys: true\n", &format!("        public_keys: true\n{lines}"), 1)
}

/// Sends a request on a connection that its backend has kept before; gives the status.
fn ask(client: &mut Connection, key: &Key, line: &str, more: &str, body: &str) -> u16 {
    let head = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n{more}\r\n{body}", key.secret);
    client.send(head.as_bytes());
    client.receive().status
}

/// How often the backend saw a request that behaved so.
fn seen(world: &World, behave: &str) -> usize {
    world.live.received().iter().filter(|request| request.field("x-behave") == Some(behave)).count()
}

pub(crate) fn last_record(world: &World, has: &str) -> serde_json::Value {
    let mut found = serde_json::Value::Null;
    until("the record is written", || {
        let output = world.gateway().output();
        let line = output.lines().rev().find(|line| line.starts_with('{') && line.contains(has));
        line.is_some_and(|line| {
            found = serde_json::from_str(line).unwrap();
            true
        })
    });
    found
}

#[test]
fn a_request_that_may_have_been_executed_is_not_repeated() {
    let (world, key) = world_with(on_first_route("        timeout: 500ms\n"));
    for (behave, status, times) in
        [("slow", 504, 1), ("garbage", 502, 1), ("half-a-head", 502, 1), ("two-lengths", 502, 1)]
    {
        let mut client = world.gateway().connect(HOST);
        assert_eq!(ask(&mut client, &key, "GET /v2/packs", "", ""), 200, "the backend keeps a connection");
        assert_eq!(ask(&mut client, &key, "GET /v2/packs", &format!("x-behave: {behave}\r\n"), ""), status, "{behave}");
        assert_eq!(seen(&world, behave), times, "{behave}");
    }
}

/// RFC 9110 section 9.2.2: a connection that was closed without an answer says nothing of the request.
#[test]
fn a_connection_that_is_closed_without_a_word_is_tried_again_for_idempotent_methods_only() {
    let (world, key) = world_with(|policy| policy);
    let reset = "x-behave: reset\r\n";
    for (line, more, body, times) in [
        ("GET /v2/packs", "", "", 2),
        ("DELETE /v2/packs/7", "", "", 2),
        ("PUT /v2/packs/7", "Content-Length: 2\r\n", "ok", 2),
        ("PUT /v2/packs/7", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n", 2),
        ("POST /v2/packs", "Content-Length: 2\r\n", "ok", 1),
        ("PATCH /v2/packs/7", "Content-Length: 2\r\n", "ok", 1),
    ] {
        let before = seen(&world, "reset");
        let mut client = world.gateway().connect(HOST);
        assert_eq!(ask(&mut client, &key, line, &format!("{more}{reset}"), body), 502, "{line}");
        assert_eq!(seen(&world, "reset") - before, times, "{line} {more}");
        assert!(world.live.last().body == body.as_bytes() || body.starts_with("2\r\n"), "whole each time");
    }
}

#[test]
fn with_two_dead_addresses_of_four_nobody_gets_a_502() {
    let (dead, other) = (free_port(), free_port());
    let (world, key) = world_with(move |policy| {
        policy.replace(
            "addresses: [\"127.0.0.1:9101\"]",
            &format!(
                "addresses: [\"127.0.0.1:{dead}\", \"127.0.0.1:{other}\", \"127.0.0.1:9101\", \"127.0.0.1:9102\"]\n        retries: 0"
            ),
        )
    });
    for n in 0..40 {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        assert_eq!(world.gateway().ask(method, PACKS, Some(&key.secret), &[]).status, 200, "{n}");
    }
}

/// Over HTTP/1.0 the end of the connection is the end of the answer: it must not look like one.
#[test]
fn an_answer_that_breaks_off_does_not_end_cleanly_over_http_1_0() {
    let (world, key) = world_with(|policy| policy);
    for (behave, is_whole) in [("half-chunks", false), ("until-close", true), ("pieces", true)] {
        let mut client = world.gateway().connect(HOST);
        let head = format!(
            "GET /v2/packs HTTP/1.0\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: {behave}\r\n\r\n",
            key.secret
        );
        client.send(head.as_bytes());
        assert_eq!(client.ends_cleanly(), is_whole, "{behave}");
    }
}

/// The answer had begun when the rest of its request turned out to be too large.
#[test]
fn an_answer_that_we_cut_off_is_on_record_as_such() {
    let (world, key) = world_with(|policy| policy.replace("body_max: 50MiB", "body_max: 1KiB"));
    let mut client = world.gateway().connect(HOST);
    let head = format!(
        "POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         x-behave: eager\r\nx-request-id: cut-1\r\n\r\n2\r\nok\r\n",
        key.secret
    );
    client.send(head.as_bytes());
    assert!(client.read_until_text("begun").is_ok(), "the answer comes before the request is whole");
    client.send(format!("800\r\n{}\r\n", "x".repeat(0x800)).as_bytes());
    let rest = client.read_until_so(|_| false).unwrap_err().to_string();
    assert!(!rest.contains("0\\r\\n"), "no end of the answer: {rest}");
    let record = last_record(&world, "cut-1");
    assert_eq!((&record["outcome"], &record["status"]), (&"cut_off".into(), &200.into()));
}

/// Whoever meets it goes elsewhere when `connect_timeout` is over; few do.
#[test]
fn an_address_that_does_not_answer_slows_down_few_requests() {
    let dark = Dark::start();
    let port = dark.port;
    let (world, key) = world_with(move |policy| {
        let both = format!("addresses: [\"127.0.0.1:{port}\", \"127.0.0.1:9101\"]\n        connect_timeout: 300ms");
        policy.replace("addresses: [\"127.0.0.1:9101\"]", &format!("{both}\n        retries: 0"))
    });
    for n in 0..200 {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        assert_eq!(world.gateway().ask(method, PACKS, Some(&key.secret), &[]).status, 200, "{n}");
    }
    let elsewhere = world.gateway().metric("tollgate_upstream_retries_total{api=\"iconflow\"");
    assert!((1.0..=3.0).contains(&elsewhere), "one, and then one at a time now and then: {elsewhere}");
}

#[test]
fn a_backend_that_dies_in_the_middle_of_its_answer_is_on_record() {
    let (mut world, key) = world_with(|policy| policy);
    let mut client = world.gateway().connect(HOST);
    let head = format!(
        "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: half\r\nx-request-id: half-1\r\n\r\n",
        key.secret
    );
    client.send(head.as_bytes());
    assert!(client.try_receive(false).is_err(), "what is not whole does not look whole");
    let record = last_record(&world, "half-1");
    assert_eq!((&record["outcome"], &record["status"]), (&"upstream_broke_off".into(), &200.into()));
    let counted = "tollgate_requests_total{api=\"iconflow\",environment=\"live\",outcome=\"upstream_broke_off\"";
    until("it is counted", || world.gateway().metric(counted) == 1.0);
    let output = world.gateway().output();
    let line = output.lines().find(|line| line.contains("in the middle of its answer")).unwrap();
    for what in ["iconflow", &format!("127.0.0.1:{}", world.live.port), "half-1"] {
        assert!(line.contains(what), "{line} does not name {what}");
    }
    let port = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let request =
            Request::get(PACKS).header("authorization", format!("Bearer {}", key.secret)).header("x-behave", "half");
        Http2::connect(port).await.ask(request.body(()).unwrap()).await
    });
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_a_502_over_both_protocols() {
    let (mut world, key) = world_with(on_first_route("        allow: [websocket]\n"));
    let port = world.add_trusted_listener();
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-behave", "unasked-101")]);
    assert_eq!(answer.status, 502);
    let with_body = [("x-behave", "unasked-101"), ("connection", "upgrade"), ("upgrade", "websocket")];
    let answer = world.gateway().ask_with_body("POST", PACKS, Some(&key.secret), &with_body, b"body");
    assert_eq!(answer.status, 502, "a request with a body asks for no tunnel");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let request = Request::get(PACKS)
            .header("authorization", format!("Bearer {}", key.secret))
            .header("x-behave", "unasked-101");
        Http2::connect(port).await.ask(request.body(()).unwrap()).await.unwrap()
    });
    assert_eq!(answer.status, 502);
}

#[test]
fn silence_before_a_head_is_a_504_on_routes_with_streams_too() {
    let (world, key) = world_with(on_first_route("        allow: [sse, websocket, grpc]\n        timeout: 500ms\n"));
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-behave", "slow")]);
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    let mut stream = world.gateway().connect(HOST);
    stream.send(
        format!(
            "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: sse\r\n\r\n",
            key.secret
        )
        .as_bytes(),
    );
    assert!(String::from_utf8_lossy(&stream.receive().body).contains("data: 2"), "after a head it may be silent");
    let output = world.gateway().output();
    assert!(output.contains(&format!("iconflow: upstream_timeout at 127.0.0.1:{}", world.live.port)), "{output}");
}

#[test]
fn nine_informational_answers_are_too_many_and_eight_are_passed_on() {
    let (world, key) = world_with(|policy| policy);
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-behave", "hints")]).status, 103);
    let mut client = world.gateway().connect(HOST);
    client.send(
        format!(
            "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: many-hints\r\n\r\n",
            key.secret
        )
        .as_bytes(),
    );
    let statuses: Vec<u16> =
        std::iter::from_fn(|| client.try_receive(true).ok().flatten().map(|a| a.status)).take(9).collect();
    assert_eq!(statuses, [103, 103, 103, 103, 103, 103, 103, 103, 502]);
}

#[test]
fn any_2xx_is_healthy_and_a_check_names_the_host_that_traffic_names() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0u8; 4096];
            let n = stream.read(&mut head).unwrap_or(0);
            let _ = told.send(String::from_utf8_lossy(&head[..n]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    let (world, _) = world_with(move |policy| {
        policy.replace(
            "addresses: [\"127.0.0.1:9101\"]",
            &format!("addresses: [\"127.0.0.1:{port}\"]\n        health: {{ path: /alive, every: 100ms }}"),
        )
    });
    let head = {
        heads.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        heads.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
    };
    assert!(head.starts_with("GET /alive HTTP/1.1\r\n") && head.contains("api.iconflow.dev\r\n"), "{head}");
    assert!(!world.gateway().output().contains("unhealthy"), "{}", world.gateway().output());
}

#[test]
fn other_methods_are_forwarded_where_a_route_names_them_and_405_elsewhere() {
    let (mut world, key) = world_with(|policy| policy.replacen("methods: [GET]", "methods: [GET, PROPFIND, QUERY]", 1));
    for method in ["PROPFIND", "QUERY"] {
        let answer = world.gateway().ask_with_body(method, PACKS, Some(&key.secret), &[], b"<propfind/>");
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(world.live.last().line, format!("{method} /v2/packs HTTP/1.1"));
        assert_eq!(world.live.last().body, b"<propfind/>");
    }
    let answer = world.gateway().ask("REPORT", PACKS, Some(&key.secret), &[]);
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.field("allow"), Some(ALLOW));
    assert_eq!(world.gateway().ask("REPORT", PACKS, None, &[]).status, 401, "a stranger learns nothing of routes");
    assert_eq!(world.gateway().ask("REPORT", "https://api.iconflow.dev/nowhere", Some(&key.secret), &[]).status, 404);
    let explained = world.json(&["explain", "--key", &key.id, "REPORT", PACKS]);
    assert_eq!((&explained["status"], &explained["code"]), (&405.into(), &"method_not_allowed".into()));
    let port = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let request = Request::builder().method("REPORT").uri(PACKS);
        let request = request.header("authorization", format!("Bearer {}", key.secret)).body(()).unwrap();
        Http2::connect(port).await.ask(request).await.unwrap()
    });
    assert_eq!((answer.status, answer.field("allow")), (405, Some(ALLOW)));
}

/// A backend does at the destination what the method says.
#[test]
fn the_other_end_of_a_move_must_be_permitted_too() {
    let (world, key) = world_with(|policy| policy.replacen("methods: [GET]", "methods: [GET, MOVE]", 1));
    for (destination, status) in [
        (PACKS, 200),
        ("/v2/packs", 200),
        ("https://api.iconflow.dev/v2/billing/invoices", 405),
        ("/nowhere", 404),
        ("/v2/packs/%2e%2e/billing/invoices", 400),
        ("https://elsewhere.example/v2/packs", 400),
        ("nonsense", 400),
    ] {
        let answer = world.gateway().ask("MOVE", PACKS, Some(&key.secret), &[("destination", destination)]);
        assert_eq!(answer.status, status, "{destination}");
    }
    let twice = [("destination", PACKS), ("destination", "/v2/billing/invoices")];
    assert_eq!(world.gateway().ask("MOVE", PACKS, Some(&key.secret), &twice).status, 400);
    assert_eq!(world.gateway().ask("MOVE", PACKS, Some(&key.secret), &[]).status, 200);
}

/// A client that sends all of its request before it reads anything of the answer, as many do.
#[test]
fn an_answer_that_is_not_read_does_not_hold_up_its_request() {
    const BYTES: usize = 24 << 20;
    for is_http2 in [false, true] {
        let port = tests::both_ways(BYTES);
        let edit = move |policy: Policies| {
            policy.replace("addresses: [\"127.0.0.1:9101\"]", &format!("addresses: [\"127.0.0.1:{port}\"]"))
        };
        let (mut world, key) = world_with(edit);
        if is_http2 {
            let trusted = world.add_trusted_listener();
            let request = Request::post(PACKS)
                .header("authorization", format!("Bearer {}", key.secret))
                .header("content-length", BYTES);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let body = vec![b'b'; BYTES];
            let answer = runtime.block_on(async {
                Http2::connect(trusted).await.stream(request.body(()).unwrap(), &[&body]).await.unwrap()
            });
            assert_eq!((answer.status, answer.body.len()), (200, BYTES));
        } else {
            let answer = world.gateway().ask_with_body("POST", PACKS, Some(&key.secret), &[], &vec![b'b'; BYTES]);
            assert_eq!((answer.status, answer.body.len()), (200, BYTES));
        }
    }
}
