//! Exchanges under way end when their credential does, also when no byte is moving.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use tests::{App, Connection, Gateway, Key, StoreKind, World, on_both_stores, until};

const HOST: &str = "api.iconflow.dev";
const JO: &str = "jo@example.com";

fn world(kind: StoreKind, option: &'static str) -> (World, App) {
    let line = format!("        public_keys: true\n        allow: [websocket, sse]\n{option}");
    let world = World::start_with(kind, "", move |policy| policy.replacen("        public_keys: true\n", &line, 1));
    world.organization("acme");
    world.user(JO);
    let app = world.app(&[]);
    (world, app)
}

fn socket(gateway: &Gateway, credential: &str) -> Connection {
    let mut socket = gateway.connect(HOST);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    socket.send(
        format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {credential}\r\n{upgrade}\r\n")
            .as_bytes(),
    );
    assert_eq!(socket.receive().status, 101);
    // The upstream sends back what it gets: a whole frame, as a server would send it.
    socket.send(b"\x81\x05hello");
    let mut seen = Vec::new();
    while seen.len() < 7 {
        seen.extend(socket.read_some().unwrap());
    }
    assert_eq!(seen, b"\x81\x05hello");
    socket
}

fn events(gateway: &Gateway, credential: &str) -> Connection {
    let mut stream = gateway.connect(HOST);
    stream.send(
        format!(
            "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {credential}\r\nx-behave: quiet\r\n\r\n"
        )
        .as_bytes(),
    );
    let mut seen = String::new();
    while !seen.contains("data: 0") {
        seen.push_str(&String::from_utf8_lossy(&stream.read_some().unwrap()));
    }
    stream
}

/// Everything until the end.
fn rest(connection: &mut Connection) -> Vec<u8> {
    let mut seen = Vec::new();
    loop {
        match connection.read_some() {
            Ok(more) if more.is_empty() => return seen,
            Ok(more) => seen.extend(more),
            Err(error) => panic!("not a clean end: {error}, after {seen:?}"),
        }
    }
}

fn read_key(world: &World) -> Key {
    world.key("iconflow", "read", &["--scopes", "packs:read"])
}

on_both_stores![
    a_websocket_of_a_revoked_key_is_closed_with_1008,
    events_of_a_revoked_grant_end_cleanly,
    others_go_on,
    a_token_that_expires_or_loses_its_user_ends_what_it_began,
    a_route_can_opt_out,
    a_client_that_never_reads_or_writes_ahead_is_ended_too,
];

fn a_websocket_of_a_revoked_key_is_closed_with_1008(kind: StoreKind) {
    let (world, _) = world(kind, "");
    let (gateway, key) = (world.gateway(), read_key(&world));
    let mut socket = socket(gateway, &key.secret);
    world.json(&["keys", "revoke", &key.id, "--wait"]);
    let last = rest(&mut socket);
    assert_eq!((last[0], u16::from_be_bytes([last[2], last[3]])), (0x88, 1008), "{last:?}");
    assert_eq!(usize::from(last[1]), last.len() - 2);
    until("it is counted", || gateway.metric("tollgate_ended_streams_total{protocol=\"websocket\"}") == 1.0);
}

fn events_of_a_revoked_grant_end_cleanly(kind: StoreKind) {
    let (world, app) = world(kind, "");
    let gateway = world.gateway();
    let tokens = app.tokens(gateway, JO);
    let mut stream = events(gateway, &tokens.access);
    assert_eq!(app.post(gateway, "/oauth/revoke", &[("token", &tokens.refresh)]).status, 200);
    assert_eq!(rest(&mut stream), b"0\r\n\r\n", "the end of a chunked body, and nothing else");
}

fn others_go_on(kind: StoreKind) {
    let (world, app) = world(kind, "");
    let gateway = world.gateway();
    let (doomed, other) = (read_key(&world), read_key(&world));
    let tokens = app.tokens(gateway, JO);
    let (mut ends, mut stays, mut token) =
        (socket(gateway, &doomed.secret), socket(gateway, &other.secret), socket(gateway, &tokens.access));
    world.json(&["keys", "revoke", &doomed.id, "--wait"]);
    rest(&mut ends);
    for socket in [&mut stays, &mut token] {
        socket.send(b"\x81\x02ok");
        assert_eq!(socket.read_some().unwrap(), b"\x81\x02ok");
    }
}

fn a_token_that_expires_or_loses_its_user_ends_what_it_began(kind: StoreKind) {
    let (world, app) = world(kind, "");
    let gateway = world.gateway();
    let tokens = app.tokens(gateway, JO);
    let mut socket = socket(gateway, &tokens.access);
    world.json(&["users", "disable", JO]);
    assert_eq!(rest(&mut socket)[0], 0x88);
    let soon = gateway::clock::rfc3339(gateway::clock::Clock::now_ms(&gateway::clock::System) + 3_000);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read", "--expires", &soon]);
    let mut stream = events(gateway, &key.secret);
    assert_eq!(rest(&mut stream), b"0\r\n\r\n", "its time is over");
}

fn a_route_can_opt_out(kind: StoreKind) {
    let (world, _) = world(kind, "        ends_with_credential: false\n");
    let (gateway, key) = (world.gateway(), read_key(&world));
    let mut socket = socket(gateway, &key.secret);
    world.json(&["keys", "revoke", &key.id, "--wait"]);
    assert_eq!(gateway.get("https://api.iconflow.dev/v2/packs", &key).status, 401);
    socket.send(b"\x81\x02ok");
    assert_eq!(socket.read_some().unwrap(), b"\x81\x02ok");
}

fn a_client_that_never_reads_or_writes_ahead_is_ended_too(kind: StoreKind) {
    let (world, _) = world(kind, "");
    let (gateway, key) = (world.gateway(), read_key(&world));
    let mut ahead = events(gateway, &key.secret);
    // A byte of a next request: an engine that keeps it for later does not look at the connection.
    let _ = ahead.try_send(b"G");
    let mut deaf = socket(gateway, &key.secret);
    for _ in 0..200 {
        let mut frame = vec![0x82, 126, 0x40, 0x00];
        frame.extend(vec![7u8; 0x4000]);
        if deaf.try_send(&frame).is_err() {
            break;
        }
    }
    world.json(&["keys", "revoke", &key.id, "--wait"]);
    until("both are over", || gateway.metric("tollgate_open_connections") == 0.0);
}

/// Over HTTP/2 only the stream ends, as cleanly as over HTTP/1.1; the connection and its other streams
/// go on. It leaves a record.
#[test]
fn over_http2_the_one_stream_ends() {
    let (mut world, app) = world(StoreKind::Sqlite, "");
    let port = world.add_trusted_listener();
    let (doomed, other) = (read_key(&world), app.tokens(world.gateway(), JO));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let mut open = async |credential: &str| {
            let request = http::Request::get("https://api.iconflow.dev/v2/packs")
                .header("authorization", format!("Bearer {credential}"))
                .header("x-behave", "quiet")
                .body(())
                .unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            let first = body.data().await.unwrap().unwrap();
            assert_eq!(&first[..], b"data: 0\n\n");
            body
        };
        let mut ends = open(&doomed.secret).await;
        let mut stays = open(&other.access).await;
        world.json(&["keys", "revoke", &doomed.id, "--wait"]);
        while let Some(last) = ends.data().await {
            assert!(last.unwrap().is_empty(), "this one is over");
        }
        assert!(ends.is_end_stream());
        until("it is on record", || {
            let output = world.gateway().output();
            output.lines().any(|line| line.contains(&doomed.id) && line.contains("\"protocol\":\"h2\""))
        });
        let said = format!("ended a live sse exchange with its key {}", doomed.id);
        assert!(world.gateway().output().contains(&said), "{}", world.gateway().output());
        let still = tokio::time::timeout(std::time::Duration::from_millis(300), stays.data()).await;
        assert!(still.is_err(), "the other one goes on");
        drop(open(&other.access).await);
    });
}
