//! Resident memory of a cache with so many keys (a million when not said), and what an admission of
//! one of them costs, beside a cache with a thousand.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot be set up should stop")]

use std::net::IpAddr;
use std::time::Instant;

use gateway::admit::Known;
use gateway::admit::head::Head;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use policy::credential::Secret;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let keys: u64 = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().unwrap());
    let bench = bench::gate(bench::policy(10), 0);
    let before = resident_kib();
    bench::warm(&bench.gate.shared.identities, keys);
    let after = resident_kib();
    let held = bench.gate.shared.identities.cached();
    let bytes = (after - before) * 1024;
    println!("{held} keys cached: {} MB, {} bytes for each", bytes / 1_000_000, bytes / keys);
    let small = bench::gate(bench::policy(10), 1_000);
    let large = bench::gate(bench::policy(10_000), 1_000);
    let mut rounds: Vec<[f64; 3]> = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push([admissions(&small, 1_000), admissions(&large, 1_000), admissions(&bench, keys)]);
    }
    let median = |n: usize| {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(n).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    println!(
        "an admission, ns: {:.0} of 1,000 keys on 10 routes, {:.0} on 10,000 routes, {:.0} of {keys} keys",
        median(0),
        median(1),
        median(2)
    );
}

/// Rounds, taken in turn.
const ROUNDS: usize = 9;
/// Admissions in a round.
const ADMISSIONS: u64 = 100_000;

/// Nanoseconds of an admission; each of another key, in no order.
fn admissions(bench: &bench::Bench, keys: u64) -> f64 {
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let snapshot = bench.keeper.load();
    // A full cache has let go of a few.
    let is_cached = |secret: &String| bench.gate.shared.identities.peek(Secret::new(secret)).is_some();
    let secrets =
        (0..ADMISSIONS).map(|n| bench::secret(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys)).filter(is_cached);
    let with = |secret: String| HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {secret}").parse().unwrap())]);
    let heads: Vec<HeaderMap> = secrets.map(with).collect();
    let ask = |headers: &HeaderMap| {
        let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", headers);
        let mut known = Known::at(gateway::base::clock::Moment::at_ms(bench::NOW_MS), address);
        bench::permit(bench::now(bench.gate.decide(&head, &snapshot, &mut known)));
    };
    // Buckets are made at the first use.
    heads.iter().for_each(ask);
    let started = Instant::now();
    heads.iter().for_each(ask);
    started.elapsed().as_nanos() as f64 / heads.len() as f64
}
