//! The system of record: organizations and keys.
//!
//! [`Store`] has two implementations, SQLite and Redis, held to one list of tests
//! (`conformance.rs`). Verbs that must not race (`insert`, `revoke`, `rotate`, …) are single
//! operations of the trait, and each implementation makes them atomic. A store never holds a
//! secret, and never answers "not found" when it means "cannot tell".

pub mod conformance;
mod documents;
mod record;
mod redis;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use policy::window::Period;

pub use self::documents::{Document, Documents, Kind, Swap, Swapped};
pub(crate) use self::record::scopes;
pub use self::record::{
    Cleared, Exposure, KeyChange, KeyRecord, LastUse, OrganizationChange, OrganizationRecord, Sighting, Usage,
};
pub(crate) use self::redis::way;
pub use self::redis::{RedisSettings, RedisStore};
pub use self::sqlite::SqliteStore;
use crate::base::digest::Digest;

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

/// Position in the store's list of changes; grows with each change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub String);

/// Something that caches must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key, by its digest.
    Key(Digest),
    /// An organization, by its id.
    Organization(String),
    /// A grant, by its id.
    Grant(String),
    /// An OAuth application, by its id.
    App(String),
    /// A user, by its id.
    User(String),
    /// The signing keys.
    Keyring,
    /// Another server may know more than the one that was asked before: whatever was read is asked again
    /// before it counts, and serves meanwhile only as it would in an outage. The number tells one doubt from the next. No store
    /// announces this.
    Doubt(u64),
    /// Changes were missed: forget everything.
    Everything,
}

/// Changes since a position, in order.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What to forget.
    pub list: Vec<Change>,
    /// Where to go on.
    pub position: Position,
}

/// A gateway that shares the store and how far it has followed the changes.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct GatewaySeen {
    /// Its id: random, new at each start.
    pub id: String,
    /// Changes up to here are out of its caches.
    pub position: String,
    /// When it said so, Unix milliseconds.
    pub seen_ms: u64,
}

/// A gateway not heard of for this long is taken for gone.
pub const GATEWAY_SILENCE_MS: u64 = 10_000;

/// A counter of a quota, saved so that a restart does not reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    /// The bucket.
    pub bucket: u128,
    /// Length of its window.
    pub period: Period,
    /// Its state in one word, see [`policy::window::Tally`].
    pub word: u64,
}

/// The system of record.
#[async_trait]
pub trait Store: Documents {
    /// A name for logs and metrics: `sqlite` or `redis`.
    fn kind(&self) -> &'static str;

    /// The key with this digest, or certainty that there is none.
    async fn find_key(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError>;
    /// The key with this digest, and its organization.
    async fn find_key_of_organization(
        &self,
        digest: &Digest,
    ) -> Result<Option<(KeyRecord, Option<OrganizationRecord>)>, StoreError> {
        let Some(key) = self.find_key(digest).await? else { return Ok(None) };
        let organization = self.organization(&key.organization).await?;
        Ok(Some((key, organization)))
    }
    /// The key with this id.
    async fn key(&self, id: &str) -> Result<KeyRecord, StoreError>;
    /// Keys, newest first; of one organization or of all. At most [`LIST_MAX`].
    async fn keys(&self, organization: Option<&str>) -> Result<Vec<KeyRecord>, StoreError>;
    /// Adds a key. Its organization must exist; its id and digest must be new.
    async fn insert_key(&self, key: &KeyRecord) -> Result<Position, StoreError>;
    /// Changes a key atomically and returns it as it is now, and where the change stands.
    async fn change_key(&self, id: &str, change: KeyChange) -> Result<(KeyRecord, Position), StoreError>;

    /// The organization with this id.
    async fn organization(&self, id: &str) -> Result<Option<OrganizationRecord>, StoreError>;
    /// All organizations by id. At most [`LIST_MAX`].
    async fn organizations(&self) -> Result<Vec<OrganizationRecord>, StoreError>;
    /// Adds an organization; its id must be new.
    async fn insert_organization(&self, organization: &OrganizationRecord) -> Result<Position, StoreError>;
    /// Changes an organization atomically.
    async fn change_organization(
        &self,
        id: &str,
        change: OrganizationChange,
    ) -> Result<(OrganizationRecord, Position), StoreError>;

    /// Writes behind what was seen of keys; the newest wins.
    async fn record_usage(&self, usage: &[Usage]) -> Result<(), StoreError>;
    /// Adds to counters of long windows, so that neither a restart nor an upgrade resets a quota.
    /// `word` holds the window and what to add; the answer holds the window and the new total. An
    /// older window than the stored one changes nothing.
    async fn add_counters(&self, added: &[Counter]) -> Result<Vec<Counter>, StoreError>;
    /// The counters saved.
    async fn counters(&self) -> Result<Vec<Counter>, StoreError>;
    /// Drops counters whose window has ended.
    async fn drop_counters(&self, ended: &[Counter]) -> Result<(), StoreError>;

    /// Where the list of changes stands now.
    async fn position(&self) -> Result<Position, StoreError>;
    /// Waits for changes after a position, at most about a second; returns none when there are none.
    async fn changes(&self, after: &Position) -> Result<Changes, StoreError>;
    /// Says that this gateway's caches have followed the changes up to a position.
    async fn acknowledge(&self, gateway: &GatewaySeen) -> Result<(), StoreError>;
    /// Gateways heard of lately.
    async fn gateways(&self, now_ms: u64) -> Result<Vec<GatewaySeen>, StoreError>;
    /// Takes this gateway off the list.
    async fn leave(&self, gateway: &str) -> Result<(), StoreError>;

    /// Things an operator should know, such as a Redis without persistence.
    async fn warnings(&self) -> Result<Vec<String>, StoreError>;

    /// Whether `a` is at or past `b` in this store's order of positions.
    fn is_at(&self, a: &str, b: &Position) -> bool;
}

/// Most records one listing returns.
pub const LIST_MAX: usize = 10_000;

/// Whether a URL can name a store, without looking for one there; the text says what is wrong.
pub fn check_url(url: &str, redis: &RedisSettings) -> Result<(), String> {
    if url.strip_prefix("sqlite://").is_some_and(|path| !path.is_empty()) {
        return Ok(());
    }
    way::way(url, redis).map(|_| ()).map_err(|error| error.to_string())
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

/// What a row of the change list says. A word that is not known forgets everything: a newer
/// gateway may write what an older one cannot read.
pub(crate) fn record_change(kind: &str, subject: &str) -> Change {
    match (kind, Digest::from_hex(subject)) {
        ("key", Some(digest)) => Change::Key(digest),
        ("organization", _) => Change::Organization(subject.to_owned()),
        ("grant", _) => Change::Grant(subject.to_owned()),
        ("app", _) => Change::App(subject.to_owned()),
        ("user", _) => Change::User(subject.to_owned()),
        ("keyring", _) => Change::Keyring,
        (_, _) => Change::Everything,
    }
}

/// What the change list says of a change; [`record_change`] reads it back.
fn announced(change: &Change) -> (&'static str, String) {
    match change {
        Change::Key(digest) => ("key", digest.to_hex()),
        Change::Organization(id) => ("organization", id.clone()),
        Change::Grant(id) => ("grant", id.clone()),
        Change::App(id) => ("app", id.clone()),
        Change::User(id) => ("user", id.clone()),
        Change::Keyring => ("keyring", String::new()),
        Change::Doubt(_) | Change::Everything => ("everything", String::new()),
    }
}

/// A saved counter; `None` when it is not one of a period that outlives restarts.
fn counter(bucket: u128, period: &str, word: u64) -> Option<Counter> {
    let period = [Period::Day, Period::Month].into_iter().find(|p| p.short() == period)?;
    Some(Counter { bucket, period, word })
}

/// A record from its JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// A record as JSON.
pub(crate) fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt(e.to_string()))
}
