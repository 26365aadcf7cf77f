//! Empties the lanes: writes the access log, and gathers records into blocks, which it seals once a second.
//!
//! It never waits for a disk or a terminal. Blocks that nobody takes are dropped, and their gap is kept until somebody
//! takes that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use policy::hide::hide_credentials;

use super::KeyPrefixes;
use super::block::Builder;
use super::day_file::{BlockRow, Gap};
use super::lanes::{Gathered, Lanes};
use super::record::{Line, Record, RecordedId};
use super::settings::{Addresses, WhenFull};
use super::usage::Counts;
use super::usage_file::{Counted, CountedUsage};
use crate::base::clock::Clock;
use crate::base::line_writer::LineWriter;
use crate::observe::{AuditMetrics, Metrics};

/// Time between two looks at the lanes while something happens: how late a line of the access log is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while nothing happens.
const LOOK_IDLE: Duration = Duration::from_millis(200);
/// Time between two seals: what is lost when a gateway is killed.
const SEAL_EVERY: Duration = Duration::from_secs(1);
/// Time between two writes of counts.
const USAGE_EVERY: Duration = Duration::from_secs(60);
/// Batches that may wait for the writer.
pub(super) const BATCHES_MAX: usize = 4_096;
/// Bytes that may wait for the writer: some 16 full blocks.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Lines of the access log that are handed over at once.
const LINES_AT_ONCE: usize = 128;

/// What the sealer hands to the writer.
pub(super) enum Message {
    /// Blocks and gaps.
    Batch(Batch),
    /// Nothing comes behind this: so many requests were counted. Says when everything is written.
    End(u64, SyncSender<()>),
}

/// Blocks of one moment, and gaps.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) blocks: Vec<(BlockRow, Vec<u8>)>,
    pub(super) gaps: Vec<Gap>,
    pub(super) usage: CountedUsage,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.gaps.is_empty() && self.usage.counted.is_empty()
    }

    /// Puts another one behind it.
    pub(super) fn extend(&mut self, later: Batch) {
        self.blocks.extend(later.blocks);
        self.gaps.extend(later.gaps);
        self.usage.sums.extend(later.usage.sums);
        self.usage.counted.extend(later.usage.counted);
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|(row, data)| row.names.len() + data.len()).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.blocks.iter().map(|(row, _)| row.records()).sum()
    }
}

/// What sealer, writer and requests know of each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that wait for the writer.
    pub(super) waiting: AtomicUsize,
    /// Whether the writer's last try failed.
    pub(super) is_failing: AtomicBool,
    /// Whether everything is to be sealed and the threads are to end.
    pub(super) is_stopping: AtomicBool,
    /// How many requests had been counted when it was to stop.
    pub(super) counted: AtomicU64,
}

/// A lane between two seals.
#[derive(Default)]
struct LaneOfBlocks {
    builder: Builder,
    first_seq: u64,
    /// The last that was taken, or is lost.
    last_seq: u64,
}

/// Where blocks go.
pub(super) struct ToWriter {
    pub(super) messages: SyncSender<Message>,
    pub(super) when_full: WhenFull,
}

/// Empties the lanes.
pub(super) struct Sealer {
    pub(super) lanes: Arc<Lanes>,
    pub(super) boot: Arc<str>,
    pub(super) access_log: Option<LineWriter>,
    pub(super) writer: Option<ToWriter>,
    pub(super) addresses: Addresses,
    pub(super) key_prefixes: KeyPrefixes,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) progress: Arc<Progress>,
}

/// What a sealer has at hand.
struct Work {
    lanes: Vec<LaneOfBlocks>,
    /// What each lane gave last; its buffers go back to it at the next look.
    gathered: Vec<Gathered>,
    batch: Batch,
    key_prefixes: Vec<Box<str>>,
    counts: Counts,
}

impl Sealer {
    /// Works until it is stopped.
    pub(super) fn run(&self) {
        let lanes = (0..self.lanes.count()).map(|_| LaneOfBlocks::default()).collect();
        let gathered = (0..self.lanes.count()).map(|_| Gathered::default()).collect();
        let (batch, key_prefixes, counts) = (Batch::default(), Vec::new(), Counts::default());
        let mut work = Work { lanes, gathered, batch, key_prefixes, counts };
        let (mut sealed, mut counted) = (Instant::now(), Instant::now());
        loop {
            let is_last = self.progress.is_stopping.load(Ordering::Acquire);
            let has_found = self.look(&mut work);
            if is_last || sealed.elapsed() >= SEAL_EVERY {
                sealed = Instant::now();
                let is_due = is_last || counted.elapsed() >= USAGE_EVERY;
                if is_due {
                    counted = sealed;
                }
                self.seal(&mut work, is_due);
            }
            if is_last {
                return self.end(work);
            }
            std::thread::park_timeout(if has_found { LOOK_EVERY } else { LOOK_IDLE });
        }
    }

    /// Empties each lane once; says if there was anything.
    fn look(&self, work: &mut Work) -> bool {
        for (lane, gathered) in work.gathered.iter_mut().enumerate() {
            *gathered = self.lanes.take(lane, std::mem::take(gathered));
        }
        if work.gathered.iter().all(Gathered::is_empty) {
            return false;
        }
        work.key_prefixes = (self.key_prefixes)();
        self.log(work);
        if self.writer.is_some() {
            for lane in 0..work.lanes.len() {
                self.gather(lane, work);
            }
            self.send(work);
        }
        true
    }

    /// Does something with as much of a record as is kept: no credential, and of the address what the settings say.
    fn with_kept<T>(
        &self,
        record: Record<'_, 'static>,
        prefixes: &[Box<str>],
        work: impl FnOnce(&Record<'_, '_>) -> T,
    ) -> T {
        let path = hide_credentials(record.path, prefixes);
        let address = self.addresses.kept(record.address);
        match record.id {
            RecordedId::Ours(_) => work(&Record { path: &path, address, ..record }),
            RecordedId::Theirs(id) => {
                let id = hide_credentials(id, prefixes);
                work(&Record { path: &path, address, id: RecordedId::Theirs(&id), ..record })
            }
        }
    }

    /// Writes lines of the access log, many at once; those of all lanes in the order in which they ended.
    fn log(&self, work: &Work) {
        let Some(log) = &self.access_log else { return };
        let mut lanes: Vec<_> = work.gathered.iter().map(|gathered| gathered.records().peekable()).collect();
        let (mut lines, mut count) = (String::new(), 0);
        while let Some(lane) = lanes
            .iter_mut()
            .filter_map(|lane| Some((lane.peek()?.ended_ms(), lane)))
            .min_by_key(|(ended_ms, _)| *ended_ms)
            .map(|(_, lane)| lane)
            && let Some(record) = lane.next()
        {
            let line = self.with_kept(record, &work.key_prefixes, |record| {
                serde_json::to_string(&Line { record: *record, boot: &self.boot })
            });
            let Ok(line) = line else { continue };
            if count > 0 {
                lines.push('\n');
            }
            lines.push_str(&line);
            count += 1;
            if count == LINES_AT_ONCE {
                self.write_lines(log, std::mem::take(&mut lines), std::mem::take(&mut count));
            }
        }
        if count > 0 {
            self.write_lines(log, lines, count);
        }
        let dropped: u64 = work.gathered.iter().map(|gathered| gathered.dropped).sum();
        if dropped > 0 {
            self.metrics.dropped.with_label_values(&["access_log"]).inc_by(dropped);
        }
    }

    fn write_lines(&self, log: &LineWriter, lines: String, count: usize) {
        if !log.write(lines) {
            self.metrics.dropped.with_label_values(&["access_log"]).inc_by(count as u64);
        }
    }

    fn gather(&self, lane: usize, work: &mut Work) {
        let Work { lanes, gathered, batch, key_prefixes, counts } = work;
        let (Some(blocks), Some(gathered)) = (lanes.get_mut(lane), gathered.get(lane)) else { return };
        for (record, seq) in gathered.records().zip(gathered.first_seq..) {
            if blocks.builder.is_full() {
                self.seal_lane(lane, blocks, batch);
            }
            if blocks.builder.records() == 0 {
                blocks.first_seq = seq;
            }
            self.with_kept(record, key_prefixes, |record| {
                blocks.builder.push(record);
                counts.count(record);
            });
        }
        blocks.last_seq = gathered.first_seq + gathered.len() as u64 + gathered.dropped - 1;
        if gathered.dropped > 0 {
            self.seal_lane(lane, blocks, batch);
            let first_seq = gathered.first_seq + gathered.len() as u64;
            self.lost(batch, lane, (first_seq, first_seq + gathered.dropped - 1), "lane_full");
        }
    }

    /// Seals what a lane has.
    fn seal_lane(&self, lane: usize, blocks: &mut LaneOfBlocks, batch: &mut Batch) {
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        batch.blocks.extend(BlockRow::seal(&mut blocks.builder, (&self.boot, lane, blocks.first_seq)));
    }

    /// Seals every lane; `with_usage` puts the counts with it.
    fn seal(&self, work: &mut Work, with_usage: bool) {
        let Work { lanes, batch, counts, .. } = work;
        for (lane, blocks) in lanes.iter_mut().enumerate() {
            self.seal_lane(lane, blocks, batch);
        }
        if with_usage {
            batch.usage = self.usage(lanes, counts);
        }
        self.send(work);
    }

    /// What was counted, and how far that goes.
    fn usage(&self, lanes: &[LaneOfBlocks], counts: &mut Counts) -> CountedUsage {
        let sums = counts.take();
        if sums.is_empty() {
            return CountedUsage::default();
        }
        let counted =
            |(lane, blocks): (u32, &LaneOfBlocks)| Counted { boot: self.boot.to_string(), lane, seq: blocks.last_seq };
        CountedUsage { sums, counted: (0..).zip(lanes).map(counted).collect() }
    }

    /// Keeps a gap, together with the one before it if they touch.
    fn lost(&self, batch: &mut Batch, lane: usize, (first_seq, last_seq): (u64, u64), reason: &str) {
        self.metrics.audit.dropped.inc_by(last_seq + 1 - first_seq);
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        let before = batch.gaps.iter_mut().find(|gap| gap.lane == lane && gap.last_seq == Some(first_seq - 1));
        match before {
            Some(before) => before.last_seq = Some(last_seq),
            None => batch.gaps.push(Gap {
                boot: self.boot.to_string(),
                lane,
                first_seq,
                last_seq: Some(last_seq),
                reason: reason.to_owned(),
                at_ms: self.clock.now_ms(),
            }),
        }
    }

    /// Hands over what is sealed, or drops it and keeps the gaps.
    fn send(&self, work: &mut Work) {
        let Work { batch, counts, .. } = work;
        let Some(writer) = &self.writer else { return };
        let waiting = self.progress.waiting.load(Ordering::Acquire);
        let is_failing = self.progress.is_failing.load(Ordering::Acquire);
        let is_refusing = is_failing || waiting >= WAITING_BYTES_MAX / 2;
        self.lanes.set_refusing(writer.when_full == WhenFull::Refuse && is_refusing);
        if batch.is_empty() {
            return;
        }
        let sent = std::mem::take(batch);
        let bytes = sent.bytes();
        let refused = if waiting + bytes > WAITING_BYTES_MAX && bytes > 0 {
            sent
        } else {
            self.progress.waiting.fetch_add(bytes, Ordering::AcqRel);
            match writer.messages.try_send(Message::Batch(sent)) {
                Ok(()) => return,
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                    self.progress.waiting.fetch_sub(bytes, Ordering::AcqRel);
                    let Message::Batch(batch) = message else { return };
                    batch
                }
            }
        };
        batch.gaps = refused.gaps;
        refused.usage.sums.into_iter().for_each(|(group, sums)| counts.add(group, &sums));
        for (row, _) in refused.blocks {
            self.lost(batch, row.lane as usize, (row.first_seq, row.last_seq), "disk");
        }
    }

    /// The last of it, and the end.
    fn end(&self, mut work: Work) {
        let Some(writer) = &self.writer else { return };
        // The writer may be at its limit: blocks that it did not take stand as lost, which is what they are.
        let usage = self.usage(&work.lanes, &mut work.counts);
        let last = Batch { blocks: Vec::new(), gaps: work.batch.gaps, usage };
        if !last.is_empty() {
            let _ = writer.messages.send(Message::Batch(last));
        }
        let (done, written) = std::sync::mpsc::sync_channel(1);
        if writer.messages.send(Message::End(self.progress.counted.load(Ordering::Acquire), done)).is_ok() {
            let _ = written.recv_timeout(super::STOP_TIME);
        }
    }
}

impl AuditMetrics {
    /// Counts what was written.
    pub(super) fn count_written(&self, batch: &Batch) {
        self.written.inc_by(batch.records());
        self.bytes.inc_by(batch.bytes() as u64);
    }
}
