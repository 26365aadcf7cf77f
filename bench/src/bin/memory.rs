//! Resident memory of a cache with so many keys (a million when not said).
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot be set up should stop")]

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
}
