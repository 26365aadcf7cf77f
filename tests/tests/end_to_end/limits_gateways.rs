//! Limits as clients of several gateways see them: real processes on one Redis, over TLS. Windows of
//! an hour, so that none ends during a test.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use tests::{Connection, Key, Policies, StoreKind, World, on_both_stores, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

/// Gateways on one Redis; every read key has this limit.
fn world(gateways: usize, limit: &str) -> World {
    let edit = |policy: Policies| policy.replace("read: 1000/min", &format!("read: {limit}"));
    let mut world = World::prepare(StoreKind::Redis, "", edit);
    world.add_gateways(gateways);
    world.organization("acme");
    world
}

fn read_key(world: &World) -> Key {
    world.key("iconflow", "read", &["--scopes", "packs:read"])
}

/// One answer: which gateway, status, limit, remaining, reset.
type Seen = (usize, u16, u64, u64, u64);

/// Every gateway is asked over connections of its own, all at once, so many times in all.
fn ask_all(world: &World, gateways: &[usize], key: &Key, each: usize) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = gateways
        .iter()
        .map(|n| {
            let (n, gateway, seen) = (*n, world.gateway_number(*n), seen.clone());
            let (port, trust, bearer) = (gateway.tls, gateway.trust.clone(), format!("Bearer {}", key.secret));
            std::thread::spawn(move || {
                let mut connection = Connection::tls(port, &trust, HOST);
                for _ in 0..each {
                    let fields = [("host", HOST), ("authorization", bearer.as_str())];
                    let answer = connection.ask("GET", "/v2/packs", &fields, b"");
                    let number = |name: &str| answer.number(name);
                    let (limit, left) = (number("x-ratelimit-limit"), number("x-ratelimit-remaining"));
                    if answer.status == 429 {
                        let wait = number("retry-after");
                        assert!((1..=3_600).contains(&wait) && left == 0, "{answer:?}");
                    }
                    let one = (n, answer.status, limit, left, number("x-ratelimit-reset"));
                    seen.lock().unwrap().push(one);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
}

fn admitted(seen: &[Seen]) -> usize {
    seen.iter().filter(|(_, status, ..)| *status == 200).count()
}

fn check_headers(seen: &[Seen], limit: u64) {
    assert!(seen.iter().all(|(_, status, ..)| [200, 429].contains(status)), "{seen:?}");
    assert_eq!(seen.iter().map(|one| one.2).collect::<BTreeSet<_>>(), BTreeSet::from([limit]));
    assert_eq!(seen.iter().map(|one| one.4).collect::<BTreeSet<_>>().len(), 1, "one reset on all gateways");
    let mut last = HashMap::new();
    for (gateway, _, _, left, _) in seen {
        let before = last.insert(*gateway, *left).unwrap_or(limit);
        assert!(*left <= before && *left < limit, "gateway {gateway}: {left} after {before}");
    }
}

fn exactly(gateways: usize, limit: usize) {
    let world = world(gateways, &format!("{limit}/h"));
    let key = read_key(&world);
    let all: Vec<usize> = (0..gateways).collect();
    let seen = ask_all(&world, &all, &key, limit * 3 / 2 / gateways);
    assert_eq!(admitted(&seen), limit);
    check_headers(&seen, limit as u64);
}

#[test]
fn two_gateways_admit_exactly_the_limit() {
    exactly(2, 400);
}

#[test]
fn sixteen_gateways_admit_exactly_the_limit() {
    exactly(16, 480);
}

#[test]
fn one_after_the_other_a_client_sees_every_number_once() {
    let world = world(1, "40/h");
    let key = read_key(&world);
    let seen = ask_all(&world, &[0], &key, 42);
    let left: Vec<u64> = seen.iter().map(|one| one.3).collect();
    assert_eq!(left, (0..40).rev().chain([0, 0]).collect::<Vec<u64>>());
}

#[test]
fn a_gateway_killed_with_tokens_in_hand_loses_few_and_nothing_is_over() {
    let mut world = world(3, "1000/h");
    let key = read_key(&world);
    let before = admitted(&ask_all(&world, &[0, 1, 2], &key, 50));
    world.gateway_number(2).signal("-KILL");
    let after = admitted(&ask_all(&world, &[0, 1], &key, 600));
    let sum = before + after;
    // At most a quarter more than the largest lease, which is 2 % of the limit.
    assert!((975..=1_000).contains(&sum), "{sum}");
    drop(world.gateway_number_mut(2).take_child().wait());
}

#[test]
fn a_gateway_that_is_stopped_returns_what_it_holds() {
    let mut world = world(3, "1000/h");
    let key = read_key(&world);
    let before = admitted(&ask_all(&world, &[0, 1, 2], &key, 50));
    world.gateway_number_mut(2).stop();
    let after = admitted(&ask_all(&world, &[0, 1], &key, 600));
    assert_eq!(before + after, 1_000);
}

#[test]
fn a_limit_changed_in_the_policy_holds_on_all_gateways_without_a_restart() {
    let world = world(2, "50/h");
    let key = read_key(&world);
    assert_eq!(admitted(&ask_all(&world, &[0, 1], &key, 40)), 50);
    let raised = world.policy_text("iconflow.yaml").replace("read: 50/h", "read: 70/h");
    world.write_policy("iconflow.yaml", &raised);
    until("both gateways have it", || {
        [0, 1].iter().all(|n| {
            let answer =
                world.gateway_number(*n).ask("GET", "https://api.iconflow.dev/.tollgate/self", Some(&key.secret), &[]);
            answer.json()["limits"][0]["limit"] == 70
        })
    });
    assert_eq!(admitted(&ask_all(&world, &[0, 1], &key, 40)), 20);
}

#[test]
fn an_outage_is_visible_and_blames_nobody() {
    let mut world = world(2, "1000/h");
    let key = read_key(&world);
    for n in [0, 1] {
        assert_eq!(world.gateway_number(n).get(PACKS, &key).status, 200);
    }
    world.redis().kill();
    let seen = ask_all(&world, &[0, 1], &key, 60);
    let refused = seen.iter().filter(|one| one.1 == 503).count();
    assert_eq!(admitted(&seen) + refused, seen.len(), "never a 429, never a 401: {seen:?}");
    assert!(refused > 0, "only the tokens held are spent in the window in which the outage began");
    let answer = world.gateway().get(PACKS, &key);
    assert_eq!((answer.code().as_str(), answer.number("retry-after")), ("temporarily_unavailable", 1));
    until("it shows in the metrics", || world.gateway().metric("tollgate_limit_servers{state=\"away\"}") == 1.0);
    assert!(world.gateway().metric("tollgate_limit_cannot_tell_total") > 0.0);
    // A route that stays open admits, and says so.
    let open = world
        .policy_text("iconflow.yaml")
        .replace("    hosts: [api.iconflow.dev]", "    hosts: [api.iconflow.dev]\n    outage: open");
    world.write_policy("iconflow.yaml", &open);
    until("the rule holds", || world.gateway().get(PACKS, &key).status == 200);
    assert!(world.gateway().metric("tollgate_limit_fallback_admits_total{mode=\"open\"}") > 0.0);
    until("the access log says so", || world.gateway().output().contains("\"limits\":\"open\""));
    world.redis().run();
    until("limits are exact again", || world.gateway().metric("tollgate_limit_servers{state=\"up\"}") == 1.0);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    until("the last record says so", || {
        let output = world.gateway().output();
        output
            .lines()
            .rfind(|line| line.contains("\"limits\":\""))
            .is_some_and(|line| line.contains("\"limits\":\"exact\""))
    });
}

fn a_caller_sees_its_own_rights_and_limits_and_spends_nothing(kind: StoreKind) {
    let world = World::start(kind);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read", "--expires", "2031-01-01"]);
    let look = || world.gateway().ask("GET", "https://api.iconflow.dev/.tollgate/self", Some(&key.secret), &[]);
    for _ in 0..3 {
        let seen = look();
        assert_eq!(seen.status, 200, "{seen:?}");
        let body = seen.json();
        assert_eq!(body["key"], key.id.as_str());
        assert_eq!((&body["class"], &body["environment"]), (&"read".into(), &"live".into()));
        assert_eq!(body["scopes"], serde_json::json!(["packs:read"]));
        assert_eq!(body["expires"], "2031-01-01T00:00:00.000Z");
        assert_eq!((&body["limits"][0]["limit"], &body["limits"][0]["remaining"]), (&1000.into(), &1000.into()));
        assert_eq!(seen.number("x-ratelimit-remaining"), 1_000);
    }
    assert_eq!(world.gateway().get(PACKS, &key).number("x-ratelimit-remaining"), 999);
    assert_eq!(look().json()["limits"][0]["remaining"], 999);
    assert!(!String::from_utf8(look().body).unwrap().contains(&key.secret));
    assert_eq!(world.gateway().ask("GET", "https://api.iconflow.dev/.tollgate/self", None, &[]).status, 401);
    assert_eq!(
        world.gateway().ask("POST", "https://api.iconflow.dev/.tollgate/self", Some(&key.secret), &[]).status,
        404
    );
    assert!(
        world.live.received().iter().all(|request| !request.line.contains("tollgate")),
        "the upstream is not asked"
    );
}

fn limits_show_and_explain_tell_what_is_left(kind: StoreKind) {
    let world = World::start(kind);
    world.organization("acme");
    let key = read_key(&world);
    for _ in 0..3 {
        assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    }
    for _ in 0..2 {
        let shown = world.json(&["limits", "show", &key.id]);
        assert_eq!(
            (&shown[0]["name"], &shown[0]["limit"], &shown[0]["remaining"]),
            (&"minute".into(), &1000.into(), &997.into())
        );
        let told = world.json(&["explain", "--key", &key.id, "GET", PACKS]);
        let limits = told["steps"].as_array().unwrap().iter().find(|step| step["step"] == "limits").unwrap();
        let found = limits["found"].as_str().unwrap();
        assert!(found.contains("997 of 1000 left until "), "{found}");
    }
    let table = String::from_utf8(world.tollgate(&["limits", "show", &key.id]).stdout).unwrap();
    assert!(table.contains("WHOLE AGAIN") && table.contains("997"), "{table}");
    assert_eq!(world.gateway().get(PACKS, &key).number("x-ratelimit-remaining"), 996);
}

fn all_policies_are_named_and_the_violated_one_is_shown(kind: StoreKind) {
    let world = World::start_with(kind, "", |policy| {
        policy.replace("per_key: 100/min", "per_key: 100/min\n        per_key_also: [3/day]")
    });
    world.organization("acme");
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let ask = || world.gateway().get("https://api.icodrip.com/v1/affiliates", &key);
    for left in [99, 98, 97] {
        let answer = ask();
        assert_eq!(answer.field("ratelimit-policy"), Some("\"minute\";q=100;w=60, \"key-day\";q=3;w=86400"));
        assert!(answer.field("ratelimit").unwrap().starts_with(&format!("\"minute\";r={left};t=")));
        assert_eq!((answer.status, answer.number("x-ratelimit-limit")), (200, 100));
    }
    let over = ask();
    assert_eq!((over.status, over.number("x-ratelimit-limit"), over.number("x-ratelimit-remaining")), (429, 3, 0));
    assert_eq!(over.field("ratelimit-policy"), Some("\"minute\";q=100;w=60, \"key-day\";q=3;w=86400"));
    assert!(over.field("ratelimit").unwrap().starts_with("\"key-day\";r=0;t="));
    assert_eq!(over.number("x-ratelimit-reset") % 86_400, 0, "the day ends at midnight UTC");
}

on_both_stores!(
    all_policies_are_named_and_the_violated_one_is_shown,
    a_caller_sees_its_own_rights_and_limits_and_spends_nothing,
    limits_show_and_explain_tell_what_is_left
);

#[test]
fn explain_answers_429_when_nothing_is_left() {
    let world = world(1, "2/h");
    let key = read_key(&world);
    assert_eq!(admitted(&ask_all(&world, &[0], &key, 5)), 2);
    let told = world.json(&["explain", "--key", &key.id, "GET", PACKS]);
    assert_eq!((&told["status"], &told["code"]), (&429.into(), &"limit_exceeded".into()), "{told}");
    let error = world.tollgate(&["limits", "show", "key_nobody"]);
    assert_eq!(error.status.code(), Some(1));
}
