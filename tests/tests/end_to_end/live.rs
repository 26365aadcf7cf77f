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
    assert_eq!(socket.read_at_least(7).unwrap(), b"\x81\x05hello");
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
    stream.read_until_text("data: 0").unwrap();
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
    the_first_use_of_a_key_can_be_a_websocket,
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
        assert_eq!(socket.read_at_least(4).unwrap(), b"\x81\x02ok");
    }
}

fn a_token_that_expires_or_loses_its_user_ends_what_it_began(kind: StoreKind) {
    let (world, app) = world(kind, "");
    let gateway = world.gateway();
    let tokens = app.tokens(gateway, JO);
    let mut socket = socket(gateway, &tokens.access);
    world.json(&["users", "disable", JO]);
    assert_eq!(rest(&mut socket)[0], 0x88);
    let soon =
        gateway::base::clock::rfc3339(gateway::base::clock::Clock::now_ms(&gateway::base::clock::System) + 3_000);
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
    assert_eq!(socket.read_at_least(4).unwrap(), b"\x81\x02ok");
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

/// A backend that answers its handshakes as soon as a connection is there, with a frame behind the 101.
fn hasty_backend() -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05first";
                stream.write_all(head).unwrap();
                let mut seen = Vec::new();
                let mut buffer = [0u8; 1024];
                // Everything behind the head of the request comes back.
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..n]);
                    let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                    let echo: Vec<u8> = seen.drain(end + 4..).collect();
                    if stream.write_all(&echo).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// See https://github.com/cloudflare/pingora/issues/946: the end of the request's body was taken for
/// the end of the tunnel when the 101 came first.
#[test]
fn sixty_websockets_whose_101_comes_at_once_all_echo_and_lose_no_frame() {
    let port = hasty_backend();
    let world = World::start_with(StoreKind::Sqlite, "", move |policy| {
        let policy = policy.replacen(
            "        public_keys: true\n",
            "        public_keys: true\n        allow: [websocket]\n",
            1,
        );
        policy.replace("addresses: [\"127.0.0.1:9101\"]", &format!("addresses: [\"127.0.0.1:{port}\"]"))
    });
    world.organization("acme");
    for _ in 0..10 {
        // The first use of a key waits for the store.
        let key = read_key(&world);
        for _ in 0..6 {
            let mut socket = handshake(world.gateway(), &key.secret, b"\x81\x04with");
            assert_eq!(socket.receive().status, 101);
            assert_eq!(socket.read_at_least(13).unwrap(), b"\x81\x05first\x81\x04with");
            socket.send(b"\x81\x05hello");
            assert_eq!(socket.read_at_least(7).unwrap(), b"\x81\x05hello");
        }
    }
}

/// Sends a handshake, and bytes behind it in the same write.
fn handshake(gateway: &Gateway, credential: &str, behind: &[u8]) -> Connection {
    let mut socket = gateway.connect(HOST);
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {credential}\r\n{upgrade}\r\n");
    socket.send(&[head.as_bytes(), behind].concat());
    socket
}

fn the_first_use_of_a_key_can_be_a_websocket(kind: StoreKind) {
    let (world, _) = world(kind, "");
    for _ in 0..10 {
        let key = read_key(&world);
        drop(socket(world.gateway(), &key.secret));
    }
}

#[test]
fn a_websocket_is_told_to_go_at_the_end_of_a_drain() {
    let line = "        public_keys: true\n        allow: [websocket]\n";
    let mut world = World::start_with(StoreKind::Sqlite, "bounds: { drain: 4s }", move |policy| {
        policy.replacen("        public_keys: true\n", line, 1)
    });
    world.organization("acme");
    let key = read_key(&world);
    let mut socket = socket(world.gateway(), &key.secret);
    world.gateway().signal("-TERM");
    socket.send(b"\x81\x02ok");
    assert_eq!(socket.read_at_least(4).unwrap(), b"\x81\x02ok", "it goes on while there is time");
    let last = rest(&mut socket);
    assert_eq!((last[0], u16::from_be_bytes([last[2], last[3]])), (0x88, 1001), "{last:?}");
    assert!(world.gateway_mut().take_child().wait().unwrap().success());
    assert!(world.gateway().output().contains("\"status\":101"), "it has a record");
}

#[test]
fn nothing_but_a_websocket_that_was_asked_for_is_a_tunnel() {
    let (world, _) = world(StoreKind::Sqlite, "");
    let key = read_key(&world);
    for upgrade in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n",
    ] {
        let mut client = world.gateway().connect(HOST);
        client.send(
            format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n{upgrade}\r\n", key.secret)
                .as_bytes(),
        );
        assert_eq!(client.receive().status, 200, "{upgrade}: an upgrade may be passed over (RFC 9110 section 7.8)");
        assert_eq!(world.live.last().field("upgrade"), None, "{upgrade}");
    }
}
