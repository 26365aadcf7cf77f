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

mod bounds;
mod cache;
mod failures;
mod feed;
mod foreign;
mod grants;
pub mod live;
mod tokens;
mod verified;

use std::sync::Arc;

use policy::credential::Secret;
use policy::{KeyFault, Organization};

pub use self::bounds::Bounds;
use self::cache::Cache;
pub use self::cache::{Known, KnownKey, KnownOrganization};
pub use self::failures::FailureBudget;
pub use self::feed::follow;
pub(crate) use self::foreign::is_signed_by;
pub use self::grants::{GrantFacts, KnownGrant};
pub use self::tokens::{KnownToken, Tokens, subject};
use crate::base::clock::Clock;
use crate::base::digest::{Digest, Peppers};
use crate::base::http_client::HttpClient;
use crate::identify::live::Live;
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

/// A credential that works.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A key.
    Key(Arc<KnownKey>),
    /// A token, and the grant it stands on, unless another issuer issued it.
    Token(Arc<KnownToken>, Option<Arc<KnownGrant>>),
}

/// A working credential with its organization, as both are at this moment.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The credential.
    pub caller: Caller,
    /// Its organization.
    pub organization: Arc<Organization>,
    /// How it was found.
    pub found: Found,
}

/// Finds keys, and verifies tokens. One per gateway.
pub struct Identities {
    cache: Cache<policy::Key>,
    /// Verifies tokens.
    pub tokens: Tokens,
    /// Exchanges that outlast their request.
    pub live: Arc<Live>,
    store: Arc<dyn Store>,
    peppers: Peppers,
    clock: Arc<dyn Clock>,
}

impl Identities {
    /// A cache with these bounds in front of a store.
    pub fn new(
        store: Arc<dyn Store>,
        peppers: Peppers,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        http_client: Arc<HttpClient>,
    ) -> Self {
        let tokens = Tokens::new(store.clone(), peppers.clone(), bounds, clock.clone(), http_client);
        Identities { cache: Cache::new(bounds), tokens, live: Arc::default(), store, peppers, clock }
    }

    /// How many keys are cached.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Answers from the cache alone; `None` when the store must be asked. While peppers rotate, a
    /// key counts as unknown only when it is unknown under both.
    pub fn identify_cached(&self, secret: Secret<'_>, now_ms: u64) -> Option<Result<Identified, Unidentified>> {
        let fresh = |digest: &Digest| self.cache.fresh(digest, now_ms);
        let found = match fresh(&self.peppers.current.digest(secret)) {
            Some(Some(key)) => Some(key),
            answer => match &self.peppers.previous {
                None => answer?,
                Some(previous) => match (answer, fresh(&previous.digest(secret))) {
                    (_, Some(Some(key))) => Some(key),
                    (Some(None), Some(None)) => None,
                    (_, _) => return None,
                },
            },
        };
        self.judge(found, now_ms, Found::Cached)
    }

    /// Whether the key is in the cache, fresh or not.
    pub fn is_known(&self, secret: Secret<'_>) -> bool {
        self.peek(secret).is_some()
    }

    /// Answers from the cache or the store.
    pub async fn identify(&self, secret: Secret<'_>) -> Result<Identified, Unidentified> {
        if let Some(answer) = self.identify_cached(secret, self.clock.now_ms()) {
            return answer;
        }
        let (current, previous) = self.peppers.digests(secret);
        match (self.look_up(current).await, previous) {
            (Err(why @ (Unidentified::Unknown | Unidentified::CannotKnow)), Some(previous)) => {
                match (why, self.look_up(previous).await) {
                    // Not found under one and not known under the other is not known.
                    (Unidentified::CannotKnow, Err(Unidentified::Unknown)) => Err(Unidentified::CannotKnow),
                    (_, answer) => answer,
                }
            }
            (answer, _) => answer,
        }
    }

    async fn look_up(&self, digest: Digest) -> Result<Identified, Unidentified> {
        let (found, how) = self.cache.find(digest, (&*self.store, &*self.clock), "key").await?;
        let now_ms = self.clock.now_ms();
        self.judge(found, now_ms, how).unwrap_or(Err(Unidentified::CannotKnow))
    }

    /// Turns what is cached into an answer; `None` when the organization is not at hand any more.
    fn judge(&self, found: Option<Arc<KnownKey>>, now_ms: u64, how: Found) -> Option<Result<Identified, Unidentified>> {
        let Some(key) = found else { return Some(Err(Unidentified::Unknown)) };
        if let Err(fault) = key.facts.live_at(now_ms) {
            return Some(Err(Unidentified::Dead(fault)));
        }
        let organization = key.organization.current()?;
        Some(Ok(Identified { caller: Caller::Key(key), organization, found: how }))
    }

    /// The key behind a credential whatever its state, without a look-up that would wait: for
    /// saying whose credential was exposed.
    pub fn peek(&self, secret: Secret<'_>) -> Option<Arc<KnownKey>> {
        let (current, previous) = self.peppers.digests(secret);
        self.cache.known(&current).or_else(|| self.cache.known(&previous?))
    }

    /// Forgets what changed. After it returns, no answer comes from before the change.
    pub async fn forget(&self, changes: &[crate::store::Change]) -> Result<(), StoreError> {
        self.cache.forget(changes, &*self.store).await?;
        self.tokens.forget(changes).await?;
        for (number, caller) in self.live.touched(changes) {
            self.recheck(number, &caller).await?;
        }
        Ok(())
    }

    /// Looks at all live exchanges again, whatever was announced.
    pub async fn recheck_all(&self) -> Result<(), StoreError> {
        for (number, caller) in self.live.all() {
            self.recheck(number, &caller).await?;
        }
        Ok(())
    }

    /// Looks at a live exchange again: it ends with its credential.
    pub async fn recheck(&self, number: u64, caller: &Caller) -> Result<(), StoreError> {
        match self.ends_ms(caller).await {
            Ok(Some(ends_ms)) => self.live.set_end(number, ends_ms),
            Ok(None) => self.live.end(number),
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // What is no record opens nothing.
            Err(_) => self.live.end(number),
        }
        Ok(())
    }

    /// The hashes under which a key may be stored.
    pub fn digests(&self, secret: Secret<'_>) -> (Digest, Option<Digest>) {
        self.peppers.digests(secret)
    }

    /// When a credential that worked ends, Unix milliseconds, whatever the caches say; `None` when it
    /// has ended.
    async fn ends_ms(&self, caller: &Caller) -> Result<Option<u64>, StoreError> {
        match caller {
            Caller::Key(key) => match self.store.key(&key.facts.id).await {
                Ok(record) => {
                    let facts = record.facts()?;
                    let lives = facts.live_at(self.clock.now_ms()).is_ok();
                    Ok(lives.then_some(facts.not_after_ms.unwrap_or(u64::MAX)))
                }
                Err(StoreError::NotFound(_)) => Ok(None),
                Err(other) => Err(other),
            },
            Caller::Token(token, Some(_)) => Ok(self.tokens.is_alive(token).await?.then_some(token.ends_ms)),
            Caller::Token(token, None) => Ok(Some(token.ends_ms)),
        }
    }

    /// Says whether changes arrive; while they do not, records count as fresh for a shorter time.
    pub fn set_following(&self, is_following: bool) {
        self.cache.set_following(is_following);
        self.tokens.set_following(is_following);
    }

    /// Puts a key into the cache as if it had been looked up: for benches and warm starts.
    pub fn warm(&self, digest: Digest, facts: policy::Key, organization: Arc<KnownOrganization>) {
        self.cache.insert(digest, facts, organization, self.clock.now_ms());
    }
}
