//! What every store must do: one list of tests, run over each implementation.
//!
//! A function of this list takes a fresh, empty store and panics when a claim does not hold. It is
//! compiled into the library so that tests of other crates can run it over a real Redis.
#![expect(clippy::unwrap_used, reason = "this is a list of tests")]

mod documents;

use policy::identity::{Environment, KeyClass};
use policy::window::{Period, Tally};

use super::{
    Change, Cleared, Counter, Exposure, GatewaySeen, KeyChange, KeyRecord, LastUse, OrganizationChange,
    OrganizationRecord, Sighting, Store, StoreError, Usage,
};
use crate::base::digest::Digest;

/// An organization for tests.
pub fn organization(id: &str) -> OrganizationRecord {
    OrganizationRecord {
        id: id.into(),
        name: format!("The {id} company"),
        plan: String::new(),
        permissions: vec!["packs:read".into(), "packs:write".into()],
        created_ms: 1,
        changed_ms: 0,
    }
}

/// A key for tests.
pub fn key(id: &str, organization: &str, digest: u8) -> KeyRecord {
    KeyRecord {
        id: id.into(),
        api: "iconflow".into(),
        organization: organization.into(),
        name: "Production CDN Reader".into(),
        class: KeyClass::Read,
        environment: Environment::Live,
        scopes: vec!["packs:read".into()],
        display: "ifk_live_8xK2…".into(),
        digest: Digest::from_bytes([digest; 32]),
        created_by: "cli".into(),
        created_ms: u64::from(digest),
        not_after_ms: None,
        suspended_ms: None,
        revoked_ms: None,
        replaced_by: None,
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        origins: vec!["https://app.example".into()],
        limit: Some("5000/min".into()),
        last_use: None,
        exposed: None,
        exposure_cleared: None,
    }
}

/// Runs the whole list.
pub async fn all(store: &dyn Store) {
    a_record_comes_back_as_it_went_in(store).await;
    what_is_not_there_is_not_found(store).await;
    ids_digests_and_organizations_are_unique(store).await;
    a_key_needs_its_organization(store).await;
    changes_are_applied_and_revocation_is_for_good(store).await;
    a_key_is_replaced_once_and_never_lives_longer_for_it(store).await;
    every_change_is_announced_in_order(store).await;
    usage_is_written_behind_and_the_newest_wins(store).await;
    counters_add_up_within_a_window(store).await;
    gateways_are_listed_until_they_fall_silent(store).await;
    keys_are_listed_newest_first(store).await;
    documents::all(store).await;
}

async fn a_record_comes_back_as_it_went_in(store: &dyn Store) {
    let organization = organization("acme");
    store.insert_organization(&organization).await.unwrap();
    assert_eq!(store.organization("acme").await.unwrap().as_ref(), Some(&organization));
    assert_eq!(store.organizations().await.unwrap(), vec![organization]);
    let key = key("key_1", "acme", 1);
    store.insert_key(&key).await.unwrap();
    assert_eq!(store.find_key(&key.digest).await.unwrap().as_ref(), Some(&key));
    assert_eq!(store.key("key_1").await.unwrap(), key);
    assert!(store.key("key_1").await.unwrap().facts().is_ok());
}

async fn what_is_not_there_is_not_found(store: &dyn Store) {
    assert_eq!(store.find_key(&Digest::from_bytes([99; 32])).await.unwrap(), None);
    assert_eq!(store.organization("nobody").await.unwrap(), None);
    assert!(matches!(store.key("key_none").await, Err(StoreError::NotFound(_))));
    let change = store.change_key("key_none", KeyChange::Revoke { at_ms: 1 }).await;
    assert!(matches!(change, Err(StoreError::NotFound(_))));
    let change = store.change_organization("nobody", OrganizationChange::default()).await;
    assert!(matches!(change, Err(StoreError::NotFound(_))));
}

async fn ids_digests_and_organizations_are_unique(store: &dyn Store) {
    assert!(matches!(store.insert_organization(&organization("acme")).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.insert_key(&key("key_1", "acme", 50)).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.insert_key(&key("key_50", "acme", 1)).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.key("key_50").await, Err(StoreError::NotFound(_))));
}

async fn a_key_needs_its_organization(store: &dyn Store) {
    assert!(matches!(store.insert_key(&key("key_2", "nobody", 2)).await, Err(StoreError::NotFound(_))));
}

async fn changes_are_applied_and_revocation_is_for_good(store: &dyn Store) {
    store.insert_key(&key("key_3", "acme", 3)).await.unwrap();
    let (suspended, _) = store.change_key("key_3", KeyChange::Suspend { at_ms: 7 }).await.unwrap();
    assert_eq!(suspended.suspended_ms, Some(7));
    let (resumed, _) = store.change_key("key_3", KeyChange::Resume).await.unwrap();
    assert_eq!(resumed.suspended_ms, None);
    store.change_key("key_3", KeyChange::Revoke { at_ms: 8 }).await.unwrap();
    let (again, _) = store.change_key("key_3", KeyChange::Revoke { at_ms: 9 }).await.unwrap();
    assert_eq!(again.revoked_ms, Some(8));
    let resumed = store.change_key("key_3", KeyChange::Resume).await;
    assert!(matches!(resumed, Err(StoreError::Refused(_))));
    let digest = Digest::from_bytes([3; 32]);
    assert_eq!(store.find_key(&digest).await.unwrap().unwrap().revoked_ms, Some(8));
}

async fn a_key_is_replaced_once_and_never_lives_longer_for_it(store: &dyn Store) {
    let mut short = key("key_4", "acme", 4);
    short.not_after_ms = Some(1_000);
    store.insert_key(&short).await.unwrap();
    let replace = |by: &str| KeyChange::Replace { by: by.into(), not_after_ms: 5_000 };
    let (replaced, _) = store.change_key("key_4", replace("key_5")).await.unwrap();
    assert_eq!((replaced.replaced_by.as_deref(), replaced.not_after_ms), (Some("key_5"), Some(1_000)));
    assert!(matches!(store.change_key("key_4", replace("key_6")).await, Err(StoreError::Refused(_))));
}

async fn every_change_is_announced_in_order(store: &dyn Store) {
    let start = store.position().await.unwrap();
    store.insert_key(&key("key_7", "acme", 7)).await.unwrap();
    let change = OrganizationChange { plan: Some("agency".into()), ..OrganizationChange::default() };
    let (changed, last) = store.change_organization("acme", change).await.unwrap();
    assert_eq!((changed.plan.as_str(), changed.name.as_str()), ("agency", "The acme company"));
    let seen = store.changes(&start).await.unwrap();
    let expected = vec![Change::Key(Digest::from_bytes([7; 32])), Change::Organization("acme".into())];
    assert_eq!(seen.list, expected);
    assert_eq!(seen.position, last);
    assert!(store.is_at(&last.0, &start) && !store.is_at(&start.0, &last));
    assert_eq!(store.changes(&last).await.unwrap().list, Vec::new());
    let ahead = super::Position("99999999999999999".into());
    assert_eq!(store.changes(&ahead).await.unwrap().list, vec![Change::Everything]);
}

async fn usage_is_written_behind_and_the_newest_wins(store: &dyn Store) {
    let used = |ms: u64| {
        let route = format!("route-{ms}");
        Usage { key: "key_1".into(), sighting: Sighting::Used(LastUse { ms, route, address: "10.1.1.1".into() }) }
    };
    let exposed = Usage { key: "key_1".into(), sighting: Sighting::Exposed(9, Exposure::PlainHttp) };
    let unknown = Usage { key: "key_gone".into(), sighting: Sighting::Exposed(9, Exposure::Browser) };
    store.record_usage(&[used(5), used(20), exposed, unknown]).await.unwrap();
    let key = store.key("key_1").await.unwrap();
    assert_eq!(key.last_use.as_ref().map(|u| (u.ms, u.route.as_str())), Some((20, "route-20")));
    assert_eq!(key.exposed, Some((9, Exposure::PlainHttp)));
    // Whoever clears has another clock than the gateway that sees it next.
    let cleared = Cleared { ms: 9_000, up_to_ms: 9, by: "root@host".into(), reason: "rotated".into() };
    store.change_key("key_1", KeyChange::ClearExposure(cleared)).await.unwrap();
    assert_eq!(store.key("key_1").await.unwrap().exposure(), None);
    let later = Usage { key: "key_1".into(), sighting: Sighting::Exposed(10, Exposure::Browser) };
    store.record_usage(&[later]).await.unwrap();
    assert_eq!(store.key("key_1").await.unwrap().exposure(), Some((10, Exposure::Browser)));
}

async fn counters_add_up_within_a_window(store: &dyn Store) {
    let at = |bucket, period, window, used| Counter { bucket, period, word: Tally { window, used }.word() };
    let (one, two) = (at(1, Period::Day, 9, 4), at(u128::MAX - 5, Period::Month, 7, 3));
    assert_eq!(store.add_counters(&[two, one]).await.unwrap(), vec![two, one]);
    let more = store.add_counters(&[at(1, Period::Day, 9, 2), two]).await.unwrap();
    assert_eq!(more, vec![at(1, Period::Day, 9, 6), at(u128::MAX - 5, Period::Month, 7, 6)]);
    let late = store.add_counters(&[at(1, Period::Day, 8, 100)]).await.unwrap();
    assert_eq!(late, vec![at(1, Period::Day, 9, 6)], "a window that has passed changes nothing");
    let new = store.add_counters(&[at(1, Period::Day, 10, 1)]).await.unwrap();
    assert_eq!(new, vec![at(1, Period::Day, 10, 1)], "a new window starts again");
    store.drop_counters(&[at(1, Period::Day, 9, 6), at(u128::MAX - 5, Period::Month, 7, 6)]).await.unwrap();
    assert_eq!(store.counters().await.unwrap(), new, "only what has not moved is dropped");
}

async fn gateways_are_listed_until_they_fall_silent(store: &dyn Store) {
    let at = |id: &str, seen_ms: u64| GatewaySeen { id: id.into(), position: "1-0".into(), seen_ms };
    store.acknowledge(&at("one", 100_000)).await.unwrap();
    store.acknowledge(&at("two", 101_000)).await.unwrap();
    let ids = |list: Vec<GatewaySeen>| list.into_iter().map(|g| g.id).collect::<Vec<_>>();
    assert_eq!(ids(store.gateways(105_000).await.unwrap()), ["one", "two"]);
    assert_eq!(ids(store.gateways(110_500).await.unwrap()), ["two"]);
    store.leave("two").await.unwrap();
    assert_eq!(ids(store.gateways(105_000).await.unwrap()), ["one"]);
}

async fn keys_are_listed_newest_first(store: &dyn Store) {
    store.insert_organization(&organization("other")).await.unwrap();
    store.insert_key(&key("key_8", "other", 8)).await.unwrap();
    store.insert_key(&key("key_9", "other", 9)).await.unwrap();
    let ids: Vec<String> = store.keys(Some("other")).await.unwrap().into_iter().map(|k| k.id).collect();
    assert_eq!(ids, ["key_9", "key_8"]);
    assert!(store.keys(None).await.unwrap().len() > 2);
    assert!(store.warnings().await.is_ok());
}
