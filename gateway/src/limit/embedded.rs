//! The limiter inside one process: exact, one atomic word per bucket.
//!
//! Several charges are taken together: first all buckets are looked at, then tokens are taken in
//! order, and if one bucket was emptied in between, what was taken is put back. So no request is
//! ever admitted over a limit, and one limit's refusal does not use up another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use policy::limit::{CHARGES_MAX, Charge};
use policy::window::{Exhausted, Period, Tally};

use super::{Ask, CannotTell, Certainty, Limiter, Standing, Verdict};
use crate::base::clock::Moment;
use crate::store::Counter;

/// Parts of the bucket map, so that cores seldom wait for one another.
const SHARDS: usize = 64;
/// A shard is swept when it has grown by this many buckets since the last time.
const SWEEP_GROWTH: usize = 4_096;

#[derive(Debug)]
struct Bucket {
    word: AtomicU64,
    /// What of a quota has been saved: the window, and the total at that moment.
    saved: AtomicU64,
    period: Period,
}

impl Bucket {
    fn tally(&self) -> Tally {
        Tally::from_word(self.word.load(Ordering::Acquire))
    }

    fn charge(&self, window: u32, charge: &Charge<'_>) -> Result<Tally, Exhausted> {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let next = Tally::from_word(seen).charge(window, charge.count, charge.cost)?;
            match self.word.compare_exchange_weak(seen, next.word(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(next),
                Err(now) => seen = now,
            }
        }
    }

    fn refund(&self, window: u32, cost: u32) {
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            Some(Tally::from_word(word).refund(window, cost).word())
        });
    }
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u128, Arc<Bucket>, AsItIs>,
    sweep_at: usize,
}

/// Bucket numbers are hashes already; hashing them again would only cost time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AsItIs;

impl std::hash::BuildHasher for AsItIs {
    type Hasher = Low64;
    fn build_hasher(&self) -> Low64 {
        Low64(0)
    }
}

/// Takes the low 64 bits of a number that is a hash.
#[derive(Clone, Copy, Debug)]
pub struct Low64(u64);

impl std::hash::Hasher for Low64 {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = u64::try_from(n & u128::from(u64::MAX)).unwrap_or(0);
    }
}

/// The in-process limiter.
#[derive(Debug)]
pub struct Embedded {
    shards: Vec<RwLock<Shard>>,
    held: AtomicUsize,
    buckets_max: usize,
}

impl Embedded {
    /// A limiter that holds at most so many buckets. When all of them are in use, a new caller
    /// gets "cannot tell" rather than a bucket for nothing.
    pub fn new(buckets_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::new(Shard { sweep_at: SWEEP_GROWTH, ..Shard::default() })).collect();
        Embedded { shards, held: AtomicUsize::new(0), buckets_max }
    }

    fn shard(&self, bucket: u128) -> Option<&RwLock<Shard>> {
        let high = usize::try_from(bucket >> 96).unwrap_or(0);
        self.shards.get(high % SHARDS)
    }

    fn find(&self, bucket: u128) -> Option<Arc<Bucket>> {
        let shard = self.shard(bucket)?.read().unwrap_or_else(PoisonError::into_inner);
        shard.buckets.get(&bucket).cloned()
    }

    fn find_or_make(&self, bucket: u128, period: Period, now_ms: u64) -> Option<Arc<Bucket>> {
        if let Some(found) = self.find(bucket) {
            return Some(found);
        }
        let mut shard = self.shard(bucket)?.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.held.load(Ordering::Relaxed) >= self.buckets_max;
        if shard.buckets.len() >= shard.sweep_at || is_full {
            let before = shard.buckets.len();
            shard.buckets.retain(|id, b| {
                let phase = b.period.phase_ms(*id);
                b.period.window_at(b.tally().window, phase).end_ms > now_ms || Arc::strong_count(b) > 1
            });
            shard.sweep_at = shard.buckets.len() + SWEEP_GROWTH;
            self.held.fetch_sub(before - shard.buckets.len(), Ordering::Relaxed);
        }
        if let Some(found) = shard.buckets.get(&bucket) {
            return Some(found.clone());
        }
        if self.held.load(Ordering::Relaxed) >= self.buckets_max {
            return None;
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Bucket { word: AtomicU64::new(0), saved: AtomicU64::new(0), period });
        shard.buckets.insert(bucket, made.clone());
        Some(made)
    }

    fn standing(charge: &Charge<'_>, tally: Tally, window: u32, now_ms: u64) -> Standing {
        let phase = charge.period.phase_ms(charge.bucket);
        Standing {
            limit: charge.count,
            remaining: tally.remaining(window, charge.count),
            window: charge.period.window_at(window.max(tally.window), phase),
            now_ms,
        }
    }

    fn window(charge: &Charge<'_>, now_ms: u64) -> u32 {
        charge.period.window(now_ms, charge.period.phase_ms(charge.bucket)).index
    }
}

#[async_trait]
impl Limiter for Embedded {
    fn admit_now(&self, ask: &Ask<'_>) -> Option<Verdict> {
        let (charges, now_ms) = (ask.charges, ask.now.wall_ms);
        let mut buckets: [Option<Arc<Bucket>>; CHARGES_MAX] = Default::default();
        for (index, (charge, slot)) in charges.iter().zip(&mut buckets).enumerate() {
            let bucket = self.find_or_make(charge.bucket, charge.period, now_ms)?;
            let (window, tally) = (Self::window(charge, now_ms), bucket.tally());
            if tally.charge(window, charge.count, charge.cost).is_err() {
                return Some(Verdict::Over { index, standing: Self::standing(charge, tally, window, now_ms) });
            }
            *slot = Some(bucket);
        }
        let mut first = None;
        for (index, (charge, bucket)) in charges.iter().zip(buckets.iter().flatten()).enumerate() {
            let window = Self::window(charge, now_ms);
            match bucket.charge(window, charge) {
                Ok(tally) => {
                    first.get_or_insert(Self::standing(charge, tally, window, now_ms));
                }
                Err(_) => {
                    for (taken, bucket) in charges.iter().zip(buckets.iter().flatten()).take(index) {
                        bucket.refund(Self::window(taken, now_ms), taken.cost);
                    }
                    return Some(Verdict::Over {
                        index,
                        standing: Self::standing(charge, bucket.tally(), window, now_ms),
                    });
                }
            }
        }
        first.map(|standing| Verdict::Admitted { standing, certainty: Certainty::Exact })
    }

    async fn admit(&self, ask: &Ask<'_>) -> Result<Verdict, CannotTell> {
        self.admit_now(ask).ok_or(CannotTell)
    }

    async fn inspect(&self, charges: &[Charge<'_>], _version: Option<u64>, now: Moment) -> Vec<Standing> {
        charges.iter().map(|charge| self.peek(charge, now)).collect()
    }

    /// One process is alone with its counters.
    fn set_others(&self, _known: usize) {}

    async fn ready(&self) {}

    async fn leave(&self) {}

    fn refresh_metrics(&self) {}

    fn peek(&self, charge: &Charge<'_>, now: Moment) -> Standing {
        let now_ms = now.wall_ms;
        let window = Self::window(charge, now_ms);
        let tally = self.find(charge.bucket).map_or(Tally::default(), |bucket| bucket.tally());
        Self::standing(charge, tally, window, now_ms)
    }

    fn unsaved(&self) -> Vec<Counter> {
        let mut unsaved = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            for (bucket, held) in shard.buckets.iter().filter(|(_, held)| held.period.is_quota()) {
                let (now, saved) = (held.tally(), Tally::from_word(held.saved.load(Ordering::Acquire)));
                let before = if saved.window == now.window { saved.used } else { 0 };
                let used = now.used.saturating_sub(before);
                if used > 0 {
                    let word = Tally { used, ..now }.word();
                    unsaved.push(Counter { bucket: *bucket, period: held.period, word });
                }
            }
        }
        unsaved
    }

    fn merge(&self, added: &[Counter], totals: &[Counter], now_ms: u64) {
        let by_bucket: HashMap<u128, Tally, AsItIs> =
            added.iter().map(|c| (c.bucket, Tally::from_word(c.word))).collect();
        for total in totals {
            let tally = Tally::from_word(total.word);
            if total.period.window(now_ms, 0).index > tally.window {
                continue;
            }
            let Some(held) = self.find_or_make(total.bucket, total.period, now_ms) else { continue };
            let saved = Tally::from_word(held.saved.load(Ordering::Acquire));
            let known = |t: Tally| if t.window == tally.window { t.used } else { 0 };
            let ours = known(saved) + by_bucket.get(&total.bucket).copied().map_or(0, known);
            let others = tally.used.saturating_sub(ours);
            let _ = held.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let now = Tally::from_word(word);
                let used = if now.window == tally.window { now.used } else { 0 };
                let merged = Tally { window: tally.window, used: used.saturating_add(others) };
                (now.window <= tally.window).then_some(merged.word())
            });
            held.saved.store(total.word, Ordering::Release);
        }
    }

    fn buckets(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use policy::limit::{Charges, Limit, Per, Plan};
    use policy::units::Rate;
    use policy::{Key, Organization};

    use super::*;
    use crate::limit::conformance;

    fn caller(limit: Option<&str>) -> (Key, Organization) {
        let key = Key { limit_override: limit.map(|l| l.parse().unwrap()), ..conformance::key(77) };
        (key, conformance::organization(99))
    }

    fn plan(per_key: &str, organization: &str) -> Plan {
        let rate = |s: &str| s.parse::<Rate>().unwrap();
        Plan::new("a", "p", [rate(per_key); 4], vec![Limit::new("a", "org", rate(organization), Per::Organization)])
    }

    const NOW: u64 = 1_790_000_000_000;

    fn take(limiter: &Embedded, charges: &Charges<'_>, now_ms: u64) -> Option<Verdict> {
        let now = Moment::at_ms(now_ms);
        limiter.admit_now(&Ask { charges, version: 0, outage: policy::route::Outage::Closed, now })
    }

    fn admitted(verdict: Option<Verdict>) -> Option<u32> {
        match verdict {
            Some(Verdict::Admitted { standing, .. }) => Some(standing.remaining),
            Some(Verdict::Over { .. }) | None => None,
        }
    }

    #[test]
    fn exactly_the_limit_is_admitted_and_remaining_counts_down() {
        let (plan, (key, organization), limiter) = (plan("3/min", "100/day"), caller(None), Embedded::new(100));
        let charges = plan.charges(&[], 1, &key, &organization);
        let counted: Vec<_> = (0..4).map(|_| admitted(take(&limiter, &charges, NOW))).collect();
        assert_eq!(counted, [Some(2), Some(1), Some(0), None]);
        assert_eq!(admitted(take(&limiter, &charges, NOW + 60_000)), Some(2));
        assert_eq!(admitted(take(&limiter, &charges, NOW)), Some(1), "a clock that goes back opens nothing");
    }

    #[test]
    fn a_refusal_by_one_limit_takes_nothing_from_another() {
        let (plan, (key, organization), limiter) = (plan("10/min", "2/day"), caller(None), Embedded::new(100));
        let charges = plan.charges(&[], 1, &key, &organization);
        for _ in 0..9 {
            let _ = take(&limiter, &charges, NOW);
        }
        assert_eq!(limiter.peek(&charges.first, Moment::at_ms(NOW)).remaining, 8);
    }

    #[test]
    fn a_keys_own_limit_wins_over_its_plan() {
        let (plan, (key, organization), limiter) = (plan("3/min", "100/day"), caller(Some("5/min")), Embedded::new(9));
        let charges = plan.charges(&[], 1, &key, &organization);
        assert_eq!(admitted(take(&limiter, &charges, NOW)), Some(4));
    }

    #[test]
    fn a_request_that_costs_more_than_is_left_takes_nothing() {
        let (plan, (key, organization), limiter) = (plan("5/min", "100/day"), caller(None), Embedded::new(9));
        let costly = plan.charges(&[], 3, &key, &organization);
        assert_eq!(admitted(take(&limiter, &costly, NOW)), Some(2));
        assert_eq!(admitted(take(&limiter, &costly, NOW)), None);
        assert_eq!(limiter.peek(&costly.first, Moment::at_ms(NOW)).remaining, 2);
    }

    #[test]
    fn many_threads_together_never_pass_the_limit() {
        let (plan, (key, organization)) = (plan("1000/min", "700/day"), caller(None));
        let limiter = Embedded::new(100);
        let count = || {
            let charges = plan.charges(&[], 1, &key, &organization);
            (0..500).filter(|_| admitted(take(&limiter, &charges, NOW)).is_some()).count()
        };
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(total, 700);
    }

    #[test]
    fn when_all_buckets_are_in_use_the_limiter_says_that_it_cannot_tell() {
        let limiter = Embedded::new(2);
        let plan = plan("3/min", "100/day");
        let (key, organization) = caller(None);
        assert!(take(&limiter, &plan.charges(&[], 1, &key, &organization), NOW).is_some());
        let stranger = Key { subject: 78, ..key };
        assert_eq!(take(&limiter, &plan.charges(&[], 1, &stranger, &organization), NOW), None);
        let later = NOW + 86_400_000;
        assert!(take(&limiter, &plan.charges(&[], 1, &stranger, &organization), later).is_some());
    }

    #[test]
    fn quotas_survive_a_restart_and_count_what_others_took() {
        let (plan, (key, organization)) = (plan("10/min", "6/day"), caller(None));
        let charges = plan.charges(&[], 1, &key, &organization);
        let (old, new) = (Embedded::new(100), Embedded::new(100));
        let take =
            |limiter: &Embedded, n: u32| (0..n).filter(|_| admitted(take(limiter, &charges, NOW)).is_some()).count();
        assert_eq!(take(&old, 3), 3);
        let saved = old.unsaved();
        old.merge(&saved, &saved, NOW);
        assert!(old.unsaved().is_empty(), "what is saved is not saved again");
        // The new process starts while the old one drains; each takes one more.
        new.merge(&[], &saved, NOW);
        assert_eq!((take(&old, 1), take(&new, 1)), (1, 1));
        let (from_old, from_new) = (old.unsaved(), new.unsaved());
        let total = |used: u32| {
            let counter = saved[0];
            vec![Counter { word: Tally { used, ..Tally::from_word(counter.word) }.word(), ..counter }]
        };
        old.merge(&from_old, &total(4), NOW);
        new.merge(&from_new, &total(5), NOW);
        assert_eq!(take(&new, 5), 1, "3 + 1 + 1 of 6 are gone");
    }
}
