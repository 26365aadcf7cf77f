//! What every store must do: one list of tests for each part of a store, run over each implementation.
//!
//! A function of a list panics when a claim does not hold. The lists are compiled into the library, so that
//! tests of other crates can run them over a real Redis.
#![expect(clippy::unwrap_used, reason = "these are lists of tests")]

mod change_feed;
mod counters;
mod documents;
mod keys;

use policy::identity::{Environment, KeyClass};

use super::{KeyRecord, OrganizationRecord, Store};
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

/// Runs all lists over a fresh, empty store.
pub async fn all(store: &dyn Store) {
    keys::all(store).await;
    documents::all(store).await;
    counters::all(store).await;
    change_feed::all(store).await;
    assert!(store.warnings().await.is_ok());
}
