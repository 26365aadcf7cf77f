//! Parses arguments, dispatches, exits.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::edge::tls::install_provider();
    gateway::cli::run()
}
