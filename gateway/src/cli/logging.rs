//! The process log: one line each on standard error.
//!
//! The engine is never heard below WARN, whatever is asked for: at debug it prints raw request
//! heads, and those hold credentials.

use std::io::Write as _;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::base::clock::{Clock as _, System, rfc3339};

struct Stderr;

fn is_ours(target: &str) -> bool {
    target.starts_with("tollgate") || target.starts_with("gateway")
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The engine's own errors name peers and timeouts, which our record of the request has.
        if is_ours(metadata.target()) { metadata.level() <= log::max_level() } else { metadata.level() <= Level::Warn }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || (!is_ours(record.target()) && is_noise(record)) {
            return;
        }
        let text: String = record.args().to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(
            std::io::stderr(),
            "{} {:5} {}: {text}",
            rfc3339(System.now_ms()),
            record.level(),
            record.target()
        );
    }

    fn flush(&self) {}
}

/// What the engine logs as errors for every client that goes away; our metrics count those.
fn is_noise(record: &Record<'_>) -> bool {
    let target = record.target();
    target.starts_with("pingora_proxy")
        || target.starts_with("pingora_core::protocols::http")
        || target.starts_with("pingora_core::apps")
        || target.starts_with("pingora_core::connectors")
}

static LOGGER: Stderr = Stderr;

/// Starts logging. `TOLLGATE_LOG` sets the level of our own lines: error, warn, info (default), debug.
#[expect(clippy::disallowed_methods, reason = "the log level is an input of the process")]
pub(super) fn start() {
    let level = std::env::var("TOLLGATE_LOG").ok().and_then(|text| text.parse::<LevelFilter>().ok());
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Info));
    }
}
