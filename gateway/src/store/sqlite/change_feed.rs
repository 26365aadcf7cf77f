//! The feed of changes in SQLite.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::rows::{announce, changes_after, seq, unavailable};
use crate::store::{Change, ChangeFeed, Changes, GATEWAY_SILENCE_MS, GatewaySeen, Position, StoreError, announced};

/// How often a waiting gateway looks for changes.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for changes before an empty answer.
const WAIT: Duration = Duration::from_secs(1);

#[async_trait]
impl ChangeFeed for SqliteStore {
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

    async fn announce_change(&self, change: &Change) -> Result<Position, StoreError> {
        let change = change.clone();
        self.write(move |transaction| {
            let (word, subject) = announced(&change);
            announce(transaction, word, &subject)
        })
        .await
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

    fn is_at(&self, a: &str, b: &Position) -> bool {
        a.parse::<i64>().unwrap_or(0) >= seq(b)
    }
}
