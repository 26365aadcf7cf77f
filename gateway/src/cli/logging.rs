//! The process log: one line each on standard error, written by a thread of its own.
//!
//! Libraries are never heard below WARN, whatever is asked for: at debug Pingora prints raw request
//! heads, and those hold credentials. No place in the code writes more than a few lines in a while: a
//! client that makes us warn at each connection does not fill a disk.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{Debug, Write as _};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::base::clock::{Clock as _, System, rfc3339};
use crate::base::line_writer::LineWriter;

/// Lines that one place in the code may write in a [`WHILE_US`].
const BURST: u32 = 20;
/// That while: ten seconds.
const WHILE_US: u64 = 10_000_000;
/// Most places that are remembered; with more, all are forgotten.
const PLACES_MAX: usize = 512;

/// The log while a command runs; what waits is written when it is dropped.
pub(super) struct Logging(LineWriter);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging. `TOLLGATE_LOG` sets the level of our own lines: error, warn, info (default), debug.
#[expect(clippy::disallowed_methods, reason = "the log level is an input of the process")]
pub(super) fn start() -> std::io::Result<Logging> {
    let level = std::env::var("TOLLGATE_LOG").ok().and_then(|text| text.parse::<LevelFilter>().ok());
    let writer = LineWriter::start("log", std::io::stderr())?;
    let lines = Lines { writer: writer.clone(), level: level.unwrap_or(LevelFilter::INFO), repeats: Mutex::default() };
    // A second start, as in a test, keeps the first.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    Ok(Logging(writer))
}

struct Lines {
    writer: LineWriter,
    /// Of our own lines.
    level: LevelFilter,
    repeats: Mutex<Repeats>,
}

fn is_ours(target: &str) -> bool {
    target.starts_with("tollgate") || target.starts_with("gateway")
}

/// What Pingora logs as errors for every client that goes away; our metrics count those.
fn is_noise(target: &str) -> bool {
    target.starts_with("pingora_core::protocols::http")
        || target.starts_with("pingora_core::apps")
        || target.starts_with("pingora_core::connectors")
}

impl Lines {
    fn is_wanted(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), *metadata.level());
        // Errors of libraries name peers and timeouts, which our record of the request has.
        if is_ours(target) { level <= self.level } else { level <= Level::WARN && !is_noise(target) }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        metadata.is_event() && self.is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.max(LevelFilter::WARN))
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        if !self.is_wanted(metadata) {
            return;
        }
        let mut place = DefaultHasher::new();
        (metadata.target(), metadata.file(), metadata.line()).hash(&mut place);
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = repeats.take(place.finish(), System.steady_us()) else { return };
        drop(repeats);
        let mut text = Text::default();
        event.record(&mut text);
        let time = rfc3339(System.now_ms());
        let mut line = format!("{time} {:5} {}: {}", metadata.level(), metadata.target(), text.0);
        if left_out > 0 {
            let _ = write!(line, " ({left_out} lines from here were left out before this one)");
        }
        self.writer.write(line);
    }
}

/// The message of an event, on one line.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let text = format!("{value:?}");
            self.0.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
    }
}

/// How often each place in the code has written lately.
#[derive(Debug, Default)]
struct Repeats(HashMap<u64, Place>);

#[derive(Debug, Default)]
struct Place {
    since_us: u64,
    lines: u32,
    left_out: u64,
}

impl Repeats {
    /// Takes a line from a place; gives how many were left out before it, or nothing when it is left out
    /// too.
    fn take(&mut self, place: u64, now_us: u64) -> Option<u64> {
        if self.0.len() >= PLACES_MAX && !self.0.contains_key(&place) {
            self.0.clear();
        }
        let place = self.0.entry(place).or_default();
        if place.lines == 0 || now_us.saturating_sub(place.since_us) >= WHILE_US {
            (place.since_us, place.lines) = (now_us, 0);
        }
        if place.lines == BURST {
            place.left_out += 1;
            return None;
        }
        place.lines += 1;
        Some(std::mem::take(&mut place.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_so_many_lines_in_a_while_and_says_what_it_left_out() {
        let mut repeats = Repeats::default();
        let taken = (0..100).filter(|n| repeats.take(1, *n).is_some()).count();
        assert_eq!(taken, BURST as usize);
        assert_eq!(repeats.take(2, 100), Some(0), "another place is another");
        assert_eq!(repeats.take(1, WHILE_US), Some(100 - u64::from(BURST)));
        assert_eq!(repeats.take(1, WHILE_US + 1), Some(0));
    }

    #[test]
    fn places_are_bounded() {
        let mut repeats = Repeats::default();
        for place in 0..10_000 {
            repeats.take(place, 0);
            assert!(repeats.0.len() <= PLACES_MAX);
        }
    }
}
