//! What every store must do with keys and organizations.

use super::super::{Cleared, Exposure, KeyChange, Keys, LastUse, OrganizationChange, Sighting, StoreError, Usage};
use super::{key, organization};
use crate::base::digest::Digest;

pub(super) async fn all(store: &dyn Keys) {
    a_record_comes_back_as_it_went_in(store).await;
    what_is_not_there_is_not_found(store).await;
    ids_digests_and_organizations_are_unique(store).await;
    a_key_needs_its_organization(store).await;
    changes_are_applied_and_revocation_is_for_good(store).await;
    a_key_is_replaced_once_and_never_lives_longer_for_it(store).await;
    usage_is_written_behind_and_the_newest_wins(store).await;
    keys_are_listed_newest_first(store).await;
}

async fn a_record_comes_back_as_it_went_in(store: &dyn Keys) {
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

async fn what_is_not_there_is_not_found(store: &dyn Keys) {
    assert_eq!(store.find_key(&Digest::from_bytes([99; 32])).await.unwrap(), None);
    assert_eq!(store.organization("nobody").await.unwrap(), None);
    assert!(matches!(store.key("key_none").await, Err(StoreError::NotFound(_))));
    let change = store.change_key("key_none", KeyChange::Revoke { at_ms: 1 }).await;
    assert!(matches!(change, Err(StoreError::NotFound(_))));
    let change = store.change_organization("nobody", OrganizationChange::default()).await;
    assert!(matches!(change, Err(StoreError::NotFound(_))));
}

async fn ids_digests_and_organizations_are_unique(store: &dyn Keys) {
    assert!(matches!(store.insert_organization(&organization("acme")).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.insert_key(&key("key_1", "acme", 50)).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.insert_key(&key("key_50", "acme", 1)).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.key("key_50").await, Err(StoreError::NotFound(_))));
}

async fn a_key_needs_its_organization(store: &dyn Keys) {
    assert!(matches!(store.insert_key(&key("key_2", "nobody", 2)).await, Err(StoreError::NotFound(_))));
}

async fn changes_are_applied_and_revocation_is_for_good(store: &dyn Keys) {
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

async fn a_key_is_replaced_once_and_never_lives_longer_for_it(store: &dyn Keys) {
    let mut short = key("key_4", "acme", 4);
    short.not_after_ms = Some(1_000);
    store.insert_key(&short).await.unwrap();
    let replace = |by: &str| KeyChange::Replace { by: by.into(), not_after_ms: 5_000 };
    let (replaced, _) = store.change_key("key_4", replace("key_5")).await.unwrap();
    assert_eq!((replaced.replaced_by.as_deref(), replaced.not_after_ms), (Some("key_5"), Some(1_000)));
    assert!(matches!(store.change_key("key_4", replace("key_6")).await, Err(StoreError::Refused(_))));
}

async fn usage_is_written_behind_and_the_newest_wins(store: &dyn Keys) {
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

async fn keys_are_listed_newest_first(store: &dyn Keys) {
    store.insert_organization(&organization("other")).await.unwrap();
    store.insert_key(&key("key_8", "other", 8)).await.unwrap();
    store.insert_key(&key("key_9", "other", 9)).await.unwrap();
    let ids: Vec<String> = store.keys(Some("other")).await.unwrap().into_iter().map(|k| k.id).collect();
    assert_eq!(ids, ["key_9", "key_8"]);
    assert!(store.keys(None).await.unwrap().len() > 2);
}
