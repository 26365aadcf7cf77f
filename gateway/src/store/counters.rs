//! Counters of quotas whose window is a day or longer. They are saved, so that neither a restart nor an
//! upgrade resets a quota.

use async_trait::async_trait;
use policy::window::Period;

use super::StoreError;

/// A counter of a quota, saved so that a restart does not reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    /// The bucket.
    pub bucket: u128,
    /// Length of its window.
    pub period: Period,
    /// Its state in one word, see [`policy::window::Tally`].
    pub word: u64,
}

/// Saved counters.
#[async_trait]
pub trait Counters: Send + Sync {
    /// Adds to counters of long windows, so that neither a restart nor an upgrade resets a quota.
    /// `word` holds the window and what to add; the answer holds the window and the new total. An
    /// older window than the stored one changes nothing.
    async fn add_counters(&self, added: &[Counter]) -> Result<Vec<Counter>, StoreError>;
    /// The counters saved.
    async fn counters(&self) -> Result<Vec<Counter>, StoreError>;
    /// Drops counters whose window has ended.
    async fn drop_counters(&self, ended: &[Counter]) -> Result<(), StoreError>;
}

/// A saved counter; `None` when it is not one of a period that outlives restarts.
pub(super) fn counter(bucket: u128, period: &str, word: u64) -> Option<Counter> {
    let period = [Period::Day, Period::Month].into_iter().find(|p| p.short() == period)?;
    Some(Counter { bucket, period, word })
}
