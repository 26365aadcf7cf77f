//! Limits under faults of a real Redis: four limiters, more demand than the limit allows, windows of
//! a second. Whatever happens to Redis, no window is over its limit; and when it is over, windows
//! are used to the last token again.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use policy::route::Outage;
use tests::{Cluster, Fleet, Redis, Seen, Sentinel, until};

const LIMIT: u32 = 200;
const DEMAND: f64 = 500.0;

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Repeats something for some seconds.
fn for_seconds(seconds: u64, every_ms: u64, mut what: impl FnMut()) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        sleep(every_ms);
        what();
    }
}

fn fleet(url: &str) -> Fleet {
    Fleet::start(url, 4, &format!("{LIMIT}/s"))
}

/// The same, soon out of patience.
fn impatient(url: &str) -> Fleet {
    Fleet::start_with(url, 4, &format!("{LIMIT}/s"), Duration::from_millis(100))
}

/// Nothing over the limit, and at least so many windows used to the last token.
fn check(seen: &Seen, full: usize) {
    assert_eq!(seen.over_admitted(LIMIT), [], "{seen:?}");
    assert!(seen.full(LIMIT) >= full, "{} full windows of {:?}", seen.full(LIMIT), seen.admitted);
}

#[test]
fn four_gateways_together_admit_exactly_the_limit() {
    let redis = Redis::start();
    let fleet = fleet(&redis.url());
    let seen = fleet.drive(DEMAND, "steady", || sleep(4_500));
    check(&seen, 2);
    assert_eq!((seen.cannot_tell, seen.fallback), (0, 0));
}

#[test]
fn flushed_scripts_are_sent_again() {
    let redis = Redis::start();
    let fleet = fleet(&redis.url());
    let seen = fleet.drive(DEMAND, "flush", || {
        for_seconds(4, 250, || assert_eq!(redis.cli(&["script", "flush"]).trim(), "OK"));
    });
    check(&seen, 1);
    assert_eq!(seen.cannot_tell, 0);
}

#[test]
fn killed_connections_come_back() {
    let redis = Redis::start();
    let fleet = fleet(&redis.url());
    let seen = fleet.drive(DEMAND, "client kill", || {
        for_seconds(4, 400, || {
            redis.cli(&["client", "kill", "type", "normal"]);
        });
    });
    check(&seen, 0);
    check(&fleet.drive(DEMAND, "after", || sleep(3_000)), 1);
}

#[test]
fn a_paused_redis_is_an_outage_and_then_none() {
    let redis = Redis::start();
    let fleet = impatient(&redis.url());
    let seen = fleet.drive(DEMAND, "pause", || {
        for_seconds(4, 700, || {
            redis.cli(&["client", "pause", "250", "ALL"]);
        });
    });
    check(&seen, 0);
    check(&fleet.drive(DEMAND, "after", || sleep(3_000)), 1);
}

#[test]
fn a_stopped_redis_makes_nobody_wait_longer_than_its_timeout() {
    let redis = Redis::start();
    let fleet = impatient(&redis.url());
    let seen = fleet.drive(DEMAND, "stopped", || {
        sleep(700);
        redis.signal("-STOP");
        sleep(2_000);
        redis.signal("-CONT");
        sleep(3_000);
    });
    check(&seen, 1);
    assert!(seen.cannot_tell > 0);
    assert!(seen.longest < Duration::from_millis(1_500), "{:?}", seen.longest);
}

#[test]
fn a_redis_that_restarts_empty_is_told_what_was_used() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let fleet = fleet(&redis.url());
    let seen = fleet.drive(DEMAND, "restart", || {
        for _ in 0..4 {
            sleep(1_700);
            redis.kill();
            redis.lose_data();
            redis.run();
        }
        sleep(2_500);
    });
    check(&seen, 1);
    assert!(fleet.sum(|m| m.learns.get()) >= 4, "the restarts were noticed");
}

/// Windows of an hour: what was used before the restart must still count after it.
#[test]
fn an_empty_restart_gives_no_second_budget() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let mut fleet = fleet(&redis.url());
    fleet.rate = "300/h".to_owned();
    let seen = fleet.drive(200.0, "long", || {
        sleep(1_000);
        redis.kill();
        redis.lose_data();
        redis.run();
        sleep(4_000);
    });
    assert_eq!(seen.admitted.values().copied().collect::<Vec<_>>(), [300], "{seen:?}");
}

#[test]
fn a_flushed_redis_is_noticed_without_a_restart() {
    let redis = Redis::start();
    let mut fleet = fleet(&redis.url());
    fleet.rate = "5000/h".to_owned();
    fleet.drive(DEMAND, "flushall", || {
        sleep(500);
        redis.cli(&["flushall"]);
        sleep(1_000);
    });
    assert!(fleet.sum(|m| m.learns.get()) >= 1, "somebody noticed");
}

#[test]
fn a_redis_without_memory_is_an_outage_and_then_none() {
    let redis = Redis::start();
    let fleet = fleet(&redis.url());
    let seen = fleet.drive(DEMAND, "oom", || {
        sleep(700);
        redis.cli(&["config", "set", "maxmemory", "1"]);
        sleep(1_500);
        redis.cli(&["config", "set", "maxmemory", "0"]);
        sleep(3_000);
    });
    check(&seen, 1);
    assert!(seen.cannot_tell > 0, "no memory is no answer");
}

/// A replica stops following, the master dies, the replica is promoted: what the master granted in
/// between is lost. Sentinel tells the gateways where to go.
#[test]
fn a_failover_that_loses_writes_gives_no_second_budget() {
    let mut master = Redis::start();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    until("the replica follows", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
    let sentinel = Sentinel::start(&master);
    until("sentinel knows the replica", || {
        let known = std::process::Command::new("redis-cli")
            .args(["-p", &sentinel.port.to_string(), "sentinel", "replicas", "mymaster"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&known.stdout).contains(&replica.port.to_string())
    });
    let mut fleet = fleet(&sentinel.url());
    fleet.rate = "600/h".to_owned();
    let seen = fleet.drive(300.0, "failover", || {
        sleep(500);
        replica.cli(&["config", "set", "repl-ping-replica-period", "100"]);
        // From here on nothing reaches the replica.
        replica.cli(&["debug", "sleep", "0"]);
        replica.signal("-STOP");
        sleep(500);
        master.kill();
        replica.signal("-CONT");
        until("the replica is promoted", || sentinel.master().contains(&replica.port.to_string()));
        sleep(5_000);
    });
    assert_eq!(seen.admitted.values().copied().collect::<Vec<_>>(), [600], "{seen:?}");
}

#[test]
fn a_cluster_fails_over_without_a_second_budget() {
    let mut cluster = Cluster::start(3, 1);
    let mut fleet = fleet(&cluster.url());
    fleet.rate = "3000/h".to_owned();
    let seen = fleet.drive(DEMAND, "cluster failover", || {
        sleep(1_000);
        // An orderly failover of one master, and then the death of another.
        let replica = cluster.nodes.iter().find(|n| n.cli(&["role"]).starts_with("slave")).unwrap();
        assert_eq!(replica.cli(&["cluster", "failover"]).trim(), "OK");
        sleep(1_500);
        let master = cluster.nodes.iter_mut().find(|n| n.cli(&["role"]).starts_with("master")).unwrap();
        master.kill();
        sleep(6_500);
        cluster.wait_whole();
        sleep(2_000);
    });
    assert_eq!(seen.admitted.values().copied().collect::<Vec<_>>(), [3_000], "{seen:?}");
}

#[test]
fn a_bucket_that_moves_to_another_node_keeps_its_count() {
    let cluster = Cluster::start(3, 0);
    let mut fleet = fleet(&cluster.url());
    fleet.rate = "2000/h".to_owned();
    let seen = fleet.drive(DEMAND, "moving", || {
        sleep(1_000);
        let key = cluster.nodes.iter().map(|n| n.cli(&["keys", "tollgate:limit:*"])).collect::<String>();
        let key = key.lines().find(|line| line.starts_with("tollgate:limit:")).unwrap().to_owned();
        let slot = cluster.nodes[0].cli(&["cluster", "keyslot", &key]).trim().to_owned();
        let has = |n: &Redis| n.cli(&["keys", "tollgate:limit:*"]).contains(&key);
        let from = cluster.nodes.iter().find(|n| has(n)).unwrap();
        let to = cluster.nodes.iter().find(|n| !has(n)).unwrap();
        let id = |n: &Redis| n.cli(&["cluster", "myid"]).trim().to_owned();
        to.cli(&["cluster", "setslot", &slot, "importing", &id(from)]);
        from.cli(&["cluster", "setslot", &slot, "migrating", &id(to)]);
        sleep(300);
        from.cli(&["migrate", "127.0.0.1", &to.port.to_string(), &key, "0", "1000"]);
        sleep(300);
        for node in [to, from] {
            assert_eq!(node.cli(&["cluster", "setslot", &slot, "node", &id(to)]).trim(), "OK");
        }
        sleep(4_500);
    });
    assert_eq!(seen.admitted.values().copied().collect::<Vec<_>>(), [2_000], "{seen:?}");
    assert_eq!(seen.fallback, 0);
}

/// Windows that begin without Redis: a share of the limit for each, together the whole limit.
#[test]
fn in_an_outage_shares_add_up_to_the_limit() {
    let mut redis = Redis::start();
    let mut fleet = fleet(&redis.url());
    fleet.outage = Outage::LocalShare;
    let seen = fleet.drive(1_500.0, "shares", || {
        sleep(1_500);
        redis.kill();
        sleep(3_500);
        redis.run();
        sleep(3_500);
    });
    check(&seen, 2);
    assert!(seen.fallback > 0, "shares are marked");
    assert!(fleet.sum(|m| m.cannot_tell.get()) > 0, "who is beyond the share is not told that it is over the limit");
}

#[test]
fn a_route_that_stays_open_admits_everything_and_says_so() {
    let mut redis = Redis::start();
    let mut fleet = fleet(&redis.url());
    fleet.outage = Outage::Open;
    let seen = fleet.drive(DEMAND, "open", || {
        sleep(500);
        redis.kill();
        sleep(2_500);
    });
    assert!(!seen.over_admitted(LIMIT).is_empty() && seen.cannot_tell == 0, "{seen:?}");
    assert!(seen.fallback > 300);
}

#[test]
fn a_gateway_that_is_alone_goes_on_exactly_without_redis() {
    let mut redis = Redis::start();
    let mut fleet = Fleet::start(&redis.url(), 1, "1000/h");
    fleet.outage = Outage::LocalShare;
    let limiter = fleet.limiters[0].clone();
    until("it is sure", || {
        gateway::limit::Limiter::refresh_metrics(&*limiter);
        fleet.metrics[0].alone.get() == 1
    });
    let seen = fleet.drive(400.0, "alone", || {
        sleep(1_000);
        redis.kill();
        sleep(1_500);
        redis.run();
        sleep(1_500);
    });
    assert_eq!(seen.admitted.values().copied().collect::<Vec<_>>(), [1_000], "{seen:?}");
    assert_eq!(seen.cannot_tell, 0);
}

#[test]
fn tokens_of_a_gateway_that_stops_are_returned() {
    let redis = Redis::start();
    let mut fleet = fleet(&redis.url());
    fleet.rate = "1000/h".to_owned();
    let half = fleet.drive(300.0, "before", || sleep(1_500));
    let leaver = fleet.limiters.pop().unwrap();
    fleet.runtime.block_on(gateway::limit::Limiter::leave(&*leaver));
    let rest = fleet.drive(DEMAND, "before", || sleep(4_000));
    let sum: u32 = half.admitted.values().chain(rest.admitted.values()).sum();
    assert_eq!(sum, 1_000, "nothing over, nothing lost");
}
