//! Records of the authorization server, as both stores hold them: JSON texts by kind and id.
//!
//! What a record means is not known here. Each operation is atomic on one record, and a change is
//! made by compare-and-set, so the rules of a record are written once (in `registry`) and hold
//! over both stores. Records that end are dropped by [`Documents::sweep`], or by Redis itself.

use async_trait::async_trait;

use super::{Change, Listed, Page, Position, StoreError};

/// What a record is. The name is part of where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An OAuth application.
    App,
    /// A user.
    User,
    /// From an e-mail address to a user.
    Email,
    /// A user's consent for an application, with the state of its code and refresh token.
    Grant,
    /// When a grant was last used.
    GrantUse,
    /// What a user has agreed to, and need not be asked again.
    Consent,
    /// An authorization request under way.
    Flow,
    /// A browser in which a user has logged in.
    Session,
    /// The id of something that may be used once.
    Spent,
    /// The signing keys.
    Keyring,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 10] = [
        Kind::App,
        Kind::User,
        Kind::Email,
        Kind::Grant,
        Kind::GrantUse,
        Kind::Consent,
        Kind::Flow,
        Kind::Session,
        Kind::Spent,
        Kind::Keyring,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::App => "app",
            Kind::User => "user",
            Kind::Email => "email",
            Kind::Grant => "grant",
            Kind::GrantUse => "grant-use",
            Kind::Consent => "consent",
            Kind::Flow => "flow",
            Kind::Session => "session",
            Kind::Spent => "spent",
            Kind::Keyring => "keyring",
        }
    }
}

/// A record to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// Under what it is listed, such as `user/usr_1`; at most a few.
    pub lists: Vec<String>,
    /// The record.
    pub record: String,
    /// When it may be dropped, Unix milliseconds; `None` to keep it.
    pub expires_ms: Option<u64>,
}

/// How a record is changed.
#[derive(Clone, Copy, Debug)]
pub struct Swap<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: &'a str,
    /// What it must be now.
    pub before: &'a str,
    /// What it becomes.
    pub after: &'a str,
    /// When it may be dropped then.
    pub expires_ms: Option<u64>,
    /// What gateways are told of it, in the same step.
    pub tells: Option<&'a Change>,
}

/// What became of a [`Swap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The record was not what had been read: nothing changed.
    Conflict,
    /// It was replaced; and where the announcement stands, if there was to be one.
    Done(Option<Position>),
}

/// Records by kind and id.
#[async_trait]
pub trait Documents: Send + Sync {
    /// The record, or certainty that there is none. One whose time is over may still be there.
    async fn document(&self, kind: Kind, id: &str) -> Result<Option<String>, StoreError>;
    /// Adds a record; `false` when its id is taken.
    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError>;
    /// Adds or replaces a record, whatever it was.
    async fn put_document(&self, document: &Document) -> Result<(), StoreError>;
    /// Replaces a record if it is still what was read. Change and announcement are one step: whoever
    /// dies in between leaves no change that others do not learn of.
    async fn swap_document(&self, swap: &Swap<'_>) -> Result<Swapped, StoreError>;
    /// Removes a record; `false` when there was none. Of many who ask at once, one is told `true`.
    async fn remove_document(&self, kind: Kind, id: &str) -> Result<bool, StoreError>;
    /// The records of a list, in an order of the store's own.
    async fn documents(&self, kind: Kind, list: &str, page: &Page) -> Result<Listed<String>, StoreError>;
    /// Drops records whose time is over: one bounded step; says how many it dropped.
    async fn sweep(&self, now_ms: u64) -> Result<usize, StoreError>;
}
