//! Proves that nothing is missing: for each boot and lane, the sequence numbers of blocks and gaps join without a
//! hole, every block can be read, and at a boot's end as many requests are accounted for as its metrics had counted.

use std::collections::BTreeMap;

use super::block::{Block, BlockFault};
use super::day_file::{Boot, DayFile, Gap};
use super::files::{Files, day_of};
use super::mark::is_running;

/// How a boot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BootState {
    /// It runs.
    Running,
    /// It ended, and wrote everything before.
    Ended,
    /// It was killed, or the machine went down: its last second is lost.
    EndedUncleanly,
}

/// What is missing from a lane.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The lane.
    pub lane: u32,
    /// The first that is missing.
    pub first_seq: u64,
    /// The last that is missing; none when nobody knows.
    pub last_seq: Option<u64>,
    /// `lane_full`, `disk`, `unclean_end`, `damaged`; `unaccounted` when nothing says why.
    pub reason: String,
}

impl Missing {
    /// Whether the gateway itself has said so.
    pub fn is_accounted(&self) -> bool {
        !matches!(self.reason.as_str(), "unaccounted" | "damaged")
    }
}

/// What is on record of one boot.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BootReport {
    /// The boot.
    pub boot: String,
    /// Name of the gateway.
    pub gateway: String,
    /// When it began, Unix milliseconds.
    pub began_ms: u64,
    /// When it ended cleanly.
    pub ended_ms: Option<u64>,
    /// How it stands.
    pub state: BootState,
    /// Records that can be read.
    pub records: u64,
    /// What its metrics had counted at its end.
    pub counted: Option<u64>,
    /// Sequence numbers that are accounted for, by blocks or gaps; only known when no day of it is gone.
    pub accounted: Option<u64>,
    /// What is missing, and why.
    pub missing: Vec<Missing>,
}

impl BootReport {
    /// Whether all that is missing was accounted for, and the totals agree.
    pub fn holds(&self) -> bool {
        let agrees = match (self.counted, self.accounted) {
            (Some(counted), Some(accounted)) => counted == accounted,
            (Some(_) | None, Some(_) | None) => true,
        };
        agrees && self.missing.iter().all(Missing::is_accounted)
    }
}

/// What is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Boot by boot, the oldest first.
    pub boots: Vec<BootReport>,
    /// Files that cannot be read, in words.
    pub faults: Vec<String>,
}

impl Report {
    /// Whether everything that was looked at holds.
    pub fn holds(&self) -> bool {
        self.faults.is_empty() && self.boots.iter().all(BootReport::holds)
    }
}

/// Sequence numbers of a lane that a file says something of.
struct Span {
    first_seq: u64,
    last_seq: Option<u64>,
    /// Why they are missing; none for a block.
    missing: Option<String>,
}

#[derive(Default)]
struct Seen {
    boot: Option<Boot>,
    lanes: BTreeMap<u32, Vec<Span>>,
    records: u64,
}

/// Looks at everything, or at one day (`2026-12-01`).
pub fn verify(files: &Files, day: Option<&str>) -> std::io::Result<Report> {
    let (mut report, mut boots) = (Report::default(), BTreeMap::<String, Seen>::new());
    let mut oldest = None;
    for path in files.list()? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        oldest.get_or_insert_with(|| name.chars().take(10).collect::<String>());
        if day.is_some_and(|day| !name.starts_with(day)) {
            continue;
        }
        if let Err(cause) = DayFile::open_to_read(&path).and_then(|file| look(&file, &mut boots)) {
            report.faults.push(format!("{}: {cause}", path.display()));
        }
    }
    let oldest = oldest.unwrap_or_default();
    for (name, seen) in boots {
        let boot = seen.boot.unwrap_or_else(|| Boot {
            boot: name.clone(),
            gateway: String::new(),
            version: String::new(),
            began_ms: 0,
            ended_ms: None,
            counted: None,
        });
        // Where days of it are gone, or not looked at, its numbers do not begin with 1.
        let is_whole = day.is_none() && day_of(boot.began_ms) >= oldest;
        report.boots.push(report_of(boot, (seen.lanes, seen.records), is_whole, is_running(files.folder(), &name)));
    }
    report.boots.sort_by_key(|boot| boot.began_ms);
    Ok(report)
}

fn look(file: &DayFile, boots: &mut BTreeMap<String, Seen>) -> rusqlite::Result<()> {
    for boot in file.boots()? {
        let seen = boots.entry(boot.boot.clone()).or_default();
        // The last file that it wrote has its end.
        seen.boot = Some(boot);
    }
    for row in file.blocks(0, u64::MAX)? {
        let data = file.data(row.rowid)?;
        let read = Block::read(&data).and_then(|block| match block.records() as u64 == row.records() {
            true => block.unpack().map(|_| ()),
            false => Err(BlockFault::Changed),
        });
        let seen = boots.entry(row.boot.clone()).or_default();
        let missing = read.is_err().then(|| "damaged".to_owned());
        seen.records += if missing.is_none() { row.records() } else { 0 };
        let span = Span { first_seq: row.first_seq, last_seq: Some(row.last_seq), missing };
        seen.lanes.entry(row.lane).or_default().push(span);
    }
    for Gap { boot, lane, first_seq, last_seq, reason, .. } in file.gaps()? {
        let span = Span { first_seq, last_seq, missing: Some(reason) };
        boots.entry(boot).or_default().lanes.entry(lane).or_default().push(span);
    }
    Ok(())
}

fn report_of(
    boot: Boot,
    (lanes, records): (BTreeMap<u32, Vec<Span>>, u64),
    is_whole: bool,
    is_running: bool,
) -> BootReport {
    let (mut missing, mut accounted) = (Vec::new(), 0);
    for (lane, mut spans) in lanes {
        spans.sort_by_key(|span| (span.first_seq, span.last_seq));
        let mut next = if is_whole { 1 } else { spans.first().map_or(1, |span| span.first_seq) };
        for span in spans {
            if span.first_seq > next {
                let reason = "unaccounted".to_owned();
                missing.push(Missing { lane, first_seq: next, last_seq: Some(span.first_seq - 1), reason });
            }
            if let Some(reason) = span.missing {
                missing.push(Missing { lane, first_seq: span.first_seq, last_seq: span.last_seq, reason });
            }
            next = next.max(span.last_seq.map_or(span.first_seq, |last| last + 1));
        }
        accounted += next - 1;
    }
    let state = match (boot.ended_ms, is_running) {
        (Some(_), _) => BootState::Ended,
        (None, true) => BootState::Running,
        (None, false) => BootState::EndedUncleanly,
    };
    BootReport {
        boot: boot.boot,
        gateway: boot.gateway,
        began_ms: boot.began_ms,
        ended_ms: boot.ended_ms,
        state,
        records,
        counted: boot.counted,
        accounted: is_whole.then_some(accounted),
        missing,
    }
}

#[cfg(test)]
mod tests {
    use super::super::day_file::BlockRow;
    use super::super::tests::{block, boot};
    use super::*;

    fn report(files: &[(&str, Vec<BlockRow>, Vec<Gap>)], boot: &Boot) -> Report {
        let folder = tempfile::tempdir().unwrap();
        for (name, rows, gaps) in files {
            let blocks: Vec<_> = rows.iter().map(|row| (row.clone(), block(row))).collect();
            DayFile::open(&folder.path().join(name)).unwrap().write(boot, &blocks, gaps).unwrap();
        }
        verify(&Files::new(folder.path()), None).unwrap()
    }

    fn row(lane: u32, first_seq: u64, last_seq: u64) -> BlockRow {
        super::super::tests::row(lane, (first_seq, last_seq), 1_790_000_000_000)
    }

    fn gap(first_seq: u64, last_seq: Option<u64>, reason: &str) -> Gap {
        Gap { boot: "boot00000000".into(), lane: 0, first_seq, last_seq, reason: reason.into(), at_ms: 0 }
    }

    fn ended(counted: u64) -> Boot {
        Boot { ended_ms: Some(1_790_000_009_000), counted: Some(counted), ..boot() }
    }

    #[test]
    fn what_joins_without_a_hole_and_adds_up_is_complete() {
        let files = [
            ("2026-09-21.db", vec![row(0, 1, 5), row(1, 1, 2)], vec![]),
            ("2026-09-22.db", vec![row(0, 6, 9)], vec![]),
        ];
        let report = report(&files, &ended(11));
        assert!(report.holds(), "{report:?}");
        let [boot] = report.boots.as_slice() else { panic!("one boot") };
        assert_eq!((boot.records, boot.accounted, boot.state), (11, Some(11), BootState::Ended));
    }

    #[test]
    fn a_block_that_was_removed_is_missed() {
        let report = report(&[("2026-09-21.db", vec![row(0, 1, 5), row(0, 8, 9)], vec![])], &ended(9));
        assert!(!report.holds());
        let missing = Missing { lane: 0, first_seq: 6, last_seq: Some(7), reason: "unaccounted".into() };
        assert_eq!(report.boots[0].missing, [missing]);
    }

    #[test]
    fn a_last_block_that_was_removed_is_missed_by_the_count() {
        let report = report(&[("2026-09-21.db", vec![row(0, 1, 5)], vec![])], &ended(9));
        assert!(!report.holds());
        assert_eq!((report.boots[0].accounted, report.boots[0].counted), (Some(5), Some(9)));
    }

    #[test]
    fn a_gap_that_was_noticed_is_accounted_for() {
        let gaps = vec![gap(6, Some(7), "disk")];
        let report = report(&[("2026-09-21.db", vec![row(0, 1, 5), row(0, 8, 9)], gaps)], &ended(9));
        assert!(report.holds());
        assert_eq!((report.boots[0].records, report.boots[0].accounted), (7, Some(9)));
    }

    #[test]
    fn the_tail_of_a_boot_that_was_killed_is_said_to_be_lost() {
        let gaps = vec![gap(6, None, "unclean_end")];
        let report = report(&[("2026-09-21.db", vec![row(0, 1, 5)], gaps)], &boot());
        assert!(report.holds());
        assert_eq!(report.boots[0].state, BootState::EndedUncleanly);
        assert_eq!(report.boots[0].missing[0].last_seq, None);
    }

    #[test]
    fn a_block_that_was_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let row = row(0, 1, 5);
        let mut data = block(&row);
        data[20] ^= 1;
        let mut file = DayFile::open(&folder.path().join("2026-09-21.db")).unwrap();
        file.write(&ended(5), &[(row, data)], &[]).unwrap();
        let report = verify(&Files::new(folder.path()), None).unwrap();
        assert!(!report.holds());
        assert_eq!(report.boots[0].missing[0].reason, "damaged");
    }

    #[test]
    fn a_file_that_is_no_database_is_named_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("2026-09-20.db"), b"not a database at all").unwrap();
        let row = row(0, 1, 5);
        let data = block(&row);
        let mut file = DayFile::open(&folder.path().join("2026-09-21.db")).unwrap();
        file.write(&ended(5), &[(row, data)], &[]).unwrap();
        let report = verify(&Files::new(folder.path()), None).unwrap();
        assert_eq!((report.faults.len(), report.boots.len(), report.holds()), (1, 1, false));
    }

    #[test]
    fn a_boot_whose_first_days_are_gone_is_judged_by_those_that_are_left() {
        let report = report(&[("2026-09-22.db", vec![row(0, 100, 120)], vec![])], &ended(120));
        assert!(report.holds());
        assert_eq!(report.boots[0].accounted, None);
    }
}
