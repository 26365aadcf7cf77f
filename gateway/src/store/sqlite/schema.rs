//! Tables of the SQLite store and how a file comes to have them.

use std::time::Duration;

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

const MIGRATIONS: &[M<'static>] = &[M::up(
    "CREATE TABLE organizations (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
     CREATE TABLE keys (
         id TEXT PRIMARY KEY,
         digest BLOB NOT NULL UNIQUE,
         organization TEXT NOT NULL REFERENCES organizations (id),
         created_ms INTEGER NOT NULL,
         record TEXT NOT NULL,
         last_use TEXT,
         exposed TEXT
     ) STRICT;
     CREATE INDEX keys_by_organization ON keys (organization, created_ms);
     CREATE INDEX keys_by_age ON keys (created_ms);
     CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL) STRICT;
     CREATE TABLE gateways (id TEXT PRIMARY KEY, position TEXT NOT NULL, seen_ms INTEGER NOT NULL) STRICT;
     CREATE TABLE counters (bucket BLOB PRIMARY KEY, period TEXT NOT NULL, word INTEGER NOT NULL) STRICT;",
)];

/// Tries of a migration: two processes that make the same file at once get in each other's way,
/// and the second finds the work done when it looks again.
const MIGRATIONS_TRIED: u32 = 10;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Brings a file to the newest schema.
pub(super) fn migrate(writer: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    let migrations = Migrations::from_slice(MIGRATIONS);
    let mut done = migrations.to_latest(writer);
    for _ in 1..MIGRATIONS_TRIED {
        if done.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        done = migrations.to_latest(writer);
    }
    done
}
