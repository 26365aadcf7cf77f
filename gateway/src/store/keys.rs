//! Keys and their organizations: the part of a store that requests wait for.

use async_trait::async_trait;

use super::{KeyChange, KeyRecord, Listed, OrganizationChange, OrganizationRecord, Page, Position, StoreError, Usage};
use crate::base::digest::Digest;

/// Keys and organizations.
#[async_trait]
pub trait Keys: Send + Sync {
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
    /// Keys, newest first; of one organization or of all.
    async fn keys(&self, organization: Option<&str>, page: &Page) -> Result<Listed<KeyRecord>, StoreError>;
    /// Adds a key. Its organization must exist; its id and digest must be new.
    async fn insert_key(&self, key: &KeyRecord) -> Result<Position, StoreError>;
    /// Changes a key atomically and returns it as it is now, and where the change stands.
    async fn change_key(&self, id: &str, change: KeyChange) -> Result<(KeyRecord, Position), StoreError>;
    /// The organization with this id.
    async fn organization(&self, id: &str) -> Result<Option<OrganizationRecord>, StoreError>;
    /// Organizations by id.
    async fn organizations(&self, page: &Page) -> Result<Listed<OrganizationRecord>, StoreError>;
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
}
