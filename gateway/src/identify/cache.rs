//! The cache itself: bounded maps, one look-up at a time per key, and the rule of freshness.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use policy::Organization;
use tokio::sync::OnceCell;

use super::bounds::{Bounds, Map, map};
use super::{Found as How, Unidentified};
use crate::base::clock::Clock;
use crate::base::digest::Digest;
use crate::store::{Change, Store, StoreError};

/// Most tries of a look-up that changes keep overtaking.
const LOOK_UPS_MAX: u32 = 4;

/// What a decision needs of a credential, read from the store.
#[async_trait]
pub(super) trait Facts: Sized + Send + Sync + 'static {
    /// What they are looked up by.
    type Id: Clone + Eq + Hash + Send + Sync;

    /// Reads them, with their organization.
    async fn read(id: &Self::Id, store: &dyn Store) -> Result<Option<(Self, Organization)>, StoreError>;

    /// The one that a change is about.
    fn named(change: &Change) -> Option<Self::Id>;

    /// Whether a change can be about several of them.
    fn is_wide(change: &Change) -> bool;

    /// Whether a wide change is about these.
    fn are_touched(&self, change: &Change) -> bool;
}

#[async_trait]
impl Facts for policy::Key {
    type Id = Digest;

    async fn read(digest: &Digest, store: &dyn Store) -> Result<Option<(Self, Organization)>, StoreError> {
        let Some((record, organization)) = store.find_key_of_organization(digest).await? else { return Ok(None) };
        let missing = || StoreError::Corrupt(format!("the key {} is of a missing organization", record.id));
        Ok(Some((record.facts()?, organization.ok_or_else(missing)?.facts()?)))
    }

    fn named(change: &Change) -> Option<Digest> {
        match change {
            Change::Key(digest) => Some(*digest),
            Change::Organization(_)
            | Change::Grant(_)
            | Change::App(_)
            | Change::User(_)
            | Change::Keyring
            | Change::Doubt(_)
            | Change::Everything => None,
        }
    }

    fn is_wide(_change: &Change) -> bool {
        false
    }

    fn are_touched(&self, _change: &Change) -> bool {
        false
    }
}

/// Something in the cache.
#[derive(Debug)]
pub struct Known<F> {
    /// What a decision needs.
    pub facts: F,
    /// Its organization.
    pub organization: Arc<KnownOrganization>,
    fetched_ms: u64,
    /// The last doubt before it was read.
    doubt: u64,
    marked_ms: AtomicU64,
}

/// A key in the cache.
pub type KnownKey = Known<policy::Key>;

impl<F> Known<F> {
    /// Whether a use should be written behind: at most one a minute per credential and gateway.
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

type Found<F> = Option<Arc<Known<F>>>;
type Flight<F> = Arc<OnceCell<Landing<F>>>;
type Organizations = HashMap<String, Weak<KnownOrganization>>;

/// How a look-up ended.
enum Landing<F> {
    Answer(Result<Found<F>, StoreError>),
    /// Something changed while it was under way; it must be done again.
    Overtaken,
}

impl<F> Clone for Landing<F> {
    fn clone(&self) -> Self {
        match self {
            Landing::Answer(answer) => Landing::Answer(answer.clone()),
            Landing::Overtaken => Landing::Overtaken,
        }
    }
}

pub(super) struct Cache<F: Facts> {
    bounds: Bounds,
    known: Map<F::Id, Arc<Known<F>>>,
    unknown: Map<F::Id, u64>,
    organizations: Mutex<Organizations>,
    flights: Mutex<HashMap<F::Id, Flight<F>>>,
    /// Counts changes; a look-up that a change overtook is done again.
    epoch: AtomicU64,
    /// The last doubt; what was read before it is not fresh.
    doubt: AtomicU64,
    is_following: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<F: Facts> Cache<F> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Cache {
            bounds,
            known: map(bounds.keys_max),
            unknown: map(bounds.unknown_max),
            organizations: Mutex::default(),
            flights: Mutex::default(),
            epoch: AtomicU64::new(0),
            doubt: AtomicU64::new(0),
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
    pub(super) fn fresh(&self, id: &F::Id, now_ms: u64) -> Option<Found<F>> {
        if let Some(key) = self.known.get(id) {
            let followed = self.is_following.load(Ordering::Acquire);
            let bound = if followed { self.bounds.fresh_followed } else { self.bounds.fresh_alone };
            let is_new = key.doubt == self.doubt.load(Ordering::Acquire);
            return (is_new && now_ms.saturating_sub(key.fetched_ms) < ms(bound)).then_some(Some(key));
        }
        let since = self.unknown.get(id)?;
        (now_ms.saturating_sub(since) < ms(self.bounds.unknown_for)).then_some(None)
    }

    /// The last known record, for as long as an outage may last.
    fn stale(&self, id: &F::Id, now_ms: u64) -> Option<Found<F>> {
        let key = self.known.get(id)?;
        (now_ms.saturating_sub(key.fetched_ms) < ms(self.bounds.stale_for)).then_some(Some(key))
    }

    pub(super) fn known(&self, id: &F::Id) -> Found<F> {
        self.known.get(id)
    }

    pub(super) fn insert(
        &self,
        id: F::Id,
        facts: F,
        organization: Arc<KnownOrganization>,
        now_ms: u64,
    ) -> Arc<Known<F>> {
        // A record that is read again has still been used when it was.
        let marked_ms = self.known.peek(&id).map_or(0, |before| before.marked_ms.load(Ordering::Relaxed));
        let doubt = self.doubt.load(Ordering::Acquire);
        let known = Arc::new(Known { facts, organization, fetched_ms: now_ms, doubt, marked_ms: marked_ms.into() });
        self.known.insert(id, known.clone());
        known
    }

    /// Asks the store, once for all who ask at the same time.
    pub(super) async fn look_up(
        &self,
        id: F::Id,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Found<F>, StoreError> {
        for _ in 0..LOOK_UPS_MAX {
            let flight = lock(&self.flights).entry(id.clone()).or_default().clone();
            let landed = flight.get_or_init(|| self.load(&id, store, clock)).await.clone();
            let mut flights = lock(&self.flights);
            if flights.get(&id).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
                flights.remove(&id);
            }
            drop(flights);
            match landed {
                Landing::Answer(answer) => return answer,
                Landing::Overtaken => {}
            }
        }
        Err(StoreError::Unavailable("records change faster than they can be read".to_owned()))
    }

    /// Looks a record up; while the store is away, what was known before serves in its place for a
    /// while. `what` names it in the log.
    pub(super) async fn find(
        &self,
        id: F::Id,
        (store, clock): (&dyn Store, &dyn Clock),
        what: &str,
    ) -> Result<(Found<F>, How), Unidentified> {
        match self.look_up(id.clone(), store, clock).await {
            Ok(found) => Ok((found, How::Stored)),
            Err(StoreError::Unavailable(why)) => match self.stale(&id, clock.now_ms()) {
                Some(found) => Ok((found, How::Stale)),
                None => {
                    tracing::warn!(target: "tollgate::store", "a {what} could not be looked up: {why}");
                    Err(Unidentified::CannotKnow)
                }
            },
            // A store that answers nonsense is not an outage: nothing old serves in its place.
            Err(error) => {
                tracing::error!(target: "tollgate::store", "a {what} is refused: {error}");
                Err(Unidentified::CannotKnow)
            }
        }
    }

    /// Reads key and organization, and publishes them unless a change came in between: what was
    /// read may then be from before it.
    async fn load(&self, id: &F::Id, store: &dyn Store, clock: &dyn Clock) -> Landing<F> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let read = F::read(id, store).await;
        let mut organizations = lock(&self.organizations);
        if self.epoch.load(Ordering::Acquire) != epoch {
            return Landing::Overtaken;
        }
        Landing::Answer(read.map(|found| match found {
            None => {
                self.known.remove(id);
                self.unknown.insert(id.clone(), clock.now_ms());
                None
            }
            Some((facts, organization)) => {
                self.unknown.remove(id);
                let shared = self.share(&mut organizations, organization);
                Some(self.insert(id.clone(), facts, shared, clock.now_ms()))
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
            // An organization that is no record stays empty: nobody is judged by it.
            let read = store.organization(&id).await.and_then(|record| record.map(|r| r.facts()).transpose());
            let facts = match read {
                Ok(facts) => facts,
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(target: "tollgate::store", "the organization {id} cannot be read: {error}");
                    None
                }
            };
            if let Some(facts) = facts {
                let _publishing = lock(&self.organizations);
                shared.now.store(Some(Arc::new(facts)));
            }
        }
        Ok(())
    }

    fn forget_now(&self, changes: &[Change]) -> Vec<(String, Arc<KnownOrganization>)> {
        let concerns = |change: &Change| {
            let is_shared = matches!(change, Change::Organization(_) | Change::Everything);
            // One that is told again, since something else could not be done, doubt nothing read since.
            let is_doubt = matches!(change, Change::Doubt(number) if *number != self.doubt.load(Ordering::Acquire));
            is_shared || is_doubt || F::is_wide(change) || F::named(change).is_some()
        };
        // What cannot be about anything here does not make look-ups under way begin again.
        if !changes.iter().any(concerns) {
            return Vec::new();
        }
        let mut organizations = lock(&self.organizations);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        lock(&self.flights).clear();
        let mut again = Vec::new();
        for change in changes {
            if let Some(id) = F::named(change) {
                self.known.remove(&id);
                self.unknown.remove(&id);
            }
            if F::is_wide(change) {
                self.known.retain(|_, known| !known.facts.are_touched(change));
            }
            match change {
                Change::Organization(id) => {
                    if let Some(shared) = organizations.get(id).and_then(Weak::upgrade) {
                        shared.now.store(None);
                        again.push((id.clone(), shared));
                    }
                }
                Change::Doubt(number) => {
                    self.doubt.store(*number, Ordering::Release);
                    self.unknown.clear();
                }
                Change::Everything => {
                    if self.len() > 0 {
                        tracing::warn!(target: "tollgate::store", "changes were missed; the cache starts again");
                    }
                    self.known.clear();
                    self.unknown.clear();
                    organizations.clear();
                }
                Change::Key(_) | Change::Grant(_) | Change::App(_) | Change::User(_) | Change::Keyring => {}
            }
        }
        again
    }
}
