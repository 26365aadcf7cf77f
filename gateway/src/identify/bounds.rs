//! How much the caches hold, and for how long.

use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache as Bounded, DefaultLifecycle};

/// Bounds of the key cache.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most keys held.
    pub keys_max: usize,
    /// Most unknown digests remembered.
    pub unknown_max: usize,
    /// How long a record is fresh while changes are pushed.
    pub fresh_followed: Duration,
    /// How long a record is fresh while they are not.
    pub fresh_alone: Duration,
    /// How long "unknown" is remembered.
    pub unknown_for: Duration,
    /// How long the last known record serves while the store cannot answer.
    pub stale_for: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            keys_max: 1_000_000,
            unknown_max: 100_000,
            fresh_followed: Duration::from_secs(60),
            fresh_alone: Duration::from_secs(5),
            unknown_for: Duration::from_secs(2),
            stale_for: Duration::from_secs(600),
        }
    }
}

/// A bounded map of ids that nobody can choose, a keyed hash or one under a signature: a fast hash does.
pub(super) type Map<K, V> = Bounded<K, V, UnitWeighter, foldhash::quality::RandomState>;

/// A map of at most so many entries.
pub(super) fn map<K: Eq + std::hash::Hash, V: Clone>(most: usize) -> Map<K, V> {
    let weight = u64::try_from(most).unwrap_or(u64::MAX);
    Bounded::with(most, weight, UnitWeighter, foldhash::quality::RandomState::default(), DefaultLifecycle::default())
}
