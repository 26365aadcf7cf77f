//! Several limiters on one Redis, as several gateways have them, and requests for all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway::base::clock::{Clock as _, System};
use gateway::limit::conformance;
use gateway::limit::{Ask, Certainty, Leasing, Limiter, Verdict};
use gateway::observe::{LimitMetrics, Metrics};
use gateway::store::RedisSettings;
use policy::limit::Plan;
use policy::route::Outage;
use policy::{Key, Organization};
use tokio::runtime::Runtime;

use crate::bucket::Dice;

/// What became of the requests: admitted by window, and the rest.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub admitted: BTreeMap<u32, u32>,
    pub over: u32,
    pub cannot_tell: u32,
    pub fallback: u32,
    /// Longest time that one request was decided in.
    pub longest: Duration,
}

pub struct Fleet {
    pub runtime: Runtime,
    pub limiters: Vec<Arc<Leasing>>,
    pub metrics: Vec<LimitMetrics>,
    pub rate: String,
    pub outage: Outage,
}

/// A caller of its own for each name.
pub fn caller(name: &str) -> (Key, Organization) {
    let key = Key { id: name.into(), ..conformance::key(policy::limit::stable_number(&["fleet", name])) };
    (key, conformance::organization(1))
}

impl Fleet {
    /// With a timeout so long that a busy machine is not taken for an outage.
    pub fn start(url: &str, gateways: usize, rate: &str) -> Self {
        Self::start_with(url, gateways, rate, Duration::from_secs(1))
    }

    pub fn start_with(url: &str, gateways: usize, rate: &str, timeout: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let metrics: Vec<LimitMetrics> = (0..gateways).map(|_| Metrics::new().unwrap().limits).collect();
        let settings = RedisSettings { timeout, ..RedisSettings::default() };
        let limiters: Vec<Arc<Leasing>> = runtime.block_on(async {
            let start = |metrics: &LimitMetrics| {
                let started = Leasing::start(url, &settings, 10_000, Arc::new(System), metrics.clone()).unwrap();
                started.set_others(gateways - 1);
                started
            };
            let started: Vec<_> = metrics.iter().map(start).collect();
            for limiter in &started {
                limiter.ready().await;
            }
            started
        });
        Fleet { runtime, limiters, metrics, rate: rate.to_owned(), outage: Outage::Closed }
    }

    /// Asks one limiter once.
    pub async fn ask(limiter: &Leasing, rate: &str, caller: &(Key, Organization), outage: Outage, seen: &Mutex<Seen>) {
        let plan = Plan::new("a", "p", [rate.parse().unwrap(); 4], Vec::new());
        let charges = plan.charges(&[], 1, &caller.0, &caller.1);
        let ask = Ask { charges: &charges, version: 1, outage, now: System.moment() };
        let verdict = match limiter.admit_now(&ask) {
            Some(verdict) => Ok(verdict),
            None => limiter.admit(&ask).await,
        };
        let took = System.since(ask.now);
        let mut seen = seen.lock().unwrap();
        seen.longest = seen.longest.max(took);
        match verdict {
            Ok(Verdict::Admitted { standing, certainty }) => {
                *seen.admitted.entry(standing.window.index).or_default() += 1;
                seen.fallback += u32::from(certainty != Certainty::Exact);
            }
            Ok(Verdict::Over { .. }) => seen.over += 1,
            Err(_) => seen.cannot_tell += 1,
        }
    }

    /// Asks at a rate (requests a second in all, in random order) while `meanwhile` runs.
    pub fn drive(&self, per_second: f64, name: &str, meanwhile: impl FnOnce()) -> Seen {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let load = {
            let (seen, stop, limiters) = (seen.clone(), stop.clone(), self.limiters.clone());
            let (rate, caller, outage) = (self.rate.clone(), Arc::new(caller(name)), self.outage);
            self.runtime.spawn(async move {
                let mut dice = Dice::new(7);
                let started = Instant::now();
                let mut due = 0.0;
                let mut tasks = tokio::task::JoinSet::new();
                while !stop.load(Ordering::SeqCst) {
                    due += dice.exponential(1.0 / per_second);
                    let wait = Duration::from_secs_f64(due).saturating_sub(started.elapsed());
                    if wait > Duration::from_millis(1) {
                        tokio::time::sleep(wait).await;
                    }
                    let limiter = limiters[dice.below(limiters.len() as u64) as usize].clone();
                    let (rate, caller, seen) = (rate.clone(), caller.clone(), seen.clone());
                    tasks.spawn(async move { Self::ask(&limiter, &rate, &caller, outage, &seen).await });
                }
                while tasks.join_next().await.is_some() {}
            })
        };
        meanwhile();
        stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(load).unwrap();
        let seen = seen.lock().unwrap().clone();
        println!("{name}: {seen:?}");
        seen
    }

    /// Sums one metric over the fleet.
    pub fn sum(&self, of: impl Fn(&LimitMetrics) -> u64) -> u64 {
        self.metrics.iter().map(of).sum()
    }
}

impl Seen {
    /// Windows in which more was admitted than the limit.
    pub fn over_admitted(&self, limit: u32) -> Vec<(u32, u32)> {
        self.admitted.iter().filter(|(_, n)| **n > limit).map(|(w, n)| (*w, *n)).collect()
    }

    /// Windows that were used up to the last token.
    pub fn full(&self, limit: u32) -> usize {
        self.admitted.values().filter(|n| **n == limit).count()
    }
}
