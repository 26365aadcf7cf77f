//! Metrics of the authorization server.

use prometheus::{IntCounter, IntCounterVec};

use super::{Maker, MetricFault};

/// What the authorization server counts.
pub struct OAuthMetrics {
    /// Answers by `endpoint` and `outcome`.
    pub answers: IntCounterVec,
    /// Access tokens issued.
    pub tokens: IntCounter,
    /// Grants that ended early, by `cause`.
    pub grants_ended: IntCounterVec,
    /// Logins by `result`.
    pub logins: IntCounterVec,
    /// Ended records that were dropped.
    pub swept: IntCounter,
    /// Live exchanges that were ended because their credential was, by `protocol`.
    pub ended_streams: IntCounterVec,
}

impl OAuthMetrics {
    pub(super) fn new(make: &Maker) -> Result<Self, MetricFault> {
        let single = |name: &str, help: &str| make.add(IntCounter::new(name, help));
        Ok(OAuthMetrics {
            answers: make.counters(
                "tollgate_oauth_answers_total",
                "Answers of the authorization server by endpoint and outcome.",
                &["endpoint", "outcome"],
            )?,
            tokens: single("tollgate_oauth_tokens_total", "Access tokens issued.")?,
            grants_ended: make.counters(
                "tollgate_oauth_grants_ended_total",
                "Grants that ended early, by cause.",
                &["cause"],
            )?,
            logins: make.counters("tollgate_oauth_logins_total", "Logins by result.", &["result"])?,
            swept: single("tollgate_oauth_swept_total", "Records dropped after their end.")?,
            ended_streams: make.counters(
                "tollgate_ended_streams_total",
                "Live exchanges ended because their credential was.",
                &["protocol"],
            )?,
        })
    }
}
