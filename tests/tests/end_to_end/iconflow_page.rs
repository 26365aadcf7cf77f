//! The IconFlow page, sentence by sentence, against an unmodified upstream.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use tests::{Connection, StoreKind, World, on_both_stores, until};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn world(kind: StoreKind) -> World {
    let world = World::start(kind);
    world.organization("acme");
    world
}

on_both_stores![
    include_your_api_key_in_the_authorization_header,
    read_only_keys_cannot_modify_any_resources,
    write_keys_upload_packs_and_manage_the_team,
    admin_keys_manage_all_api_resources,
    live_keys_access_production_and_test_keys_the_sandbox,
    every_row_of_key_scopes_and_permissions,
    missing_expired_or_invalid_credentials_are_401,
    valid_credentials_with_insufficient_scope_are_403,
    read_only_keys_receive_1000_and_write_and_admin_keys_200_requests_per_minute,
    rate_limit_exceeded_is_429_until_the_window_resets,
    a_compromised_key_is_rotated_immediately,
    a_key_is_suspended_temporarily,
    your_key_is_displayed_once,
    the_key_printed_on_the_page_can_be_imported,
];

fn include_your_api_key_in_the_authorization_header(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let fields = [("content-type", "application/json")];
    let answer = world.gateway().ask("GET", PACKS, Some(&key.secret), &fields);
    assert_eq!(answer.status, 200);
    let seen = world.live.last();
    assert_eq!(seen.line, "GET /v2/packs HTTP/1.1");
    assert_eq!(seen.field("authorization"), None, "the upstream never sees the credential");
    assert_eq!(seen.field("x-tollgate-key-id"), Some(key.id.as_str()));
    assert_eq!(seen.field("x-tollgate-org"), Some("acme"));
    assert_eq!(seen.field("x-tollgate-env"), Some("live"));
    assert_eq!(seen.field("x-tollgate-scopes"), Some("packs:read"));
}

fn read_only_keys_cannot_modify_any_resources(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read,downloads:read"]);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = world.gateway().ask(method, PACKS, Some(&key.secret), &[]);
        assert_eq!((answer.status, answer.code().as_str()), (403, "insufficient_scope"), "{method}");
    }
    assert!(world.live.received().is_empty());
}

fn write_keys_upload_packs_and_manage_the_team(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "write", &["--scopes", "packs:write,team:manage"]);
    let answer = world.gateway().ask_with_body("POST", PACKS, Some(&key.secret), &[], b"{\"name\":\"arrows\"}");
    assert_eq!(answer.status, 200);
    assert_eq!(world.live.last().body, b"{\"name\":\"arrows\"}");
    for method in ["GET", "POST", "DELETE"] {
        let answer = world.gateway().ask(method, "https://api.iconflow.dev/v2/team/members", Some(&key.secret), &[]);
        assert_eq!(answer.status, 200, "{method}");
    }
}

fn admin_keys_manage_all_api_resources(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "admin", &[]);
    for path in ["packs", "icons", "downloads", "team/members", "billing/invoices"] {
        assert_eq!(world.gateway().get(&format!("https://api.iconflow.dev/v2/{path}"), &key).status, 200, "{path}");
    }
    // Shrinking the organization takes effect at once, also for admin keys.
    world.json(&["orgs", "update", "acme", "--permissions", "packs:read"]);
    until("the change has arrived", || {
        world.gateway().get("https://api.iconflow.dev/v2/downloads", &key).status == 403
    });
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
}

fn live_keys_access_production_and_test_keys_the_sandbox(kind: StoreKind) {
    let world = world(kind);
    let live = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let test = world.key("iconflow", "read", &["--scopes", "packs:read", "--env", "test"]);
    assert!(live.secret.starts_with("ifk_live_") && test.secret.starts_with("ifk_test_"));
    assert_eq!(world.gateway().get(PACKS, &live).json()["upstream"], "iconflow-live");
    assert_eq!(world.gateway().get(PACKS, &test).json()["upstream"], "iconflow-sandbox");
    assert_eq!(world.test.last().field("x-tollgate-env"), Some("test"));
    // The same characters under the other prefix open nothing.
    let swapped = test.secret.replace("ifk_test_", "ifk_live_");
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&swapped), &[]).status, 401);
}

fn every_row_of_key_scopes_and_permissions(kind: StoreKind) {
    let world = world(kind);
    let rows: [(&str, &[(&str, &str)]); 5] = [
        ("packs:read", &[("GET", "/v2/packs"), ("GET", "/v2/icons"), ("HEAD", "/v2/packs"), ("GET", "/v2/packs/7")]),
        (
            "packs:write",
            &[("POST", "/v2/packs"), ("PUT", "/v2/packs/7"), ("DELETE", "/v2/packs/7"), ("PATCH", "/v2/packs/7")],
        ),
        ("downloads:read", &[("GET", "/v2/downloads"), ("GET", "/v2/downloads/7")]),
        ("team:manage", &[("GET", "/v2/team/members"), ("POST", "/v2/team/members"), ("DELETE", "/v2/team/members/7")]),
        ("billing:read", &[("GET", "/v2/billing/invoices"), ("GET", "/v2/billing/usage/today")]),
    ];
    for (scope, requests) in rows {
        let with = world.key("iconflow", "write", &["--scopes", scope]);
        let others: Vec<&str> = rows.iter().map(|(s, _)| *s).filter(|s| *s != scope).collect();
        let without = world.key("iconflow", "write", &["--scopes", &others.join(",")]);
        for (method, path) in requests {
            let url = format!("https://api.iconflow.dev{path}");
            assert_eq!(
                world.gateway().ask(method, &url, Some(&with.secret), &[]).status,
                200,
                "{scope} {method} {path}"
            );
            let refused = world.gateway().ask(method, &url, Some(&without.secret), &[]);
            assert_eq!(refused.status, 403, "{scope} {method} {path}");
            let challenge = refused.field("www-authenticate").unwrap().to_owned();
            assert_eq!(
                challenge,
                format!("Bearer realm=\"IconFlow API\", error=\"insufficient_scope\", scope=\"{scope}\"")
            );
        }
    }
}

fn missing_expired_or_invalid_credentials_are_401(kind: StoreKind) {
    let world = world(kind);
    let missing = world.gateway().ask("GET", PACKS, None, &[]);
    assert_eq!((missing.status, missing.code().as_str()), (401, "missing_credential"));
    let challenge = missing.field("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"IconFlow API\"") && !challenge.contains("error"), "{challenge}");
    assert_eq!(missing.field("x-ratelimit-limit"), None, "nothing is said of limits to a stranger");

    let soon =
        gateway::base::clock::rfc3339(gateway::base::clock::Clock::now_ms(&gateway::base::clock::System) + 5_000);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read", "--expires", &soon]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    until("the key expires", || world.gateway().get(PACKS, &key).status == 401);
    let expired = world.gateway().get(PACKS, &key);
    assert_eq!(expired.code(), "expired_credential");
    let challenge = expired.field("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"IconFlow API\", error=\"invalid_token\""), "{challenge}");

    for invalid in
        ["ifk_live_doesnotexist1", "ifk_live_x", "nonsense", "ak_live_xxxxxxxxxxxx", "iat_eyJhbGciOiJSUzI1NiJ9"]
    {
        let answer = world.gateway().ask("GET", PACKS, Some(invalid), &[]);
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_credential"), "{invalid}");
        assert!(!String::from_utf8(answer.body).unwrap().contains(invalid), "the credential is never echoed");
    }
}

fn valid_credentials_with_insufficient_scope_are_403(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let answer = world.gateway().get("https://api.iconflow.dev/v2/billing/invoices", &key);
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["required_scopes"], serde_json::json!(["billing:read"]));
    assert_eq!(answer.number("x-ratelimit-limit"), 1000, "a caller we know sees its limit on a 403 too");
    let unknown = world.gateway().get("https://api.iconflow.dev/v2/nothing", &key);
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "no_such_route"));
    assert_eq!(unknown.number("x-ratelimit-remaining"), 1000, "a refusal costs nothing");
}

fn read_only_keys_receive_1000_and_write_and_admin_keys_200_requests_per_minute(kind: StoreKind) {
    let world = world(kind);
    for (class, limit) in [("read", 1000), ("write", 200), ("admin", 200)] {
        let scopes: &[&str] = if class == "admin" { &[] } else { &["--scopes", "packs:read"] };
        let key = world.key("iconflow", class, scopes);
        let answer = world.gateway().get(PACKS, &key);
        assert_eq!(answer.number("x-ratelimit-limit"), limit, "{class}");
        assert_eq!(answer.number("x-ratelimit-remaining"), limit - 1, "{class}");
        assert_eq!(answer.field("ratelimit-policy").unwrap(), format!("\"minute\";q={limit};w=60"));
    }
}

fn rate_limit_exceeded_is_429_until_the_window_resets(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "write", &["--scopes", "packs:read"]);
    let mut connection = world.gateway().connect("api.iconflow.dev");
    let bearer = format!("Bearer {}", key.secret);
    let fields = [("host", "api.iconflow.dev"), ("authorization", bearer.as_str())];
    let mut ask = || connection.ask("GET", "/v2/packs", &fields, b"");
    let (mut admitted, mut last_reset, mut last_left) = (0, 0, 200);
    let refused = loop {
        let answer = ask();
        let (reset, left) = (answer.number("x-ratelimit-reset"), answer.number("x-ratelimit-remaining"));
        if reset != last_reset {
            // A new window began (or the test crossed an edge): counting starts again.
            (admitted, last_reset, last_left) = (0, reset, 200);
        }
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 200);
        admitted += 1;
        assert_eq!(left, last_left - 1, "remaining counts down by one");
        last_left = left;
    };
    assert_eq!(admitted, 200, "exactly the documented limit");
    assert_eq!(refused.code(), "limit_exceeded");
    assert_eq!(refused.number("x-ratelimit-remaining"), 0);
    let wait = refused.number("retry-after");
    assert!((1..=60).contains(&wait));
    let now_s = gateway::base::clock::Clock::now_ms(&gateway::base::clock::System) / 1000;
    assert!(now_s + wait + 1 >= refused.number("x-ratelimit-reset"), "Retry-After never precedes the reset");
    assert_eq!(refused.json()["violated_policies"][0]["limit"], 200);
    // Another key is not affected.
    let other = world.key("iconflow", "write", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &other).status, 200);
}

fn a_compromised_key_is_rotated_immediately(kind: StoreKind) {
    let world = world(kind);
    let old = world.key("iconflow", "write", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &old).status, 200);
    let rotated = world.json(&["keys", "rotate", &old.id, "--overlap", "7d", "--wait"]);
    let new = rotated["key"].as_str().unwrap();
    assert_eq!(world.gateway().ask("GET", PACKS, Some(new), &[]).status, 200);
    assert_eq!(world.gateway().get(PACKS, &old).status, 200, "both work during the overlap");
    let shown = world.json(&["keys", "show", &old.id]);
    assert_eq!(shown["replaced_by"], rotated["id"]);
    let revoked = world.json(&["keys", "revoke", &old.id, "--wait"]);
    assert_eq!(revoked["wait"]["acknowledged"], 1);
    let refused = world.gateway().get(PACKS, &old);
    assert_eq!((refused.status, refused.code().as_str()), (401, "revoked_credential"));
    assert_eq!(world.gateway().ask("GET", PACKS, Some(new), &[]).status, 200);
}

fn a_key_is_suspended_temporarily(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    world.json(&["keys", "suspend", &key.id, "--wait"]);
    assert_eq!(world.gateway().get(PACKS, &key).code(), "suspended_credential");
    world.json(&["keys", "resume", &key.id, "--wait"]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
}

fn your_key_is_displayed_once(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    for arguments in [vec!["keys", "list"], vec!["keys", "show", &key.id], vec!["--json", "keys", "list"]] {
        let out = world.tollgate(&arguments);
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains(&key.id) && !text.contains(&key.secret), "{arguments:?}");
        assert!(text.contains(&format!("{}…", &key.secret.chars().take(13).collect::<String>())));
    }
    tests::until("it is in the access log", || world.gateway().output().contains(&key.id));
    assert!(!world.gateway().output().contains(&key.secret), "nor in any log");
    // Nor on disk: neither store nor state holds the secret.
    for entry in walk(world.folder.path()) {
        let bytes = std::fs::read(&entry).unwrap_or_default();
        let found = bytes.windows(key.secret.len()).any(|w| w == key.secret.as_bytes());
        assert!(!found, "{} holds the secret", entry.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

fn the_key_printed_on_the_page_can_be_imported(kind: StoreKind) {
    let world = world(kind);
    world.import("ifk_live_8xK2mN9pQr4vT7wL\n");
    let answer = world.gateway().ask("GET", PACKS, Some("ifk_live_8xK2mN9pQr4vT7wL"), &[]);
    assert_eq!(answer.status, 200);
}

#[test]
fn tls_encryption_on_all_endpoints_is_256_bit() {
    let world = world(StoreKind::Sqlite);
    let cipher = world.gateway().connect("api.iconflow.dev").cipher();
    assert!(cipher.contains("AES_256") || cipher.contains("CHACHA20"), "{cipher}");
    let answer = Connection::plain(world.gateway().plain).ask("GET", "/v2/packs", &[("host", "api.iconflow.dev")], b"");
    assert_eq!((answer.status, answer.code().as_str()), (403, "https_required"));
}

#[test]
fn write_and_admin_keys_must_only_exist_in_server_side_environments() {
    let world = world(StoreKind::Sqlite);
    let read = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let write = world.key("iconflow", "write", &["--scopes", "packs:read"]);
    let browser = [("origin", "https://pixelforge.design"), ("sec-fetch-mode", "cors")];
    let answer = world.gateway().ask("GET", PACKS, Some(&read.secret), &browser);
    assert_eq!(answer.status, 200, "frontend applications use read-only keys");
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    let refused = world.gateway().ask("GET", PACKS, Some(&write.secret), &browser);
    assert_eq!((refused.status, refused.code().as_str()), (403, "server_only_key"));
    assert_eq!(refused.field("access-control-allow-origin"), Some("*"), "errors can be read by the page too");
    until("the exposure is recorded", || !world.json(&["keys", "show", &write.id])["exposed"].is_null());
}
