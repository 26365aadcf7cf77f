//! Counts, where times would be noise: heap allocations of one decision.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use bench::{gate, now, policy, secret};
use gateway::proxy::Known;
use gateway::request::Head;
use http::HeaderMap;
use http::header::AUTHORIZATION;

#[test]
fn an_admitted_request_allocates_nothing_but_the_target_it_keeps() {
    let bench = gate(policy(1_000), 100);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", secret(42)).parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let snapshot = bench.gate.shared.keeper.load();
    let ask = || {
        let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", &headers);
        let mut known = Known::at(gateway::clock::Moment::at_ms(bench::NOW_MS));
        let counted = allocation_counter::measure(|| {
            let answer = now(bench.gate.admit(&head, address, &snapshot, &mut known));
            assert!(answer.is_ok());
        });
        counted.count_total
    };
    ask(); // makes the bucket and the counters
    for _ in 0..100 {
        assert_eq!(ask(), 1);
    }
}
