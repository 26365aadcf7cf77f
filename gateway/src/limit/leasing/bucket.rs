//! One bucket at one gateway: the tokens it holds, taken without a lock, and the ledger behind them.
//!
//! Always true here: tokens are taken only in the window they were granted in; `granted` less the
//! tokens left is what was used; the remaining count shown never rises inside a window while the
//! limit stays. Nothing here talks to Redis or reads a clock: time comes in as a [`Look`], and the
//! protocol in `ledger.rs` says what to send.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use policy::window::{Period, Window};

use super::clock::Look;
use super::ledger::Ledger;
use super::packed::{Packed, Shown, TOKENS_MAX};

/// What requests and the ledger of one bucket share.
#[derive(Debug)]
pub struct Bucket {
    /// Its number.
    pub id: u128,
    /// Length of its windows.
    pub period: Period,
    phase_ms: u64,
    word: AtomicU64,
    shown: AtomicU64,
    /// The limit that requests here speak of, and the one that the bucket says is in force.
    limits: AtomicU64,
    /// The window known to be used up, and the most that anyone can still get in it.
    dry: AtomicU64,
    /// A taker who leaves no more than this asks for more; one less, so that 0 is "never".
    refill_at: AtomicU32,
    ledger: Mutex<Ledger>,
}

/// Two numbers in one atomic.
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn unpair(bits: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bits.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// What became of an attempt to take tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// They were taken.
    Taken(Taken),
    /// Not enough are held here.
    Missing,
    /// The window is used up: nobody can get that many before it ends.
    Dry,
}

/// Tokens that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The window they are of.
    pub window: u32,
    /// What to show as remaining.
    pub remaining: u32,
    /// They are of the gateway's own share.
    pub is_share: bool,
    /// It is time to lease more.
    pub is_low: bool,
}

impl Bucket {
    /// A bucket that holds nothing. `ledger` is a number that no other bucket of the process ever had.
    pub fn new(id: u128, period: Period, limit: u32, version: u64, ledger: u64) -> Self {
        Bucket {
            id,
            period,
            phase_ms: period.phase_ms(id),
            word: AtomicU64::new(0),
            shown: AtomicU64::new(Shown { edition: 0, beyond: i64::from(limit) }.bits()),
            limits: AtomicU64::new(pair(limit, limit)),
            dry: AtomicU64::new(0),
            refill_at: AtomicU32::new(0),
            ledger: Mutex::new(Ledger::new(ledger, version)),
        }
    }

    /// Index of the window at an instant of the Redis clock.
    pub fn index(&self, ms: u64) -> u32 {
        self.period.index(ms, self.phase_ms)
    }

    /// The window with an index.
    pub fn window(&self, index: u32) -> Window {
        self.period.window_at(index, self.phase_ms)
    }

    /// The limit asked for, and the one in force.
    pub fn limits(&self) -> (u32, u32) {
        unpair(self.limits.load(Ordering::Acquire))
    }

    pub(super) fn set_limits(&self, asked: u32, in_force: u32) {
        self.limits.store(pair(asked, in_force), Ordering::Release);
    }

    /// Takes tokens that are held here. One compare-and-set, no lock, no allocation.
    pub fn take(&self, limit: u32, cost: u32, look: Look) -> Take {
        if self.limits().0 != limit {
            return Take::Missing;
        }
        let window = self.index(look.hi_ms);
        loop {
            let shown = Shown::from_bits(self.shown.load(Ordering::Acquire));
            let bits = self.word.load(Ordering::Acquire);
            let word = Packed::from_bits(bits);
            if word.window < window || word.tokens < cost || word.edition != shown.edition {
                return if self.is_dry(cost, look) { Take::Dry } else { Take::Missing };
            }
            let left = Packed { tokens: word.tokens - cost, ..word };
            if self.word.compare_exchange_weak(bits, left.bits(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Take::Taken(Taken {
                    window: word.window,
                    remaining: shown.remaining(left.tokens),
                    is_share: word.is_share,
                    is_low: left.tokens < self.refill_at.load(Ordering::Relaxed),
                });
            }
        }
    }

    /// Gives back tokens taken from a window; nothing when it has passed here.
    pub fn put_back(&self, window: u32, cost: u32) {
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
            let word = Packed::from_bits(bits);
            let tokens = word.tokens.saturating_add(cost).min(TOKENS_MAX);
            (word.window == window).then_some(Packed { tokens, ..word }.bits())
        });
    }

    /// Whether nobody can get that many tokens before the window ends. When it may have ended by the
    /// clock of Redis, Redis is asked.
    pub fn is_dry(&self, cost: u32, look: Look) -> bool {
        let (window, left) = unpair(self.dry.load(Ordering::Acquire));
        window != 0 && cost > left && self.index(look.hi_ms) <= window
    }

    pub(super) fn set_dry(&self, window: u32, left: u32) {
        self.dry.store(pair(window, left), Ordering::Release);
    }

    pub(super) fn set_refill_at(&self, at: u32) {
        self.refill_at.store(at, Ordering::Relaxed);
    }

    /// Whether this caller is the one who asks for more: true once until the next answer.
    pub fn claim_refill(&self) -> bool {
        self.refill_at.swap(0, Ordering::Relaxed) != 0
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens as they are.
    pub fn word(&self) -> Packed {
        Packed::from_bits(self.word.load(Ordering::Acquire))
    }

    /// What is shown as remaining now, in the window of [`Bucket::word`].
    pub fn remaining(&self) -> u32 {
        // Read twice at most a few times: an edition lasts for microseconds only while it changes.
        for _ in 0..8 {
            let shown = Shown::from_bits(self.shown.load(Ordering::Acquire));
            let word = self.word();
            if word.edition == shown.edition {
                return shown.remaining(word.tokens);
            }
        }
        Shown::from_bits(self.shown.load(Ordering::Acquire)).remaining(0)
    }

    /// Changes tokens and the remaining count together, and returns the word before and after. Only
    /// the holder of the ledger may. Takers who come in between see two editions and wait for the
    /// ledger.
    pub(super) fn rewrite(&self, _held: &Ledger, change: impl Fn(Packed, i64) -> (Packed, i64)) -> (Packed, Packed) {
        loop {
            let bits = self.word.load(Ordering::Acquire);
            let (word, shown) = (Packed::from_bits(bits), Shown::from_bits(self.shown.load(Ordering::Acquire)));
            let (new, remaining) = change(word, shown.beyond + i64::from(word.tokens));
            let new = Packed { tokens: new.tokens.min(TOKENS_MAX), edition: word.next_edition(), ..new };
            let beyond = Shown { edition: new.edition, beyond: remaining - i64::from(new.tokens) };
            self.shown.store(beyond.bits(), Ordering::Release);
            if self.word.compare_exchange(bits, new.bits(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return (word, new);
            }
            self.shown.store(shown.bits(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::limit::leasing::ledger::Next;
    use crate::limit::leasing::message::Reply;

    const NOW_MS: u64 = 1_790_000_000_000;

    fn look() -> Look {
        Look { now_us: 5_000_000, lo_ms: NOW_MS, hi_ms: NOW_MS }
    }

    /// Redis, for one gateway: a count of what is out.
    fn converse(bucket: &Bucket, out: &mut u32, limit: u32) {
        while let Next::Send(message) = bucket.next(Some(look()), 5_000_000, true) {
            let held = if message.window == 0 { 0 } else { message.held };
            let granted = (message.need + message.want).min(limit - held);
            *out = held + granted;
            let reply = Reply {
                is_stale: false,
                has_forgotten: false,
                window: bucket.index(NOW_MS),
                now_ms: NOW_MS,
                granted,
                for_need: granted.min(message.need),
                free: limit - *out,
                used: message.used + granted.min(message.need),
                others: 0,
                is_tight: false,
                limit,
            };
            bucket.settle(&message, &reply, look());
        }
    }

    #[test]
    fn threads_that_take_put_back_and_lose_tokens_to_recalls_never_pass_the_limit() {
        const LIMIT: u32 = 20_000;
        for _ in 0..20 {
            let bucket = Bucket::new(60, Period::Minute, LIMIT, 1, 1);
            let (taken, done) = (AtomicU32::new(0), AtomicU32::new(0));
            std::thread::scope(|scope| {
                for n in 0..3u32 {
                    let (bucket, taken, done) = (&bucket, &taken, &done);
                    scope.spawn(move || {
                        let mut last = u32::MAX;
                        for i in 0..6_000u32 {
                            if let Take::Taken(tokens) = bucket.take(LIMIT, 1, look()) {
                                // Another thread may put back what it took, never more.
                                assert!(
                                    tokens.remaining <= last.saturating_add(2),
                                    "{} after {last}",
                                    tokens.remaining
                                );
                                last = last.min(tokens.remaining);
                                if (i + n) % 7 == 0 {
                                    bucket.put_back(tokens.window, 1);
                                } else {
                                    taken.fetch_add(1, Ordering::SeqCst);
                                }
                            }
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                }
                let mut out = 0;
                while done.load(Ordering::SeqCst) < 3 {
                    let starts = bucket.start(super::super::ledger::Reason::Refill);
                    if starts {
                        converse(&bucket, &mut out, LIMIT);
                    }
                    if bucket.recall(bucket.index(NOW_MS)) {
                        converse(&bucket, &mut out, LIMIT);
                    }
                }
                bucket.start(super::super::ledger::Reason::Return);
                converse(&bucket, &mut out, LIMIT);
                assert_eq!(out, taken.load(Ordering::SeqCst), "what is out is what was used");
            });
        }
    }
}
