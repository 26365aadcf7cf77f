//! The system of record: organizations, keys, the authorization server's records, counters of quotas, and
//! the feed of changes.
//!
//! A [`Store`] has four parts, one trait each: [`Keys`], [`Documents`], [`Counters`] and [`ChangeFeed`].
//! Whoever needs one part takes that part. There are two implementations, SQLite and Redis; each part has
//! one list of tests that both pass (`conformance`). A change that must not race with another is one
//! operation of a trait, and each implementation makes it atomic. A store never holds a secret. It never
//! answers "not found" when it means "cannot tell".

mod change_feed;
pub mod conformance;
mod counters;
mod documents;
mod keys;
mod page;
mod record;
mod redis;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::change_feed::{Change, ChangeFeed, Changes, GATEWAY_SILENCE_MS, GatewaySeen, Position};
use self::change_feed::{announced, record_change};
pub use self::counters::{Counter, Counters};
pub use self::documents::{Document, Documents, Kind, Swap, Swapped};
pub use self::keys::Keys;
pub use self::page::{Cursor, Listed, PAGE_MAX, Page, whole};
pub(crate) use self::record::scopes;
pub use self::record::{
    Cleared, Exposure, KeyChange, KeyRecord, LastUse, OrganizationChange, OrganizationRecord, Sighting, Usage,
};
pub(crate) use self::redis::topology;
pub use self::redis::{RedisSettings, RedisStore};
pub use self::sqlite::SqliteStore;

/// Why a store did not do what was asked. The caller's fault and the store's are kept apart,
/// because one is an answer and the other is a 503.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot answer now. The text is for the log.
    #[error("the store cannot answer: {0}")]
    Unavailable(String),
    /// The store answered with something that is not a record. Denied and alarmed.
    #[error("the store holds a value that is not a record: {0}")]
    Corrupt(String),
    /// There is no such record.
    #[error("there is no {0}")]
    NotFound(String),
    /// A record with this name or digest is already there.
    #[error("{0} already exists")]
    Exists(String),
    /// The record is in a state that the change does not fit.
    #[error("{0}")]
    Refused(String),
}

/// The system of record: all four parts.
#[async_trait]
pub trait Store: Keys + Documents + Counters + ChangeFeed {
    /// A name for logs and metrics: `sqlite` or `redis`.
    fn kind(&self) -> &'static str;
    /// Now, by the clock that all gateways on this store share; `local_ms` where there is but one.
    async fn now_ms(&self, local_ms: u64) -> Result<u64, StoreError>;
    /// Things an operator should know, such as a Redis without persistence.
    async fn warnings(&self) -> Result<Vec<String>, StoreError>;
}

/// Whether a URL can name a store, without looking for one there; the text says what is wrong.
pub fn check_url(url: &str, redis: &RedisSettings) -> Result<(), String> {
    if url.strip_prefix("sqlite://").is_some_and(|path| !path.is_empty()) {
        return Ok(());
    }
    topology::topology(url, redis).map(|_| ()).map_err(|error| error.to_string())
}

/// Opens the store that a URL names: `sqlite:///path`, `redis://`, `rediss://`,
/// `redis+sentinel://`, `redis+cluster://` (and the `rediss+…` forms).
pub async fn open(url: &str, redis: &RedisSettings) -> Result<Arc<dyn Store>, StoreError> {
    if let Some(path) = url.strip_prefix("sqlite://") {
        let store = SqliteStore::open(std::path::Path::new(path)).await?;
        return Ok(Arc::new(store));
    }
    Ok(Arc::new(RedisStore::open(url, redis)?))
}

/// A record from its JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// A record as JSON.
pub(crate) fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt(e.to_string()))
}
