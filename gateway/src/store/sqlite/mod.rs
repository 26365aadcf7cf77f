//! The embedded store: one SQLite file, nothing to install.
//!
//! Write-ahead logging lets the command line write while the gateway serves. Every change appends
//! a row to `changes` in the same transaction; a gateway watches `PRAGMA data_version`, which tells
//! in a microsecond whether another connection has written, and then reads the new rows.

mod change_feed;
mod counters;
mod documents;
mod keys;
mod rows;
mod schema;

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction};

use self::rows::{connect, unavailable};
use self::schema::migrate;
use super::{Store, StoreError};

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

    async fn now_ms(&self, local_ms: u64) -> Result<u64, StoreError> {
        Ok(local_ms)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}
