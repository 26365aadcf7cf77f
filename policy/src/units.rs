//! The small languages inside policy values: rates, durations, sizes, names.
//!
//! Each type is parsed once, here, and afterwards cannot hold a value outside its bounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::window::Period;

/// Largest count in a rate.
pub const RATE_COUNT_MAX: u32 = 1_000_000_000;

/// So many requests in a period: `1000/min`, `500000/day`, `2000000/month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests allowed in one window; 1 to [`RATE_COUNT_MAX`].
    pub count: u32,
    /// Length of the window.
    pub period: Period,
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let explain = || {
            format!(
                "`{s}` is not a rate; write a count and a period, such as `1000/min`, `50/s`, `500000/day` or `2000000/month`"
            )
        };
        let (count, period) = s.split_once('/').ok_or_else(explain)?;
        let digits: String = count.trim().chars().filter(|c| *c != '_').collect();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(explain());
        }
        let count: u32 = digits.parse().map_err(|_| format!("`{s}`: a count is at most {RATE_COUNT_MAX}"))?;
        if count == 0 || count > RATE_COUNT_MAX {
            return Err(format!("`{s}`: a count is 1 to {RATE_COUNT_MAX}; to refuse everything, remove the route"));
        }
        let period = match period.trim() {
            "s" | "sec" | "second" => Period::Second,
            "min" | "minute" | "m" => Period::Minute,
            "h" | "hour" => Period::Hour,
            "d" | "day" => Period::Day,
            "month" => Period::Month,
            _ => return Err(explain()),
        };
        Ok(Rate { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.short())
    }
}

/// Parses `250ms`, `30s`, `5m`, `1h`; between 1 ms and 24 h.
pub fn duration(s: &str) -> Result<Duration, String> {
    let explain = || format!("`{s}` is not a duration; write for example `250ms`, `30s`, `5m` or `1h` (1ms to 24h)");
    let split = s.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = s.split_at(split);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let factor: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(explain()),
    };
    match number.checked_mul(factor) {
        Some(ms) if (1..=86_400_000).contains(&ms) => Ok(Duration::from_millis(ms)),
        Some(_) | None => Err(explain()),
    }
}

/// Parses `512B`, `64KiB`, `10MiB`, `1GiB`; at most 1 TiB.
pub fn size(s: &str) -> Result<u64, String> {
    let explain = || format!("`{s}` is not a size; write for example `64KiB`, `10MiB` or `1GiB`");
    let split = s.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = s.split_at(split);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let factor: u64 = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(explain()),
    };
    number.checked_mul(factor).filter(|b| *b <= 1 << 40).ok_or_else(explain)
}

/// Whether the text is a short name usable as a metric label and an identifier:
/// 1 to 64 characters of `a-z A-Z 0-9 _ - .`, the first a letter or digit.
pub fn is_name(s: &str) -> bool {
    s.len() <= 64
        && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_print_as_they_are_written() {
        for text in ["1000/min", "50/s", "500000/day", "2000000/month", "7/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rate_of_zero_or_without_a_period_is_refused() {
        for text in ["0/min", "1000", "x/min", "10/fortnight", "-1/min", "99999999999/s", "/min", "1.5/min"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_sizes_refuse_what_is_out_of_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["0s", "25h", "5", "s", "1d", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(size("10MiB"), Ok(10 << 20));
        for text in ["10MB", "10", "2000GiB", "KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
