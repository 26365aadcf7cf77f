//! Counters of quotas in SQLite.

use async_trait::async_trait;
use rusqlite::params;

use super::SqliteStore;
use super::rows::unavailable;
use crate::store::counters::counter;
use crate::store::{Counter, Counters, StoreError};

#[async_trait]
impl Counters for SqliteStore {
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
                counters.extend(counter(u128::from_be_bytes(bucket), &period, word.cast_unsigned()));
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
}
