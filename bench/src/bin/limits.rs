//! What shared limits cost: `limits URL [SECONDS [outage]]`, with the URL of a Redis that holds
//! nothing else.
//!
//! Prints CPU for each admitted request at a hot key beside the in-process limiter, calls to Redis
//! for each request at 1 to 16 gateways, what 100,000 keys do at the edge of a window, and what a
//! million keys weigh.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot be set up should stop")]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::base::clock::{Clock as _, System};
use gateway::limit::conformance;
use gateway::limit::{Ask, Embedded, Leasing, Limiter, Verdict};
use gateway::observe::{LimitMetrics, Metrics};
use gateway::store::RedisSettings;
use policy::limit::Plan;
use policy::route::Outage;
use policy::{Key, Organization};

fn key(n: u64) -> Key {
    conformance::key(policy::limit::stable_number(&["bench", &n.to_string()]))
}

fn organization() -> Organization {
    conformance::organization(1)
}

fn plan(rate: &str) -> Plan {
    Plan::new("a", "p", [rate.parse().unwrap(); 4], Vec::new())
}

async fn admit(limiter: &dyn Limiter, plan: &Plan, key: &Key, organization: &Organization) -> Option<bool> {
    let charges = plan.charges(&[], 1, key, organization);
    let ask = Ask { charges: &charges, version: 1, outage: Outage::Closed, now: System.moment() };
    let verdict = match limiter.admit_now(&ask) {
        Some(verdict) => verdict,
        None => limiter.admit(&ask).await.ok()?,
    };
    Some(matches!(verdict, Verdict::Admitted { .. }))
}

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap() * 4_096
}

struct Redis {
    connection: redis::Connection,
}

impl Redis {
    fn info(&mut self, section: &str, field: &str) -> String {
        let text: String = redis::cmd("INFO").arg(section).query(&mut self.connection).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        line.unwrap_or_default()
    }

    /// Calls of the script so far and microseconds for each.
    fn script(&mut self) -> (u64, f64) {
        let text = self.info("commandstats", "cmdstat_evalsha");
        let field = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        (
            field("calls").and_then(|n| n.parse().ok()).unwrap_or(0),
            field("usec_per_call").and_then(|n| n.parse().ok()).unwrap_or(0.0),
        )
    }

    fn memory(&mut self) -> u64 {
        self.info("memory", "used_memory").parse().unwrap()
    }

    fn reset(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).unwrap();
        redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut self.connection).unwrap();
    }
}

async fn start(url: &str, gateways: usize) -> Vec<(Arc<Leasing>, LimitMetrics)> {
    let settings = RedisSettings { timeout: Duration::from_secs(5), ..RedisSettings::default() };
    let mut list = Vec::new();
    for _ in 0..gateways {
        let metrics = Metrics::new().unwrap().limits;
        let limiter = Leasing::start(url, &settings, 4_000_000, Arc::new(System), metrics.clone()).unwrap();
        limiter.set_others(gateways - 1);
        list.push((limiter, metrics));
    }
    for (limiter, _) in &list {
        limiter.ready().await;
    }
    list
}

/// CPU for each admitted request of one hot key, in rounds that alternate between both limiters.
async fn hot_key(url: &str) {
    const REQUESTS: u32 = 2_000_000;
    let leasing = start(url, 1).await.remove(0);
    let embedded: Arc<dyn Limiter> = Arc::new(Embedded::new(1_000));
    let shared: Arc<dyn Limiter> = leasing.0.clone();
    let (key, organization, plan) = (key(0), organization(), plan("1000000000/h"));
    let mut ratios = Vec::new();
    for round in 0..7 {
        let mut spent = [0.0; 2];
        for (slot, limiter) in spent.iter_mut().zip([&embedded, &shared]) {
            let before = cpu();
            for _ in 0..REQUESTS {
                assert_eq!(admit(&**limiter, &plan, &key, &organization).await, Some(true));
            }
            *slot = (cpu() - before).as_secs_f64() * 1e9 / f64::from(REQUESTS);
        }
        if round > 0 {
            ratios.push((spent[1] - spent[0], spent[0], spent[1]));
        }
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (difference, embedded, shared) = ratios[ratios.len() / 2];
    let calls = leasing.1.calls.get();
    println!(
        "hot key: {embedded:.0} ns CPU in process, {shared:.0} ns with Redis, {difference:+.0} ns; {calls} calls for 14,000,000 requests"
    );
}

/// Calls for each request at 70 % of 1,000/min, for 1 to 16 gateways, in real time.
async fn steady(url: &str, seconds: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, gateways) in [1usize, 2, 4, 16].into_iter().enumerate() {
        let fleet = start(url, gateways).await;
        tasks.spawn(async move {
            let (key, organization, plan) = (key(1_000 + n as u64), organization(), plan("1000/min"));
            let (mut requests, mut admitted, started) = (0u64, 0u64, Instant::now());
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(60.0 / 700.0));
            while started.elapsed() < Duration::from_secs(seconds) {
                ticks.tick().await;
                // Spread without order, the same in each run.
                let at = (requests.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % fleet.len();
                admitted += u64::from(admit(&*fleet[at].0, &plan, &key, &organization).await == Some(true));
                requests += 1;
            }
            let sum = |of: fn(&LimitMetrics) -> u64| fleet.iter().map(|(_, m)| of(m)).sum::<u64>();
            let (calls, waits) = (sum(|m| m.calls.get() + m.recalls.get()), sum(|m| m.waits.get()));
            (gateways, requests, admitted, calls, waits)
        });
    }
    let mut lines = tasks.join_all().await;
    lines.sort_unstable();
    for (gateways, requests, admitted, calls, waits) in lines {
        let each = |n: u64| n as f64 / requests as f64;
        println!(
            "steady 700 of 1,000/min over {seconds} s, {gateways:2} gateways: {admitted} of {requests} admitted, {:.3} calls and {:.1} % waiting for each request",
            each(calls),
            each(waits) * 100.0
        );
    }
}

/// All keys ask once in the same instant, right after the edge of their window.
async fn edge(url: &str, redis: &mut Redis) {
    const KEYS: u64 = 100_000;
    redis.reset();
    let fleet = start(url, 4).await;
    let (organization, plan) = (Arc::new(organization()), Arc::new(plan("100/day")));
    let keys: Arc<Vec<Key>> = Arc::new((0..KEYS).map(|n| key(10_000_000 + n)).collect());
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64u64 {
        let (limiter, plan, organization, keys) =
            (fleet[task as usize % 4].0.clone(), plan.clone(), organization.clone(), keys.clone());
        tasks.spawn(async move {
            let mut waits = Vec::new();
            let mine = keys.iter().skip(task as usize).step_by(64);
            for chunk in mine.collect::<Vec<_>>().chunks(64) {
                let all = chunk.iter().map(|key| async {
                    let asked = Instant::now();
                    assert!(admit(&*limiter, &plan, key, &organization).await.is_some(), "Redis was too slow");
                    asked.elapsed()
                });
                waits.extend(futures_util::future::join_all(all).await);
            }
            waits
        });
    }
    let mut waits: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    let (calls, cost) = redis.script();
    println!(
        "edge: {KEYS} keys new in a window through 4 gateways in {:.2} s; waited p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; {calls} calls of {cost:.1} us in Redis",
        started.elapsed().as_secs_f64(),
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3,
        at(1.0).as_secs_f64() * 1e3,
    );
}

/// A million keys, each used once, at one gateway.
async fn million(url: &str, redis: &mut Redis) {
    const KEYS: u64 = 1_000_000;
    redis.reset();
    let limiter = start(url, 1).await.remove(0).0;
    let (organization, plan) = (organization(), plan("1000/day"));
    let (ours, theirs, started) = (resident(), redis.memory(), Instant::now());
    for from in (0..KEYS).step_by(512) {
        let keys: Vec<Key> = (from..KEYS.min(from + 512)).map(|n| key(100_000_000 + n)).collect();
        let all = keys.iter().map(|key| admit(&*limiter, &plan, key, &organization));
        assert!(futures_util::future::join_all(all).await.iter().all(|admitted| *admitted == Some(true)));
    }
    let took = started.elapsed();
    let (ours, theirs) = (resident() - ours, redis.memory() - theirs);
    println!(
        "a million keys in {:.1} s: {} bytes each in the gateway, {} bytes each in Redis; {:.1} us for each call in Redis",
        took.as_secs_f64(),
        ours / KEYS,
        theirs / KEYS,
        redis.script().1
    );
}

/// Ten times a limit of 1,000/min through four gateways for each outage rule, while somebody takes
/// Redis away and brings it back.
async fn outage(url: &str, seconds: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, outage) in [Outage::Closed, Outage::LocalShare, Outage::Open].into_iter().enumerate() {
        let settings = RedisSettings::default();
        let mut fleet = Vec::new();
        for _ in 0..4 {
            let metrics = Metrics::new().unwrap().limits;
            let limiter = Leasing::start(url, &settings, 1_000, Arc::new(System), metrics).unwrap();
            limiter.set_others(3);
            fleet.push(limiter);
        }
        for limiter in &fleet {
            limiter.ready().await;
        }
        tasks.spawn(async move {
            let (organization, plan) = (organization(), plan("1000/min"));
            // Windows that begin now, so that the first one is whole.
            let now = System.now_ms() / 1_000 % 60;
            let key = (0u64..)
                .map(|i| key(n as u64 * 1_000_000 + i))
                .find(|key| plan.charges(&[], 1, key, &organization).first.bucket % 60 == u128::from((now + 2) % 60));
            let key = key.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut seen = std::collections::BTreeMap::<u32, (u32, u32, u32)>::new();
            let (mut asked, mut longest, started) = (0usize, Duration::ZERO, Instant::now());
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(60.0 / 10_000.0));
            while started.elapsed() < Duration::from_secs(seconds) {
                ticks.tick().await;
                asked += 1;
                let charges = plan.charges(&[], 1, &key, &organization);
                let now = System.moment();
                let ask = Ask { charges: &charges, version: 1, outage, now };
                let limiter = &fleet[asked % 4];
                let verdict = match limiter.admit_now(&ask) {
                    Some(verdict) => Ok(verdict),
                    None => limiter.admit(&ask).await,
                };
                longest = longest.max(System.since(now));
                let bucket = &charges.first;
                let window = bucket.period.index(now.wall_ms, bucket.period.phase_ms(bucket.bucket));
                let (admitted, over, cannot_tell) = seen.entry(window).or_default();
                match verdict {
                    Ok(Verdict::Admitted { .. }) => *admitted += 1,
                    Ok(Verdict::Over { .. }) => *over += 1,
                    Err(_) => *cannot_tell += 1,
                }
            }
            println!(
                "outage {outage:?}: (admitted, 429, 503) per window {:?}; longest decision {longest:?}",
                seen.values()
            );
        });
    }
    tasks.join_all().await;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1:6379/0".to_owned());
    let seconds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(120);
    let mut redis = Redis { connection: redis::Client::open(&*url).unwrap().get_connection().unwrap() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    redis.reset();
    if std::env::args().nth(3).as_deref() == Some("outage") {
        return runtime.block_on(outage(&url, seconds));
    }
    runtime.block_on(async {
        hot_key(&url).await;
        edge(&url, &mut redis).await;
        million(&url, &mut redis).await;
        redis.reset();
        steady(&url, seconds).await;
    });
}
