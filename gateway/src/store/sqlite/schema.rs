//! Tables of the SQLite store and how a file comes to have them.

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

use super::rows::patiently;

const MIGRATIONS: &[M<'static>] = &[FIRST, DOCUMENTS];

const FIRST: M<'static> = M::up(
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
);

const DOCUMENTS: M<'static> = M::up(
    "CREATE TABLE documents (
         kind TEXT NOT NULL,
         id TEXT NOT NULL,
         record TEXT NOT NULL,
         expires_ms INTEGER,
         PRIMARY KEY (kind, id)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX documents_by_end ON documents (expires_ms) WHERE expires_ms IS NOT NULL;
     CREATE TABLE lists (kind TEXT NOT NULL, list TEXT NOT NULL, id TEXT NOT NULL,
         PRIMARY KEY (kind, list, id)) STRICT, WITHOUT ROWID;
     CREATE INDEX lists_by_id ON lists (kind, id);",
);

/// Brings a file to the newest schema.
pub(super) fn migrate(writer: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    let migrations = Migrations::from_slice(MIGRATIONS);
    if migrations.pending_migrations(writer).is_ok_and(|pending| pending < 0) {
        // A newer Tollgate has made this file; waiting would not help.
        return migrations.to_latest(writer);
    }
    patiently(|| migrations.to_latest(writer))
}
