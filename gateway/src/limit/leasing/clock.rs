//! The clock of Redis, as an interval around what it must show now.
//!
//! Windows are counted by the clock of the server that holds the bucket, never by a gateway's wall
//! clock. Each answer carries that clock, read between sending and receiving; so it bounds the
//! difference to our steady clock from both sides. Between answers the bounds widen by what two
//! quartz clocks may drift apart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Two clocks drift apart by at most one part in this many (100 ppm).
const DRIFT: u64 = 10_000;

/// One look at the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Our steady clock, microseconds.
    pub now_us: u64,
    /// Redis shows at least this, Unix milliseconds. Says whether a window is certainly not over.
    pub lo_ms: u64,
    /// Redis shows at most this. Says whether a token may still be spent.
    pub hi_ms: u64,
}

/// Difference of a server's clock to ours, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    lo: i64,
    hi: i64,
    as_of_us: u64,
}

impl Offset {
    fn aged(self, now_us: u64) -> Self {
        let drift = i64::try_from(now_us.saturating_sub(self.as_of_us) / DRIFT).unwrap_or(i64::MAX / 4);
        Offset { lo: self.lo - drift, hi: self.hi + drift, as_of_us: now_us }
    }

    fn look(self, now_us: u64) -> Look {
        let Offset { lo, hi, .. } = self.aged(now_us);
        let at = |offset: i64| now_us.saturating_add_signed(offset) / 1_000;
        Look { now_us, lo_ms: at(lo), hi_ms: at(hi) }
    }

    /// Both must be true; when they cannot, the server's clock was set and the new one holds.
    fn narrowed(self, new: Offset) -> Offset {
        let old = self.aged(new.as_of_us);
        let (lo, hi) = (old.lo.max(new.lo), old.hi.min(new.hi));
        if lo <= hi { Offset { lo, hi, as_of_us: new.as_of_us } } else { new }
    }
}

/// What is known of the clocks of all servers.
#[derive(Debug, Default)]
pub struct RedisClock {
    lo: AtomicI64,
    hi: AtomicI64,
    /// 0 while nothing is known.
    as_of_us: AtomicU64,
    servers: Mutex<HashMap<Box<str>, Offset>>,
}

impl RedisClock {
    /// Takes note of a server's clock, read between two instants of ours.
    pub fn observe(&self, server: &str, server_ms: u64, sent_us: u64, received_us: u64) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX / 2);
        let new = Offset {
            lo: signed(server_ms * 1_000) - signed(received_us),
            hi: signed((server_ms + 1) * 1_000) - signed(sent_us),
            as_of_us: received_us.max(1),
        };
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        match servers.get_mut(server) {
            Some(known) => *known = known.narrowed(new),
            None => {
                servers.insert(server.into(), new);
            }
        }
        // With several servers the interval covers all of them: no token is spent late on any.
        let all = servers.values().map(|offset| offset.aged(new.as_of_us));
        let whole = all.fold(new, |a, b| Offset { lo: a.lo.min(b.lo), hi: a.hi.max(b.hi), ..a });
        let whole = if servers.len() == 1 { servers.get(server).copied().unwrap_or(whole) } else { whole };
        self.lo.store(whole.lo, Ordering::Relaxed);
        self.hi.store(whole.hi, Ordering::Relaxed);
        self.as_of_us.store(whole.as_of_us, Ordering::Release);
    }

    /// Forgets servers that are gone.
    pub fn keep(&self, is_known: impl Fn(&str) -> bool) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).retain(|server, _| is_known(server));
    }

    /// Forgets a server that is away: what is known of its clock grows old. The last one is kept,
    /// for shares are counted by its windows.
    pub fn forget(&self, server: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() > 1 {
            servers.remove(server);
        }
    }

    /// One look at the clock of one server, for what is said to it; at all of them when it is not known.
    pub fn look_of(&self, server: &str, now_us: u64) -> Option<Look> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = servers.get(server).map(|offset| offset.look(now_us));
        drop(servers);
        known.or_else(|| self.look(now_us))
    }

    /// One look; `None` before the first answer of any server.
    pub fn look(&self, now_us: u64) -> Option<Look> {
        let as_of_us = self.as_of_us.load(Ordering::Acquire);
        if as_of_us == 0 {
            return None;
        }
        let (lo, hi) = (self.lo.load(Ordering::Relaxed), self.hi.load(Ordering::Relaxed));
        Some(Offset { lo, hi, as_of_us }.look(now_us))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        assert_eq!(RedisClock::default().look(5_000_000), None);
    }

    #[test]
    fn a_server_whose_clock_was_set_is_believed_again_at_once() {
        let clock = RedisClock::default();
        clock.observe("a", 1_000_000, 1_000, 2_000);
        clock.observe("a", 2_000_000, 3_000, 4_000);
        let look = clock.look(4_000).unwrap();
        assert!(look.lo_ms >= 1_999_999 && look.hi_ms <= 2_000_003, "{look:?}");
    }

    proptest! {
        #[test]
        fn the_true_time_is_always_inside_the_interval(
            ahead in 0i64..4_000_000_000_000, steps in proptest::collection::vec((0u64..50_000, 0u64..50_000, 0u64..60_000_000), 1..40),
        ) {
            let clock = RedisClock::default();
            let mut now = 1_000u64;
            for (there, back, idle) in steps {
                let sent = now;
                let server_us = (sent + there).saturating_add_signed(ahead);
                now = sent + there + back;
                clock.observe("a", server_us / 1_000, sent, now);
                now += idle;
                let (look, truth) = (clock.look(now).unwrap(), now.saturating_add_signed(ahead) / 1_000);
                prop_assert!(look.lo_ms <= truth && truth <= look.hi_ms, "{:?} {}", look, truth);
            }
        }
    }
}
