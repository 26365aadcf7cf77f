//! The grant behind an access token of ours, as it is now.
//!
//! A token works only while its grant is alive, its user and its application are not switched off, and it was
//! not revoked by itself. All of that is read together, and forgotten when any of it changes. Nothing is assumed
//! before the store was asked.

use async_trait::async_trait;
use policy::{KeyFault, Organization};

use super::cache::{Facts, Known};
use crate::registry::app::AppRecord;
use crate::registry::grant::GrantRecord;
use crate::registry::user::UserRecord;
use crate::store::{Change, Kind, Store, StoreError};

/// A grant, as far as its tokens need it.
#[derive(Debug)]
pub struct GrantFacts {
    /// Its application.
    pub app: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// Why none of its tokens works, if none does.
    pub fault: Option<KeyFault>,
    not_before_s: u64,
    revoked: Box<[Box<str>]>,
}

/// A grant in the cache.
pub type KnownGrant = Known<GrantFacts>;

impl GrantFacts {
    /// Of a grant that stands: for benches.
    pub fn live(app: &str, user: &str) -> Self {
        GrantFacts { app: app.into(), user: user.into(), fault: None, not_before_s: 0, revoked: Box::default() }
    }

    /// As the store says now; `None` when there is no such grant.
    pub async fn now(grant: &str, store: &dyn Store) -> Result<Option<(Self, Organization)>, StoreError> {
        Self::read(&grant.into(), store).await
    }

    /// Whether a token of this grant works, or why not.
    pub fn allows(&self, token: &str, issued_s: u64) -> Result<(), KeyFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let is_revoked = issued_s < self.not_before_s || self.revoked.iter().any(|id| **id == *token);
        if is_revoked { Err(KeyFault::Revoked) } else { Ok(()) }
    }
}

async fn record<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    id: &str,
) -> Result<Option<T>, StoreError> {
    store.document(kind, id).await?.as_deref().map(crate::store::json).transpose()
}

#[async_trait]
impl Facts for GrantFacts {
    type Id = Box<str>;

    async fn read(id: &Box<str>, store: &dyn Store) -> Result<Option<(Self, Organization)>, StoreError> {
        let Some(grant) = record::<GrantRecord>(store, Kind::Grant, id).await? else { return Ok(None) };
        let app = record::<AppRecord>(store, Kind::App, &grant.app).await?;
        let user = record::<UserRecord>(store, Kind::User, &grant.user).await?;
        let Some(organization) = store.organization(&grant.organization).await? else { return Ok(None) };
        let (Some(app), Some(user)) = (app, user) else { return Ok(None) };
        let fault = if grant.dead.is_some() || !user.is_member(&grant.organization) {
            Some(KeyFault::Revoked)
        } else if app.disabled_ms.is_some() || user.disabled_ms.is_some() {
            Some(KeyFault::Suspended)
        } else {
            None
        };
        let facts = GrantFacts {
            app: grant.app.as_str().into(),
            user: grant.user.as_str().into(),
            fault,
            not_before_s: grant.not_before_s,
            revoked: grant.revoked.iter().map(|token| token.id.as_str().into()).collect(),
        };
        Ok(Some((facts, organization.facts()?)))
    }

    fn named(change: &Change) -> Option<Box<str>> {
        match change {
            Change::Grant(id) => Some(id.as_str().into()),
            Change::Key(_)
            | Change::Organization(_)
            | Change::App(_)
            | Change::User(_)
            | Change::Keyring
            | Change::Doubt(_)
            | Change::Everything => None,
        }
    }

    fn is_wide(change: &Change) -> bool {
        matches!(change, Change::App(_) | Change::User(_))
    }

    fn are_touched(&self, change: &Change) -> bool {
        match change {
            Change::App(id) => *self.app == **id,
            Change::User(id) => *self.user == **id,
            Change::Key(_)
            | Change::Organization(_)
            | Change::Grant(_)
            | Change::Keyring
            | Change::Doubt(_)
            | Change::Everything => false,
        }
    }
}
