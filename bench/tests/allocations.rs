//! Counts, where times would be noise: heap allocations of one decision.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use bench::{gate, now, policy, secret};
use gateway::admit::Known;
use gateway::admit::head::Head;
use http::HeaderMap;
use http::header::AUTHORIZATION;

#[test]
fn an_admitted_request_allocates_nothing_but_the_target_it_keeps() {
    let bench = gate(policy(1_000), 100);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", secret(42)).parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let snapshot = bench.keeper.load();
    let ask = || {
        let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", &headers);
        let mut known = Known::at(gateway::base::clock::Moment::at_ms(bench::NOW_MS), address);
        let counted = allocation_counter::measure(|| {
            bench::permit(now(bench.gate.decide(&head, &snapshot, &mut known)));
        });
        counted.count_total
    };
    ask(); // makes the bucket and the counters
    for _ in 0..100 {
        assert_eq!(ask(), 1);
    }
}

/// An access token that was verified costs no more than a key.
#[test]
fn an_admitted_token_allocates_nothing_but_the_target_it_keeps() {
    let scene = bench::tokens();
    let (gate, runtime) = (&scene.bench.gate, &scene.bench.runtime);
    let snapshot = scene.bench.keeper.load();
    let api = snapshot.policy.apis.first().unwrap();
    let secret = policy::credential::Secret::new(&scene.token);
    runtime.block_on(gate.shared.identities.tokens.identify(api, secret)).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", scene.token).parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let ask = || {
        let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", &headers);
        let mut known = Known::at(gateway::base::clock::Moment::at_ms(bench::NOW_MS), address);
        let counted = allocation_counter::measure(|| {
            bench::permit(now(gate.decide(&head, &snapshot, &mut known)));
        });
        counted.count_total
    };
    ask();
    for _ in 0..100 {
        assert_eq!(ask(), 1);
    }
}

/// A token that is held is taken without asking the allocator for anything.
#[test]
fn taking_a_held_token_allocates_nothing() {
    use gateway::limit::leasing::{Bucket, Look, Next, Reply, Take};
    use policy::window::Period;

    const LIMIT: u32 = 1_000;
    let look = Look { now_us: 1_000_000, lo_ms: bench::NOW_MS, hi_ms: bench::NOW_MS };
    let bucket = Bucket::new(60, Period::Minute, LIMIT, 1, 1);
    let (_heard, _) = bucket.wait(1, look.now_us, Some(look));
    let Next::Send(message) = bucket.next(Some(look), look.now_us, true) else { panic!("a message is due") };
    let reply = Reply {
        is_stale: false,
        has_forgotten: false,
        window: bucket.index(bench::NOW_MS),
        now_ms: bench::NOW_MS,
        granted: LIMIT,
        for_need: 1,
        free: 0,
        used: 1,
        others: 0,
        is_tight: false,
        limit: LIMIT,
    };
    bucket.settle(&message, &reply, look);
    let counted = allocation_counter::measure(|| {
        for _ in 0..500 {
            assert!(matches!(bucket.take(LIMIT, 1, look), Take::Taken(_)));
        }
    });
    assert_eq!(counted.count_total, 0);
}

/// A record goes into buffers that are there.
#[test]
fn a_record_allocates_nothing() {
    use bench::traffic::Traffic;
    use gateway::audit::lanes::{Gathered, Lanes};

    let (lanes, traffic) = (Lanes::new(1), Traffic::new(100));
    let records: Vec<_> = (1..=1_000).map(|number| traffic.record(number, bench::NOW_MS)).collect();
    let mut spare = Gathered::default();
    for round in 0..4 {
        let counted = allocation_counter::measure(|| records.iter().for_each(|owned| lanes.push(&owned.record())));
        // The lane has two buffers, which grow when each is used for the first time.
        assert!(round < 2 || counted.count_total == 0, "{counted:?}");
        spare = lanes.take(0, spare);
        assert_eq!(spare.len(), 1_000);
    }
}
