//! Finds records in the day files: the newest first, block by block.
//!
//! A block is looked into only when its time and its set of names allow a match, and then only at the columns that
//! the filter is about. What cannot be read is named and skipped.

use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;

use ipnet::IpNet;

use super::block::{Block, BlockFault, Number, Text, Unpacked};
use super::day_file::{BlockRow, DayFile};
use super::files::Files;
use super::names::may_have;
use super::record::Line;
use crate::base::random::request_number;

/// What is looked for; everything that is given must fit.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Columns, and the text that a record has there.
    pub texts: Vec<(Text, String)>,
    /// Status.
    pub status: Option<RangeInclusive<u16>>,
    /// Range of addresses.
    pub network: Option<IpNet>,
    /// What the path begins with.
    pub path: Option<String>,
    /// Id of the request, ours or the client's.
    pub request_id: Option<String>,
    /// Ended at this instant or later, Unix milliseconds.
    pub since_ms: u64,
    /// Ended before this instant; none for no end.
    pub until_ms: Option<u64>,
}

/// A record's place among all others: by when it ended, and then by where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it ended, Unix milliseconds.
    pub ended_ms: u64,
    /// Its boot.
    pub boot: String,
    /// Its lane.
    pub lane: u32,
    /// Its sequence number in the lane.
    pub seq: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.ended_ms, self.boot, self.lane, self.seq)
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.');
        let mut next = || parts.next().unwrap_or_default();
        let parsed = (next().parse(), next().to_owned(), next().parse(), next().parse());
        match (parsed, parts.next()) {
            ((Ok(ended_ms), boot, Ok(lane), Ok(seq)), None) => Ok(Position { ended_ms, boot, lane, seq }),
            _ => Err(format!("`{text}` is no cursor; take one that an earlier list has printed")),
        }
    }
}

/// A record that fits.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Where it stands.
    pub position: Position,
    block: Rc<Unpacked>,
    row: usize,
}

impl Hit {
    /// The record.
    pub fn line(&self) -> Line<'_> {
        Line { record: self.block.record(self.row), boot: &self.position.boot }
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
    }
}

impl Eq for Hit {}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hit {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.position.cmp(&other.position)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Page {
    /// Records, the newest first.
    pub hits: Vec<Hit>,
    /// Whether there are more behind the last.
    pub has_more: bool,
    /// What could not be read, in words.
    pub faults: Vec<String>,
}

/// Looks for records, the newest first: at most `limit`, those behind `after`.
pub fn search(files: &Files, filter: &Filter, after: Option<&Position>, limit: usize) -> std::io::Result<Page> {
    let mut page = Page::default();
    let until_ms = filter.until_ms.map_or(u64::MAX, |until| until.saturating_sub(1));
    let until_ms = after.map_or(until_ms, |after| until_ms.min(after.ended_ms));
    let mut open = Vec::new();
    let mut blocks: Vec<(usize, BlockRow)> = Vec::new();
    for path in files.list()? {
        let rows = DayFile::open_to_read(&path).and_then(|file| Ok((file.blocks(filter.since_ms, until_ms)?, file)));
        match rows {
            Ok((rows, file)) => {
                blocks.extend(rows.into_iter().map(|row| (open.len(), row)));
                open.push((path, file));
            }
            Err(cause) => page.faults.push(format!("{}: {cause}", path.display())),
        }
    }
    blocks.sort_by_key(|(file, row)| std::cmp::Reverse((row.last_ms, *file, row.rowid)));
    let mut waiting = BinaryHeap::new();
    for (file, row) in blocks {
        if drain(&mut waiting, Some(row.last_ms), limit, &mut page) {
            return Ok(page);
        }
        let Some((path, file)) = open.get(file) else { continue };
        let ours = number_of(filter, &row);
        if !may_match(filter, &row, ours) {
            continue;
        }
        let found = file.data(row.rowid).map_err(|cause| cause.to_string()).and_then(|data| {
            let hits = hits(&data, filter, (&row, ours), until_ms);
            hits.map_err(|fault| fault.to_string())
        });
        match found {
            Ok(hits) => waiting.extend(hits.into_iter().filter(|hit| after.is_none_or(|after| hit.position < *after))),
            Err(cause) => page.faults.push(format!(
                "{}: the records {} to {} of lane {} of boot {} cannot be read: {cause}",
                path.display(),
                row.first_seq,
                row.last_seq,
                row.lane,
                row.boot
            )),
        }
    }
    drain(&mut waiting, None, limit, &mut page);
    Ok(page)
}

/// Takes what is newer than everything in blocks that end at `before_ms`; says if the page is full.
fn drain(waiting: &mut BinaryHeap<Hit>, before_ms: Option<u64>, limit: usize, page: &mut Page) -> bool {
    while waiting.peek().is_some_and(|hit| before_ms.is_none_or(|before| hit.position.ended_ms > before)) {
        if page.hits.len() >= limit {
            page.has_more = true;
            return true;
        }
        page.hits.extend(waiting.pop());
    }
    false
}

/// The number in the id that is looked for, if it can be one of the block's boot.
fn number_of(filter: &Filter, row: &BlockRow) -> Option<u64> {
    request_number(&row.boot, filter.request_id.as_ref()?)
}

fn may_match(filter: &Filter, row: &BlockRow, ours: Option<u64>) -> bool {
    let has = |column, name: &str| may_have(&row.names, column, name);
    let may_have_id = |id: &String| {
        ours.is_some_and(|number| (row.first_id..=row.last_id).contains(&number)) || has(Text::RequestId, id)
    };
    filter.texts.iter().all(|(column, name)| has(*column, name)) && filter.request_id.as_ref().is_none_or(may_have_id)
}

fn hits(
    data: &[u8],
    filter: &Filter,
    (row, ours): (&BlockRow, Option<u64>),
    until_ms: u64,
) -> Result<Vec<Hit>, BlockFault> {
    let block = Block::read(data)?;
    let ended = block.numbers(Number::Ended)?;
    let mut fits: Vec<bool> = ended.iter().map(|ended| (filter.since_ms..=until_ms).contains(ended)).collect();
    for (column, wanted) in &filter.texts {
        keep(&mut fits, &block, *column, |name| name == wanted)?;
    }
    if let Some(prefix) = &filter.path {
        keep(&mut fits, &block, Text::Path, |path| path.starts_with(prefix))?;
    }
    if let Some(network) = &filter.network {
        keep(&mut fits, &block, Text::Address, |a| a.parse::<IpAddr>().is_ok_and(|a| network.contains(&a)))?;
    }
    if let Some(status) = &filter.status {
        let statuses = block.numbers(Number::Status)?;
        let wanted = u64::from(*status.start())..=u64::from(*status.end());
        fits.iter_mut().zip(statuses).for_each(|(fits, status)| *fits &= wanted.contains(&status));
    }
    if let Some(id) = &filter.request_id {
        let (numbers, ids) = (block.numbers(Number::Id)?, block.texts(Text::RequestId)?);
        for ((at, fits), number) in fits.iter_mut().enumerate().zip(numbers) {
            *fits &= ours == Some(number) || number == 0 && ids.get(at) == id;
        }
    }
    if !fits.contains(&true) {
        return Ok(Vec::new());
    }
    let unpacked = Rc::new(block.unpack()?);
    let hit = |(at, ended_ms): (usize, u64)| Hit {
        position: Position { ended_ms, boot: row.boot.clone(), lane: row.lane, seq: row.first_seq + at as u64 },
        block: unpacked.clone(),
        row: at,
    };
    let fitting = ended.into_iter().enumerate().zip(fits).filter(|(_, fits)| *fits);
    Ok(fitting.map(|(place, _)| hit(place)).collect())
}

/// Drops the records whose text in a column is not wanted.
fn keep(
    fits: &mut [bool],
    block: &Block<'_>,
    column: Text,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<(), BlockFault> {
    if !fits.contains(&true) {
        return Ok(());
    }
    let texts = block.texts(column)?;
    let wanted: Vec<bool> = texts.names.iter().map(|name| is_wanted(name)).collect();
    for (fits, name) in fits.iter_mut().zip(&texts.rows) {
        *fits &= wanted.get(*name as usize).copied().unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::block::Builder;
    use super::super::record::tests::sample;
    use super::super::record::{Record, RecordedId};
    use super::super::tests::boot;
    use super::*;

    const START_MS: u64 = 1_790_000_000_000;
    const KEYS: [&str; 3] = ["key_a", "key_b", "key_c"];

    /// Record `n` ends at `START_MS + n`, on one of two lanes, in blocks of five, in two files.
    fn written(count: u64) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let mut files =
            ["2026-09-21.db", "2026-09-22.db"].map(|name| DayFile::open(&folder.path().join(name)).unwrap());
        for lane in 0..2 {
            let numbers: Vec<u64> = (0..count).filter(|n| n % 2 == lane).collect();
            for (index, numbers) in numbers.chunks(5).enumerate() {
                let mut builder = Builder::default();
                for n in numbers {
                    let key = KEYS[usize::try_from(n % 3).unwrap()];
                    let foreign = format!("order-{n}");
                    let id = if n % 7 == 0 { RecordedId::Theirs(&foreign) } else { RecordedId::Ours(n + 1) };
                    let status = if n % 5 == 0 { 429 } else { 200 };
                    let path = format!("/items/{n}");
                    let record = Record { began_ms: START_MS + n - 1, key, id, status, path: &path, ..sample(1) };
                    builder.push(&record);
                }
                let first_seq = index as u64 * 5 + 1;
                let lane = u32::try_from(lane).unwrap();
                let (row, data) = BlockRow::seal(&mut builder, (&boot().boot, lane, first_seq)).unwrap();
                let file = usize::from(row.last_ms > START_MS + count / 2);
                files[file].write(&boot(), &[(row, data)], &[]).unwrap();
            }
        }
        let files = Files::new(folder.path());
        (folder, files)
    }

    fn found(files: &Files, filter: &Filter, limit: usize) -> Vec<u64> {
        let page = search(files, filter, None, limit).unwrap();
        assert!(page.faults.is_empty(), "{:?}", page.faults);
        page.hits.iter().map(|hit| hit.position.ended_ms - START_MS).collect()
    }

    #[test]
    fn records_come_newest_first_whatever_their_lane_and_file() {
        let (_folder, files) = written(101);
        assert_eq!(found(&files, &Filter::default(), 1_000), (0..101).rev().collect::<Vec<_>>());
    }

    #[test]
    fn pages_put_together_are_the_whole_list() {
        let (_folder, files) = written(101);
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = search(&files, &Filter::default(), after.as_ref(), 7).unwrap();
            all.extend(page.hits.iter().map(|hit| hit.position.ended_ms - START_MS));
            after = page.hits.last().map(|hit| hit.position.to_string().parse().unwrap());
            if !page.has_more {
                break;
            }
        }
        assert_eq!(all, (0..101).rev().collect::<Vec<_>>());
    }

    #[test]
    fn each_filter_keeps_what_fits_and_nothing_else() {
        let (_folder, files) = written(101);
        let all = || (0..101u64).rev();
        let filter = |edit: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            edit(&mut filter);
            found(&files, &filter, 1_000)
        };
        assert_eq!(
            filter(&|f| f.texts.push((Text::Key, "key_b".into()))),
            all().filter(|n| n % 3 == 1).collect::<Vec<_>>()
        );
        assert_eq!(filter(&|f| f.status = Some(400..=499)), all().filter(|n| n % 5 == 0).collect::<Vec<_>>());
        assert_eq!(
            filter(&|f| f.path = Some("/items/9".into())),
            all().filter(|n| *n == 9 || (90..100).contains(n)).collect::<Vec<_>>()
        );
        let until = |f: &mut Filter| (f.since_ms, f.until_ms) = (START_MS + 20, Some(START_MS + 23));
        assert_eq!(filter(&until), [22, 21, 20]);
        assert_eq!(filter(&|f| f.network = "203.0.113.0/24".parse().ok()).len(), 101);
        assert_eq!(filter(&|f| f.network = "10.0.0.0/8".parse().ok()).len(), 0);
        assert_eq!(filter(&|f| f.texts.push((Text::Organization, "nobody".into()))).len(), 0);
    }

    #[test]
    fn a_request_is_found_by_our_id_and_by_the_clients() {
        let (_folder, files) = written(101);
        let by = |id: &str| found(&files, &Filter { request_id: Some(id.into()), ..Filter::default() }, 10);
        assert_eq!(by(&format!("{}{:012x}", boot().boot, 54)), [53]);
        assert_eq!(by("order-98"), [98]);
        assert!(by("order-99").is_empty() && by(&boot().boot).is_empty() && by("").is_empty());
    }

    #[test]
    fn a_text_that_is_no_cursor_is_refused() {
        for text in ["", "1", "1.b.2", "x.b.2.3", "1.b.2.3.4"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
