//! Records of the authorization server in SQLite.

use async_trait::async_trait;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::super::documents::{Document, Documents, Kind, Swap, Swapped};
use super::super::{Cursor, Listed, Page, StoreError, announced};
use super::SqliteStore;
use super::rows::{announce, unavailable};

/// Records dropped in one step: a writer waits for a step, not for all of them.
const SWEPT_AT_ONCE: usize = 2_000;

fn list(transaction: &Transaction<'_>, document: &Document) -> Result<(), StoreError> {
    let mut statement = transaction
        .prepare_cached("INSERT OR IGNORE INTO lists (kind, list, id) VALUES (?1, ?2, ?3)")
        .map_err(unavailable)?;
    for name in &document.lists {
        statement.execute(params![document.kind.as_str(), name, document.id]).map_err(unavailable)?;
    }
    Ok(())
}

/// Notes when a grant was used; the newest wins.
pub(super) fn note_grant_use(
    transaction: &Transaction<'_>,
    grant: &str,
    at_ms: u64,
    drop_ms: u64,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "INSERT INTO documents (kind, id, record, expires_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, id) DO UPDATE SET record = excluded.record, expires_ms = excluded.expires_ms
             WHERE CAST(record AS INTEGER) < CAST(excluded.record AS INTEGER)",
        )
        .and_then(|mut s| s.execute(params![Kind::GrantUse.as_str(), grant, at_ms.to_string(), drop_ms]))
        .map(|_| ())
        .map_err(unavailable)
}

#[async_trait]
impl Documents for SqliteStore {
    async fn document(&self, kind: Kind, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT record FROM documents WHERE kind = ?1 AND id = ?2")
                .and_then(|mut s| s.query_row(params![kind.as_str(), id], |row| row.get(0)).optional())
                .map_err(unavailable)
        })
        .await
    }

    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError> {
        let document = document.clone();
        self.write(move |transaction| {
            let added = transaction
                .execute(
                    "INSERT OR IGNORE INTO documents (kind, id, record, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![document.kind.as_str(), document.id, document.record, document.expires_ms],
                )
                .map_err(unavailable)?;
            list(transaction, &document)?;
            Ok(added == 1)
        })
        .await
    }

    async fn put_document(&self, document: &Document) -> Result<(), StoreError> {
        let document = document.clone();
        self.write(move |transaction| {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO documents (kind, id, record, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![document.kind.as_str(), document.id, document.record, document.expires_ms],
                )
                .map_err(unavailable)?;
            list(transaction, &document)
        })
        .await
    }

    async fn swap_document(&self, swap: &Swap<'_>) -> Result<Swapped, StoreError> {
        let (kind, id, before, after) = (swap.kind, swap.id.to_owned(), swap.before.to_owned(), swap.after.to_owned());
        let (expires_ms, told) = (swap.expires_ms, swap.tells.map(announced));
        self.write(move |transaction| {
            let changed = transaction
                .execute(
                    "UPDATE documents SET record = ?4, expires_ms = ?5 WHERE kind = ?1 AND id = ?2 AND record = ?3",
                    params![kind.as_str(), id, before, after, expires_ms],
                )
                .map_err(unavailable)?;
            if changed == 0 {
                return Ok(Swapped::Conflict);
            }
            let position = told.map(|(word, subject)| announce(transaction, word, &subject)).transpose()?;
            Ok(Swapped::Done(position))
        })
        .await
    }

    async fn remove_document(&self, kind: Kind, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(move |transaction| {
            let key = params![kind.as_str(), id];
            let gone = transaction.execute("DELETE FROM documents WHERE kind = ?1 AND id = ?2", key);
            let gone = gone.map_err(unavailable)?;
            transaction.execute("DELETE FROM lists WHERE kind = ?1 AND id = ?2", key).map_err(unavailable)?;
            Ok(gone == 1)
        })
        .await
    }

    async fn documents(&self, kind: Kind, list: &str, page: &Page) -> Result<Listed<String>, StoreError> {
        let (list, page) = (list.to_owned(), page.clone());
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached(
                    "SELECT id, record FROM lists JOIN documents USING (kind, id)
                     WHERE kind = ?1 AND list = ?2 AND id > ?3 ORDER BY id LIMIT ?4",
                )
                .map_err(unavailable)?;
            let after = page.after().map_or("", |cursor| &cursor.id);
            let row = params![kind.as_str(), list, after, page.count_and_one()];
            let rows = statement
                .query_map(row, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                .map_err(unavailable)?;
            let found = rows.map(|row| row.map_err(unavailable)).collect::<Result<_, _>>()?;
            let listed = page.listed(found, |(id, _): &(String, String)| Cursor { at: 0, id: id.clone() });
            listed.map(|(_, record)| Ok(record))
        })
        .await
    }

    async fn sweep(&self, now_ms: u64) -> Result<usize, StoreError> {
        self.write(move |transaction| {
            let mut over: Vec<(String, String)> = Vec::new();
            {
                let mut statement = transaction
                    .prepare_cached("SELECT kind, id FROM documents WHERE expires_ms < ?1 LIMIT ?2")
                    .map_err(unavailable)?;
                let rows = statement
                    .query_map(params![now_ms, SWEPT_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))
                    .map_err(unavailable)?;
                for row in rows {
                    over.push(row.map_err(unavailable)?);
                }
            }
            for (kind, id) in &over {
                for table in ["documents", "lists"] {
                    transaction
                        .prepare_cached(&format!("DELETE FROM {table} WHERE kind = ?1 AND id = ?2"))
                        .and_then(|mut statement| statement.execute([kind, id]))
                        .map_err(unavailable)?;
                }
            }
            Ok(over.len())
        })
        .await
    }
}
