//! Metrics of the request audit.

use prometheus::{IntCounter, IntGauge, Opts};

use super::{Maker, MetricFault};

/// The request audit.
pub struct AuditMetrics {
    /// Records written.
    pub written: IntCounter,
    /// Records lost; each stands on record as a gap.
    pub dropped: IntCounter,
    /// Bytes of blocks written.
    pub bytes: IntCounter,
    /// Bytes of blocks that wait to be written.
    pub waiting: IntGauge,
}

impl AuditMetrics {
    pub(super) fn new(make: &Maker) -> Result<Self, MetricFault> {
        let records = make.counters(
            "tollgate_audit_records_total",
            "Records of requests, by what became of them: written, or dropped and on record as a gap.",
            &["result"],
        )?;
        let bytes = Opts::new("tollgate_audit_bytes_total", "Bytes of blocks of records written.");
        Ok(AuditMetrics {
            written: records.with_label_values(&["written"]),
            dropped: records.with_label_values(&["dropped"]),
            bytes: make.add(IntCounter::with_opts(bytes))?,
            waiting: make
                .gauge("tollgate_audit_waiting_bytes", "Bytes of blocks of records that wait to be written.")?,
        })
    }
}
