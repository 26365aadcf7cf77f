//! One file of blocks: a small SQLite database of its own, written by the gateways of one state folder.
//!
//! Nothing of it stands in the store: whatever becomes of a day file, keys are not touched.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::block::{Builder, Number};
use super::names::names_of;
use super::usage_file::{self, CountedUsage, write_usage};

/// Longest wait for another process that writes.
const BUSY: Duration = Duration::from_secs(2);
/// The form of day files that this program writes and reads.
const FORM: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE boots (
        boot TEXT PRIMARY KEY,
        gateway TEXT NOT NULL,
        version TEXT NOT NULL,
        began_ms INTEGER NOT NULL,
        ended_ms INTEGER,
        counted INTEGER
    ) STRICT;
    CREATE TABLE blocks (
        boot TEXT NOT NULL,
        lane INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        names BLOB NOT NULL,
        data BLOB NOT NULL
    ) STRICT;
    CREATE INDEX blocks_by_time ON blocks (last_ms);
    CREATE UNIQUE INDEX blocks_by_seq ON blocks (boot, lane, first_seq);
    CREATE TABLE gaps (
        boot TEXT NOT NULL,
        lane INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER,
        reason TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (boot, lane, first_seq)
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Where a block belongs, and what is in it at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Which block of its file.
    pub rowid: i64,
    /// The boot that made it.
    pub boot: String,
    /// The lane.
    pub lane: u32,
    /// Sequence number of its first record in the lane.
    pub first_seq: u64,
    /// And of its last.
    pub last_seq: u64,
    /// When the earliest of its records ended, Unix milliseconds.
    pub first_ms: u64,
    /// And the latest.
    pub last_ms: u64,
    /// Lowest number of a request id in it.
    pub first_id: u64,
    /// And the highest.
    pub last_id: u64,
    /// The set of names in it.
    pub names: Vec<u8>,
}

impl BlockRow {
    /// Seals what a builder has gathered, whose first record has this number in its boot and lane; `None` when there
    /// is nothing.
    pub fn seal(builder: &mut Builder, (boot, lane, first_seq): (&str, u32, u64)) -> Option<(BlockRow, Vec<u8>)> {
        let (first_ms, last_ms) = builder.range(Number::Ended)?;
        let (first_id, last_id) = builder.range(Number::Id)?;
        let row = BlockRow {
            rowid: 0,
            boot: boot.to_owned(),
            lane,
            first_seq,
            last_seq: first_seq + builder.records() as u64 - 1,
            first_ms,
            last_ms,
            first_id,
            last_id,
            names: names_of(builder),
        };
        Some((row, builder.seal()))
    }

    /// How many records it must have.
    pub fn records(&self) -> u64 {
        (self.last_seq + 1).saturating_sub(self.first_seq)
    }
}

/// Records that are not there, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The boot.
    pub boot: String,
    /// The lane.
    pub lane: u32,
    /// The first that is missing.
    pub first_seq: u64,
    /// The last that is missing; `None` when nobody knows.
    pub last_seq: Option<u64>,
    /// Why: `lane_full`, `disk`, or `unclean_end`.
    pub reason: String,
    /// When it was noticed, Unix milliseconds.
    pub at_ms: u64,
}

/// One run of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What its ids of requests begin with.
    pub boot: String,
    /// Name of the gateway.
    pub gateway: String,
    /// Version of the program.
    pub version: String,
    /// When it began, Unix milliseconds.
    pub began_ms: u64,
    /// When it ended; `None` while it runs, and for ever when it ended uncleanly.
    pub ended_ms: Option<u64>,
    /// How many requests its metrics had counted at its end.
    pub counted: Option<u64>,
}

/// A day file.
#[derive(Debug)]
pub struct DayFile(pub(super) Connection);

impl DayFile {
    /// Opens a file to write, and makes it if it is not there.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // What was written in the last second before a power failure may be lost, never what was before it.
        connection.pragma_update(None, "synchronous", "normal")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let form: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match form {
            0 => {
                transaction.execute_batch(usage_file::SCHEMA)?;
                transaction.execute_batch(SCHEMA)?;
            }
            FORM => {}
            _ => return Err(rusqlite::Error::InvalidPath(path.to_owned())),
        }
        transaction.commit()?;
        Ok(DayFile(connection))
    }

    /// Opens a file to read: as it is now, whatever is written or put together later.
    pub fn open_to_read(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch("BEGIN")?;
        Ok(DayFile(connection))
    }

    /// Writes blocks and gaps of a boot in one transaction. One that is there already is not written again.
    pub fn write(&mut self, boot: &Boot, blocks: &[(BlockRow, Vec<u8>)], gaps: &[Gap]) -> rusqlite::Result<()> {
        self.write_with_usage(boot, (blocks, gaps), &CountedUsage::default())
    }

    /// The same, and counts with them.
    pub fn write_with_usage(
        &mut self,
        boot: &Boot,
        (blocks, gaps): (&[(BlockRow, Vec<u8>)], &[Gap]),
        usage: &CountedUsage,
    ) -> rusqlite::Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            transaction.prepare_cached("INSERT OR REPLACE INTO boots VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
                boot.boot,
                boot.gateway,
                boot.version,
                boot.began_ms,
                boot.ended_ms,
                boot.counted
            ])?;
            for (row, data) in blocks {
                insert_block(&transaction, row, data)?;
            }
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)")?;
            for gap in gaps {
                insert.execute(params![gap.boot, gap.lane, gap.first_seq, gap.last_seq, gap.reason, gap.at_ms])?;
            }
            write_usage(&transaction, usage)?;
        }
        transaction.commit()
    }

    /// The blocks with records that ended between two instants, both included; the latest first.
    pub fn blocks(&self, since_ms: u64, until_ms: u64) -> rusqlite::Result<Vec<BlockRow>> {
        let until_ms = until_ms.min(i64::MAX.unsigned_abs());
        let which = "last_ms >= ? AND first_ms <= ? ORDER BY last_ms DESC, rowid DESC";
        read_blocks(&self.0, which, params![since_ms, until_ms])
    }

    /// The data of a block.
    pub fn data(&self, rowid: i64) -> rusqlite::Result<Vec<u8>> {
        self.0.prepare_cached("SELECT data FROM blocks WHERE rowid = ?")?.query_row([rowid], |row| row.get(0))
    }

    /// Every gap.
    pub fn gaps(&self) -> rusqlite::Result<Vec<Gap>> {
        let mut query = self.0.prepare(
            "SELECT boot, lane, first_seq, last_seq, reason, at_ms FROM gaps ORDER BY boot, lane, first_seq",
        )?;
        let gaps = query.query_map([], |row| {
            Ok(Gap {
                boot: row.get(0)?,
                lane: row.get(1)?,
                first_seq: row.get(2)?,
                last_seq: row.get(3)?,
                reason: row.get(4)?,
                at_ms: row.get(5)?,
            })
        })?;
        gaps.collect()
    }

    /// Every boot that has written here.
    pub fn boots(&self) -> rusqlite::Result<Vec<Boot>> {
        let mut query = self
            .0
            .prepare("SELECT boot, gateway, version, began_ms, ended_ms, counted FROM boots ORDER BY began_ms")?;
        let boots = query.query_map([], |row| {
            Ok(Boot {
                boot: row.get(0)?,
                gateway: row.get(1)?,
                version: row.get(2)?,
                began_ms: row.get(3)?,
                ended_ms: row.get(4)?,
                counted: row.get(5)?,
            })
        })?;
        boots.collect()
    }

    /// How far a boot got in each lane: lane, and the last sequence number that is accounted for.
    pub fn last_seqs(&self, boot: &str) -> rusqlite::Result<Vec<(u32, u64)>> {
        let mut query = self.0.prepare(
            "SELECT lane, max(last_seq) FROM
             (SELECT lane, last_seq FROM blocks WHERE boot = ?1
              UNION ALL SELECT lane, coalesce(last_seq, first_seq) FROM gaps WHERE boot = ?1) GROUP BY lane",
        )?;
        query.query_map([boot], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }
}

/// Writes a block, unless it is there already.
pub(super) fn insert_block(transaction: &Transaction<'_>, row: &BlockRow, data: &[u8]) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare_cached("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
    let BlockRow { rowid: _, boot, lane, first_seq, last_seq, first_ms, last_ms, first_id, last_id, names } = row;
    insert
        .execute(params![boot, lane, first_seq, last_seq, first_ms, last_ms, first_id, last_id, names, data])
        .map(|_| ())
}

/// Reads what stands beside the blocks that a condition (and an order) name.
pub(super) fn read_blocks(
    connection: &Connection,
    which: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<BlockRow>> {
    let columns = "rowid, boot, lane, first_seq, last_seq, first_ms, last_ms, first_id, last_id, names";
    let mut query = connection.prepare_cached(&format!("SELECT {columns} FROM blocks WHERE {which}"))?;
    let rows = query.query_map(values, |row| {
        Ok(BlockRow {
            rowid: row.get(0)?,
            boot: row.get(1)?,
            lane: row.get(2)?,
            first_seq: row.get(3)?,
            last_seq: row.get(4)?,
            first_ms: row.get(5)?,
            last_ms: row.get(6)?,
            first_id: row.get(7)?,
            last_id: row.get(8)?,
            names: row.get(9)?,
        })
    })?;
    rows.collect()
}
