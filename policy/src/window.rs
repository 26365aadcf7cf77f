//! The window rule: which window an instant falls in, and how a counter inside it moves.
//!
//! Pure arithmetic that a property test can call. Always true here: a counter never goes over its
//! limit, a window index never goes back, and the end of a window depends on nothing but the
//! period, the phase and the index, so every gateway prints the same reset for it.

use jiff::civil::date;
use jiff::tz::TimeZone;

/// Length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// One second.
    Second,
    /// Sixty seconds, shifted by the bucket's phase.
    Minute,
    /// An hour, shifted by the bucket's phase.
    Hour,
    /// A UTC day.
    Day,
    /// A UTC calendar month.
    Month,
}

/// One window of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Counts windows of this period since 1970.
    pub index: u32,
    /// First instant of the window, Unix milliseconds.
    pub start_ms: u64,
    /// First instant after the window, Unix milliseconds.
    pub end_ms: u64,
}

impl Period {
    /// Every period, the shortest first.
    pub const ALL: [Period; 5] = [Period::Second, Period::Minute, Period::Hour, Period::Day, Period::Month];

    /// How the period is written in a policy.
    pub fn short(self) -> &'static str {
        match self {
            Period::Second => "s",
            Period::Minute => "min",
            Period::Hour => "h",
            Period::Day => "day",
            Period::Month => "month",
        }
    }

    /// Name of a limit of this period when the policy gives none.
    pub fn word(self) -> &'static str {
        match self {
            Period::Second => "second",
            Period::Minute => "minute",
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        }
    }

    /// Whether counters of this period must outlive a restart.
    pub fn is_quota(self) -> bool {
        match self {
            Period::Second | Period::Minute | Period::Hour => false,
            Period::Day | Period::Month => true,
        }
    }

    /// Length in milliseconds, where it is the same for every window.
    pub fn fixed_ms(self) -> Option<u64> {
        match self {
            Period::Second => Some(1_000),
            Period::Minute => Some(60_000),
            Period::Hour => Some(3_600_000),
            Period::Day => Some(86_400_000),
            Period::Month => None,
        }
    }

    /// The bucket's phase in milliseconds: whole seconds, so that a reset is a whole Unix second.
    /// Minutes and hours are spread so that not every caller returns in the same instant; seconds,
    /// days and months keep to the clock.
    pub fn phase_ms(self, bucket: u128) -> u64 {
        let seconds: u128 = match self {
            Period::Minute => 60,
            Period::Hour => 3_600,
            Period::Second | Period::Day | Period::Month => return 0,
        };
        u64::try_from(bucket % seconds).unwrap_or(0) * 1_000
    }

    /// Index of the window that the instant falls in.
    pub fn index(self, now_ms: u64, phase_ms: u64) -> u32 {
        let index = match self.fixed_ms() {
            Some(length) => now_ms.saturating_sub(phase_ms) / length,
            None => month_of(now_ms),
        };
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// The window that the instant falls in.
    pub fn window(self, now_ms: u64, phase_ms: u64) -> Window {
        self.window_at(self.index(now_ms, phase_ms), phase_ms)
    }

    /// The window with that index.
    pub fn window_at(self, index: u32, phase_ms: u64) -> Window {
        let (start_ms, end_ms) = match self.fixed_ms() {
            Some(length) => {
                let start = u64::from(index) * length + phase_ms;
                (start, start + length)
            }
            None => (month_start_ms(u64::from(index)), month_start_ms(u64::from(index) + 1)),
        };
        Window { index, start_ms, end_ms }
    }
}

impl Window {
    /// Seconds from now until the window ends, rounded up, at least 1.
    pub fn seconds_left(&self, now_ms: u64) -> u64 {
        self.end_ms.saturating_sub(now_ms).div_ceil(1_000).max(1)
    }

    /// End of the window in Unix seconds: what `X-RateLimit-Reset` says.
    pub fn reset(&self) -> u64 {
        self.end_ms.div_ceil(1_000)
    }

    /// Length in seconds.
    pub fn seconds(&self) -> u64 {
        self.end_ms.saturating_sub(self.start_ms) / 1_000
    }
}

/// Months since January 1970, UTC.
fn month_of(now_ms: u64) -> u64 {
    let Ok(ms) = i64::try_from(now_ms) else { return 0 };
    let Ok(instant) = jiff::Timestamp::from_millisecond(ms) else { return 0 };
    let day = instant.to_zoned(TimeZone::UTC).date();
    let months = (i64::from(day.year()) - 1970) * 12 + i64::from(day.month()) - 1;
    u64::try_from(months).unwrap_or(0)
}

/// First instant of a month counted from January 1970. Months past the year 9000 are clamped.
fn month_start_ms(index: u64) -> u64 {
    let index = index.min(7_000 * 12);
    let year = i16::try_from(1970 + index / 12).unwrap_or(i16::MAX);
    let month = i8::try_from(index % 12 + 1).unwrap_or(1);
    date(year, month, 1)
        .to_zoned(TimeZone::UTC)
        .ok()
        .and_then(|z| u64::try_from(z.timestamp().as_millisecond()).ok())
        .unwrap_or(0)
}

/// A bucket's whole state in one word: window index and tokens used in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Index of the window the count belongs to.
    pub window: u32,
    /// Tokens used in that window.
    pub used: u32,
}

/// A charge that did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The window that is used up.
    pub window: u32,
    /// What was left in it: less than the cost, often 0.
    pub remaining: u32,
}

impl Tally {
    /// From the word an atomic holds.
    pub fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
        Self { window: u32::from_be_bytes([a, b, c, d]), used: u32::from_be_bytes([e, f, g, h]) }
    }

    /// The word an atomic holds.
    pub fn word(self) -> u64 {
        (u64::from(self.window) << 32) | u64::from(self.used)
    }

    /// What is left for a caller who looks in this window.
    pub fn remaining(self, window: u32, limit: u32) -> u32 {
        if window > self.window { limit } else { limit.saturating_sub(self.used) }
    }

    /// Takes `cost` tokens in a window, or says that they are not there. A clock that went back
    /// charges the newest window seen, so that a step back never opens a fresh budget.
    pub fn charge(self, window: u32, limit: u32, cost: u32) -> Result<Tally, Exhausted> {
        let (window, used) = if window > self.window { (window, 0) } else { (self.window, self.used) };
        match used.checked_add(cost) {
            Some(sum) if sum <= limit => Ok(Tally { window, used: sum }),
            Some(_) | None => Err(Exhausted { window, remaining: limit.saturating_sub(used) }),
        }
    }

    /// Puts back tokens taken from `window`; nothing when the window has passed.
    #[must_use]
    pub fn refund(self, window: u32, cost: u32) -> Tally {
        if window == self.window { Tally { window, used: self.used.saturating_sub(cost) } } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_instant_lies_inside_its_window(
            now in 4_000_000_000u64..4_000_000_000_000, bucket in any::<u128>(), which in 0usize..5,
        ) {
            let period = Period::ALL[which];
            let window = period.window(now, period.phase_ms(bucket));
            prop_assert!(window.start_ms <= now && now < window.end_ms);
            prop_assert_eq!(window.end_ms % 1000, 0);
            prop_assert_eq!(period.window_at(window.index, period.phase_ms(bucket)), window);
            let next = period.window(window.end_ms, period.phase_ms(bucket));
            prop_assert_eq!(next.index, window.index + 1);
        }

        #[test]
        fn admissions_in_a_window_never_exceed_the_limit(
            limit in 1u32..50,
            steps in proptest::collection::vec((0u32..6, 1u32..5), 0..200),
        ) {
            let mut tally = Tally::default();
            let mut admitted = std::collections::HashMap::<u32, u32>::new();
            for (window, cost) in steps {
                if let Ok(next) = tally.charge(window, limit, cost) {
                    prop_assert!(next.window >= tally.window);
                    *admitted.entry(next.window).or_default() += cost;
                    tally = Tally::from_word(next.word());
                }
            }
            prop_assert!(admitted.values().all(|sum| *sum <= limit));
        }

        #[test]
        fn a_refund_gives_back_exactly_what_was_taken(used in 0u32..100, cost in 1u32..50) {
            let before = Tally { window: 7, used };
            let after = before.charge(7, u32::MAX, cost).unwrap();
            prop_assert_eq!(after.refund(7, cost), before);
            prop_assert_eq!(after.refund(6, cost), after);
        }
    }

    #[test]
    fn a_month_ends_when_the_calendar_says() {
        // 2026-02-10T00:00:00Z
        let window = Period::Month.window(1_770_681_600_000, 0);
        assert_eq!(window.reset(), 1_772_323_200); // 2026-03-01T00:00:00Z
        assert_eq!(window.seconds(), 28 * 86_400);
    }
}
