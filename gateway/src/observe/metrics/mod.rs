//! Prometheus metrics. Every label value is from a closed list or from the policy.

mod audit;
mod limits;
mod oauth;

use std::sync::OnceLock;

use policy::Environment;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use self::audit::AuditMetrics;
pub use self::limits::LimitMetrics;
pub use self::oauth::OAuthMetrics;

/// Every metric of a gateway.
pub struct Metrics {
    registry: Registry,
    /// Requests by `api`, `route`, `environment` and `outcome`.
    pub requests: IntCounterVec,
    /// Answers by `api` and status class.
    pub responses: IntCounterVec,
    /// Our part of a request: from its head to the decision.
    pub decision_seconds: Histogram,
    /// The upstream's part: from the decision to its first byte.
    pub upstream_seconds: HistogramVec,
    /// Key look-ups by `found`: cached, stored, stale, unknown, unavailable.
    pub lookups: IntCounterVec,
    /// The one of these that nearly every request counts: found in the cache.
    pub cached_lookups: IntCounter,
    /// Round trips to the store, by `kind` of store.
    pub store_round_trips: IntCounterVec,
    /// Keys in the cache.
    pub cached_keys: IntGauge,
    /// Limit buckets held.
    pub limit_buckets: IntGauge,
    /// Policy and certificate reloads by `what` and `result`.
    pub reloads: IntCounterVec,
    /// Whether the files on disk are the ones in force, by `what`.
    pub in_force: IntGaugeVec,
    /// Days until the first certificate in force expires.
    pub certificate_days: Gauge,
    /// Connections refused by `reason`.
    pub refused_connections: IntCounterVec,
    /// Connections open.
    pub open_connections: IntGauge,
    /// Credentials seen where they should not be, by `how`.
    pub exposed_credentials: IntCounterVec,
    /// Requests that only passed because authorization is shadowed, by `api` and `route`.
    pub shadowed: IntCounterVec,
    /// Lines that a bounded queue dropped, by `queue`.
    pub dropped: IntCounterVec,
    /// Tries of a request on another backend.
    pub upstream_retries: IntCounterVec,
    /// Limits shared with other gateways.
    pub limits: LimitMetrics,
    /// The authorization server.
    pub oauth: OAuthMetrics,
    /// Requests on record.
    pub audit: AuditMetrics,
}

/// A metric's registration failed: two with one name. A bug, found by any test that starts.
#[derive(Debug, thiserror::Error)]
#[error("a metric cannot be registered: {0}")]
pub struct MetricFault(#[from] prometheus::Error);

struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: Result<C, prometheus::Error>) -> Result<C, MetricFault> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricFault> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricFault> {
        self.add(IntGauge::with_opts(Opts::new(name, help)))
    }
}

/// The two histograms: our part in microseconds and up, the upstream's in half milliseconds and up.
fn durations() -> (HistogramOpts, HistogramOpts) {
    let fine = vec![5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0];
    let coarse = vec![5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let decision = HistogramOpts::new("tollgate_decision_seconds", "Time from a request's head to the decision.");
    let upstream =
        HistogramOpts::new("tollgate_upstream_seconds", "Time from the decision to the upstream's first byte.");
    (decision.buckets(fine), upstream.buckets(coarse))
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Result<Self, MetricFault> {
        let make = Maker(Registry::new());
        let (decision, upstream) = durations();
        let lookups =
            make.counters("tollgate_key_lookups_total", "Key look-ups by where the answer was found.", &["found"])?;
        Ok(Metrics {
            cached_lookups: lookups.with_label_values(&["cached"]),
            requests: make.counters(
                "tollgate_requests_total",
                "Requests by API, route, environment and outcome.",
                &["api", "route", "environment", "outcome"],
            )?,
            responses: make.counters(
                "tollgate_responses_total",
                "Answers by API and status class.",
                &["api", "class"],
            )?,
            decision_seconds: make.add(Histogram::with_opts(decision))?,
            upstream_seconds: make.add(HistogramVec::new(upstream, &["api"]))?,
            lookups,
            store_round_trips: make.counters(
                "tollgate_store_round_trips_total",
                "Questions put to the store on behalf of requests.",
                &["kind"],
            )?,
            cached_keys: make.gauge("tollgate_cached_keys", "Keys in the cache.")?,
            limit_buckets: make.gauge("tollgate_limit_buckets", "Limit buckets held.")?,
            reloads: make.counters(
                "tollgate_reloads_total",
                "Reloads of policy and certificates by result.",
                &["what", "result"],
            )?,
            in_force: make.add(IntGaugeVec::new(
                Opts::new(
                    "tollgate_in_force",
                    "1 when the files on disk are the ones in force, 0 when the last good ones are.",
                ),
                &["what"],
            ))?,
            certificate_days: make.add(Gauge::with_opts(Opts::new(
                "tollgate_certificate_days",
                "Days until the first certificate in force expires.",
            )))?,
            refused_connections: make.counters(
                "tollgate_refused_connections_total",
                "Connections closed before a request.",
                &["reason"],
            )?,
            open_connections: make.gauge("tollgate_open_connections", "Client connections open.")?,
            exposed_credentials: make.counters(
                "tollgate_exposed_credentials_total",
                "Credentials seen where they should not be.",
                &["how"],
            )?,
            shadowed: make.counters(
                "tollgate_shadowed_total",
                "Requests that passed only because authorization is shadowed.",
                &["api", "route"],
            )?,
            dropped: make.counters("tollgate_dropped_total", "Entries that a full queue dropped.", &["queue"])?,
            upstream_retries: make.counters(
                "tollgate_upstream_retries_total",
                "Requests tried again on another backend.",
                &["api"],
            )?,
            limits: LimitMetrics::new(&make)?,
            oauth: OAuthMetrics::new(&make)?,
            audit: AuditMetrics::new(&make)?,
            registry: make.0,
        })
    }

    /// How many requests were counted.
    pub fn requests_counted(&self) -> u64 {
        let families = self.requests.collect();
        let counters = families.iter().flat_map(|family| family.get_metric());
        // The library keeps counts as `f64`, exact up to 2^53.
        counters.map(|counter| counter.get_counter().get_value() as u64).sum()
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut buffer = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut buffer) {
            Ok(()) => String::from_utf8_lossy(&buffer).into_owned(),
            Err(error) => format!("# metrics cannot be written: {error}\n"),
        }
    }
}

/// What every request of one API touches, looked up once.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    ok: OnceLock<IntCounter>,
    upstream_seconds: OnceLock<Histogram>,
}

impl ApiMetrics {
    /// Counts an answer by its status.
    pub fn count_answer(&self, metrics: &Metrics, api: &str, status: u16) {
        let class = match status / 100 {
            1 => "1xx",
            2 => return self.ok.get_or_init(|| metrics.responses.with_label_values(&[api, "2xx"])).inc(),
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "none",
        };
        metrics.responses.with_label_values(&[api, class]).inc();
    }

    /// Counts the upstream's part of a request.
    pub fn observe_upstream(&self, metrics: &Metrics, api: &str, seconds: f64) {
        self.upstream_seconds.get_or_init(|| metrics.upstream_seconds.with_label_values(&[api])).observe(seconds);
    }
}

/// The counters of one route that every forwarded request touches, looked up once.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    forwarded: [OnceLock<IntCounter>; 2],
}

impl RouteMetrics {
    /// Counts a forwarded request.
    pub fn count_forwarded(&self, metrics: &Metrics, api: &str, route: &str, environment: Environment) {
        let [live, test] = &self.forwarded;
        let slot = match environment {
            Environment::Live => live,
            Environment::Test => test,
        };
        let labels = [api, route, environment.as_str(), "forwarded"];
        slot.get_or_init(|| metrics.requests.with_label_values(&labels)).inc();
    }
}
