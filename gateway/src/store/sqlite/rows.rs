//! Rows of the SQLite store: reading them into records, and the list of changes.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};

use super::super::{
    Change, Changes, KeyRecord, OrganizationRecord, Position, Sighting, StoreError, Usage, json, record_change, text,
};
use super::documents::note_grant_use;
use crate::base::digest::Digest;

/// Rows of `changes` kept for gateways that lag.
const CHANGES_KEPT: i64 = 100_000;

/// Longest wait for another process's write lock.
const BUSY: Duration = Duration::from_secs(5);

/// Pause between two tries of what cannot wait for a lock by itself.
const PAUSE: Duration = Duration::from_millis(10);

/// Tries again for as long as a write lock is waited for. Switching a file to write-ahead logging
/// and making its tables fail at once when another process does the same; a moment later the work
/// is found done.
pub(super) fn patiently<T, E>(mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let started = Instant::now();
    loop {
        let done = work();
        if done.is_ok() || started.elapsed() >= BUSY {
            return done;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Opens the file with the settings that every connection needs.
pub(super) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let is_busy = |e: &rusqlite::Error| matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    patiently(|| match connection.pragma_update(None, "journal_mode", "WAL") {
        Err(error) if is_busy(&error) => Err(error),
        done @ (Ok(()) | Err(_)) => Ok(done),
    })??;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

pub(super) fn unavailable(error: rusqlite::Error) -> StoreError {
    let is_about_a_value = matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
    );
    let text = error.to_string();
    if is_about_a_value { StoreError::Corrupt(text) } else { StoreError::Unavailable(text) }
}

pub(super) const KEY_COLUMNS: &str = "record, last_use, exposed";

pub(super) type KeyRow = (String, Option<String>, Option<String>);

pub(super) fn key_row(row: &Row<'_>) -> Result<KeyRow, rusqlite::Error> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

pub(super) fn key_record((record, last_use, exposed): KeyRow) -> Result<KeyRecord, StoreError> {
    let mut key: KeyRecord = json(&record)?;
    key.last_use = last_use.as_deref().map(json).transpose()?;
    key.exposed = exposed.as_deref().map(json).transpose()?;
    Ok(key)
}

pub(super) fn find_id(connection: &Connection, id: &str) -> Result<KeyRecord, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM keys WHERE id = ?1"))
        .and_then(|mut s| s.query_row([id], key_row).optional())
        .map_err(unavailable)?
        .ok_or_else(|| StoreError::NotFound(format!("key {id}")))
        .and_then(key_record)
}

pub(super) fn find_digest(connection: &Connection, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
    let row = connection
        .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM keys WHERE digest = ?1"))
        .and_then(|mut s| s.query_row([&digest.as_bytes()[..]], key_row).optional())
        .map_err(unavailable)?;
    let key = row.map(key_record).transpose()?;
    Ok(key.filter(|key| key.digest.matches(digest)))
}

pub(super) fn find_organization(connection: &Connection, id: &str) -> Result<Option<OrganizationRecord>, StoreError> {
    connection
        .prepare_cached("SELECT record FROM organizations WHERE id = ?1")
        .and_then(|mut s| s.query_row([id], |row| row.get::<_, String>(0)).optional())
        .map_err(unavailable)?
        .map(|record| json(&record))
        .transpose()
}

/// Writes one sighting; an older one changes nothing, nor does one of a key that is gone.
pub(super) fn note_usage(transaction: &Transaction<'_>, seen: &Usage) -> Result<(), StoreError> {
    const USED: &str =
        "UPDATE keys SET last_use = ?2 WHERE id = ?1 AND coalesce(json_extract(last_use, '$.ms'), 0) <= ?3";
    const EXPOSED: &str =
        "UPDATE keys SET exposed = ?2 WHERE id = ?1 AND coalesce(json_extract(exposed, '$[0]'), 0) <= ?3";
    let written = match &seen.sighting {
        Sighting::GrantUsed(at_ms, drop_ms) => return note_grant_use(transaction, &seen.key, *at_ms, *drop_ms),
        Sighting::Used(last) => {
            let row = params![seen.key, text(last)?, last.ms];
            transaction.prepare_cached(USED).and_then(|mut s| s.execute(row))
        }
        Sighting::Exposed(ms, how) => {
            let row = params![seen.key, text(&(ms, how))?, ms];
            transaction.prepare_cached(EXPOSED).and_then(|mut s| s.execute(row))
        }
    };
    written.map(|_| ()).map_err(unavailable)
}

pub(super) fn announce(transaction: &Transaction<'_>, kind: &str, subject: &str) -> Result<Position, StoreError> {
    transaction.execute("INSERT INTO changes (kind, subject) VALUES (?1, ?2)", [kind, subject]).map_err(unavailable)?;
    let seq = transaction.last_insert_rowid();
    transaction.execute("DELETE FROM changes WHERE seq <= ?1", [seq - CHANGES_KEPT]).map_err(unavailable)?;
    Ok(Position(seq.to_string()))
}

pub(super) fn exists_or(error: rusqlite::Error, what: String) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => StoreError::Exists(what),
        Some(_) | None => unavailable(error),
    }
}

pub(super) fn seq(position: &Position) -> i64 {
    position.0.parse().unwrap_or(0)
}

pub(super) fn changes_after(connection: &Connection, after: i64) -> Result<Changes, StoreError> {
    let bounds = "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM changes";
    let (first, last): (i64, i64) =
        connection.query_row(bounds, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(unavailable)?;
    if last < after || (first > 1 && first > after + 1) {
        let position = Position(last.to_string());
        return Ok(Changes { list: vec![Change::Everything], position });
    }
    let mut statement = connection
        .prepare_cached("SELECT seq, kind, subject FROM changes WHERE seq > ?1 ORDER BY seq LIMIT 10000")
        .map_err(unavailable)?;
    let rows = statement
        .query_map([after], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))
        .map_err(unavailable)?;
    let mut changes = Changes { list: Vec::new(), position: Position(after.to_string()) };
    for row in rows {
        let (seq, kind, subject) = row.map_err(unavailable)?;
        changes.list.push(record_change(&kind, &subject));
        changes.position = Position(seq.to_string());
    }
    Ok(changes)
}
