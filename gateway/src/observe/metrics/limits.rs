//! Metrics of the limiter that gateways share.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Maker, MetricFault};

/// Metrics of limits. All stay at zero where limits are kept in process.
#[derive(Clone, Debug)]
pub struct LimitMetrics {
    /// Messages to Redis.
    pub calls: IntCounter,
    /// Tokens granted by Redis.
    pub granted: IntCounter,
    /// Times that tokens were returned because others needed them.
    pub returns: IntCounter,
    /// Times that others were asked to return tokens.
    pub recalls: IntCounter,
    /// Messages that a newer one had overtaken.
    pub stale: IntCounter,
    /// Requests that waited for Redis.
    pub waits: IntCounter,
    /// How long they waited.
    pub wait_seconds: Histogram,
    /// Requests refused because Redis could not tell and their route does not let them pass.
    pub cannot_tell: IntCounter,
    /// Times that a server was found to have forgotten what it knew.
    pub learns: IntCounter,
    /// Servers by `state`: up, learning, away.
    pub servers: IntGaugeVec,
    /// Whether this is surely the only gateway on its Redis.
    pub alone: IntGauge,
    /// Tokens held here and not used.
    pub held_tokens: IntGauge,
    /// Distance of the remaining count shown from the true one, as a part of the limit; sampled.
    pub remaining_error: Histogram,
    /// Admissions by the local share, while the server of a limit was away.
    pub local_share: IntCounter,
    /// Admissions without a count, while it was away.
    pub open: IntCounter,
}

impl LimitMetrics {
    pub(super) fn new(make: &Maker) -> Result<Self, MetricFault> {
        let counter = |name: &str, help: &str| make.add(IntCounter::new(name, help));
        let waits = vec![2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1];
        let errors = vec![0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
        let fallback: IntCounterVec = make.counters(
            "tollgate_limit_fallback_admits_total",
            "Requests admitted while the server of a limit was away, by outage rule.",
            &["mode"],
        )?;
        Ok(LimitMetrics {
            calls: counter("tollgate_limit_calls_total", "Messages about limits to Redis.")?,
            granted: counter("tollgate_limit_granted_tokens_total", "Tokens that Redis granted.")?,
            returns: counter("tollgate_limit_returns_total", "Returns of tokens that other gateways needed.")?,
            recalls: counter("tollgate_limit_recalls_total", "Calls to other gateways to return tokens.")?,
            stale: counter("tollgate_limit_stale_total", "Messages about limits that came too late.")?,
            waits: counter("tollgate_limit_waits_total", "Requests that waited for Redis to grant tokens.")?,
            wait_seconds: make.add(Histogram::with_opts(
                HistogramOpts::new("tollgate_limit_wait_seconds", "How long requests waited for tokens.")
                    .buckets(waits),
            ))?,
            cannot_tell: counter(
                "tollgate_limit_cannot_tell_total",
                "Requests refused because the server of a limit was away.",
            )?,
            learns: counter("tollgate_limit_learns_total", "Times that a server may have forgotten its buckets.")?,
            servers: make.add(IntGaugeVec::new(
                Opts::new("tollgate_limit_servers", "Servers of limits by state: up, learning, away."),
                &["state"],
            ))?,
            alone: make.gauge("tollgate_limit_alone", "1 when no other gateway shares the limits.")?,
            held_tokens: make.gauge("tollgate_limit_held_tokens", "Tokens leased and not used yet.")?,
            remaining_error: make.add(Histogram::with_opts(
                HistogramOpts::new(
                    "tollgate_limit_remaining_error",
                    "Distance of the remaining count shown from the true one, as a part of the limit.",
                )
                .buckets(errors),
            ))?,
            local_share: fallback.with_label_values(&["local_share"]),
            open: fallback.with_label_values(&["open"]),
        })
    }
}
