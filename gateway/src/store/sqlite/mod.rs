//! The embedded store: one SQLite file, nothing to install.
//!
//! Write-ahead logging lets the command line write while the gateway serves. Every change appends
//! a row to `changes` in the same transaction; a gateway watches `PRAGMA data_version`, which tells
//! in a microsecond whether another connection has written, and then reads the new rows.

mod documents;
mod rows;
mod schema;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, params};

use super::{
    Changes, Counter, GATEWAY_SILENCE_MS, GatewaySeen, KeyChange, KeyRecord, LIST_MAX, OrganizationChange,
    OrganizationRecord, Position, Store, StoreError, Usage, json, text,
};
use crate::base::digest::Digest;

use self::rows::{
    KEY_COLUMNS, announce, changes_after, connect, exists_or, find_digest, find_id, find_organization, key_record,
    key_row, note_usage, seq, unavailable,
};

use self::schema::migrate;

/// How often a waiting gateway looks for changes.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for changes before an empty answer.
const WAIT: Duration = Duration::from_secs(1);

/// A store in one SQLite file.
pub struct SqliteStore {
    writer: Arc<Mutex<Connection>>,
    reader: Arc<Mutex<Connection>>,
    watcher: Arc<Mutex<Connection>>,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it as needed.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)
                    .map_err(|e| StoreError::Unavailable(format!("cannot make {}: {e}", folder.display())))?;
            }
            let at = |e: rusqlite::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
            let mut writer = connect(&path).map_err(at)?;
            migrate(&mut writer).map_err(|e| StoreError::Unavailable(format!("{}: {e}", path.display())))?;
            let shared = |c| Arc::new(Mutex::new(c));
            Ok(SqliteStore {
                writer: shared(writer),
                reader: shared(connect(&path).map_err(at)?),
                watcher: shared(connect(&path).map_err(at)?),
            })
        });
        opened.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn on<T: Send + 'static>(
        connection: &Arc<Mutex<Connection>>,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = connection.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut guard = connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            work(&mut guard)
        });
        done.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        Self::on(&self.reader, work).await
    }

    /// Runs a change in one immediate transaction.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        Self::on(&self.writer, move |connection| {
            let behavior = rusqlite::TransactionBehavior::Immediate;
            let transaction = connection.transaction_with_behavior(behavior).map_err(unavailable)?;
            let value = work(&transaction)?;
            transaction.commit().map_err(unavailable)?;
            Ok(value)
        })
        .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

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

    async fn keys(&self, organization: Option<&str>) -> Result<Vec<KeyRecord>, StoreError> {
        let organization = organization.map(str::to_owned);
        self.read(move |connection| {
            let mut statement = connection
                .prepare(&format!(
                    "SELECT {KEY_COLUMNS} FROM keys WHERE ?1 IS NULL OR organization = ?1
                     ORDER BY created_ms DESC, id LIMIT {LIST_MAX}"
                ))
                .map_err(unavailable)?;
            let rows = statement.query_map([organization], key_row).map_err(unavailable)?;
            rows.map(|row| row.map_err(unavailable).and_then(key_record)).collect()
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

    async fn organizations(&self) -> Result<Vec<OrganizationRecord>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare(&format!("SELECT record FROM organizations ORDER BY id LIMIT {LIST_MAX}"))
                .map_err(unavailable)?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(unavailable)?;
            rows.map(|row| row.map_err(unavailable).and_then(|record| json(&record))).collect()
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

    async fn add_counters(&self, added: &[Counter]) -> Result<Vec<Counter>, StoreError> {
        let added = added.to_vec();
        self.write(move |transaction| {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT INTO counters (bucket, period, word) VALUES (?1, ?2, ?3)
                     ON CONFLICT (bucket) DO UPDATE SET word = CASE
                         WHEN excluded.word >> 32 > word >> 32 THEN excluded.word
                         WHEN excluded.word >> 32 = word >> 32 THEN word + (excluded.word & 4294967295)
                         ELSE word END
                     RETURNING word",
                )
                .map_err(unavailable)?;
            let mut add = |counter: &Counter| {
                let row =
                    params![&counter.bucket.to_be_bytes()[..], counter.period.short(), counter.word.cast_signed()];
                let word: i64 = statement.query_row(row, |row| row.get(0)).map_err(unavailable)?;
                Ok(Counter { word: word.cast_unsigned(), ..*counter })
            };
            added.iter().map(&mut add).collect()
        })
        .await
    }

    async fn counters(&self) -> Result<Vec<Counter>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT bucket, period, word FROM counters").map_err(unavailable)?;
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))
                .map_err(unavailable)?;
            let mut counters = Vec::new();
            for row in rows {
                let (bucket, period, word) = row.map_err(unavailable)?;
                counters.extend(super::counter(u128::from_be_bytes(bucket), &period, word.cast_unsigned()));
            }
            Ok(counters)
        })
        .await
    }

    async fn drop_counters(&self, ended: &[Counter]) -> Result<(), StoreError> {
        let ended = ended.to_vec();
        self.write(move |transaction| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM counters WHERE bucket = ?1 AND word = ?2")
                .map_err(unavailable)?;
            for counter in &ended {
                let row = params![&counter.bucket.to_be_bytes()[..], counter.word.cast_signed()];
                statement.execute(row).map_err(unavailable)?;
            }
            Ok(())
        })
        .await
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.read(|connection| {
            let last = "SELECT coalesce(max(seq), 0) FROM changes";
            let seq: i64 = connection.query_row(last, [], |row| row.get(0)).map_err(unavailable)?;
            Ok(Position(seq.to_string()))
        })
        .await
    }

    async fn changes(&self, after: &Position) -> Result<Changes, StoreError> {
        let from = seq(after);
        let watcher = self.watcher.clone();
        let waiting = tokio::task::spawn_blocking(move || {
            let connection = watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let version = |c: &Connection| c.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
            let started = Instant::now();
            let mut known = None;
            while started.elapsed() < WAIT {
                let seen = version(&connection).map_err(unavailable)?;
                if known != Some(seen) {
                    known = Some(seen);
                    let changes = changes_after(&connection, from)?;
                    if !changes.list.is_empty() {
                        return Ok(changes);
                    }
                }
                std::thread::sleep(POLL);
            }
            Ok(Changes { list: Vec::new(), position: Position(from.to_string()) })
        });
        waiting.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn acknowledge(&self, gateway: &GatewaySeen) -> Result<(), StoreError> {
        let gateway = gateway.clone();
        self.write(move |transaction| {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO gateways (id, position, seen_ms) VALUES (?1, ?2, ?3)",
                    params![gateway.id, gateway.position, gateway.seen_ms],
                )
                .map_err(unavailable)?;
            let gone = gateway.seen_ms.saturating_sub(10 * GATEWAY_SILENCE_MS);
            transaction.execute("DELETE FROM gateways WHERE seen_ms < ?1", [gone]).map_err(unavailable)?;
            Ok(())
        })
        .await
    }

    async fn gateways(&self, now_ms: u64) -> Result<Vec<GatewaySeen>, StoreError> {
        self.read(move |connection| {
            let since = now_ms.saturating_sub(GATEWAY_SILENCE_MS);
            let mut statement = connection
                .prepare_cached("SELECT id, position, seen_ms FROM gateways WHERE seen_ms >= ?1 ORDER BY id")
                .map_err(unavailable)?;
            let rows = statement
                .query_map([since], |row| {
                    Ok(GatewaySeen { id: row.get(0)?, position: row.get(1)?, seen_ms: row.get(2)? })
                })
                .map_err(unavailable)?;
            rows.map(|row| row.map_err(unavailable)).collect()
        })
        .await
    }

    async fn leave(&self, gateway: &str) -> Result<(), StoreError> {
        let gateway = gateway.to_owned();
        self.write(move |transaction| {
            transaction.execute("DELETE FROM gateways WHERE id = ?1", [gateway]).map_err(unavailable)?;
            Ok(())
        })
        .await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn is_at(&self, a: &str, b: &Position) -> bool {
        a.parse::<i64>().unwrap_or(0) >= seq(b)
    }
}
