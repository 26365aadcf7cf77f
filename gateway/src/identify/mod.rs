//! From a credential to an identity: the key cache in front of the store.
//!
//! What always holds:
//! - a key that is in the cache and fresh is answered without waiting, allocating or locking out
//!   other cores;
//! - many requests for one unknown key ask the store once;
//! - a change of a key or organization removes it here before the gateway acknowledges the change,
//!   also when a look-up that started earlier is still under way;
//! - a store that cannot answer never makes a known key unknown: within the stated bound the last
//!   known record serves, after it the answer is "cannot know" (503), never "no" (401).

mod cache;
mod failures;
mod feed;

use std::sync::Arc;

use policy::credential::Secret;
use policy::{KeyFault, Organization};

use self::cache::Cache;
pub use self::cache::{Bounds, KnownKey, KnownOrganization};
pub use self::failures::FailureBudget;
pub use self::feed::follow;
use crate::clock::Clock;
use crate::digest::{Digest, Peppers};
use crate::store::{Store, StoreError};

/// Why a credential gave no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// There is no such key.
    Unknown,
    /// It exists and does not work.
    Dead(KeyFault),
    /// The store cannot answer, and nothing recent is known.
    CannotKnow,
}

/// How an identity was found; counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the cache.
    Cached,
    /// In the store.
    Stored,
    /// In the cache, older than allowed, because the store cannot answer.
    Stale,
}

/// A working key with its organization, as both are at this moment.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The key.
    pub key: Arc<KnownKey>,
    /// Its organization.
    pub organization: Arc<Organization>,
    /// How it was found.
    pub found: Found,
}

/// Finds keys. One per gateway.
pub struct Identities {
    cache: Cache,
    store: Arc<dyn Store>,
    peppers: Peppers,
    clock: Arc<dyn Clock>,
}

impl Identities {
    /// A cache with these bounds in front of a store.
    pub fn new(store: Arc<dyn Store>, peppers: Peppers, bounds: Bounds, clock: Arc<dyn Clock>) -> Self {
        Identities { cache: Cache::new(bounds), store, peppers, clock }
    }

    /// The bounds in force.
    pub fn bounds(&self) -> Bounds {
        self.cache.bounds()
    }

    /// How many keys are cached.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Answers from the cache alone; `None` when the store must be asked.
    pub fn identify_cached(&self, secret: Secret<'_>, now_ms: u64) -> Option<Result<Identified, Unidentified>> {
        let digest = self.peppers.current.digest(secret);
        let answer = self.cache.fresh(&digest, now_ms);
        if answer.is_some() || self.peppers.previous.is_none() {
            return answer.and_then(|found| self.judge(found, now_ms, Found::Cached));
        }
        let previous = self.peppers.previous.as_ref()?.digest(secret);
        self.cache.fresh(&previous, now_ms).and_then(|found| self.judge(found, now_ms, Found::Cached))
    }

    /// Answers from the cache or the store.
    pub async fn identify(&self, secret: Secret<'_>) -> Result<Identified, Unidentified> {
        if let Some(answer) = self.identify_cached(secret, self.clock.now_ms()) {
            return answer;
        }
        let (current, previous) = self.peppers.digests(secret);
        match (self.look_up(current).await, previous) {
            (Err(Unidentified::Unknown), Some(previous)) => self.look_up(previous).await,
            (answer, _) => answer,
        }
    }

    async fn look_up(&self, digest: Digest) -> Result<Identified, Unidentified> {
        match self.cache.look_up(digest, &*self.store, &*self.clock).await {
            Ok(found) => {
                let now_ms = self.clock.now_ms();
                self.judge(found, now_ms, Found::Stored).unwrap_or(Err(Unidentified::CannotKnow))
            }
            Err(error) => {
                let now_ms = self.clock.now_ms();
                match self.cache.stale(&digest, now_ms) {
                    Some(found) => self.judge(found, now_ms, Found::Stale).unwrap_or(Err(Unidentified::CannotKnow)),
                    None => {
                        log::warn!(target: "tollgate::store", "a key could not be looked up: {error}");
                        Err(Unidentified::CannotKnow)
                    }
                }
            }
        }
    }

    /// Turns what is cached into an answer; `None` when the organization is not at hand any more.
    fn judge(&self, found: Option<Arc<KnownKey>>, now_ms: u64, how: Found) -> Option<Result<Identified, Unidentified>> {
        let Some(key) = found else { return Some(Err(Unidentified::Unknown)) };
        if let Err(fault) = key.facts.live_at(now_ms) {
            return Some(Err(Unidentified::Dead(fault)));
        }
        let organization = key.organization.current()?;
        Some(Ok(Identified { key, organization, found: how }))
    }

    /// The key behind a credential whatever its state, without a look-up that would wait: for
    /// saying whose credential was exposed.
    pub fn peek(&self, secret: Secret<'_>) -> Option<Arc<KnownKey>> {
        self.cache.known(&self.peppers.current.digest(secret))
    }

    /// Forgets what changed. After it returns, no answer comes from before the change.
    pub async fn forget(&self, changes: &[crate::store::Change]) -> Result<(), StoreError> {
        self.cache.forget(changes, &*self.store).await
    }

    /// Says whether changes arrive; while they do not, records count as fresh for a shorter time.
    pub fn set_following(&self, is_following: bool) {
        self.cache.set_following(is_following);
    }

    /// Puts a key into the cache as if it had been looked up: for benches and warm starts.
    pub fn warm(&self, digest: Digest, facts: policy::Key, organization: Arc<KnownOrganization>) {
        self.cache.insert(digest, facts, organization, self.clock.now_ms());
    }
}
