//! What a gateway knows of a bucket beyond the tokens it holds, and the protocol with Redis.
//!
//! A pure state machine: `Bucket::next` says what to do, `Bucket::settle` takes an answer,
//! `Bucket::lost` takes none. At most one message of a bucket is under way, and `granted` only
//! rises when its answer arrives, so Redis never knows less of us than we hold.

mod protocol;

use std::collections::VecDeque;
use std::time::Duration;

use policy::window::Period;
use tokio::sync::oneshot;

use super::bucket::Taken;
use super::message::Message;
use super::packed::{Packed, TOKENS_MAX};
use crate::base::clock::micros;

/// How long a request waits for tokens that other gateways are asked to return.
pub const PARK: Duration = Duration::from_millis(25);
/// Pause between two looks for returned tokens.
pub const RETRY: Duration = Duration::from_millis(3);
/// Time between two calls for tokens of the same bucket.
const RECALL_EVERY: Duration = Duration::from_millis(10);
/// Pauses after others did not return what they hold: the first one, and the longest. Who holds
/// tokens and is gone holds them to the end of the window.
const BARREN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Requests that may wait at one bucket; more get "cannot tell".
pub const WAITING_MAX: usize = 10_000;
/// A lease is for this part of a window of one's own demand: 8 s of a minute.
const WINDOW_PARTS: f32 = 7.5;
/// A gateway asks for more when a quarter of its last lease is left.
const LOW: u32 = 4;
/// Leases smaller than this are not topped up early.
const LEASE_MIN: u32 = 4;

/// What a waiting request hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its tokens were taken.
    Taken(Taken),
    /// The limit is reached in the window with this index.
    Over(u32),
    /// Redis did not answer.
    CannotTell,
}

/// What to do for a bucket now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this and come back with the answer.
    Send(Message),
    /// Nothing; whoever has something starts again.
    Idle,
}

/// What follows from an answer, beside what `Bucket::next` will say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settled {
    /// Wait this long before the next step.
    pub pause: Option<Duration>,
    /// Ask the other gateways to return their tokens of this window.
    pub recall: Option<u32>,
    /// How far the remaining count shown was from what Redis knew, as a part of the limit.
    pub error: Option<f64>,
}

/// Why a bucket is to speak to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Tokens are running low.
    Refill,
    /// Others need the tokens held here, or we stop.
    Return,
    /// Redis may have lost what it knew, or someone wants to know how it stands.
    Report,
}

/// Reasons that have come up since the last message.
#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    refill: bool,
    returns: bool,
    report: bool,
}

/// A pause in which nobody asks for tokens that others do not return.
#[derive(Clone, Copy, Debug, Default)]
struct Barren {
    /// The window whose tokens they are; the pause does not outlast it.
    window: u32,
    until_us: u64,
    pause_us: u64,
}

#[derive(Debug)]
struct Waiter {
    cost: u32,
    since_us: u64,
    answer: oneshot::Sender<Answer>,
}

/// The slow part of a bucket.
#[derive(Debug)]
pub struct Ledger {
    number: u64,
    version: u64,
    seq: u64,
    /// Tokens granted in the window of the word.
    granted: u32,
    /// What Redis takes for used by us.
    reported: u32,
    /// Tokens that were free at the last answer; negative when a lowered limit is overdrawn.
    free: i64,
    /// Size of the last lease.
    lease: u32,
    /// Own demand, tokens a second.
    rate: f32,
    /// When and at what count of used tokens the rate was last looked at.
    measured: (u64, u32),
    recalled_us: u64,
    /// Someone drives this bucket's protocol.
    is_running: bool,
    is_tight: bool,
    /// A message went unanswered: Redis may take more, or less, for ours than we hold.
    is_unsure: bool,
    barren: Barren,
    /// This ledger never leases ahead: the bucket is not kept.
    is_single: bool,
    wants: Wants,
    waiting: VecDeque<Waiter>,
}

impl Ledger {
    pub(super) fn new(number: u64, version: u64) -> Self {
        Ledger {
            number,
            version,
            seq: 0,
            granted: 0,
            reported: 0,
            free: 0,
            lease: 0,
            rate: 0.0,
            measured: (0, 0),
            recalled_us: 0,
            is_running: false,
            is_tight: false,
            is_unsure: false,
            barren: Barren::default(),
            is_single: false,
            wants: Wants::default(),
            waiting: VecDeque::new(),
        }
    }

    fn used(&self, word: Packed) -> u32 {
        self.granted.saturating_sub(word.tokens)
    }

    fn note(&mut self, reason: Reason) {
        match reason {
            Reason::Refill => self.wants.refill = true,
            Reason::Return => self.wants.returns = true,
            Reason::Report => self.wants.report = true,
        }
    }

    /// Tokens to lease ahead: what our own demand uses up in a part of a window, within bounds.
    fn ahead(&mut self, period: Period, limit: u32, word: Packed, is_current: bool, now_us: u64) -> u32 {
        let (since_us, used_then) = self.measured;
        if is_current && now_us > since_us {
            let seconds = (now_us - since_us) as f32 / 1e6;
            let now = self.used(word).saturating_sub(used_then) as f32 / seconds.max(0.001);
            self.rate = if self.rate == 0.0 { now } else { (self.rate + now) / 2.0 };
        }
        let (least, most) = bounds(period, limit);
        let length_s = period.fixed_ms().map_or(MONTH_S, |ms| ms as f32 / 1e3);
        count((self.rate * length_s / WINDOW_PARTS).ceil()).clamp(least, most)
    }

    /// Whether the others may be asked again to return tokens.
    fn may_recall(&mut self, now_us: u64) -> bool {
        let is_due = now_us.saturating_sub(self.recalled_us) > micros(RECALL_EVERY);
        if is_due {
            self.recalled_us = now_us;
        }
        is_due
    }

    /// Whether Redis should hear something of what this gateway has.
    fn has_news(&self, word: Packed) -> bool {
        word.tokens > 0 || self.is_unsure || self.used(word) != self.reported
    }

    /// Others did not return what they are said to hold.
    fn note_barren(&mut self, window: u32, now_us: u64) {
        let before = if self.barren.window == window { self.barren.pause_us } else { 0 };
        let pause_us = (before * 2).clamp(micros(BARREN.0), micros(BARREN.1));
        self.barren = Barren { window, until_us: now_us + pause_us, pause_us };
    }

    /// An answer that is still under way comes too late: its tokens are counted as free here.
    fn outrun(&mut self) {
        self.seq += 1;
        self.is_unsure = true;
    }

    /// Nobody who waits can be told anything.
    fn refuse_all(&mut self) {
        for waiter in self.waiting.drain(..) {
            let _ = waiter.answer.send(Answer::CannotTell);
        }
    }

    fn starts(&mut self) -> bool {
        !std::mem::replace(&mut self.is_running, true)
    }
}

/// Length of a month for the reckoning of demand, seconds.
const MONTH_S: f32 = 30.0 * 86_400.0;

/// Least and most tokens to lease ahead: 1 % and 2 % of a limit; a tenth of that of a quota, whose
/// windows are long.
fn bounds(period: Period, limit: u32) -> (u32, u32) {
    let parts = if period.is_quota() { 1_000 } else { 100 };
    let least = limit.div_ceil(parts).clamp(1, TOKENS_MAX);
    (least, (limit / parts * 2 + (limit % parts * 2).div_ceil(parts)).clamp(LEASE_MIN.max(least), TOKENS_MAX))
}

/// A count out of an estimate.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32 first")]
fn count(estimate: f32) -> u32 {
    estimate.clamp(0.0, TOKENS_MAX as f32) as u32
}
