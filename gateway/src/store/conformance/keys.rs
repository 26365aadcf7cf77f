//! What every store must do with keys and organizations.

use super::super::{
    Cleared, Exposure, KeyChange, Keys, LastUse, OrganizationChange, Page, Sighting, StoreError, Usage, whole,
};
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
    pages_of_keys_show_each_key_once(store).await;
    pages_of_organizations_are_in_order(store).await;
}

async fn a_record_comes_back_as_it_went_in(store: &dyn Keys) {
    let organization = organization("acme");
    store.insert_organization(&organization).await.unwrap();
    assert_eq!(store.organization("acme").await.unwrap().as_ref(), Some(&organization));
    assert_eq!(store.organizations(&Page::of(1, None)).await.unwrap().list, vec![organization]);
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
    let keys = store.keys(Some("other"), &Page::of(10, None)).await.unwrap();
    assert_eq!(keys.next, None);
    let ids: Vec<String> = keys.list.into_iter().map(|key| key.id).collect();
    assert_eq!(ids, ["key_9", "key_8"]);
    assert!(whole(|page| Box::pin(async move { store.keys(None, &page).await })).await.unwrap().len() > 2);
}

async fn pages_of_keys_show_each_key_once(store: &dyn Keys) {
    store.insert_organization(&organization("paged")).await.unwrap();
    let ids: Vec<String> = (0..23).map(|n| format!("key_page{n:02}")).collect();
    for (id, n) in ids.iter().zip(100..) {
        // Many were made in the same millisecond.
        let made = crate::store::KeyRecord { created_ms: u64::from(n) / 8, ..key(id, "paged", n) };
        store.insert_key(&made).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..10 {
        let page = store.keys(Some("paged"), &Page::of(5, after)).await.unwrap();
        assert!(page.list.len() <= 5);
        seen.extend(page.list.into_iter().map(|key| (key.created_ms, key.id)));
        after = page.next;
        if after.is_none() {
            break;
        }
        // A key that is added is the newest: the pages behind it stay what they were.
        let late = u8::try_from(200 + seen.len()).unwrap();
        store.insert_key(&key(&format!("key_late{late}"), "paged", late)).await.unwrap();
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, each once: {seen:?}");
    let mut shown: Vec<String> = seen.into_iter().map(|(_, id)| id).collect();
    shown.sort();
    assert_eq!(shown, ids);
}

async fn pages_of_organizations_are_in_order(store: &dyn Keys) {
    let all = whole(|page| Box::pin(async move { store.organizations(&page).await })).await.unwrap();
    let ids: Vec<String> = all.into_iter().map(|organization| organization.id).collect();
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..=ids.len() {
        let page = store.organizations(&Page::of(1, after)).await.unwrap();
        seen.extend(page.list.into_iter().map(|organization| organization.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(seen.len() > 1 && seen.is_sorted());
    assert_eq!(seen, ids);
}
