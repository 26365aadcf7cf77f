//! Requests on record: which key made each of them, and how it ended.
//!
//! A request's thread puts a [`Record`] into a lane and goes on. A thread of its own, the sealer, writes the access log
//! from it and gathers blocks; another one, the writer, puts them into day files. What always holds: each request has
//! one record; what is lost is counted, and stands on record as a gap. A request never waits for a disk, and no file
//! here is the keys' database.

pub mod block;
pub mod day_file;
pub mod files;
pub mod lanes;
mod mark;
mod merge;
mod names;
pub mod reader;
mod record;
mod sealer;
pub mod settings;
pub mod usage;
pub mod usage_file;
pub mod verify;
mod writer;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::day_file::Boot;
use self::lanes::Lanes;
pub use self::record::{Labels, Line, Record, RecordedId};
use self::sealer::{BATCHES_MAX, Progress, Sealer, ToWriter};
use self::settings::Settings;
use self::writer::Writer;
use crate::base::clock::Clock;
use crate::base::line_writer::LineWriter;
use crate::observe::{Health, Metrics};

/// Longest wait, at the end, until what was taken is written.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Takes what is kept of requests.
pub struct Audit {
    lanes: Option<Arc<Lanes>>,
    progress: Arc<Progress>,
    access_log: Option<LineWriter>,
    sealer: Mutex<Option<JoinHandle<()>>>,
}

/// Gives what keys begin with, under the policy in force.
pub type KeyPrefixes = Arc<dyn Fn() -> Vec<Box<str>> + Send + Sync>;

/// Who keeps records.
#[derive(Clone)]
pub struct Keeper<'a> {
    /// What all its ids of requests begin with.
    pub boot: &'a str,
    /// Its name among the gateways.
    pub gateway: &'a str,
    /// Its worker threads.
    pub threads: usize,
    /// What is taken out of the texts of a record.
    pub key_prefixes: KeyPrefixes,
}

impl Audit {
    /// Starts the threads, if anything is to be kept: in files, or as lines on standard output.
    pub fn start(
        settings: &Settings,
        has_access_log: bool,
        keeper: &Keeper<'_>,
        (metrics, health): (&Arc<Metrics>, &Arc<Health>),
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let progress = Arc::new(Progress::default());
        if !has_access_log && !settings.is_on {
            return Ok(Audit { lanes: None, progress, access_log: None, sealer: Mutex::default() });
        }
        let access_log = has_access_log.then(|| LineWriter::start("access-log", std::io::stdout())).transpose()?;
        let lanes = Arc::new(Lanes::new(keeper.threads));
        let writer = settings.is_on.then(|| {
            let boot = Boot {
                boot: keeper.boot.to_owned(),
                gateway: keeper.gateway.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                began_ms: clock.now_ms(),
                ended_ms: None,
                counted: None,
            };
            let told = (health.clone(), metrics.clone());
            let writer = Writer::new(settings.clone(), (boot, lanes.count()), told, clock.clone(), progress.clone());
            let (messages, received) = std::sync::mpsc::sync_channel(BATCHES_MAX);
            let thread = std::thread::Builder::new().name("audit-writer".into());
            thread.spawn(move || writer.run(&received)).map(|_| ToWriter { messages, when_full: settings.when_full })
        });
        let sealer = Sealer {
            lanes: lanes.clone(),
            boot: keeper.boot.into(),
            access_log: access_log.clone(),
            writer: writer.transpose()?,
            addresses: settings.addresses,
            key_prefixes: keeper.key_prefixes.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            progress: progress.clone(),
        };
        let sealer = std::thread::Builder::new().name("audit-sealer".into()).spawn(move || sealer.run())?;
        lanes.sealed_by(sealer.thread().clone());
        Ok(Audit { lanes: Some(lanes), progress, access_log, sealer: Mutex::new(Some(sealer)) })
    }

    /// One that keeps nothing: for tests and benches.
    pub fn off() -> Self {
        Audit { lanes: None, progress: Arc::default(), access_log: None, sealer: Mutex::default() }
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.lanes.is_some()
    }

    /// Keeps a record, if there is room. Does not wait.
    pub fn record(&self, record: &Record<'_, 'static>) {
        if let Some(lanes) = &self.lanes {
            lanes.push(record);
        }
    }

    /// Whether requests must be refused, because they would not be on record.
    pub fn is_refusing(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.is_refusing())
    }

    /// Writes everything, at the end. `counted` is how many requests the metrics have counted.
    pub fn stop(&self, counted: u64) {
        self.progress.counted.store(counted, Ordering::Release);
        self.progress.is_stopping.store(true, Ordering::Release);
        let sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sealer) = sealer {
            sealer.thread().unpark();
            let _ = sealer.join();
        }
        if let Some(log) = &self.access_log {
            log.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::block::Builder;
    use super::day_file::BlockRow;
    use super::record::tests::sample;
    use super::*;

    /// A boot that began on 2026-09-21.
    pub(super) fn boot() -> Boot {
        Boot {
            boot: "boot00000000".into(),
            gateway: "gw_1".into(),
            version: "0".into(),
            began_ms: 1_790_000_000_000,
            ended_ms: None,
            counted: None,
        }
    }

    /// Where a block of that boot belongs, whose records have these sequence numbers and ended at about this time.
    pub(super) fn row(lane: u32, (first_seq, last_seq): (u64, u64), at_ms: u64) -> BlockRow {
        let names = Vec::new();
        let (first_id, last_id, first_ms, last_ms) = (first_seq, last_seq, at_ms, at_ms + last_seq);
        BlockRow { rowid: 0, boot: boot().boot, lane, first_seq, last_seq, first_ms, last_ms, first_id, last_id, names }
    }

    /// The block of a row.
    pub(super) fn block(row: &BlockRow) -> Vec<u8> {
        let mut builder = Builder::default();
        (row.first_seq..=row.last_seq).for_each(|number| builder.push(&sample(number)));
        builder.seal()
    }

    fn started(settings: &Settings) -> (Audit, Arc<Metrics>, Arc<Health>) {
        let (metrics, health) = (Arc::new(Metrics::new().unwrap()), Arc::new(Health::default()));
        let clock: Arc<dyn Clock> = Arc::new(crate::base::clock::System);
        let boot = crate::base::random::base62(12).unwrap();
        let key_prefixes: KeyPrefixes = Arc::new(|| vec!["sk_live_".into()]);
        let keeper = Keeper { boot: &boot, gateway: "gw_1", threads: 2, key_prefixes };
        let audit = Audit::start(settings, false, &keeper, (&metrics, &health), &clock).unwrap();
        (audit, metrics, health)
    }

    fn settings(folder: &std::path::Path, when_full: settings::WhenFull) -> Settings {
        let addresses = settings::Addresses::Full;
        Settings { is_on: true, folder: folder.join("audit"), days: 30, bytes: 1 << 30, when_full, addresses }
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let started = std::time::Instant::now();
        while !is_so() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn after_a_stop_every_record_of_every_thread_is_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), settings::WhenFull::Drop);
        let (audit, metrics, _) = started(&settings);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (1..=5_000).for_each(|number| audit.record(&sample(number))));
            }
        });
        audit.stop(15_000);
        let report = verify::verify(&files::Files::new(&settings.folder), None).unwrap();
        assert!(report.holds(), "{report:?}");
        assert_eq!((report.boots[0].records, report.boots[0].counted), (15_000, Some(15_000)));
        assert_eq!((metrics.audit.written.get(), metrics.audit.dropped.get()), (15_000, 0));
    }

    #[test]
    fn what_cannot_be_written_waits_and_readiness_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), settings::WhenFull::Refuse);
        std::fs::write(&settings.folder, b"in the way").unwrap();
        let (audit, metrics, health) = started(&settings);
        audit.record(&sample(1));
        until("readiness says it", || health.readiness().reasons.contains_key("audit"));
        until("requests are refused", || audit.is_refusing());
        std::fs::remove_file(&settings.folder).unwrap();
        until("it is written", || metrics.audit.written.get() == 1);
        until("readiness says nothing any more", || !health.readiness().reasons.contains_key("audit"));
        until("requests are taken again", || !audit.is_refusing());
        audit.stop(1);
    }

    #[test]
    fn two_processes_write_into_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), settings::WhenFull::Drop);
        let pair = [started(&settings), started(&settings)];
        std::thread::scope(|scope| {
            for (audit, ..) in &pair {
                scope.spawn(|| (1..=2_000).for_each(|number| audit.record(&sample(number))));
            }
        });
        pair.iter().for_each(|(audit, ..)| audit.stop(2_000));
        let report = verify::verify(&files::Files::new(&settings.folder), None).unwrap();
        assert!(report.holds(), "{report:?}");
        assert_eq!(report.boots.iter().map(|boot| boot.records).collect::<Vec<_>>(), [2_000, 2_000]);
    }
}
