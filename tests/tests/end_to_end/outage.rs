//! Redis killed, paused, restarted, emptied, while requests go on; and how fast a revocation is
//! everywhere. An outage is never a 401, and nothing wrong is ever admitted.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use tests::{Cluster, Key, MovingName, Redis, StoreKind, World, until};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn world() -> (World, Key, Key) {
    let world = World::start(StoreKind::Redis);
    world.organization("acme");
    let known = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let fresh = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    world.gateway().wait_alone();
    assert_eq!(world.gateway().get(PACKS, &known).status, 200);
    (world, known, fresh)
}

/// What holds while the store cannot answer.
fn check_outage(world: &World, known: &Key, fresh: &Key) {
    for _ in 0..20 {
        assert_eq!(world.gateway().get(PACKS, known).status, 200, "a cached key keeps working");
        let unknown = world.gateway().get(PACKS, fresh);
        assert_eq!((unknown.status, unknown.code().as_str()), (503, "temporarily_unavailable"));
        assert!(unknown.number("retry-after") >= 1);
        assert_eq!(world.gateway().ask("GET", PACKS, None, &[]).status, 401, "that needs no store");
        assert_eq!(world.gateway().ask("GET", PACKS, Some("nonsense"), &[]).status, 401, "nor does junk");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn with_redis_killed_cached_keys_work_and_unknown_ones_get_503() {
    let (mut world, known, fresh) = world();
    world.redis().kill();
    check_outage(&world, &known, &fresh);
    // Also after the time for which a record counts as fresh without pushed changes.
    std::thread::sleep(Duration::from_secs(6));
    check_outage(&world, &known, &fresh);
    assert!(world.gateway().metric("tollgate_key_lookups_total{found=\"stale\"}") >= 1.0, "and that is counted");
    world.redis().run();
    until("unknown keys are found again", || world.gateway().get(PACKS, &fresh).status == 200);
    assert_eq!(world.gateway().get(PACKS, &known).status, 200);
}

#[test]
fn with_redis_paused_requests_do_not_pile_up() {
    let (mut world, known, fresh) = world();
    world.redis().signal("-STOP");
    std::thread::sleep(Duration::from_millis(1_500));
    let started = Instant::now();
    for _ in 0..10 {
        assert_eq!(world.gateway().get(PACKS, &known).status, 200);
        assert_eq!(world.gateway().get(PACKS, &fresh).status, 503);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    world.redis().signal("-CONT");
    until("unknown keys are found again", || world.gateway().get(PACKS, &fresh).status == 200);
}

#[test]
fn a_key_revoked_while_redis_was_away_is_refused_when_it_is_back() {
    let (mut world, known, _) = world();
    world.redis().kill();
    assert_eq!(world.gateway().get(PACKS, &known).status, 200);
    assert!(!world.tollgate(&["keys", "revoke", &known.id]).status.success(), "an outage is no success");
    world.redis().run();
    let revoked = world.json(&["keys", "revoke", &known.id]);
    assert_eq!(revoked["state"], "revoked");
    let started = Instant::now();
    until("the key is refused", || world.gateway().get(PACKS, &known).status == 401);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn an_emptied_redis_denies_what_it_does_not_hold() {
    let (mut world, known, _) = world();
    world.redis().cli(&["flushall"]);
    until("the cache is emptied too", || world.gateway().get(PACKS, &known).status == 401);
    world.redis().kill();
    world.redis().lose_data();
    world.redis().run();
    until("an empty restart is no outage", || world.gateway().get(PACKS, &known).status == 401);
}

#[test]
fn garbage_in_redis_is_never_a_401_and_never_a_200() {
    let (mut world, _, fresh) = world();
    let names = world.redis().cli(&["keys", "tollgate:key:*"]);
    for name in names.lines() {
        world.redis().cli(&["set", name, "{\"not\":\"a record\"}"]);
    }
    assert_eq!(world.gateway().get(PACKS, &fresh).status, 503);
    for name in names.lines() {
        world.redis().cli(&["del", name]);
        world.redis().cli(&["lpush", name, "x"]);
    }
    until("a wrong type is denied as well", || world.gateway().get(PACKS, &fresh).status == 503);
    assert!(world.gateway().output().contains("a key is refused"), "and the log says so");
}

#[test]
fn a_revoked_key_is_refused_on_every_gateway_within_a_second() {
    let (mut world, known, _) = world();
    world.add_gateway();
    world.add_gateway();
    for number in 0..3 {
        assert_eq!(world.gateway_number(number).get(PACKS, &known).status, 200);
    }
    let revoked = world.json(&["keys", "revoke", &known.id, "--wait"]);
    assert_eq!((revoked["wait"]["acknowledged"].as_u64(), revoked["wait"]["gateways"].as_u64()), (Some(3), Some(3)));
    assert!(revoked["wait"]["within_ms"].as_u64().unwrap() < 1_000, "{revoked}");
    for number in 0..3 {
        assert_eq!(world.gateway_number(number).get(PACKS, &known).code(), "revoked_credential");
    }
    let listed = world.json(&["gateways"]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
}

#[test]
fn a_gateway_that_starts_without_redis_is_not_ready_and_not_open() {
    let mut world = World::prepare(StoreKind::Redis, "", |p| p);
    world.redis().kill();
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.add_gateway().readiness()));
    assert!(started.is_err(), "readiness is 503 until the store answers");
}

#[test]
fn a_new_key_works_at_once_although_it_was_just_unknown() {
    let world = World::start(StoreKind::Redis);
    world.organization("acme");
    let secret = "ifk_live_importedLater1";
    assert_eq!(world.gateway().ask("GET", PACKS, Some(secret), &[]).status, 401);
    world.import(secret);
    let started = Instant::now();
    until("it works", || world.gateway().ask("GET", PACKS, Some(secret), &[]).status == 200);
    assert!(started.elapsed() < Duration::from_millis(1_500), "negative entries are pushed out too");
}

/// Every answer of Redis is 50 ms on its way, and the gateway waits as long as it does by default.
#[test]
fn a_slow_redis_is_no_outage() {
    let redis = Redis::start();
    let far = MovingName::far_from(redis.port, Duration::from_millis(50));
    let mut world = World::start_on(&redis.url());
    world.organization("acme");
    let keys: Vec<Key> = (0..20).map(|_| world.key("iconflow", "read", &["--scopes", "packs:read"])).collect();
    let near = format!("store: \"{}\"", redis.url());
    world.change_settings("store_timeout: 1s\n", "");
    world.change_settings(&near, &format!("store: \"{}\"", far.url()));
    let gateway = world.gateway();
    assert_eq!(gateway.get(PACKS, &keys[0]).status, 200, "the first request after it is ready");
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let asked: Vec<_> = keys.iter().map(|key| scope.spawn(|| gateway.get(PACKS, key).status)).collect();
            let answered: Vec<u16> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
            assert!(answered.iter().all(|status| *status == 200), "{answered:?}");
        });
    }
}

/// Whoever revokes a key is cut off before it can tell: then nothing has changed, or all learn of it.
#[test]
fn a_writer_that_dies_before_it_has_told_of_a_change_leaves_none_unknown() {
    let redis = Redis::start();
    let world = World::start_on(&redis.url());
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    let cut = MovingName::cutting(redis.port, "XADD");
    let settings = world.gateway().folder.join("tollgate.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let through_it = world.gateway().folder.join("cut.yaml");
    std::fs::write(&through_it, text.replace(&redis.url(), &cut.url())).unwrap();
    let revoked = std::process::Command::new(tests::binary())
        .arg("--config")
        .arg(&through_it)
        .args(["keys", "revoke", &key.id])
        .output()
        .unwrap();
    let state = world.json(&["keys", "show", &key.id])["state"].clone();
    let expected = if state == "revoked" { 401 } else { 200 };
    until("the gateway does what the record says", || world.gateway().get(PACKS, &key).status == expected);
    assert!(state == "revoked" || !revoked.status.success(), "{state}: {revoked:?}");
}

/// On a cluster record and announcement are two steps: a writer says first what it is about to do.
#[test]
fn a_writer_that_dies_between_the_steps_on_a_cluster_leaves_no_change_unknown() {
    let cluster = Cluster::start(3, 0);
    let world = World::start_on(&cluster.url());
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    let digest = cluster.cli(&["get", &format!("tollgate:id:{{{}}}", key.id)]).trim().to_owned();
    let name = format!("tollgate:key:{{{digest}}}");
    let mut record: serde_json::Value = serde_json::from_str(&cluster.cli(&["get", &name])).unwrap();
    // What the writer did before it died.
    cluster.cli(&["xadd", "tollgate:changes", "*", "begun:key", &digest]);
    for _ in 0..20 {
        assert_eq!(world.gateway().get(PACKS, &key).status, 200, "it is read again and again, and still good");
    }
    record["revoked_ms"] = 1.into();
    assert_eq!(cluster.cli(&["set", &name, &record.to_string()]).trim(), "OK");
    until("the gateway does what the record says", || world.gateway().get(PACKS, &key).status == 401);
}
