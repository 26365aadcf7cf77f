//! After a failover of Redis the new server is followed, in every arrangement, and no stale server lets
//! a revoked key live. Known keys work all the while.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};

use tests::{Cluster, Key, MovingName, Redis, Sentinel, World, until};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";

fn status(world: &World, key: &Key) -> u16 {
    world.gateway().get(PACKS, key).status
}

/// A key that may read packs.
fn key(world: &World) -> Key {
    world.key("iconflow", "read", &["--scopes", "packs:read"])
}

/// A gateway on a store, and two keys that it knows: one to be used all the while, one to be revoked.
fn in_use(store: &str) -> (World, Key, Key) {
    let world = World::start_on(store);
    world.organization("acme");
    let (known, doomed) = (key(&world), key(&world));
    assert_eq!((status(&world, &known), status(&world, &doomed)), (200, 200));
    (world, known, doomed)
}

fn follow(replica: &Redis, master: &Redis) {
    replica.cli(&["replicaof", "127.0.0.1", &master.port.to_string()]);
    until("the replica follows", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
}

fn promote(replica: &Redis) {
    until("everything is copied", || {
        let text = replica.cli(&["info", "replication"]);
        text.contains("master_sync_in_progress:0") && text.contains("master_link_status:up")
    });
    assert_eq!(replica.cli(&["replicaof", "no", "one"]).trim(), "OK");
}

/// Runs what happens to the servers while a known key is used without a pause; none may fail.
fn while_in_use(world: &World, known: &Key, events: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut used = 0;
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(status(world, known), 200, "a known key goes on working");
                used += 1;
            }
            used
        });
        // Also when an event fails: the user must come to an end.
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(events));
        stop.store(true, Ordering::SeqCst);
        stopped.unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(user.join().unwrap() > 10);
    });
}

/// What a gateway that follows its master can do.
fn works(world: &World, doomed: &Key) {
    let revoked = world.json(&["keys", "revoke", &doomed.id, "--wait", "--wait-timeout", "15"]);
    assert_eq!((&revoked["wait"]["acknowledged"], &revoked["wait"]["gateways"]), (&1.into(), &1.into()));
    assert_eq!(status(world, doomed), 401, "acknowledged is refused");
    let fresh = key(world);
    until("a fresh key works", || status(world, &fresh) == 200);
    until("it is ready without reserve", || world.gateway().readiness().1["status"] == "ready");
}

/// Whether no gateway keeps its limits at a server.
fn is_without_limiter(server: &Redis) -> bool {
    server.cli(&["pubsub", "numsub", "tollgate:recall"]).trim_end().ends_with('0')
}

fn two_servers() -> (Redis, Redis, MovingName) {
    let (old, new) = (Redis::start(), Redis::start_with(&["--repl-diskless-sync-delay", "0"]));
    let name = MovingName::of(old.port);
    (old, new, name)
}

#[test]
fn a_master_that_is_demoted_and_keeps_its_connections() {
    let (old, new, name) = two_servers();
    let (world, known, doomed) = in_use(&name.url());
    while_in_use(&world, &known, || {
        follow(&new, &old);
        promote(&new);
        name.move_to(new.port);
        follow(&old, &new);
        works(&world, &doomed);
    });
}

/// The old server was never told: it takes itself for the master, and answers as it always did.
#[test]
fn a_name_that_moves_away_from_a_server_that_does_not_know() {
    let (old, new, name) = two_servers();
    let (world, known, doomed) = in_use(&name.url());
    while_in_use(&world, &known, || {
        follow(&new, &old);
        promote(&new);
        name.move_to(new.port);
        works(&world, &doomed);
    });
    assert!(old.cli(&["role"]).starts_with("master"), "it still takes itself for one");
    until("limits are kept at the new server too", || is_without_limiter(&old));
}

/// The old server would answer on, with records that nobody changes any more.
#[test]
fn a_name_that_moves_to_a_server_that_refuses_us_is_an_outage() {
    let (old, new, name) = two_servers();
    let world = World::start_on(&name.url());
    world.organization("acme");
    let known = key(&world);
    let mut unseen: Vec<Key> = (0..100).map(|_| key(&world)).collect();
    assert_eq!(status(&world, &known), 200);
    follow(&new, &old);
    promote(&new);
    new.cli(&["config", "set", "requirepass", "another"]);
    name.move_to(new.port);
    until("readiness says why", || world.gateway().readiness().1["reasons"]["changes"].is_string());
    // Each is asked about once: one that was seen is known.
    until("what the old server says does not count", || status(&world, &unseen.pop().unwrap()) == 503);
    assert_eq!(status(&world, &unseen.pop().unwrap()), 503, "an outage is never a 401");
    assert_eq!(status(&world, &known), 200, "a known key goes on for its time");
    until("the old server does not count requests either", || is_without_limiter(&old));
}

#[test]
fn a_replica_that_serves_no_stale_data_is_no_corrupt_store() {
    let (old, new, name) = two_servers();
    let (world, known, doomed) = in_use(&name.url());
    let unseen = key(&world);
    while_in_use(&world, &known, || {
        follow(&new, &old);
        promote(&new);
        // Its master is nowhere: MASTERDOWN is all that it says.
        old.cli(&["config", "set", "replica-serve-stale-data", "no"]);
        old.cli(&["replicaof", "127.0.0.1", "1"]);
        until("readiness says why", || {
            let (code, readiness) = world.gateway().readiness();
            code == 200 && readiness["reasons"]["changes"].as_str().is_some_and(|why| why.contains("replica"))
        });
        assert_eq!(status(&world, &unseen), 503, "an outage is never a 401");
        name.move_to(new.port);
        until("the new server is asked", || status(&world, &unseen) == 200);
        works(&world, &doomed);
    });
}

#[test]
fn a_password_that_was_changed_is_said_and_known_keys_go_on() {
    let redis = Redis::start();
    let (world, known, doomed) = in_use(&redis.url());
    while_in_use(&world, &known, || {
        redis.cli(&["config", "set", "requirepass", "another"]);
        redis.cli(&["-a", "another", "client", "kill", "type", "normal"]);
        until("readiness says why", || {
            let (_, readiness) = world.gateway().readiness();
            readiness["reasons"]["changes"].as_str().is_some_and(|why| why.contains("NOAUTH"))
        });
        redis.cli(&["-a", "another", "config", "set", "requirepass", ""]);
        works(&world, &doomed);
    });
}

#[test]
fn a_store_that_takes_no_writes_for_want_of_memory_still_finds_keys() {
    let redis = Redis::start();
    let world = World::start_on(&redis.url());
    world.organization("acme");
    let (known, unseen, doomed) = (key(&world), key(&world), key(&world));
    assert_eq!((status(&world, &known), status(&world, &doomed)), (200, 200));
    while_in_use(&world, &known, || {
        redis.cli(&["config", "set", "maxmemory", "1"]);
        until("a key that was never seen is found", || status(&world, &unseen) != 503);
        let out = world.tollgate(&["keys", "revoke", &doomed.id]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("OOM"), "{out:?}");
        redis.cli(&["config", "set", "maxmemory", "0"]);
        works(&world, &doomed);
    });
}

/// A server that was started again answers before it can serve: with nothing but LOADING.
#[test]
fn a_server_that_is_loading_is_an_outage_and_then_is_followed() {
    let slow = ["--key-load-delay", "4000", "--loading-process-events-interval-bytes", "1024"];
    let mut redis =
        Redis::start_with(&[&["--appendonly", "no", "--enable-debug-command", "local"][..], &slow].concat());
    let (world, known, doomed) = in_use(&redis.url());
    let unseen = key(&world);
    assert_eq!(redis.cli(&["debug", "populate", "1000", "filler", "2000"]).trim(), "OK");
    assert_eq!(redis.cli(&["save"]).trim(), "OK");
    while_in_use(&world, &known, || {
        redis.kill();
        redis.spawn();
        until("it is loading", || redis.cli(&["ping"]).contains("LOADING"));
        until("readiness says why", || {
            let (code, readiness) = world.gateway().readiness();
            code == 200 && readiness["reasons"]["changes"].as_str().is_some_and(|why| why.contains("LOADING"))
        });
        assert_eq!(status(&world, &unseen), 503, "an outage is never a 401");
        assert!(redis.cli(&["ping"]).contains("LOADING"), "it was loading all the while");
        until("it has loaded", || redis.cli(&["ping"]).trim() == "PONG");
        until("it is asked again", || status(&world, &unseen) == 200);
        works(&world, &doomed);
    });
}

#[test]
fn sentinel_names_another_master() {
    let (old, new) = (Redis::start(), Redis::start_with(&["--repl-diskless-sync-delay", "0"]));
    follow(&new, &old);
    let sentinel = Sentinel::start(&old);
    until("the sentinel knows the replica", || {
        sentinel.cli(&["sentinel", "replicas", "mymaster"]).contains(&new.port.to_string())
    });
    let (world, known, doomed) = in_use(&sentinel.url());
    while_in_use(&world, &known, || {
        until("the sentinel begins", || sentinel.cli(&["sentinel", "failover", "mymaster"]).trim() == "OK");
        until("there is another master", || sentinel.master().contains(&new.port.to_string()));
        works(&world, &doomed);
    });
}

#[test]
fn a_cluster_hands_a_slot_to_a_replica() {
    let cluster = Cluster::start(3, 1);
    let (world, known, doomed) = in_use(&cluster.url());
    while_in_use(&world, &known, || {
        for replica in cluster.nodes.iter().filter(|node| node.cli(&["role"]).starts_with("slave")) {
            assert_eq!(replica.cli(&["cluster", "failover"]).trim(), "OK");
            until("it is the master", || replica.cli(&["role"]).starts_with("master"));
        }
        works(&world, &doomed);
    });
}

/// The old master wakes up with records that its replica has changed since.
#[test]
fn a_master_of_a_cluster_that_was_paused_and_replaced() {
    let cluster = Cluster::start(3, 1);
    let (world, known, doomed) = in_use(&cluster.url());
    let has_changes = |node: &&Redis| node.cli(&["exists", "tollgate:changes"]).trim() == "1";
    let old = cluster.nodes.iter().find(has_changes).unwrap();
    let others = || cluster.nodes.iter().filter(|node| !std::ptr::eq(*node, old));
    while_in_use(&world, &known, || {
        old.signal("-STOP");
        until("another takes over", || others().filter(|node| node.cli(&["role"]).starts_with("master")).count() == 3);
        let revoked = a_revoked_key(&world);
        old.signal("-CONT");
        for _ in 0..20 {
            assert_ne!(status(&world, &revoked), 200, "revoked before the old master woke up");
        }
        until("the old master follows", || old.cli(&["role"]).starts_with("slave"));
        works(&world, &doomed);
    });
}

/// A key that was used and revoked.
fn a_revoked_key(world: &World) -> Key {
    let doomed = key(world);
    until("it works", || status(world, &doomed) == 200);
    let revoked = world.json(&["keys", "revoke", &doomed.id, "--wait", "--wait-timeout", "15"]);
    assert_eq!(revoked["wait"]["acknowledged"], 1);
    doomed
}

/// A managed service with one shard, or a proxy before several: the URL names one server, and it has slots.
#[test]
fn a_server_with_slots_that_is_spoken_to_alone() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]);
    assert_eq!(redis.cli(&["cluster", "addslotsrange", "0", "16383"]).trim(), "OK");
    until("it has all slots", || redis.cli(&["cluster", "info"]).contains("cluster_state:ok"));
    let (world, known, doomed) = in_use(&redis.url());
    works(&world, &doomed);
    world.json(&["orgs", "update", "acme", "--permissions", "downloads:read"]);
    until("the organization's change is followed", || status(&world, &known) == 403);
}

#[test]
fn waiting_for_gateways_where_there_is_none_is_no_success() {
    let redis = Redis::start();
    let mut world = World::start_on(&redis.url());
    world.organization("acme");
    let doomed = key(&world);
    world.gateway_mut().stop();
    let out = world.tollgate(&["keys", "revoke", &doomed.id, "--wait", "--wait-timeout", "1"]);
    assert!(!out.status.success(), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("the change is stored, but no gateway has acknowledged it"), "{said}");
}
