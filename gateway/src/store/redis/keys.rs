//! Keys and organizations in Redis.

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::cmd;

use super::names::{ALL_KEYS, ORGANIZATIONS, digest_by_id, key_by_digest, keys_of, organization_by_id};
use super::{Order, READ_AT_ONCE, RedisStore};
use crate::base::digest::Digest;
use crate::store::{
    Cursor, KeyChange, KeyRecord, Keys, Listed, OrganizationChange, OrganizationRecord, Page, Position, StoreError,
    Usage, json, text,
};

/// Uses of keys written at the same time.
const NOTES_AT_ONCE: usize = 64;

#[async_trait]
impl Keys for RedisStore {
    async fn find_key(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.get(&key_by_digest(&digest.to_hex())).await?;
        let key: Option<KeyRecord> = found.as_deref().map(json).transpose()?;
        Ok(key.filter(|key| key.digest.matches(digest)))
    }

    async fn key(&self, id: &str) -> Result<KeyRecord, StoreError> {
        let missing = || StoreError::NotFound(format!("key {id}"));
        let digest = self.get(&digest_by_id(id)).await?.ok_or_else(missing)?;
        let record = self.get(&key_by_digest(&digest)).await?.ok_or_else(missing)?;
        self.with_usage(json(&record)?).await
    }

    async fn keys(&self, organization: Option<&str>, page: &Page) -> Result<Listed<KeyRecord>, StoreError> {
        let set = organization.map_or_else(|| ALL_KEYS.to_owned(), keys_of);
        let Listed { list, next } = self.members(&set, page, Order::HighestFirst).await?;
        let mut keys = Vec::with_capacity(list.len());
        for places in list.chunks(READ_AT_ONCE) {
            for read in join_all(places.iter().map(|place| self.key(&place.id))).await {
                match read {
                    Ok(key) => keys.push(key),
                    // It was listed, and then it was not added after all.
                    Err(StoreError::NotFound(_)) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(Listed { list: keys, next })
    }

    async fn insert_key(&self, key: &KeyRecord) -> Result<Position, StoreError> {
        if self.organization(&key.organization).await?.is_none() {
            return Err(StoreError::NotFound(format!("organization {}", key.organization)));
        }
        let hex = key.digest.to_hex();
        let taken = || StoreError::Exists("this key".to_owned());
        let new_id: Option<String> = self.ask(cmd("SET").arg(digest_by_id(&key.id)).arg(&hex).arg("NX")).await?;
        new_id.ok_or_else(taken)?;
        // Listed before it works: a failure in between leaves an entry that lists nothing, never a
        // working key that no list shows.
        for list in [ALL_KEYS.to_owned(), keys_of(&key.organization)] {
            self.ask::<i64>(cmd("ZADD").arg(list).arg(key.created_ms).arg(&key.id)).await?;
        }
        let mut set = cmd("SET");
        set.arg(key_by_digest(&hex)).arg(text(key)?).arg("NX");
        if self.ask::<Option<String>>(&set).await?.is_none() {
            self.ask::<i64>(cmd("DEL").arg(digest_by_id(&key.id))).await?;
            return Err(taken());
        }
        self.announce("key", &hex).await
    }

    async fn change_key(&self, id: &str, change: KeyChange) -> Result<(KeyRecord, Position), StoreError> {
        let what = format!("key {id}");
        let digest = self.get(&digest_by_id(id)).await?.ok_or_else(|| StoreError::NotFound(what.clone()))?;
        self.change((&key_by_digest(&digest), &what), ("key", &digest), |key| change.apply(key)).await
    }

    async fn organization(&self, id: &str) -> Result<Option<OrganizationRecord>, StoreError> {
        self.get(&organization_by_id(id)).await?.as_deref().map(json).transpose()
    }

    async fn organizations(&self, page: &Page) -> Result<Listed<OrganizationRecord>, StoreError> {
        let mut ids: Vec<String> = self.ask(cmd("SMEMBERS").arg(ORGANIZATIONS)).await?;
        ids.retain(|id| page.after().is_none_or(|cursor| *id > cursor.id));
        ids.sort();
        ids.truncate(page.count_and_one());
        let Listed { list, next } = page.listed(ids, |id| Cursor { at: 0, id: id.clone() });
        let mut found = Vec::with_capacity(list.len());
        for ids in list.chunks(READ_AT_ONCE) {
            found.extend(try_join_all(ids.iter().map(|id| self.organization(id))).await?.into_iter().flatten());
        }
        Ok(Listed { list: found, next })
    }

    async fn insert_organization(&self, organization: &OrganizationRecord) -> Result<Position, StoreError> {
        let id = &organization.id;
        let mut set = cmd("SET");
        set.arg(organization_by_id(id)).arg(text(organization)?).arg("NX");
        if self.ask::<Option<String>>(&set).await?.is_none() {
            return Err(StoreError::Exists(format!("organization {id}")));
        }
        self.ask::<i64>(cmd("SADD").arg(ORGANIZATIONS).arg(id)).await?;
        self.announce("organization", id).await
    }

    async fn change_organization(
        &self,
        id: &str,
        change: OrganizationChange,
    ) -> Result<(OrganizationRecord, Position), StoreError> {
        let apply = |organization: &mut OrganizationRecord| {
            change.apply(organization);
            Ok(())
        };
        let what = format!("organization {id}");
        self.change((&organization_by_id(id), &what), ("organization", id), apply).await
    }

    async fn record_usage(&self, usage: &[Usage]) -> Result<(), StoreError> {
        let mut under_way = FuturesUnordered::new();
        for seen in usage {
            if under_way.len() == NOTES_AT_ONCE {
                under_way.next().await.transpose()?;
            }
            under_way.push(self.note_usage(seen));
        }
        while under_way.next().await.transpose()?.is_some() {}
        Ok(())
    }
}
