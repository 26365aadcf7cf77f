//! The key cache against a store whose answers, delays and failures the test decides.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gateway::base::clock::Manual;
use gateway::base::digest::{Digest, Pepper, Peppers};
use gateway::base::http_client::HttpClient;
use gateway::identify::{Bounds, Found, Identities, Unidentified};
use gateway::store::{
    Change, ChangeFeed, Changes, Counter, Counters, Document, Documents, GatewaySeen, KeyChange, KeyRecord, Keys, Kind,
    Listed, OrganizationChange, OrganizationRecord, Page, Position, Store, StoreError, Swap, Swapped, Usage,
    conformance,
};
use policy::KeyFault;
use policy::credential::Secret;
use tokio::sync::Semaphore;

/// Holds one organization and whatever keys the test puts in; counts questions; can be made to
/// wait at a gate, to fail, and to answer nonsense.
struct Scripted {
    keys: Mutex<Vec<KeyRecord>>,
    organization: Mutex<OrganizationRecord>,
    failure: Mutex<Option<StoreError>>,
    asked: AtomicUsize,
    gate: Semaphore,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Scripted {
            keys: Mutex::default(),
            organization: Mutex::new(conformance::organization("acme")),
            failure: Mutex::default(),
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(1_000_000),
        })
    }

    fn fail(&self, with: Option<StoreError>) {
        *self.failure.lock().unwrap() = with;
    }
}

type Done<T> = Result<T, StoreError>;

fn no<T>() -> Done<T> {
    Err(StoreError::Refused("not part of this test".into()))
}

#[async_trait]
impl Documents for Scripted {
    async fn document(&self, _kind: Kind, _id: &str) -> Done<Option<String>> {
        no()
    }
    async fn insert_document(&self, _document: &Document) -> Done<bool> {
        no()
    }
    async fn put_document(&self, _document: &Document) -> Done<()> {
        no()
    }
    async fn swap_document(&self, _swap: &Swap<'_>) -> Done<Swapped> {
        no()
    }
    async fn remove_document(&self, _kind: Kind, _id: &str) -> Done<bool> {
        no()
    }
    async fn documents(&self, _kind: Kind, _list: &str, _page: &Page) -> Done<Listed<String>> {
        no()
    }
    async fn sweep(&self, _now_ms: u64) -> Done<usize> {
        no()
    }
}

#[async_trait]
impl Keys for Scripted {
    async fn find_key(&self, digest: &Digest) -> Done<Option<KeyRecord>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // What is read is what is there when the question arrives, however long the answer takes.
        let found = self.keys.lock().unwrap().iter().find(|key| key.digest == *digest).cloned();
        let failure = self.failure.lock().unwrap().clone();
        self.gate.acquire().await.unwrap().forget();
        failure.map_or(Ok(found), Err)
    }
    async fn organization(&self, _id: &str) -> Done<Option<OrganizationRecord>> {
        let failure = self.failure.lock().unwrap().clone();
        failure.map_or_else(|| Ok(Some(self.organization.lock().unwrap().clone())), Err)
    }
    async fn key(&self, _id: &str) -> Done<KeyRecord> {
        no()
    }
    async fn keys(&self, _organization: Option<&str>, _page: &Page) -> Done<Listed<KeyRecord>> {
        no()
    }
    async fn insert_key(&self, _key: &KeyRecord) -> Done<Position> {
        no()
    }
    async fn change_key(&self, _id: &str, _change: KeyChange) -> Done<(KeyRecord, Position)> {
        no()
    }
    async fn organizations(&self, _page: &Page) -> Done<Listed<OrganizationRecord>> {
        no()
    }
    async fn insert_organization(&self, _organization: &OrganizationRecord) -> Done<Position> {
        no()
    }
    async fn change_organization(
        &self,
        _id: &str,
        _change: OrganizationChange,
    ) -> Done<(OrganizationRecord, Position)> {
        no()
    }
    async fn record_usage(&self, _usage: &[Usage]) -> Done<()> {
        no()
    }
}

#[async_trait]
impl Counters for Scripted {
    async fn add_counters(&self, _added: &[Counter]) -> Done<Vec<Counter>> {
        no()
    }
    async fn counters(&self) -> Done<Vec<Counter>> {
        no()
    }
    async fn drop_counters(&self, _ended: &[Counter]) -> Done<()> {
        no()
    }
}

#[async_trait]
impl ChangeFeed for Scripted {
    async fn position(&self) -> Done<Position> {
        no()
    }
    async fn changes(&self, _after: &Position) -> Done<Changes> {
        no()
    }
    async fn announce_change(&self, _change: &Change) -> Done<Position> {
        no()
    }
    async fn acknowledge(&self, _gateway: &GatewaySeen) -> Done<()> {
        no()
    }
    async fn gateways(&self, _now_ms: u64) -> Done<Vec<GatewaySeen>> {
        no()
    }
    async fn leave(&self, _gateway: &str) -> Done<()> {
        no()
    }
    fn is_at(&self, _a: &str, _b: &Position) -> bool {
        false
    }
}

#[async_trait]
impl Store for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }
    async fn now_ms(&self, local_ms: u64) -> Done<u64> {
        Ok(local_ms)
    }
    async fn warnings(&self) -> Done<Vec<String>> {
        no()
    }
}

const SECRET: &str = "ifk_live_8xK2mN9pQr4vT7wL";

struct Scene {
    store: Arc<Scripted>,
    clock: Arc<Manual>,
    identities: Arc<Identities>,
    digest: Digest,
}

fn http_client() -> Arc<HttpClient> {
    Arc::new(HttpClient::new(None, std::env::temp_dir()).unwrap())
}

fn scene() -> Scene {
    let pepper = Pepper::from_hex(&"1".repeat(64)).unwrap();
    let digest = pepper.digest(Secret::new(SECRET));
    let (store, clock) = (Scripted::new(), Arc::new(Manual::at(1_000_000)));
    let peppers = Peppers { current: pepper, previous: None };
    let identities = Arc::new(Identities::new(store.clone(), peppers, Bounds::default(), clock.clone(), http_client()));
    identities.set_following(true);
    let mut key = conformance::key("key_1", "acme", 1);
    key.digest = digest;
    store.keys.lock().unwrap().push(key);
    Scene { store, clock, identities, digest }
}

impl Scene {
    async fn ask(&self) -> Result<Found, Unidentified> {
        self.identities.identify(Secret::new(SECRET)).await.map(|identified| identified.found)
    }

    fn asked(&self) -> usize {
        self.store.asked.load(Ordering::SeqCst)
    }

    fn revoke(&self) {
        self.store.keys.lock().unwrap()[0].revoked_ms = Some(1);
    }
}

fn away() -> Option<StoreError> {
    Some(StoreError::Unavailable("away".into()))
}

#[tokio::test]
async fn many_requests_for_one_unknown_key_ask_the_store_once() {
    let scene = Arc::new(scene());
    scene.store.gate.forget_permits(usize::MAX >> 4);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            tokio::spawn({
                let scene = scene.clone();
                async move { scene.ask().await }
            })
        })
        .collect();
    while scene.asked() == 0 {
        tokio::task::yield_now().await;
    }
    scene.store.gate.add_permits(100);
    for one in asking {
        assert!(one.await.unwrap().is_ok());
    }
    assert_eq!(scene.asked(), 1);
    assert_eq!(scene.ask().await, Ok(Found::Cached));
}

#[tokio::test]
async fn a_look_up_that_a_revocation_overtakes_is_done_again() {
    let scene = Arc::new(scene());
    scene.store.gate.forget_permits(usize::MAX >> 4);
    let early = tokio::spawn({
        let scene = scene.clone();
        async move { scene.ask().await }
    });
    while scene.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // The record was read before the revocation, and its answer comes after it was acknowledged.
    scene.revoke();
    scene.identities.forget(&[Change::Key(scene.digest)]).await.unwrap();
    scene.store.gate.add_permits(100);
    assert_eq!(early.await.unwrap(), Err(Unidentified::Dead(KeyFault::Revoked)));
    assert_eq!(scene.ask().await, Err(Unidentified::Dead(KeyFault::Revoked)));
}

#[tokio::test]
async fn an_outage_serves_what_is_known_up_to_its_bound_and_is_never_a_no() {
    let scene = scene();
    assert_eq!(scene.ask().await, Ok(Found::Stored));
    scene.store.fail(away());
    scene.identities.set_following(false);
    assert_eq!(scene.ask().await, Ok(Found::Cached), "5 s without pushed changes");
    scene.clock.advance(6_000);
    assert_eq!(scene.ask().await, Ok(Found::Stale));
    scene.clock.advance(600_000);
    assert_eq!(scene.ask().await, Err(Unidentified::CannotKnow), "10 minutes are the bound");
    let stranger = scene.identities.identify(Secret::new("ifk_live_neverSeenBefore")).await;
    assert_eq!(stranger.err(), Some(Unidentified::CannotKnow));
    scene.store.fail(None);
    assert_eq!(scene.ask().await, Ok(Found::Stored));
}

/// Another server may have taken over: what is known is asked again, and goes on when nobody can answer.
#[tokio::test]
async fn after_a_doubt_a_known_key_is_asked_again_and_serves_through_an_outage() {
    let scene = scene();
    assert_eq!(scene.ask().await, Ok(Found::Stored));
    scene.identities.forget(&[Change::Doubt(1)]).await.unwrap();
    scene.store.fail(away());
    assert_eq!(scene.ask().await, Ok(Found::Stale));
    scene.store.fail(None);
    assert_eq!(scene.ask().await, Ok(Found::Stored));
    assert_eq!(scene.ask().await, Ok(Found::Cached));
    scene.revoke();
    scene.identities.forget(&[Change::Doubt(2)]).await.unwrap();
    assert_eq!(scene.ask().await, Err(Unidentified::Dead(KeyFault::Revoked)));
}

#[tokio::test]
async fn a_store_that_answers_nonsense_is_no_outage() {
    let scene = scene();
    assert_eq!(scene.ask().await, Ok(Found::Stored));
    scene.clock.advance(61_000);
    scene.store.fail(Some(StoreError::Corrupt("nonsense".into())));
    assert_eq!(scene.ask().await, Err(Unidentified::CannotKnow), "nothing old serves in its place");
}

#[tokio::test]
async fn a_key_expires_on_time_also_in_the_cache_and_during_an_outage() {
    let scene = scene();
    scene.store.keys.lock().unwrap()[0].not_after_ms = Some(1_003_000);
    assert_eq!(scene.ask().await, Ok(Found::Stored));
    scene.store.fail(away());
    scene.clock.set(1_002_999);
    assert_eq!(scene.ask().await, Ok(Found::Cached));
    scene.clock.set(1_003_000);
    assert_eq!(scene.ask().await, Err(Unidentified::Dead(KeyFault::Expired)));
}

#[tokio::test]
async fn an_organization_that_shrank_is_not_judged_by_what_it_was() {
    let scene = scene();
    assert!(scene.ask().await.is_ok());
    scene.store.organization.lock().unwrap().permissions = vec!["packs:read".into()];
    scene.identities.forget(&[Change::Organization("acme".into())]).await.unwrap();
    let identified = scene.identities.identify(Secret::new(SECRET)).await.unwrap();
    assert_eq!(identified.organization.permissions.to_string(), "packs:read");
    // If it cannot be read again, its keys wait for the store instead.
    scene.store.fail(away());
    assert!(scene.identities.forget(&[Change::Organization("acme".into())]).await.is_err());
    assert_eq!(scene.ask().await, Err(Unidentified::CannotKnow));
}

#[tokio::test]
async fn unknown_is_remembered_briefly_and_forgotten_when_the_key_is_made() {
    let scene = scene();
    let key = scene.store.keys.lock().unwrap().pop().unwrap();
    assert_eq!(scene.ask().await, Err(Unidentified::Unknown));
    assert_eq!(scene.ask().await, Err(Unidentified::Unknown));
    assert_eq!(scene.asked(), 1);
    scene.store.keys.lock().unwrap().push(key);
    scene.identities.forget(&[Change::Key(scene.digest)]).await.unwrap();
    assert_eq!(scene.ask().await, Ok(Found::Stored));
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_take_the_look_up_with_it() {
    let scene = Arc::new(scene());
    scene.store.gate.forget_permits(usize::MAX >> 4);
    let first = tokio::spawn({
        let scene = scene.clone();
        async move { scene.ask().await }
    });
    while scene.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let scene = scene.clone();
        async move { scene.ask().await }
    });
    tokio::task::yield_now().await;
    first.abort();
    scene.store.gate.add_permits(100);
    let answered = tokio::time::timeout(Duration::from_secs(5), second).await;
    assert!(answered.unwrap().unwrap().is_ok());
}
