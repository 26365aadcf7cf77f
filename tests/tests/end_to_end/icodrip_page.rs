//! The Icodrip page, sentence by sentence, against an unmodified upstream.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use tests::{Connection, StoreKind, World, on_both_stores, until};

const AFFILIATES: &str = "https://api.icodrip.com/v1/affiliates";

fn world(kind: StoreKind) -> World {
    let world = World::start(kind);
    world.organization("acme");
    world
}

on_both_stores![
    every_api_request_must_include_a_valid_api_key,
    keys_inherit_the_organizations_permissions,
    production_and_test_keys_have_their_prefixes,
    requests_over_plain_http_are_rejected,
    the_default_rate_limit_is_100_requests_per_minute_per_api_key,
    agency_plans_and_keys_have_custom_rate_limits,
    rotate_keys_without_downtime,
];

fn every_api_request_must_include_a_valid_api_key(kind: StoreKind) {
    let world = world(kind);
    assert_eq!(world.gateway().ask("GET", AFFILIATES, None, &[]).status, 401);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let answer = world.gateway().get(AFFILIATES, &key);
    assert_eq!((answer.status, answer.json()["upstream"].as_str()), (200, Some("icodrip-live")));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {}", key.secret);
        assert_eq!(world.gateway().ask("GET", AFFILIATES, None, &[("authorization", &value)]).status, 200);
    }
    // 403 means the key does not have permission for the requested operation.
    assert_eq!(world.gateway().ask("POST", AFFILIATES, Some(&key.secret), &[]).status, 403);
    // A key of the other company opens nothing here, nor the other way round.
    let other = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(AFFILIATES, &other).code(), "invalid_credential");
    assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).code(), "invalid_credential");
}

fn keys_inherit_the_organizations_permissions(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("icodrip", "write", &["--scopes", "affiliates:read,affiliates:write"]);
    assert_eq!(world.gateway().ask("POST", AFFILIATES, Some(&key.secret), &[]).status, 200);
    world.json(&["orgs", "update", "acme", "--permissions", "affiliates:read"]);
    until("the organization has shrunk", || {
        world.gateway().ask("POST", AFFILIATES, Some(&key.secret), &[]).status == 403
    });
    assert_eq!(world.gateway().get(AFFILIATES, &key).status, 200);
    assert_eq!(world.icodrip.last().field("x-tollgate-scopes"), Some("affiliates:read"));
}

fn production_and_test_keys_have_their_prefixes(kind: StoreKind) {
    let world = world(kind);
    let live = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let test = world.key("icodrip", "read", &["--scopes", "affiliates:read", "--env", "test"]);
    assert!(live.secret.starts_with("ak_live_") && test.secret.starts_with("ak_test_"));
    assert_eq!(world.gateway().get(AFFILIATES, &test).json()["upstream"], "icodrip-sandbox");
}

fn requests_over_plain_http_are_rejected(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let bearer = format!("Bearer {}", key.secret);
    let fields = [("host", "api.icodrip.com"), ("authorization", bearer.as_str())];
    let answer = Connection::plain(world.gateway().plain).ask("GET", "/v1/affiliates", &fields, b"");
    assert_eq!((answer.status, answer.code().as_str()), (403, "https_required"));
    assert_eq!(answer.field("location"), None, "never a redirect");
    assert!(world.icodrip.received().is_empty());
    until("the key is recorded as exposed", || {
        world.json(&["keys", "show", &key.id])["exposed"]["how"] == "plain_http"
    });
}

fn the_default_rate_limit_is_100_requests_per_minute_per_api_key(kind: StoreKind) {
    let world = world(kind);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let answer = world.gateway().get(AFFILIATES, &key);
    assert_eq!(answer.number("x-ratelimit-limit"), 100);
    assert_eq!(answer.number("x-ratelimit-remaining"), 99);
    let now_s = gateway::base::clock::Clock::now_ms(&gateway::base::clock::System) / 1000;
    let reset = answer.number("x-ratelimit-reset");
    assert!(reset >= now_s && reset <= now_s + 60, "a Unix timestamp in this window");
    // More than two windows hold cannot all be admitted, wherever an edge falls.
    let is_refused = (0..250).any(|_| world.gateway().get(AFFILIATES, &key).status == 429);
    assert!(is_refused);
}

fn agency_plans_and_keys_have_custom_rate_limits(kind: StoreKind) {
    let world = world(kind);
    let own = world.key("icodrip", "read", &["--scopes", "affiliates:read", "--limit", "5000/min"]);
    assert_eq!(world.gateway().get(AFFILIATES, &own).number("x-ratelimit-limit"), 5000);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    assert_eq!(world.gateway().get(AFFILIATES, &key).number("x-ratelimit-limit"), 100);
    world.json(&["orgs", "update", "acme", "--plan", "agency"]);
    until("the plan has changed", || world.gateway().get(AFFILIATES, &key).number("x-ratelimit-limit") == 1000);
    assert_eq!(world.gateway().get(AFFILIATES, &own).number("x-ratelimit-limit"), 5000, "a key's own limit wins");
}

fn rotate_keys_without_downtime(kind: StoreKind) {
    let world = world(kind);
    let old = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    // Create a new key, update your services, verify everything works, then revoke the old key.
    let new = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    assert_eq!(world.gateway().get(AFFILIATES, &old).status, 200);
    assert_eq!(world.gateway().get(AFFILIATES, &new).status, 200);
    world.json(&["keys", "revoke", &old.id, "--wait"]);
    assert_eq!(world.gateway().get(AFFILIATES, &old).status, 401);
    assert_eq!(world.gateway().get(AFFILIATES, &new).status, 200);
}

#[test]
fn api_keys_never_work_in_browser_javascript_but_the_sdks_public_key_does() {
    let world = world(StoreKind::Sqlite);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let browser = [("origin", "https://shop.example")];
    let refused = world.gateway().ask("GET", AFFILIATES, Some(&key.secret), &browser);
    assert_eq!(refused.code(), "server_only_key");
    let sdk = world.key("icodrip", "public", &["--scopes", "events:track", "--allow-origin", "https://shop.example"]);
    let events = "https://api.icodrip.com/v1/events";
    assert_eq!(world.gateway().ask("POST", events, Some(&sdk.secret), &browser).status, 200);
    let elsewhere = world.gateway().ask("POST", events, Some(&sdk.secret), &[("origin", "https://evil.example")]);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (403, "origin_not_allowed"));
    let limited = world.gateway().ask("GET", AFFILIATES, Some(&sdk.secret), &browser);
    assert_eq!(limited.code(), "insufficient_scope", "its scope is limited");
}

#[test]
fn the_log_shows_which_api_key_was_used_for_each_request() {
    let world = world(StoreKind::Sqlite);
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    world.gateway().get("https://api.icodrip.com/v1/affiliates?email=secret@example.com", &key);
    until("the line is written", || world.gateway().output().contains("\"outcome\":\"forwarded\""));
    let output = world.gateway().output();
    let line = output.lines().find(|l| l.contains("\"outcome\":\"forwarded\"")).unwrap();
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(record["key"], key.id.as_str());
    assert_eq!((record["organization"].as_str(), record["route"].as_str()), (Some("acme"), Some("affiliates-read")));
    assert_eq!((record["status"].as_u64(), record["path"].as_str()), (Some(200), Some("/v1/affiliates")));
    assert!(!output.contains("secret@example.com"), "a query is never logged");
    until("last use is written", || world.json(&["keys", "show", &key.id])["last_use"]["route"] == "affiliates-read");
}
