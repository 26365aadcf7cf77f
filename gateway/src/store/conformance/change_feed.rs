//! What every store must do with the feed of changes, and what announces itself in it.

use super::super::{Change, GatewaySeen, OrganizationChange, Position, Store};
use super::key;
use crate::base::digest::Digest;

pub(super) async fn all(store: &dyn Store) {
    every_change_is_announced_in_order(store).await;
    gateways_are_listed_until_they_fall_silent(store).await;
    every_kind_of_change_is_announced(store).await;
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
    let ahead = Position("99999999999999999".into());
    assert_eq!(store.changes(&ahead).await.unwrap().list, vec![Change::Everything]);
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

async fn every_kind_of_change_is_announced(store: &dyn Store) {
    let start = store.position().await.unwrap();
    let told = [
        Change::Grant("g".into()),
        Change::App("a".into()),
        Change::User("u".into()),
        Change::Keyring,
        Change::Everything,
    ];
    let mut last = start.clone();
    for change in &told {
        last = store.announce_change(change).await.unwrap();
    }
    let seen = store.changes(&start).await.unwrap();
    assert_eq!((seen.list.as_slice(), seen.position), (&told[..], last));
}
