//! Time as an input. The only file that reads the wall clock.

use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Says what time it is.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock, in Unix milliseconds. It may be set, forward and back.
    fn now_ms(&self) -> u64;

    /// Microseconds since some moment in the life of this process; never goes back.
    fn steady_us(&self) -> u64;

    /// Both at once.
    fn moment(&self) -> Moment {
        Moment { wall_ms: self.now_ms(), steady_us: self.steady_us() }
    }

    /// Time since a moment.
    fn since(&self, moment: Moment) -> Duration {
        Duration::from_micros(self.steady_us().saturating_sub(moment.steady_us))
    }
}

/// A duration in microseconds, as the steady clock counts.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, Unix milliseconds.
    pub wall_ms: u64,
    /// The steady clock, microseconds.
    pub steady_us: u64,
}

impl Moment {
    /// A moment of a wall clock that was never set: for tests and benches.
    pub fn at_ms(ms: u64) -> Self {
        Moment { wall_ms: ms, steady_us: ms * 1_000 }
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn steady_us(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        micros(START.get_or_init(Instant::now).elapsed())
    }
}

/// A clock that stands until it is set: for tests and benches.
#[derive(Debug, Default)]
pub struct Manual(AtomicU64);

impl Manual {
    /// A clock that shows this time.
    pub fn at(now_ms: u64) -> Self {
        Manual(AtomicU64::new(now_ms))
    }

    /// Sets the time; it may go back.
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }

    /// Moves the time forward.
    pub fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for Manual {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn steady_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst) * 1_000
    }
}

/// An instant as people and JSON read it: RFC 3339 in UTC with milliseconds.
pub fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms}ms"), |at| format!("{at:.3}"))
}

/// The bytes of an HTTP date (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
const HTTP_DATE_BYTES: usize = 29;

thread_local! {
    /// The date written last by this thread, and which second that was.
    static DATE: std::cell::Cell<(u64, [u8; HTTP_DATE_BYTES])> =
        const { std::cell::Cell::new((u64::MAX, [b' '; HTTP_DATE_BYTES])) };
}

/// An instant as `Date` has it.
pub fn http_date(ms: u64) -> [u8; HTTP_DATE_BYTES] {
    let second = ms / 1_000;
    let (last, date) = DATE.get();
    if last == second {
        return date;
    }
    let date = i64::try_from(second)
        .ok()
        .and_then(|second| jiff::Timestamp::from_second(second).ok())
        .and_then(|at| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok())
        .and_then(|text| text.as_bytes().try_into().ok())
        .unwrap_or(*b"Thu, 01 Jan 1970 00:00:00 GMT");
    DATE.set((second, date));
    date
}

/// Reads an RFC 3339 instant, or a plain date (its first instant in UTC).
pub fn parse_instant(s: &str) -> Result<u64, String> {
    let instant = s.parse::<jiff::Timestamp>().or_else(|_| {
        s.parse::<jiff::civil::Date>()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|zoned| zoned.timestamp())
    });
    let explain = || format!("`{s}` is not a time; write `2027-01-31` or `2027-01-31T12:00:00Z`");
    instant.ok().and_then(|at| u64::try_from(at.as_millisecond()).ok()).ok_or_else(explain)
}

/// Durations in JSON; every other number whose name ends in `_ms` is an instant.
const DURATIONS: [&str; 1] = ["within_ms"];

/// What a future gives within a time. Mostly it is ready at once, and no timer is due.
pub async fn within<F: Future>(time: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    if let Poll::Ready(output) = futures_util::poll!(future.as_mut()) {
        return Some(output);
    }
    tokio::time::timeout(time, future).await.ok()
}

/// The same JSON with all instants in one format: `created_ms: 1790000000000` becomes
/// `created_at: "2026-09-21T14:13:20.000Z"` (RFC 3339). An instant of 0 is none, `null`.
pub fn dated(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(dated).collect()),
        Value::Object(map) => map.into_iter().map(|(name, value)| dated_entry(name, value)).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

fn dated_entry(name: String, value: serde_json::Value) -> (String, serde_json::Value) {
    // What others have said is shown as they said it.
    if matches!(name.as_str(), "header" | "claims") {
        return (name, value);
    }
    let stem = match name.as_str() {
        name if DURATIONS.contains(&name) => None,
        "ms" => Some(""),
        "not_after_ms" => Some("expires_"),
        name => name.strip_suffix("ms").filter(|stem| stem.ends_with('_')),
    };
    match (stem, value.as_u64()) {
        (Some(stem), Some(ms)) => {
            let instant = if ms == 0 { serde_json::Value::Null } else { rfc3339(ms).into() };
            (format!("{stem}at"), instant)
        }
        (Some(stem), None) if value.is_null() => (format!("{stem}at"), value),
        (Some(_), None) | (None, _) => (name, dated(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_has_it() {
        assert_eq!(&http_date(784_111_777_999), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&http_date(784_111_778_000), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(&http_date(u64::MAX), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn every_instant_in_json_is_written_alike() {
        let at = 1_790_000_000_000u64;
        let value = serde_json::json!({
            "created_ms": at, "revoked_ms": null, "changed_ms": 0, "within_ms": 7, "not_after_ms": at,
            "last_use": { "ms": at, "route": "r" }, "items": [{ "seen_ms": 1_000 }], "claims": { "ms": 0 },
        });
        let expected = serde_json::json!({
            "created_at": "2026-09-21T14:13:20.000Z", "revoked_at": null, "changed_at": null, "within_ms": 7,
            "expires_at": "2026-09-21T14:13:20.000Z",
            "last_use": { "at": "2026-09-21T14:13:20.000Z", "route": "r" },
            "items": [{ "seen_at": "1970-01-01T00:00:01.000Z" }], "claims": { "ms": 0 },
        });
        assert_eq!(dated(value), expected);
    }
}
