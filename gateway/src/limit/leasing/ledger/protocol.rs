//! The protocol of one bucket with Redis, as steps of a state machine.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    Answer, Barren, LEASE_MIN, LOW, Ledger, Next, PARK, RETRY, Reason, Settled, WAITING_MAX, Waiter, Wants, count,
};
use crate::base::clock::micros;
use crate::limit::leasing::bucket::{Bucket, Take};
use crate::limit::leasing::clock::Look;
use crate::limit::leasing::message::{Message, Reply};
use crate::limit::leasing::packed::{Packed, TOKENS_MAX};

/// Pause when an answer belongs to a window that is not ours any more or not yet.
const EDGE: Duration = Duration::from_millis(1);

impl Bucket {
    /// Marks the bucket as one that is not kept: it asks for what it needs and no more.
    pub fn single(self) -> Self {
        self.ledger().is_single = true;
        self
    }

    /// Lines up for tokens. `true`: the caller must drive the protocol.
    pub fn wait(&self, cost: u32, now_us: u64, look: Option<Look>) -> (oneshot::Receiver<Answer>, bool) {
        let (answer, heard) = oneshot::channel();
        let mut ledger = self.ledger();
        let is_that_window = look.is_some_and(|look| self.index(look.hi_ms) <= ledger.barren.window);
        let early = (is_that_window && now_us < ledger.barren.until_us).then_some(Answer::Over(ledger.barren.window));
        let full = (ledger.waiting.len() >= WAITING_MAX).then_some(Answer::CannotTell);
        if let Some(at_once) = early.or(full) {
            let _ = answer.send(at_once);
            return (heard, false);
        }
        ledger.waiting.push_back(Waiter { cost, since_us: now_us, answer });
        (heard, ledger.starts())
    }

    /// Asks for a message. `true`: the caller must drive the protocol.
    pub fn start(&self, reason: Reason) -> bool {
        let mut ledger = self.ledger();
        ledger.note(reason);
        ledger.starts()
    }

    /// Others need tokens of a window. `true`: the caller must drive the protocol.
    pub fn recall(&self, window: u32) -> bool {
        let mut ledger = self.ledger();
        let word = self.word();
        if word.window != window && !ledger.is_unsure {
            return false;
        }
        ledger.is_tight |= word.window == window;
        self.set_refill_at(0);
        if !ledger.is_running && !ledger.has_news(word) {
            return false;
        }
        ledger.note(Reason::Return);
        ledger.starts()
    }

    /// Ends the bucket, if nothing of it matters any more: who still has it in hand leases nothing
    /// ahead in it.
    pub fn retire(&self, lo_ms: u64) -> bool {
        if self.index(lo_ms) <= self.word().window {
            return false;
        }
        let mut ledger = self.ledger();
        let is_over = !ledger.is_running && ledger.waiting.is_empty() && self.index(lo_ms) > self.word().window;
        ledger.is_single |= is_over;
        is_over
    }

    /// Whether Redis should hear something of this bucket, in a window that is not over.
    pub fn has_news(&self, look: Look) -> bool {
        let ledger = self.ledger();
        self.index(look.lo_ms) <= self.word().window && ledger.has_news(self.word())
    }

    /// Whether a message of this bucket went unanswered.
    pub fn is_unsure(&self) -> bool {
        self.ledger().is_unsure
    }

    /// Takes over a limit that a newer policy names. Tokens held under the old one are returned.
    pub fn set_limit(&self, limit: u32, version: u64) -> bool {
        let mut ledger = self.ledger();
        let (asked, in_force) = self.limits();
        let is_newer = version >= ledger.version;
        ledger.version = ledger.version.max(version);
        if asked == limit || !is_newer {
            return false;
        }
        ledger.is_tight = false;
        self.set_limits(limit, limit);
        self.set_dry(0, 0);
        let by = i64::from(limit) - i64::from(in_force);
        let change = |word, remaining: i64| (Packed { tokens: 0, ..word }, (remaining + by).max(0));
        let (before, _) = self.rewrite(&ledger, change);
        ledger.granted = ledger.granted.saturating_sub(before.tokens);
        ledger.free += i64::from(before.tokens) + by;
        ledger.barren = Barren::default();
        ledger.note(Reason::Return);
        ledger.starts()
    }

    /// Takes a share of the limit without asking, in a window that nobody else has tokens of.
    pub fn take_share(&self, window: u32, share: u32) {
        let mut ledger = self.ledger();
        if self.word().window >= window || share == 0 || ledger.is_single {
            return;
        }
        ledger.outrun();
        (ledger.granted, ledger.reported, ledger.free, ledger.lease) = (share.min(TOKENS_MAX), 0, 0, 0);
        ledger.is_tight = false;
        ledger.measured.1 = 0;
        self.set_refill_at(0);
        let change = |word, _| (Packed { window, is_share: true, tokens: share, ..word }, i64::from(share));
        self.rewrite(&ledger, change);
    }

    /// Takes what was free at the last answer, if nobody else can have taken it: there has been no
    /// other gateway since an instant of our steady clock before that answer. `true`: so it is.
    pub fn take_rest(&self, window: u32, alone_since_us: u64) -> bool {
        let mut ledger = self.ledger();
        if self.word().window != window || ledger.measured.0 < alone_since_us || ledger.is_single {
            return false;
        }
        ledger.outrun();
        let room = TOKENS_MAX - self.word().tokens;
        let rest = u32::try_from(ledger.free.max(0)).unwrap_or(u32::MAX).min(room);
        if rest == 0 {
            return true;
        }
        ledger.free -= i64::from(rest);
        ledger.granted = ledger.granted.saturating_add(rest);
        let change =
            |word: Packed, remaining| (Packed { is_share: true, tokens: word.tokens + rest, ..word }, remaining);
        self.rewrite(&ledger, change);
        true
    }

    /// What to do now. Whoever was told to drive calls this until it says [`Next::Idle`]. `grants`:
    /// the server may grant tokens in the window that is now; otherwise it only hears reports.
    pub fn next(&self, look: Option<Look>, now_us: u64, grants: bool) -> Next {
        let mut ledger = self.ledger();
        ledger.waiting.retain(|waiter| !waiter.answer.is_closed());
        let Wants { mut refill, mut returns, report } = std::mem::take(&mut ledger.wants);
        if !grants {
            refill = false;
            ledger.refuse_all();
        }
        returns |= ledger.is_single && ledger.waiting.is_empty() && self.word().tokens > 0;
        if ledger.waiting.is_empty() && !(refill || returns || report) {
            ledger.is_running = false;
            return Next::Idle;
        }
        let mut word = self.word();
        let is_share = word.is_share;
        if returns || (word.is_share && report) {
            let (before, after) = self.rewrite(&ledger, |word, remaining| (Packed { tokens: 0, ..word }, remaining));
            ledger.granted = ledger.granted.saturating_sub(before.tokens);
            word = after;
        }
        let is_current = look.is_some_and(|look| self.index(look.hi_ms) <= word.window);
        // Whether the next window has begun is not known: what is leased ahead might be of the old one.
        let is_edge = !is_current && look.is_some_and(|look| self.index(look.lo_ms) <= word.window);
        let held = if is_current { word.tokens } else { 0 };
        let sum = ledger.waiting.iter().fold(0u32, |sum, waiter| sum.saturating_add(waiter.cost));
        let need = sum.saturating_sub(held).min(TOKENS_MAX);
        let first = ledger.waiting.front().map_or(1, |waiter| waiter.cost);
        let limit = self.limits().0;
        let is_plain = grants && !is_edge && !returns && !report && !ledger.is_tight && !ledger.is_single;
        let want = if is_plain { ledger.ahead(self.period, limit, word, is_current, now_us) } else { 0 };
        ledger.seq += 1;
        let used = ledger.used(word);
        Next::Send(Message {
            bucket: self.id,
            period: self.period,
            limit,
            version: ledger.version,
            ledger: ledger.number,
            seq: ledger.seq,
            window: word.window,
            held: ledger.granted,
            used,
            need,
            unit: first.saturating_sub(held).max(1),
            want,
            prior: (limit / 100).max(1),
            is_share,
        })
    }

    /// Takes the answer to the message under way. The clock has taken note of it before.
    pub fn settle(&self, sent: &Message, reply: &Reply, look: Look) -> Settled {
        let mut ledger = self.ledger();
        let before = self.word();
        if sent.seq != ledger.seq {
            // Tokens were taken without it meanwhile; what it grants is returned by the next message.
            ledger.note(Reason::Report);
            return Settled::default();
        }
        ledger.is_unsure = false;
        if reply.is_stale || reply.window < before.window {
            self.refuse_late(&mut ledger, look.now_us, Answer::CannotTell);
            return Settled { pause: Some(EDGE), ..Settled::default() };
        }
        if reply.window > before.window {
            (ledger.granted, ledger.is_tight) = (0, false);
            let window = reply.window;
            let fresh = i64::from(reply.limit);
            self.rewrite(&ledger, |word, _| (Packed { window, is_share: false, tokens: 0, ..word }, fresh));
        }
        // A request with a newer policy may have come while the message was under way.
        let (asked, in_force) = self.limits();
        let limit = if asked == sent.limit { reply.limit } else { asked };
        self.set_limits(asked, limit);
        let raised = if before.window == reply.window { i64::from(limit) - i64::from(in_force) } else { 0 };
        ledger.granted = ledger.granted.saturating_add(reply.granted);
        ledger.reported = if before.window == reply.window { sent.used } else { 0 }.saturating_add(reply.for_need);
        let held = i64::from(ledger.granted) - i64::from(ledger.reported);
        ledger.free = i64::from(limit) - i64::from(reply.used) - i64::from(reply.others) - held;
        if reply.granted > 0 {
            ledger.lease = reply.granted;
            ledger.barren = Barren::default();
        }
        ledger.is_tight |= reply.is_tight;
        let truth = limit.saturating_sub(reply.used);
        let error = (before.window == reply.window && limit > 0)
            .then(|| f64::from(self.remaining().abs_diff(truth)) / f64::from(limit));
        // Others have used what they reported and, on average, three quarters of what they hold.
        let others = i64::from(reply.used) - i64::from(ledger.reported) + (i64::from(reply.others) * 3).div_euclid(4);
        let (granted, is_over) = (ledger.granted, self.index(look.hi_ms) > reply.window);
        let (_, word) = self.rewrite(&ledger, |word, remaining| {
            let tokens = word.tokens.saturating_add(reply.granted);
            let used = i64::from(granted.saturating_sub(tokens));
            let tokens = if is_over { 0 } else { tokens };
            (Packed { is_share: false, tokens, ..word }, (remaining + raised).min(i64::from(limit) - others - used))
        });
        ledger.measured = (look.now_us, ledger.used(word));
        if is_over {
            self.refuse_late(&mut ledger, look.now_us, Answer::CannotTell);
            return Settled { pause: Some(EDGE), error, ..Settled::default() };
        }
        self.serve(&mut ledger, look);
        let low = if ledger.is_tight || ledger.lease < LEASE_MIN || ledger.is_single {
            0
        } else {
            count((ledger.rate * 0.003).ceil()).max(ledger.lease / LOW) + 1
        };
        self.set_refill_at(low);
        // An answer about another limit than the one in force refuses nobody.
        let asks = asked == sent.limit && self.refuse_rest(&mut ledger, reply, look.now_us);
        // Also when the answer came too late for those who waited: the next ones will be glad of it.
        let lacks = reply.others > 0 && reply.for_need < sent.need;
        let recall = ((asks || lacks) && ledger.may_recall(look.now_us)).then_some(word.window);
        Settled { pause: asks.then_some(RETRY), recall, error }
    }

    /// Takes note that no answer came. What Redis granted in it, if anything, is returned by the next
    /// message, and there will be one: when the server is back, when others ask, or now, when
    /// `goes_on`. `true`: the caller goes on driving.
    pub fn lost(&self, goes_on: bool) -> bool {
        let mut ledger = self.ledger();
        ledger.refuse_all();
        ledger.is_unsure = true;
        ledger.wants.report |= goes_on;
        ledger.is_running = goes_on;
        goes_on
    }

    /// When the last answer came, by our steady clock; 0 before the first.
    pub fn heard_us(&self) -> u64 {
        self.ledger().measured.0
    }

    /// Whether someone drives the protocol.
    pub fn is_running(&self) -> bool {
        self.ledger().is_running
    }

    /// Gives tokens to those who wait, first come first served.
    fn serve(&self, ledger: &mut Ledger, look: Look) {
        while let Some(waiter) = ledger.waiting.front() {
            let Take::Taken(taken) = self.take(self.limits().0, waiter.cost, look) else { break };
            let Some(waiter) = ledger.waiting.pop_front() else { break };
            if waiter.answer.send(Answer::Taken(taken)).is_err() {
                self.put_back(taken.window, waiter.cost);
            }
        }
    }

    /// Refuses those whom nobody's tokens can serve, and those who have waited long enough. `true`:
    /// the others hold what the rest waits for.
    fn refuse_rest(&self, ledger: &mut Ledger, reply: &Reply, now_us: u64) -> bool {
        let word = self.word();
        let own = word.tokens.saturating_add(reply.free);
        if reply.others == 0 {
            let first = ledger.waiting.front().map(|waiter| waiter.cost);
            if first.is_some_and(|cost| cost > own) || own == 0 {
                self.set_dry(word.window, own);
            }
        }
        let mut within = own.saturating_add(reply.others);
        let (mut keep, mut is_barren, recalled_us) = (VecDeque::new(), false, ledger.recalled_us);
        for waiter in ledger.waiting.drain(..) {
            let has_waited = now_us.saturating_sub(waiter.since_us) > micros(PARK);
            let is_late = has_waited && (reply.free == 0 || waiter.cost > own);
            is_barren |= is_late && reply.others > 0 && recalled_us > waiter.since_us;
            if waiter.cost > within || is_late {
                let _ = waiter.answer.send(Answer::Over(word.window));
            } else {
                within -= waiter.cost;
                keep.push_back(waiter);
            }
        }
        ledger.waiting = keep;
        if is_barren {
            ledger.note_barren(word.window, now_us);
        }
        !ledger.waiting.is_empty() && ledger.waiting.front().is_some_and(|waiter| waiter.cost > own)
    }

    /// Refuses those who have waited long enough at the edge of a window.
    fn refuse_late(&self, ledger: &mut Ledger, now_us: u64, answer: Answer) {
        while ledger.waiting.front().is_some_and(|w| now_us.saturating_sub(w.since_us) > micros(PARK) * 2) {
            if let Some(waiter) = ledger.waiting.pop_front() {
                let _ = waiter.answer.send(answer);
            }
        }
    }
}
