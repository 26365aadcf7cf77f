# Recipes; `just` lists them. Each is a script that also runs without just.

_default:
    @just --list

# Gateway, sample upstreams, keys and curl lines, on loopback
demo:
    deploy/demo

# The whole test suite
test *arguments:
    tests/run {{arguments}}

# What the gate runs
ci:
    .ci/run

# Fuzz each target for so many seconds
fuzz seconds="60":
    tests/fuzz/run {{seconds}}

# Steps, allocations, memory, and the load comparison
bench:
    cargo bench -p bench
    cargo run --release -p bench --bin memory
    bench/peers

# Format, and accept changed snapshots and schema
accept:
    cargo fmt --all
    INSTA_UPDATE=always UPDATE_SCHEMA=1 cargo test --workspace
