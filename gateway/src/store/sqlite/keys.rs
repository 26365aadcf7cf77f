//! Keys and organizations in SQLite.

use async_trait::async_trait;
use rusqlite::params;

use super::SqliteStore;
use super::rows::{
    KEY_COLUMNS, announce, exists_or, find_digest, find_id, find_organization, key_record, key_row, note_usage,
    unavailable,
};
use crate::base::digest::Digest;
use crate::store::{
    Cursor, KeyChange, KeyRecord, Keys, Listed, OrganizationChange, OrganizationRecord, Page, Position, StoreError,
    Usage, json, text,
};

#[async_trait]
impl Keys for SqliteStore {
    async fn find_key(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        let digest = *digest;
        self.read(move |connection| find_digest(connection, &digest)).await
    }

    async fn find_key_of_organization(
        &self,
        digest: &Digest,
    ) -> Result<Option<(KeyRecord, Option<OrganizationRecord>)>, StoreError> {
        let digest = *digest;
        // Both in one go: changing threads costs more than either look-up.
        self.read(move |connection| {
            let Some(key) = find_digest(connection, &digest)? else { return Ok(None) };
            let organization = find_organization(connection, &key.organization)?;
            Ok(Some((key, organization)))
        })
        .await
    }

    async fn key(&self, id: &str) -> Result<KeyRecord, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| find_id(connection, &id)).await
    }

    async fn keys(&self, organization: Option<&str>, page: &Page) -> Result<Listed<KeyRecord>, StoreError> {
        let (organization, page) = (organization.map(str::to_owned), page.clone());
        self.read(move |connection| {
            let of_one = if organization.is_some() { "organization = ?1" } else { "?1 IS NULL" };
            let mut statement = connection
                .prepare_cached(&format!(
                    "SELECT {KEY_COLUMNS} FROM keys WHERE {of_one} AND (created_ms, id) < (?2, ?3)
                     ORDER BY created_ms DESC, id DESC LIMIT ?4"
                ))
                .map_err(unavailable)?;
            let (at, id) = page.after().map_or((i64::MAX, ""), |c| (c.at.try_into().unwrap_or(i64::MAX), &c.id));
            let row = params![organization, at, id, page.count_and_one()];
            let rows = statement.query_map(row, key_row).map_err(unavailable)?;
            let keys = rows.map(|row| row.map_err(unavailable).and_then(key_record)).collect::<Result<_, _>>()?;
            Ok(page.listed(keys, |key: &KeyRecord| Cursor { at: key.created_ms, id: key.id.clone() }))
        })
        .await
    }

    async fn insert_key(&self, key: &KeyRecord) -> Result<Position, StoreError> {
        let key = key.clone();
        self.write(move |transaction| {
            if find_organization(transaction, &key.organization)?.is_none() {
                return Err(StoreError::NotFound(format!("organization {}", key.organization)));
            }
            transaction
                .execute(
                    "INSERT INTO keys (id, digest, organization, created_ms, record) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![key.id, &key.digest.as_bytes()[..], key.organization, key.created_ms, text(&key)?],
                )
                .map_err(|e| exists_or(e, "this key".to_owned()))?;
            announce(transaction, "key", &key.digest.to_hex())
        })
        .await
    }

    async fn change_key(&self, id: &str, change: KeyChange) -> Result<(KeyRecord, Position), StoreError> {
        let id = id.to_owned();
        self.write(move |transaction| {
            let mut key = find_id(transaction, &id)?;
            change.apply(&mut key)?;
            transaction
                .execute("UPDATE keys SET record = ?2 WHERE id = ?1", [&id, &text(&key)?])
                .map_err(unavailable)?;
            let position = announce(transaction, "key", &key.digest.to_hex())?;
            Ok((key, position))
        })
        .await
    }

    async fn organization(&self, id: &str) -> Result<Option<OrganizationRecord>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| find_organization(connection, &id)).await
    }

    async fn organizations(&self, page: &Page) -> Result<Listed<OrganizationRecord>, StoreError> {
        let page = page.clone();
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT record FROM organizations WHERE id > ?1 ORDER BY id LIMIT ?2")
                .map_err(unavailable)?;
            let row = params![page.after().map_or("", |cursor| &cursor.id), page.count_and_one()];
            let rows = statement.query_map(row, |row| row.get::<_, String>(0)).map_err(unavailable)?;
            let read = |row: Result<String, _>| row.map_err(unavailable).and_then(|record| json(&record));
            let list = rows.map(read).collect::<Result<_, _>>()?;
            Ok(page.listed(list, |found: &OrganizationRecord| Cursor { at: 0, id: found.id.clone() }))
        })
        .await
    }

    async fn insert_organization(&self, organization: &OrganizationRecord) -> Result<Position, StoreError> {
        let organization = organization.clone();
        self.write(move |transaction| {
            let id = &organization.id;
            transaction
                .execute("INSERT INTO organizations (id, record) VALUES (?1, ?2)", [id, &text(&organization)?])
                .map_err(|e| exists_or(e, format!("organization {id}")))?;
            announce(transaction, "organization", id)
        })
        .await
    }

    async fn change_organization(
        &self,
        id: &str,
        change: OrganizationChange,
    ) -> Result<(OrganizationRecord, Position), StoreError> {
        let id = id.to_owned();
        self.write(move |transaction| {
            let missing = || StoreError::NotFound(format!("organization {id}"));
            let mut organization = find_organization(transaction, &id)?.ok_or_else(missing)?;
            change.apply(&mut organization);
            transaction
                .execute("UPDATE organizations SET record = ?2 WHERE id = ?1", [&id, &text(&organization)?])
                .map_err(unavailable)?;
            let position = announce(transaction, "organization", &id)?;
            Ok((organization, position))
        })
        .await
    }

    async fn record_usage(&self, usage: &[Usage]) -> Result<(), StoreError> {
        let usage = usage.to_vec();
        self.write(move |transaction| usage.iter().try_for_each(|seen| note_usage(transaction, seen))).await
    }
}
