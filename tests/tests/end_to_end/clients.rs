//! Clients as they are: what they send by themselves, and what of it is a browser, a path, an address.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use http::Request;
use tests::{Connection, Http2, Key, Policies, StoreKind, Trust, World, on_both_stores, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn world(kind: StoreKind) -> (World, Key) {
    World::with_admin(kind, "", |policy| policy)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn over_http2(port: u16, key: &Key, target: &str, fields: &[(&str, &str)]) -> tests::Answer {
    let mut request = Request::get(format!("https://{HOST}{target}"));
    request = request.header("authorization", format!("Bearer {}", key.secret));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    runtime().block_on(async { Http2::connect(port).await.ask(request.body(()).unwrap()).await.unwrap() })
}

/// The heads that clients send by themselves, in one request of each kind.
const SERVERS: [(&str, &[(&str, &str)]); 5] = [
    ("curl", &[("user-agent", "curl/8.5.0"), ("accept", "*/*")]),
    (
        "Server's fetch (undici)",
        &[("accept", "*/*"), ("accept-language", "*"), ("sec-fetch-mode", "cors"), ("user-agent", "node")],
    ),
    ("Deno's fetch", &[("accept", "*/*"), ("accept-language", "*"), ("user-agent", "Deno/2.1.4")]),
    ("Bun's fetch", &[("accept", "*/*"), ("user-agent", "Bun/1.1.42"), ("connection", "keep-alive")]),
    (
        "Python's requests",
        &[("user-agent", "python-requests/2.32"), ("accept", "*/*"), ("accept-encoding", "gzip, deflate")],
    ),
];

const BROWSERS: [(&str, &[(&str, &str)]); 5] = [
    (
        "Chromium, cross-site",
        &[
            ("origin", "https://app.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
        ],
    ),
    (
        "Chromium, same-origin GET: no Origin",
        &[
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
            ("sec-ch-ua", "\"Chromium\""),
        ],
    ),
    (
        "Firefox, a typed address",
        &[
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-user", "?1"),
        ],
    ),
    (
        "Safari, cross-site",
        &[("origin", "https://app.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "empty")],
    ),
    ("an old browser", &[("origin", "https://app.example")]),
];

on_both_stores![a_server_is_not_taken_for_a_browser_and_a_browser_is, an_exposure_can_be_cleared_and_says_by_whom];

fn a_server_is_not_taken_for_a_browser_and_a_browser_is(kind: StoreKind) {
    let (mut world, key) = world(kind);
    let port = world.add_trusted_listener();
    for (who, fields) in SERVERS {
        assert_eq!(world.gateway().ask("GET", PACKS, Some(&key.secret), fields).status, 200, "{who}");
        let fields: Vec<_> = fields.iter().copied().filter(|(name, _)| *name != "connection").collect();
        assert_eq!(over_http2(port, &key, "/v2/packs", &fields).status, 200, "{who} over HTTP/2");
    }
    assert_eq!(world.gateway().metric("tollgate_exposed_credentials_total"), 0.0);
    assert_eq!(world.json(&["keys", "show", &key.id])["exposed"], serde_json::Value::Null);
    for (who, fields) in BROWSERS {
        let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), fields);
        assert_eq!((answer.status, answer.code().as_str()), (403, "server_only_key"), "{who}");
        assert_eq!(over_http2(port, &key, "/v2/packs", fields).status, 403, "{who} over HTTP/2");
    }
}

fn an_exposure_can_be_cleared_and_says_by_whom(kind: StoreKind) {
    let (world, key) = world(kind);
    let browser = BROWSERS[0].1;
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&key.secret), browser).status, 403);
    until("it is marked", || world.json(&["keys", "show", &key.id])["exposed"].is_object());
    let refused = world.tollgate(&["keys", "clear-exposure", &key.id]);
    assert!(!refused.status.success(), "a reason is needed: {refused:?}");
    let cleared = world.json(&["keys", "clear-exposure", &key.id, "--reason", "a test of the page, rotated since"]);
    assert_eq!(cleared["exposed"], serde_json::Value::Null);
    let again = world.tollgate(&["keys", "clear-exposure", &key.id, "--reason", "twice"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not marked as exposed"), "{again:?}");
    let note = &world.json(&["keys", "show", &key.id])["exposure_cleared"];
    assert_eq!(note["reason"], "a test of the page, rotated since");
    assert!(
        note["by"].as_str().is_some_and(|by| !by.is_empty()) && note["at"].as_str().is_some_and(|at| at.ends_with('Z')),
        "{note}"
    );
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&key.secret), browser).status, 403);
    until("it is marked again", || world.json(&["keys", "show", &key.id])["exposed"].is_object());
}

#[test]
fn ordinary_paths_reach_the_backend_as_they_were_matched() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    for (sent, forwarded) in [
        ("/v2/packs/a%20b", "/v2/packs/a%20b"),
        ("/v2/packs/100%25", "/v2/packs/100%25"),
        ("/v2/packs/%22%3c%3e%5b%5d%7b%7d%7c%5e%60", "/v2/packs/%22%3C%3E%5B%5D%7B%7D%7C%5E%60"),
        ("/v2/packs/%C3%A9", "/v2/packs/%C3%A9"),
        ("/v2/packs/%F0%9F%98%80", "/v2/packs/%F0%9F%98%80"),
        ("/v2/%70acks/x", "/v2/packs/x"),
    ] {
        let answer = world.gateway().get(&format!("https://{HOST}{sent}"), &key);
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(world.live.last().line, format!("GET {forwarded} HTTP/1.1"));
        assert_eq!(over_http2(port, &key, sent, &[]).status, 200, "{sent} over HTTP/2");
        assert_eq!(world.live.last().line, format!("GET {forwarded} HTTP/1.1"));
    }
    for sent in ["/v2/packs/a%2Fb", "/v2/packs/%252e", "/v2/packs/a%3Bb", "/v2/packs/e%CC%81", "/v2/packs/a%23b"] {
        assert_eq!(world.gateway().get(&format!("https://{HOST}{sent}"), &key).status, 400, "{sent}");
        assert_eq!(over_http2(port, &key, sent, &[]).status, 400, "{sent} over HTTP/2");
    }
}

#[test]
fn a_route_can_take_forms_that_some_backends_take_for_syntax() {
    let edit = |policy: Policies| {
        policy.replacen(
            "        public_keys: true\n",
            "        public_keys: true\n        paths_may: [semicolon, hash, question_mark, escaped_dot, other_unicode]\n",
            1,
        )
    };
    let world = World::start_with(StoreKind::Sqlite, "", edit);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    for sent in ["/v2/packs/a;v=1", "/v2/packs/a%3Bb", "/v2/packs/a%23b", "/v2/packs/a%3Fb", "/v2/packs/e%CC%81"] {
        assert_eq!(world.gateway().get(&format!("https://{HOST}{sent}"), &key).status, 200, "{sent}");
        assert_eq!(world.live.last().line, format!("GET {sent} HTTP/1.1"));
    }
    for sent in ["/v2/packs/..;/x", "/v2/packs/%2e%2e", "/v2/packs/a%2Fb"] {
        assert_eq!(world.gateway().get(&format!("https://{HOST}{sent}"), &key).status, 400, "{sent}");
    }
}

#[test]
fn links_of_a_backend_to_its_own_api_lead_over_https() {
    let (world, key) = world(StoreKind::Sqlite);
    let answer = world.gateway().ask("POST", PACKS, Some(&key.secret), &[("x-behave", "created")]);
    assert_eq!((answer.status, answer.field("location")), (201, Some("https://api.iconflow.dev/v2/packs/7")));
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-behave", "links")]);
    let expected = "<https://api.iconflow.dev/v2/packs?page=2>; rel=\"next\", <http://cdn.example/x>; rel=\"x\"";
    assert_eq!(answer.field("link"), Some(expected));
}

#[test]
fn the_address_of_a_caller_is_known_behind_proxies_that_write_ports() {
    let mut world = World::start_with(StoreKind::Sqlite, "trusted_proxies: [127.0.0.1]", |policy| policy);
    world.organization("acme");
    let port = world.add_trusted_listener();
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    for (forwarded, address) in [("203.0.113.7:51234", "203.0.113.7"), ("[2001:db8::7]:443", "2001:db8::7")] {
        assert_eq!(over_http2(port, &key, "/v2/packs", &[("x-forwarded-for", forwarded)]).status, 200);
        assert_eq!(world.live.last().field("x-forwarded-for"), Some(address));
    }
}

#[test]
fn who_still_uses_a_refused_key_is_on_record() {
    let (world, key) = world(StoreKind::Sqlite);
    world.json(&["keys", "revoke", &key.id, "--wait"]);
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-request-id", "late-1")]).status, 401);
    until("it is on record", || {
        let output = world.gateway().output();
        output.lines().find(|line| line.starts_with('{') && line.contains("late-1")).is_some_and(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["key"] == key.id.as_str()
                && record["organization"] == "acme"
                && record["outcome"] == "revoked_credential"
        })
    });
}

#[test]
fn cookies_in_pieces_arrive_as_one_and_many_are_not_too_many() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    let pieces: Vec<String> = (0..150).map(|n| format!("c{n}=v{n}")).collect();
    let fields: Vec<(&str, &str)> = pieces.iter().map(|piece| ("cookie", piece.as_str())).collect();
    assert_eq!(over_http2(port, &key, "/v2/packs", &fields).status, 200);
    assert_eq!(world.live.last().field("cookie"), Some(pieces.join("; ").as_str()));
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &[("cookie", &pieces.join("; "))]);
    assert_eq!(answer.status, 200, "the same over HTTP/1.1");
    assert_eq!(world.live.last().field("cookie"), Some(pieces.join("; ").as_str()));
}

#[test]
fn a_head_that_cannot_be_read_gets_our_problem_and_a_record() {
    let (world, _) = world(StoreKind::Sqlite);
    let mut client = world.gateway().connect(HOST);
    client.send(b"GET /v2/packs HTTP/9.9\x01\r\nHost: x\r\n\r\n");
    let answer = client.receive();
    assert_eq!((answer.status, answer.code().as_str(), answer.field("server")), (400, "invalid_request", None));
    let id = answer.field("x-request-id").unwrap().to_owned();
    assert!(client.is_closed());
    until("it is on record", || {
        world
            .gateway()
            .output()
            .lines()
            .any(|line| line.starts_with('{') && line.contains(&id) && line.contains("\"status\":400"))
    });
}

/// Every request that is admitted leaves one record, also behind one with another kind of body.
#[test]
fn pipelined_bodies_of_both_kinds_are_each_answered_and_recorded() {
    let (world, key) = world(StoreKind::Sqlite);
    let mut client = world.gateway().connect(HOST);
    let head = |line: &str, id: &str, more: &str| {
        format!(
            "{line} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nX-Request-Id: {id}\r\n{more}\r\n",
            key.secret
        )
    };
    let mut bytes = head("POST /v2/packs", "pipe-1", "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n";
    bytes += &(head("PUT /v2/packs/7", "pipe-2", "Content-Length: 2\r\n") + "ok");
    bytes += &(head("POST /v2/packs", "pipe-3", "Content-Length: 70000\r\n") + &"x".repeat(70_000));
    client.send(bytes.as_bytes());
    for _ in 0..3 {
        assert_eq!(client.receive().status, 200);
    }
    for id in ["pipe-1", "pipe-2", "pipe-3"] {
        until("there is one record", || {
            world.gateway().output().matches(&format!("\"request_id\":\"{id}\"")).count() == 1
        });
    }
}

/// A client that waits for it sends nothing before; curl waits for five seconds.
#[test]
fn a_body_that_is_announced_with_expect_is_asked_for_at_once_over_both_protocols() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    let mut client = world.gateway().connect(HOST);
    client.send(
        format!(
            "POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
            key.secret
        )
        .as_bytes(),
    );
    assert_eq!(client.read_some().unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"ok");
    assert_eq!(client.receive().status, 200);
    runtime().block_on(async {
        let request = Request::post(PACKS)
            .header("authorization", format!("Bearer {}", key.secret))
            .header("expect", "100-continue")
            .body(())
            .unwrap();
        let (mut answer, mut body) = Http2::connect(port).await.begin(request, false).await;
        let told = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(told.status(), 100);
        tests::send(&mut body, b"ok").await.unwrap();
        body.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(tests::whole(answer).await.unwrap().status, 200);
    });
    assert_eq!(world.live.last().body, b"ok");
    assert_eq!(world.live.last().field("expect"), None);
    // Whoever may not send the body is told so instead.
    let mut stranger = world.gateway().connect(HOST);
    stranger.send(
        format!("POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(stranger.receive().status, 401);
}

#[test]
fn early_hints_arrive_over_http2_too() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    runtime().block_on(async {
        let request =
            Request::get(PACKS).header("authorization", format!("Bearer {}", key.secret)).header("x-behave", "hints");
        let (mut answer, _) = Http2::connect(port).await.begin(request.body(()).unwrap(), true).await;
        let hints = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hints.status().as_u16(), hints.headers()["link"].to_str().unwrap()), (103, "</style.css>"));
        assert_eq!(tests::whole(answer).await.unwrap().status, 200);
    });
}

/// Nobody is there to be answered: that is no fault of ours.
#[test]
fn a_client_over_http2_that_leaves_is_on_record_as_gone() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let port = world.add_trusted_listener();
    runtime().block_on(async {
        let request = Request::get(PACKS)
            .header("authorization", format!("Bearer {}", key.secret))
            .header("x-behave", "slow")
            .header("x-request-id", "gone-1");
        let (answer, mut body) = Http2::connect(port).await.begin(request.body(()).unwrap(), true).await;
        until("it has arrived", || world.live.received().iter().any(|r| r.field("x-behave") == Some("slow")));
        body.send_reset(h2::Reason::CANCEL);
        assert!(answer.await.is_err());
    });
    until("it is on record", || {
        let output = world.gateway().output();
        output.lines().any(|line| line.contains("gone-1") && line.contains("\"outcome\":\"client_gone\""))
    });
    assert_eq!(
        world
            .gateway()
            .metric("tollgate_requests_total{api=\"iconflow\",environment=\"live\",outcome=\"internal_error\""),
        0.0
    );
}

/// A fleet has more clients than any cache of sessions.
#[test]
fn a_tls_client_goes_on_with_its_session_whoever_came_in_between() {
    let (mut world, key) = world(StoreKind::Sqlite);
    let bearer = format!("Bearer {}", key.secret);
    let fields = [("host", HOST), ("authorization", bearer.as_str())];
    let authority = world.folder.path().join("ca.pem");
    let visit = |world: &World, trust: &Trust| {
        let mut connection = Connection::tls(world.gateway().tls, trust, HOST);
        assert_eq!(connection.ask("GET", "/v2/packs", &fields, b"").status, 200);
        connection.is_resumed()
    };
    let ours = Trust::new(&authority);
    assert!(!visit(&world, &ours));
    for _ in 0..300 {
        assert!(!Connection::tls(world.gateway().tls, &Trust::new(&authority), HOST).is_resumed());
    }
    assert!(visit(&world, &ours) && visit(&world, &ours));
    world.gateway_mut().stop();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    assert!(!visit(&world, &ours), "another process has other keys");
    assert!(visit(&world, &ours));
}
