//! Limits that several gateways keep together, exact, without asking Redis at each request.
//!
//! A gateway leases a few tokens of a bucket and spends them by itself; near the end of a window the
//! leases shrink to one, and what others hold unused is asked back. The sum that all gateways hold or
//! have used never exceeds the limit, whatever is lost, late, doubled, or restarted in between:
//! `lease.lua` and `ledger.rs` say how. What happens while Redis is away is the route's outage rule.

mod admit;
mod bucket;
mod clock;
mod leads;
mod ledger;
mod message;
mod packed;
mod server;
mod servers;
mod shard_error;
mod tasks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use policy::limit::{CHARGES_MAX, Charge};
use tokio::sync::mpsc;

use self::server::State;
use self::servers::Servers;
use super::embedded::AsItIs;
use super::{Ask, CannotTell, Certainty, Limiter, Standing, Verdict};
use crate::base::clock::{Clock, Moment, micros};
use crate::observe::LimitMetrics;
use crate::store::{Counter, RedisSettings, StoreError, topology};

pub use self::bucket::{Bucket, Take, Taken};
pub use self::clock::{Look, RedisClock};
pub use self::ledger::{Answer, Next, Reason};
pub use self::message::{Call, Message, Reply, SCRIPT, bucket_key};

/// An instant of our steady clock that does not come.
const NEVER: u64 = u64::MAX;
/// How long no other gateway must be seen before this one takes itself for the only one: longer
/// than the time between two signs of life.
const ALONE_AFTER: Duration = Duration::from_secs(4);
/// Recalls and other news that may wait to be worked on.
const EVENTS_MAX: usize = 10_000;

type Buckets = papaya::HashMap<u128, Arc<Bucket>, AsItIs>;

/// The limiter that gateways on one Redis share.
pub struct Leasing {
    buckets: Buckets,
    held: AtomicUsize,
    buckets_max: usize,
    servers: Arc<Servers>,
    common: Arc<server::Common>,
    ledgers: AtomicU64,
    /// When buckets were last found to be lost, microseconds.
    forgotten_us: AtomicU64,
    /// How many other gateways are known to share the Redis.
    others: AtomicU32,
    /// Since when fewer are seen than are reckoned with; [`NEVER`] while that is not so.
    fewer_since_us: AtomicU64,
    /// Since when there is surely none, microseconds; [`NEVER`] while there are some or nobody has counted.
    alone_since_us: AtomicU64,
    runtime: tokio::runtime::Handle,
    metrics: LimitMetrics,
    myself: std::sync::Weak<Leasing>,
}

impl Leasing {
    /// Connects to the Redis that a store URL names. Must be called inside the runtime that is to
    /// keep the connections.
    pub fn start(
        url: &str,
        settings: &RedisSettings,
        buckets_max: usize,
        clock: Arc<dyn Clock>,
        metrics: LimitMetrics,
    ) -> Result<Arc<Self>, StoreError> {
        let process = crate::base::random::base62(11).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let (events, news) = mpsc::channel(EVENTS_MAX);
        let topology = topology::topology(url, settings)?;
        let common = Arc::new(server::Common {
            learn: server::learn_time(&topology, settings.timeout, settings.connect_timeout),
            topology: tokio::sync::Notify::new(),
            clock,
            redis_clock: RedisClock::default(),
            timeout: settings.timeout,
            connect_timeout: settings.connect_timeout,
            process,
            digest: redis::Script::new(SCRIPT).get_hash().to_owned(),
            events,
        });
        let servers = Arc::new(Servers::start(topology, common.clone()));
        let leasing = Arc::new_cyclic(|myself| Leasing {
            buckets: Buckets::default(),
            held: AtomicUsize::new(0),
            buckets_max,
            servers,
            common,
            ledgers: AtomicU64::new(1),
            forgotten_us: AtomicU64::new(0),
            others: AtomicU32::new(0),
            fewer_since_us: AtomicU64::new(NEVER),
            alone_since_us: AtomicU64::new(NEVER),
            runtime: tokio::runtime::Handle::current(),
            metrics,
            myself: myself.clone(),
        });
        leasing.run(news);
        Ok(leasing)
    }

    /// Waits until every server answers, also one that may not grant anything yet.
    pub async fn is_connected_within(&self, patience: Duration) -> bool {
        let answers =
            |states: &[State], _| !states.is_empty() && !states.iter().any(|state| matches!(state, State::Away { .. }));
        tokio::time::timeout(patience, self.until(answers)).await.is_ok()
    }

    fn look_now(&self) -> Option<Look> {
        self.common.redis_clock.look(self.common.clock.steady_us())
    }

    /// Now by the clock that counts the windows; by the wall clock before any server has answered.
    fn now_ms(&self, wall_ms: u64) -> u64 {
        self.look_now().map_or(wall_ms, |look| look.lo_ms)
    }

    fn look(&self, now: Moment) -> Option<Look> {
        self.common.redis_clock.look(now.steady_us)
    }

    /// How many gateways there are, and since when this is the only one.
    fn company(&self) -> (u32, u64) {
        (self.others.load(Ordering::Relaxed).saturating_add(1), self.alone_since_us.load(Ordering::Relaxed))
    }

    /// Whether a bucket's server can grant tokens. What it may have forgotten, a gateway that is
    /// alone tells it with each message: there is nobody else to wait for.
    fn state(&self, bucket: &Bucket, now_us: u64) -> State {
        match self.servers.state(bucket.id, now_us) {
            State::Learning { since_us } if self.company().1 <= since_us => State::Up,
            state @ (State::Up | State::Learning { .. } | State::Away { .. }) => state,
        }
    }

    fn find(&self, bucket: u128) -> Option<Arc<Bucket>> {
        self.buckets.pin().get(&bucket).cloned()
    }

    /// The bucket of a charge. One that cannot be kept, because all are in use, leases nothing ahead.
    fn find_or_make(&self, charge: &Charge<'_>, version: u64) -> Arc<Bucket> {
        if let Some(found) = self.find(charge.bucket) {
            return found;
        }
        let ledger = self.ledgers.fetch_add(1, Ordering::Relaxed);
        let made = Bucket::new(charge.bucket, charge.period, charge.count, version, ledger);
        if self.held.load(Ordering::Relaxed) >= self.buckets_max {
            return Arc::new(made.single());
        }
        let buckets = self.buckets.pin();
        match buckets.try_insert(charge.bucket, Arc::new(made)) {
            Ok(inserted) => {
                self.held.fetch_add(1, Ordering::Relaxed);
                inserted.clone()
            }
            Err(there) => there.current.clone(),
        }
    }

    /// The same, and the limit of the charge takes effect in it if it is a newer one.
    fn bucket_of(&self, charge: &Charge<'_>, version: u64) -> Arc<Bucket> {
        let bucket = self.find_or_make(charge, version);
        if bucket.set_limit(charge.count, version) {
            self.drive(bucket.clone());
        }
        bucket
    }

    /// The bucket of a charge that nobody vouches for: the one that is held, if it is of that kind, or
    /// one that is not kept.
    fn bucket_for_onlooker(&self, charge: &Charge<'_>) -> Arc<Bucket> {
        let held = self.find(charge.bucket).filter(|bucket| bucket.period == charge.period);
        held.unwrap_or_else(|| {
            let ledger = self.ledgers.fetch_add(1, Ordering::Relaxed);
            Arc::new(Bucket::new(charge.bucket, charge.period, charge.count, 0, ledger).single())
        })
    }

    /// Lets a task drive the protocol of a bucket.
    fn drive(&self, bucket: Arc<Bucket>) {
        if let Some(myself) = self.myself.upgrade() {
            self.runtime.spawn(async move { myself.converse(&bucket).await });
        }
    }

    fn refill(&self, bucket: &Arc<Bucket>, taken: Taken) {
        if taken.is_low && bucket.claim_refill() && bucket.start(Reason::Refill) {
            self.drive(bucket.clone());
        }
    }

    /// Where a bucket stands after tokens were taken from it.
    fn standing(bucket: &Bucket, taken: Taken, now_ms: u64) -> Standing {
        let (_, limit) = bucket.limits();
        Standing { limit, remaining: taken.remaining.min(limit), window: bucket.window(taken.window), now_ms }
    }

    /// Where a bucket stands, as far as this gateway knows; a charge of `short_of` tokens did not fit.
    fn known_standing(bucket: &Bucket, charge: &Charge<'_>, now_ms: u64, short_of: Option<u32>) -> Standing {
        let (word, window) = (bucket.word(), bucket.index(now_ms));
        let (limit, remaining) = match word.window >= window {
            true => (bucket.limits().1, bucket.remaining()),
            false => (charge.count, charge.count),
        };
        let most = short_of.map_or(limit, |cost| cost.saturating_sub(1)).min(limit);
        Standing { limit, remaining: remaining.min(most), window: bucket.window(word.window.max(window)), now_ms }
    }
}

#[async_trait]
impl Limiter for Leasing {
    fn admit_now(&self, ask: &Ask<'_>) -> Option<Verdict> {
        let look = self.look(ask.now)?;
        let buckets = self.buckets.pin();
        let mut taken: [Option<(&Arc<Bucket>, Taken)>; CHARGES_MAX] = [None; CHARGES_MAX];
        let mut stopped = None;
        for ((index, charge), slot) in ask.charges.iter().enumerate().zip(&mut taken) {
            let Some(bucket) = buckets.get(&charge.bucket) else {
                stopped = Some(None);
                break;
            };
            match bucket.take(charge.count, charge.cost, look) {
                Take::Taken(tokens) => *slot = Some((bucket, tokens)),
                Take::Missing => stopped = Some(None),
                Take::Dry => {
                    let standing = Self::known_standing(bucket, charge, look.lo_ms, Some(charge.cost));
                    stopped = Some(Some(Verdict::Over { index, standing }));
                }
            }
            if stopped.is_some() {
                break;
            }
        }
        let all = taken.iter().flatten();
        if let Some(stopped) = stopped {
            for (charge, (bucket, tokens)) in ask.charges.iter().zip(all) {
                bucket.put_back(tokens.window, charge.cost);
            }
            return stopped;
        }
        let mut certainty = Certainty::Exact;
        for (bucket, tokens) in all.clone() {
            self.refill(bucket, *tokens);
            if tokens.is_share {
                certainty = Certainty::LocalShare;
            }
        }
        certainty.count(&self.metrics);
        let (bucket, tokens) = all.into_iter().next()?;
        Some(Verdict::Admitted { standing: Self::standing(bucket, *tokens, look.lo_ms), certainty })
    }

    async fn admit(&self, ask: &Ask<'_>) -> Result<Verdict, CannotTell> {
        self.admit_waiting(ask).await
    }

    fn peek(&self, charge: &Charge<'_>, now: Moment) -> Standing {
        let now_ms = self.look(now).map_or(now.wall_ms, |look| look.lo_ms);
        match self.find(charge.bucket) {
            Some(bucket) => Self::known_standing(&bucket, charge, now_ms, None),
            None => {
                let window = charge.period.window(now_ms, charge.period.phase_ms(charge.bucket));
                Standing { limit: charge.count, remaining: charge.count, window, now_ms }
            }
        }
    }

    async fn inspect(&self, charges: &[Charge<'_>], version: Option<u64>, now: Moment) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(charges.len());
        for charge in charges {
            let bucket = match version {
                Some(version) => self.bucket_of(charge, version),
                None => self.bucket_for_onlooker(charge),
            };
            self.ask_after(&bucket).await;
            standings.push(Self::known_standing(&bucket, charge, self.now_ms(now.wall_ms), None));
        }
        standings
    }

    fn unsaved(&self) -> Vec<Counter> {
        // Redis keeps quotas with every other bucket.
        Vec::new()
    }

    fn merge(&self, _added: &[Counter], _totals: &[Counter], _now_ms: u64) {}

    fn buckets(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn set_others(&self, known: usize) {
        let known = u32::try_from(known).unwrap_or(u32::MAX - 1);
        let now_us = self.common.clock.steady_us();
        if known >= self.others.load(Ordering::Relaxed) {
            self.others.store(known, Ordering::Relaxed);
            self.fewer_since_us.store(NEVER, Ordering::Relaxed);
        } else {
            // Redis may have lost the list: who is there says so before this is believed.
            let since_us = self.fewer_since_us.load(Ordering::Relaxed).min(now_us);
            self.fewer_since_us.store(since_us, Ordering::Relaxed);
            if now_us - since_us >= micros(ALONE_AFTER) {
                self.others.store(known, Ordering::Relaxed);
                self.fewer_since_us.store(NEVER, Ordering::Relaxed);
            }
        }
        if known > 0 {
            self.alone_since_us.store(NEVER, Ordering::Relaxed);
        } else if self.alone_since_us.load(Ordering::Relaxed) == NEVER {
            self.alone_since_us.store(now_us + micros(ALONE_AFTER), Ordering::Relaxed);
        }
    }

    async fn ready(&self) {
        self.until_learned().await;
    }

    async fn leave(&self) {
        self.return_all().await;
    }

    fn refresh_metrics(&self) {
        self.refresh_gauges();
    }
}
