//! The cache itself: bounded maps, one look-up at a time per key, and the rule of freshness.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use policy::Organization;
use quick_cache::sync::Cache as Map;
use tokio::sync::OnceCell;

use crate::clock::Clock;
use crate::digest::Digest;
use crate::store::{Change, Store, StoreError};

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

/// Most tries of a look-up that changes keep overtaking.
const LOOK_UPS_MAX: u32 = 4;

/// A key in the cache.
#[derive(Debug)]
pub struct KnownKey {
    /// What a decision needs.
    pub facts: policy::Key,
    /// Its organization.
    pub organization: Arc<KnownOrganization>,
    fetched_ms: u64,
    marked_ms: AtomicU64,
}

impl KnownKey {
    /// Whether a use should be written behind: at most one a minute per key and gateway.
    pub fn should_mark(&self, now_ms: u64) -> bool {
        let last = self.marked_ms.load(Ordering::Relaxed);
        now_ms.saturating_sub(last) >= 60_000
            && self.marked_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// An organization that all its cached keys share. Empty after a change that could not be read yet.
#[derive(Debug, Default)]
pub struct KnownOrganization {
    now: ArcSwapOption<Organization>,
}

impl KnownOrganization {
    /// An organization as it is now.
    pub fn new(organization: Organization) -> Self {
        KnownOrganization { now: ArcSwapOption::from_pointee(organization) }
    }

    /// As it is at this moment.
    pub fn current(&self) -> Option<Arc<Organization>> {
        self.now.load_full()
    }
}

type Found = Option<Arc<KnownKey>>;
type Flight = Arc<OnceCell<Landing>>;
type Organizations = HashMap<String, Weak<KnownOrganization>>;

/// How a look-up ended.
#[derive(Clone, Debug)]
enum Landing {
    Answer(Result<Found, StoreError>),
    /// Something changed while it was under way; it must be done again.
    Overtaken,
}

pub(super) struct Cache {
    bounds: Bounds,
    known: Map<Digest, Arc<KnownKey>>,
    unknown: Map<Digest, u64>,
    organizations: Mutex<Organizations>,
    flights: Mutex<HashMap<Digest, Flight>>,
    /// Counts changes; a look-up that a change overtook is done again.
    epoch: AtomicU64,
    is_following: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Cache {
    pub(super) fn new(bounds: Bounds) -> Self {
        Cache {
            bounds,
            known: Map::new(bounds.keys_max),
            unknown: Map::new(bounds.unknown_max),
            organizations: Mutex::default(),
            flights: Mutex::default(),
            epoch: AtomicU64::new(0),
            is_following: AtomicBool::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn set_following(&self, is_following: bool) {
        self.is_following.store(is_following, Ordering::Release);
    }

    /// What is known and fresh: a key, certainty that there is none, or nothing.
    pub(super) fn fresh(&self, digest: &Digest, now_ms: u64) -> Option<Found> {
        if let Some(key) = self.known.get(digest) {
            let followed = self.is_following.load(Ordering::Acquire);
            let bound = if followed { self.bounds.fresh_followed } else { self.bounds.fresh_alone };
            return (now_ms.saturating_sub(key.fetched_ms) < ms(bound)).then_some(Some(key));
        }
        let since = self.unknown.get(digest)?;
        (now_ms.saturating_sub(since) < ms(self.bounds.unknown_for)).then_some(None)
    }

    /// The last known record, for as long as an outage may last.
    pub(super) fn stale(&self, digest: &Digest, now_ms: u64) -> Option<Found> {
        let key = self.known.get(digest)?;
        (now_ms.saturating_sub(key.fetched_ms) < ms(self.bounds.stale_for)).then_some(Some(key))
    }

    pub(super) fn known(&self, digest: &Digest) -> Found {
        self.known.get(digest)
    }

    pub(super) fn insert(
        &self,
        digest: Digest,
        facts: policy::Key,
        organization: Arc<KnownOrganization>,
        now_ms: u64,
    ) -> Arc<KnownKey> {
        let key = Arc::new(KnownKey { facts, organization, fetched_ms: now_ms, marked_ms: AtomicU64::new(0) });
        self.known.insert(digest, key.clone());
        key
    }

    /// Asks the store, once for all who ask at the same time.
    pub(super) async fn look_up(
        &self,
        digest: Digest,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Found, StoreError> {
        for _ in 0..LOOK_UPS_MAX {
            let flight = lock(&self.flights).entry(digest).or_default().clone();
            let landed = flight.get_or_init(|| self.load(&digest, store, clock)).await.clone();
            let mut flights = lock(&self.flights);
            if flights.get(&digest).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
                flights.remove(&digest);
            }
            drop(flights);
            match landed {
                Landing::Answer(answer) => return answer,
                Landing::Overtaken => {}
            }
        }
        Err(StoreError::Unavailable("records change faster than they can be read".to_owned()))
    }

    /// Reads key and organization, and publishes them unless a change came in between: what was
    /// read may then be from before it.
    async fn load(&self, digest: &Digest, store: &dyn Store, clock: &dyn Clock) -> Landing {
        let epoch = self.epoch.load(Ordering::Acquire);
        let read = read(digest, store).await;
        let mut organizations = lock(&self.organizations);
        if self.epoch.load(Ordering::Acquire) != epoch {
            return Landing::Overtaken;
        }
        Landing::Answer(read.map(|found| match found {
            None => {
                self.known.remove(digest);
                self.unknown.insert(*digest, clock.now_ms());
                None
            }
            Some((key, organization)) => {
                self.unknown.remove(digest);
                let shared = self.share(&mut organizations, organization);
                Some(self.insert(*digest, key, shared, clock.now_ms()))
            }
        }))
    }

    /// The organization that all its cached keys share, brought up to date.
    fn share(&self, organizations: &mut Organizations, facts: Organization) -> Arc<KnownOrganization> {
        let id = facts.id.to_string();
        let shared = organizations.get(&id).and_then(Weak::upgrade).unwrap_or_default();
        if shared.now.load().as_ref().is_none_or(|now| **now != facts) {
            shared.now.store(Some(Arc::new(facts)));
        }
        if organizations.len().is_power_of_two() {
            organizations.retain(|_, weak| weak.strong_count() > 0);
        }
        organizations.insert(id, Arc::downgrade(&shared));
        shared
    }

    /// Forgets what changed, then reads changed organizations again. A changed organization is
    /// empty in between, so that nobody is judged by its old permissions. The lock that look-ups
    /// publish under is held while the epoch moves, so none can publish what it read before.
    pub(super) async fn forget(&self, changes: &[Change], store: &dyn Store) -> Result<(), StoreError> {
        for (id, shared) in self.forget_now(changes) {
            if let Some(record) = store.organization(&id).await? {
                let facts = record.facts()?;
                let _publishing = lock(&self.organizations);
                shared.now.store(Some(Arc::new(facts)));
            }
        }
        Ok(())
    }

    fn forget_now(&self, changes: &[Change]) -> Vec<(String, Arc<KnownOrganization>)> {
        let mut organizations = lock(&self.organizations);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        lock(&self.flights).clear();
        let mut again = Vec::new();
        for change in changes {
            match change {
                Change::Key(digest) => {
                    self.known.remove(digest);
                    self.unknown.remove(digest);
                }
                Change::Organization(id) => {
                    if let Some(shared) = organizations.get(id).and_then(Weak::upgrade) {
                        shared.now.store(None);
                        again.push((id.clone(), shared));
                    }
                }
                Change::Everything => {
                    if self.len() > 0 {
                        log::warn!(target: "tollgate::store", "changes were missed; the key cache starts again");
                    }
                    self.known.clear();
                    self.unknown.clear();
                    organizations.clear();
                }
            }
        }
        again
    }
}

async fn read(digest: &Digest, store: &dyn Store) -> Result<Option<(policy::Key, Organization)>, StoreError> {
    let Some(record) = store.find_key(digest).await? else { return Ok(None) };
    let organization = store.organization(&record.organization).await?;
    let missing = || StoreError::Corrupt(format!("the key {} is of a missing organization", record.id));
    Ok(Some((record.facts()?, organization.ok_or_else(missing)?.facts()?)))
}
