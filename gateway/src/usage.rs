//! Writes, in the background, when keys were last used and where they were exposed.
//!
//! A request puts at most one entry a minute and key into a bounded queue, and never waits. A task writes what
//! has gathered every few seconds. A full queue drops entries and counts them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Clock;
use crate::limit::Limiter;
use crate::observe::Metrics;
use crate::store::{Store, Usage};

/// Entries that may wait.
const QUEUE_MAX: usize = 50_000;
/// Counters saved in one transaction.
const COUNTERS_AT_ONCE: usize = 1_000;
/// Time between two writes.
const EVERY: Duration = Duration::from_secs(2);

/// Gathers what was seen of keys.
pub struct UsageLog {
    waiting: Mutex<Vec<Usage>>,
    metrics: Arc<Metrics>,
}

impl UsageLog {
    /// An empty log.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        UsageLog { waiting: Mutex::default(), metrics }
    }

    /// Adds an entry, if there is room.
    pub fn push(&self, usage: Usage) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < QUEUE_MAX {
            waiting.push(usage);
        } else {
            self.metrics.dropped.with_label_values(&["usage"]).inc();
        }
    }

    fn take(&self) -> Vec<Usage> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes what has gathered, and the counters of quotas.
    pub async fn flush(&self, store: &dyn Store, limiter: &dyn Limiter, now_ms: u64) {
        let usage = self.take();
        if !usage.is_empty()
            && let Err(error) = store.record_usage(&usage).await
        {
            tracing::warn!(target: "tollgate::store", "last use of keys could not be written: {error}");
            for entry in usage {
                self.push(entry);
            }
        }
        let unsaved = limiter.unsaved();
        for chunk in unsaved.chunks(COUNTERS_AT_ONCE) {
            match store.add_counters(chunk).await {
                Ok(totals) => limiter.merge(chunk, &totals, now_ms),
                Err(error) => {
                    tracing::warn!(target: "tollgate::store", "quota counters could not be saved: {error}");
                    return;
                }
            }
        }
    }
}

/// Writes behind until it is dropped.
pub async fn write_behind(
    usage: Arc<UsageLog>,
    store: Arc<dyn Store>,
    limiter: Arc<dyn Limiter>,
    clock: Arc<dyn Clock>,
) {
    loop {
        tokio::time::sleep(EVERY).await;
        usage.flush(&*store, &*limiter, clock.now_ms()).await;
    }
}
