//! The feed of changes: what the caches of every gateway must forget, and how far each gateway has followed
//! it.
//!
//! A gateway reads the feed in order. One that has missed a part is told to forget everything. A word that
//! it does not know means the same.

use async_trait::async_trait;

use super::StoreError;
use crate::base::digest::Digest;

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

/// Changes as they are announced, and the gateways that follow them.
#[async_trait]
pub trait ChangeFeed: Send + Sync {
    /// Where the list of changes stands now.
    async fn position(&self) -> Result<Position, StoreError>;
    /// Waits for changes after a position, at most about a second; returns none when there are none.
    async fn changes(&self, after: &Position) -> Result<Changes, StoreError>;
    /// Tells all gateways of a change.
    async fn announce_change(&self, change: &Change) -> Result<Position, StoreError>;
    /// Says that this gateway's caches have followed the changes up to a position.
    async fn acknowledge(&self, gateway: &GatewaySeen) -> Result<(), StoreError>;
    /// Gateways heard of lately.
    async fn gateways(&self, now_ms: u64) -> Result<Vec<GatewaySeen>, StoreError>;
    /// Takes this gateway off the list.
    async fn leave(&self, gateway: &str) -> Result<(), StoreError>;
    /// Whether `a` is at or past `b` in this store's order of positions.
    fn is_at(&self, a: &str, b: &Position) -> bool;
}

/// What a row of the change list says. A word that is not known forgets everything: a newer
/// gateway may write what an older one cannot read.
pub(super) fn record_change(kind: &str, subject: &str) -> Change {
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
pub(super) fn announced(change: &Change) -> (&'static str, String) {
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
