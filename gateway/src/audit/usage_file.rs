//! Counts in day files, and those of blocks that are not in them yet.

use std::collections::HashMap;

use rusqlite::{Transaction, params};

use super::block::Block;
use super::day_file::{DayFile, read_blocks};
use super::files::Files;
use super::usage::{Class, Counts, Group, Sums};

/// The tables of counts, part of a day file.
pub(super) const SCHEMA: &str = "
    CREATE TABLE usage (
        hour INTEGER NOT NULL,
        api TEXT NOT NULL,
        organization TEXT NOT NULL,
        key TEXT NOT NULL,
        client TEXT NOT NULL,
        route TEXT NOT NULL,
        class TEXT NOT NULL,
        requests INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        total_us INTEGER NOT NULL,
        longest_us INTEGER NOT NULL,
        PRIMARY KEY (hour, organization, key, client, api, route, class)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE counted (
        boot TEXT NOT NULL,
        lane INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (boot, lane)
    ) STRICT, WITHOUT ROWID;
";

/// How far a lane is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The boot.
    pub boot: String,
    /// The lane.
    pub lane: u32,
    /// The last record that is in the counts.
    pub seq: u64,
}

/// Counts, and how far they go.
#[derive(Clone, Debug, Default)]
pub struct CountedUsage {
    /// By group.
    pub sums: Vec<(Group, Sums)>,
    /// Lane by lane.
    pub counted: Vec<Counted>,
}

/// Adds counts to those of a file.
pub(super) fn write_usage(transaction: &Transaction<'_>, usage: &CountedUsage) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, bytes_in = bytes_in + excluded.bytes_in,
         bytes_out = bytes_out + excluded.bytes_out, total_us = total_us + excluded.total_us,
         longest_us = max(longest_us, excluded.longest_us)",
    )?;
    for (Group { hour, api, organization, key, client, route, class }, sums) in &usage.sums {
        let Sums { requests, bytes_in, bytes_out, total_us, longest_us } = sums;
        let class = class.as_str();
        add.execute(params![
            hour,
            api,
            organization,
            key,
            client,
            route,
            class,
            requests,
            bytes_in,
            bytes_out,
            total_us,
            longest_us
        ])?;
    }
    let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO counted VALUES (?, ?, ?)")?;
    for Counted { boot, lane, seq } in &usage.counted {
        set.execute(params![boot, lane, seq])?;
    }
    Ok(())
}

impl DayFile {
    /// Counts of requests that ended in these hours, the last one not included. Of a class that this program does not
    /// know nothing is given.
    fn usage(&self, (since_hour, until_hour): (u64, u64)) -> rusqlite::Result<Vec<(Group, Sums)>> {
        let mut query = self.0.prepare("SELECT * FROM usage WHERE hour >= ? AND hour < ?")?;
        let rows = query.query_map([since_hour, until_hour], |row| {
            let Some(class) = Class::named(row.get_ref(6)?.as_str()?) else { return Ok(None) };
            let group = Group {
                hour: row.get(0)?,
                api: row.get(1)?,
                organization: row.get(2)?,
                key: row.get(3)?,
                client: row.get(4)?,
                route: row.get(5)?,
                class,
            };
            let sums = Sums {
                requests: row.get(7)?,
                bytes_in: row.get(8)?,
                bytes_out: row.get(9)?,
                total_us: row.get(10)?,
                longest_us: row.get(11)?,
            };
            Ok(Some((group, sums)))
        })?;
        rows.filter_map(Result::transpose).collect()
    }

    fn counted(&self) -> rusqlite::Result<Vec<Counted>> {
        let mut query = self.0.prepare("SELECT boot, lane, seq FROM counted")?;
        let rows = query.query_map([], |row| Ok(Counted { boot: row.get(0)?, lane: row.get(1)?, seq: row.get(2)? }))?;
        rows.collect()
    }

    /// Counts records of a boot behind what is counted of each lane, and says how far that goes now.
    fn count_rest(
        &self,
        boot: &str,
        counted: &HashMap<(String, u32), u64>,
        counts: &mut Counts,
    ) -> rusqlite::Result<Vec<Counted>> {
        let mut now = Vec::new();
        for row in read_blocks(&self.0, "boot = ? ORDER BY lane, first_seq", [boot])? {
            let before = counted.get(&(row.boot.clone(), row.lane)).copied().unwrap_or_default();
            if row.last_seq <= before {
                continue;
            }
            // What cannot be read is not counted; `audit verify` names it.
            if let Ok(block) = Block::read(&self.data(row.rowid)?).and_then(|block| block.unpack()) {
                let rest = (0..block.records()).zip(row.first_seq..).filter(|(_, seq)| *seq > before);
                rest.for_each(|(at, _)| counts.count(&block.record(at)));
            }
            now.push(Counted { boot: row.boot, lane: row.lane, seq: row.last_seq });
        }
        Ok(now)
    }
}

/// What could be read of some files.
#[derive(Debug, Default)]
pub struct Usage {
    /// By group; a group can come more than once.
    pub sums: Vec<(Group, Sums)>,
    /// Files that could not be read, in words.
    pub faults: Vec<String>,
}

/// Counts of requests that ended in these hours, the last one not included: those that are written, and those of
/// blocks behind them.
pub fn usage(files: &Files, hours: (u64, u64)) -> std::io::Result<Usage> {
    let mut found = Usage::default();
    for path in files.list()? {
        let read = DayFile::open_to_read(&path).and_then(|file| file.usage(hours));
        match read {
            Ok(sums) => found.sums.extend(sums),
            Err(cause) => found.faults.push(format!("{}: {cause}", path.display())),
        }
    }
    let rest = rest(files, |boot| boot.ended_ms.is_none())?;
    found.sums.extend(rest.sums.into_iter().filter(|(group, _)| (hours.0..hours.1).contains(&group.hour)));
    Ok(found)
}

/// Counts of blocks that are in no counts yet, of the boots that are wanted.
pub(super) fn rest(files: &Files, is_wanted: impl Fn(&super::day_file::Boot) -> bool) -> std::io::Result<CountedUsage> {
    let paths = files.list()?;
    // Files that cannot be read are named elsewhere.
    let open: Vec<_> = paths.iter().filter_map(|path| DayFile::open_to_read(path).ok()).collect();
    let mut counted: HashMap<(String, u32), u64> = HashMap::new();
    for Counted { boot, lane, seq } in open.iter().filter_map(|file| file.counted().ok()).flatten() {
        let last = counted.entry((boot, lane)).or_default();
        *last = seq.max(*last);
    }
    let (mut counts, mut now) = (Counts::default(), Vec::new());
    for file in &open {
        for boot in file.boots().unwrap_or_default().iter().filter(|boot| is_wanted(boot)) {
            now.extend(file.count_rest(&boot.boot, &counted, &mut counts).unwrap_or_default());
        }
    }
    Ok(CountedUsage { sums: counts.take(), counted: now })
}
