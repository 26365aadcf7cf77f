//! Streams, retries, health, TLS and HTTP/2 towards upstreams, public routes, and key restrictions.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::TcpListener;

use tests::{Key, Policies, StoreKind, World, free_port, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn world_with(edit: impl Fn(Policies) -> Policies) -> (World, Key) {
    World::with_admin(StoreKind::Sqlite, "", edit)
}

fn allow(protocol: &str) -> impl Fn(Policies) -> Policies {
    let line = format!("        public_keys: true\n        allow: [{protocol}]\n");
    move |policy| policy.replacen("        public_keys: true\n", &line, 1)
}

#[test]
fn a_websocket_passes_where_the_route_allows_it_and_only_with_a_key() {
    let (world, key) = world_with(allow("websocket"));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut stranger = world.gateway().connect(HOST);
    stranger.send(format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n").as_bytes());
    assert_eq!(stranger.receive().status, 401);
    let mut socket = world.gateway().connect(HOST);
    socket.send(
        format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n{upgrade}\r\n", key.secret)
            .as_bytes(),
    );
    assert_eq!(socket.receive().status, 101);
    for word in ["one", "two", "three"] {
        socket.send(word.as_bytes());
        assert_eq!(socket.read_at_least(word.len()).unwrap(), word.as_bytes());
    }
    assert_eq!(world.live.last().field("x-tollgate-key-id"), Some(key.id.as_str()));
}

#[test]
fn events_arrive_one_by_one_where_the_route_allows_streams() {
    let (world, key) = world_with(allow("sse"));
    let mut stream = world.gateway().connect(HOST);
    stream.send(
        format!(
            "GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nx-behave: sse\r\n\r\n",
            key.secret
        )
        .as_bytes(),
    );
    let mut seen = stream.read_until_text("data: 0").unwrap();
    assert!(!seen.contains("data: 2"), "the first event does not wait for the last");
    seen.push_str(&stream.read_until_text("data: 2").unwrap());
    assert!(seen.to_ascii_lowercase().contains("x-ratelimit-limit: 200"));
}

#[test]
fn bodies_stream_both_ways_unchanged() {
    let (world, key) = world_with(|p| p);
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let answer = world.gateway().ask_with_body("POST", PACKS, Some(&key.secret), &[("x-behave", "big")], &body);
    assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
    assert_eq!(world.live.last().body, body);
    let chunked = format!(
        "POST /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: evil\r\n\r\n",
        key.secret
    );
    let mut connection = world.gateway().connect(HOST);
    connection.send(chunked.as_bytes());
    let answer = connection.try_receive(false).unwrap();
    if let Some(answer) = answer.filter(|a| a.status == 200) {
        assert_eq!(world.live.last().body, b"hello world");
        assert_eq!(world.live.last().field("x-trailer"), None);
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn one_callers_bytes_never_reach_anothers_request_over_a_shared_connection() {
    let (world, key) = world_with(|p| p);
    let other = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    for _ in 0..10 {
        assert_eq!(world.gateway().get(PACKS, &key).status, 200);
        assert_eq!(world.live.last().field("x-tollgate-key-id"), Some(key.id.as_str()));
        assert_eq!(world.gateway().get(PACKS, &other).status, 200);
        assert_eq!(world.live.last().field("x-tollgate-key-id"), Some(other.id.as_str()));
    }
    assert!(world.live.connections() < 10, "connections to the upstream are reused");
}

#[test]
fn a_dead_address_is_passed_over_and_no_address_is_a_502() {
    let dead = free_port();
    let edit = move |p: Policies| {
        p.replace("addresses: [\"127.0.0.1:9101\"]", &format!("addresses: [\"127.0.0.1:{dead}\", \"127.0.0.1:9101\"]"))
    };
    let (world, key) = world_with(edit);
    for _ in 0..10 {
        assert_eq!(
            world.gateway().ask("POST", PACKS, Some(&key.secret), &[]).status,
            200,
            "nothing was sent, so a POST is tried again too"
        );
    }
    let nobody = world
        .policy_text("iconflow.yaml")
        .replace(&format!("127.0.0.1:{}", world.live.port), &format!("127.0.0.1:{dead}"));
    let nobody = nobody.replace(&format!(", \"127.0.0.1:{dead}\"]"), "]");
    world.write_policy("iconflow.yaml", &nobody);
    until("nobody is there", || world.gateway().get(PACKS, &key).status == 502);
    let answer = world.gateway().get(PACKS, &key);
    assert_eq!(answer.code(), "upstream_unreachable");
    assert_eq!(answer.number("x-ratelimit-limit"), 200, "a 5xx of the upstream shows the limit too");
}

#[test]
fn an_unhealthy_address_gets_no_requests_until_it_is_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sick = listener.local_addr().unwrap().port();
    let edit = move |p: Policies| {
        p.replace("addresses: [\"127.0.0.1:9101\"]", &format!("addresses: [\"127.0.0.1:{sick}\", \"127.0.0.1:9101\"]\n        health: {{ path: /healthz, every: 200ms }}\n        connect_timeout: 200ms\n        timeout: 1s"))
    };
    let (world, key) = world_with(edit);
    until("the sick address is found out", || world.gateway().output().contains("is unhealthy"));
    for _ in 0..10 {
        assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    }
    drop(listener);
}

#[test]
fn an_upstream_that_is_too_slow_is_a_504() {
    let (world, key) = world_with(|p| {
        p.replacen("        public_keys: true\n", "        public_keys: true\n        timeout: 500ms\n", 1)
    });
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &[("x-behave", "slow")]);
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
}

#[test]
fn names_of_upstreams_are_looked_up() {
    let (world, key) =
        world_with(|p| p.replace("127.0.0.1:9101", "localhost:9101x").replace("localhost:9101x", "localhost:9101"));
    let text = world.policy_text("iconflow.yaml").replace("localhost:9101", &format!("localhost:{}", world.live.port));
    world.write_policy("iconflow.yaml", &text);
    until("the name is found", || world.gateway().get(PACKS, &key).status == 200);
}

#[test]
fn a_public_route_needs_no_key_and_a_bad_key_is_still_refused() {
    let (world, key) = world_with(|p| p.replacen("access: { scopes: [\"packs:read\"] }", "access: public", 1));
    let anonymous = world.gateway().ask("GET", PACKS, None, &[]);
    assert_eq!(anonymous.status, 200);
    assert_eq!(anonymous.field("x-ratelimit-limit"), None);
    assert_eq!(world.live.last().field("x-tollgate-key-id"), Some(""));
    assert_eq!(world.gateway().ask("GET", PACKS, Some("ifk_live_nonsense1"), &[]).status, 401);
    assert_eq!(world.gateway().get(PACKS, &key).number("x-ratelimit-limit"), 200);
}

#[test]
fn a_key_works_only_from_its_addresses() {
    let (world, _) = world_with(|p| p);
    let here = world.key("iconflow", "read", &["--scopes", "packs:read", "--allow-address", "127.0.0.0/8"]);
    let elsewhere = world.key("iconflow", "read", &["--scopes", "packs:read", "--allow-address", "203.0.113.0/24"]);
    assert_eq!(world.gateway().get(PACKS, &here).status, 200);
    let refused = world.gateway().ask("GET", PACKS, Some(&elsewhere.secret), &[("x-forwarded-for", "203.0.113.5")]);
    assert_eq!((refused.status, refused.code().as_str()), (403, "address_not_allowed"));
}

#[test]
fn shadowed_authorization_is_counted_and_not_enforced() {
    let (world, _) =
        world_with(|p| p.replace("default_plan: standard", "default_plan: standard\n    authorization: shadow"));
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().ask("POST", PACKS, Some(&key.secret), &[]).status, 200);
    let shadowed = "tollgate_shadowed_total{api=\"iconflow\",route=\"packs-write\"}";
    until("it is counted", || world.gateway().metric(shadowed) == 1.0);
    assert_eq!(world.gateway().ask("POST", PACKS, None, &[]).status, 401, "authentication is never shadowed");
}

#[test]
fn a_trusted_listener_takes_keys_behind_a_tls_terminator_and_believes_only_its_proxies() {
    let mut world = World::start_with(StoreKind::Sqlite, "trusted_proxies: [127.0.0.1]", |p| p);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let port = world.add_trusted_listener();
    let bearer = format!("Bearer {}", key.secret);
    let fields = [("host", HOST), ("authorization", bearer.as_str()), ("x-forwarded-for", "198.51.100.7, 203.0.113.9")];
    let answer = tests::Connection::plain(port).ask("GET", "/v2/packs", &fields, b"");
    assert_eq!(answer.status, 200);
    assert_eq!(world.live.last().field("x-forwarded-for"), Some("203.0.113.9"));
}

#[test]
fn an_upstream_that_speaks_tls_is_reached_and_its_certificate_is_checked() {
    let port = free_port();
    let edit = move |p: Policies| {
        let tls = format!("addresses: [\"127.0.0.1:{port}\"]\n        tls: {{ name: localhost }}");
        p.replace("addresses: [\"127.0.0.1:9101\"]", &tls)
    };
    // Trusts the authority that `init` made, and so the server below, under its own name only.
    let world = World::start_with(StoreKind::Sqlite, "upstream_ca: ../ca.pem", edit);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let folder = world.folder.path();
    serve_tls(port, folder);
    until("the upstream is reached over TLS", || world.gateway().get(PACKS, &key).status == 200);
    let other = world.policy_text("iconflow.yaml").replace("tls: { name: localhost }", "tls: { name: other.example }");
    world.write_policy("iconflow.yaml", &other);
    until("another name is refused", || world.gateway().get(PACKS, &key).status == 502);
}

/// Answers every request on a TLS port with 200, under the certificate of a world.
fn serve_tls(port: u16, folder: &std::path::Path) {
    use std::io::{Read, Write};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            std::thread::spawn(move || {
                let mut head = [0u8; 4096];
                while let Ok(1..) = stream.read(&mut head) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
}
