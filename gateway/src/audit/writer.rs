//! Writes blocks into day files, once a second; removes old files; watches the disk.
//!
//! What cannot be written stays and is tried again each second, as long as there is room for it. The audit stops
//! before the disk is full, so that the keys' database never meets a full disk because of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::day_file::{Boot, DayFile, Gap};
use super::files::{Files, day_of};
use super::mark::{self, Gone, Mark};
use super::sealer::{Batch, Message, Progress};
use super::settings::Settings;
use super::usage_file::rest;
use crate::base::clock::Clock;
use crate::observe::{Health, Metrics};

/// Time between two tries.
const EVERY: Duration = Duration::from_secs(1);
/// Time between two looks for what is too old or too much.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for small blocks that belong together.
const MERGE_EVERY: Duration = Duration::from_secs(3_600);
/// Of a disk's room this much must be free, in percent.
const FREE_MIN_PERCENT: u64 = 5;
/// The subject under which readiness speaks of it.
const SUBJECT: &str = "audit";

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteFault {
    /// Nearly full.
    #[error("less than {FREE_MIN_PERCENT} % of the disk of {0} is free; nothing is written there until there is more")]
    NoRoom(PathBuf),
    /// The folder.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Folder(PathBuf, std::io::Error),
    /// A day file.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    File(PathBuf, rusqlite::Error),
}

/// Writes blocks.
pub(super) struct Writer {
    settings: Settings,
    files: Files,
    boot: Boot,
    lanes: usize,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    mark: Option<Mark>,
    /// Boots that are gone, until that is on record.
    gone: Vec<Gone>,
    day_file: Option<(PathBuf, DayFile)>,
    waiting: Batch,
    retained: Option<Instant>,
    merged: Instant,
}

impl Writer {
    pub(super) fn new(
        settings: Settings,
        (boot, lanes): (Boot, usize),
        (health, metrics): (Arc<Health>, Arc<Metrics>),
        clock: Arc<dyn Clock>,
        progress: Arc<Progress>,
    ) -> Self {
        let files = Files::new(&settings.folder);
        Writer {
            settings,
            files,
            boot,
            lanes,
            health,
            metrics,
            clock,
            progress,
            mark: None,
            gone: Vec::new(),
            day_file: None,
            waiting: Batch::default(),
            retained: None,
            merged: Instant::now(),
        }
    }

    /// Works until the sealer says that nothing comes any more.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        self.attempt();
        loop {
            let first = match messages.recv_timeout(EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut end = None;
            for message in first.into_iter().chain(messages.try_iter()) {
                match message {
                    Message::Batch(batch) => self.waiting.extend(batch),
                    Message::End(counted, done) => end = Some((counted, done)),
                }
            }
            if let Some((counted, done)) = end {
                (self.boot.ended_ms, self.boot.counted) = (Some(self.clock.now_ms()), Some(counted));
                self.attempt();
                if let (false, Some(mark)) = (self.progress.is_failing.load(Ordering::Acquire), &self.mark) {
                    let _ = mark.remove();
                }
                let _ = done.try_send(());
                return;
            }
            self.attempt();
        }
    }

    /// Writes what waits, and does what is due.
    fn attempt(&mut self) {
        let written = self.write();
        let was_failing = self.progress.is_failing.swap(written.is_err(), Ordering::AcqRel);
        match written {
            Ok(()) if was_failing => {
                self.health.restore(SUBJECT);
                tracing::info!(target: "tollgate::audit", "requests are on record again");
            }
            Ok(()) => {}
            Err(fault) => {
                // A file that fails may be gone or broken: it is opened again.
                self.day_file = None;
                let what = format!("requests cannot be put on record: {fault}");
                if !was_failing {
                    tracing::error!(target: "tollgate::audit", "{what}");
                }
                self.health.degrade(SUBJECT, what);
            }
        }
        self.metrics
            .audit
            .waiting
            .set(i64::try_from(self.progress.waiting.load(Ordering::Acquire)).unwrap_or(i64::MAX));
    }

    fn write(&mut self) -> Result<(), WriteFault> {
        self.begin()?;
        self.retain()?;
        let is_first = self.day_file.is_none();
        if !is_first && self.waiting.is_empty() && self.boot.ended_ms.is_none() {
            return Ok(());
        }
        check_room(self.files.folder())?;
        self.open()?;
        let Some((path, file)) = &mut self.day_file else { return Ok(()) };
        let Batch { blocks, gaps, usage } = &self.waiting;
        file.write_with_usage(&self.boot, (blocks, gaps), usage)
            .map_err(|cause| WriteFault::File(path.clone(), cause))?;
        for gone in self.gone.drain(..) {
            let _ = std::fs::remove_file(gone.mark);
        }
        let written = std::mem::take(&mut self.waiting);
        self.metrics.audit.count_written(&written);
        self.progress.waiting.fetch_sub(written.bytes(), Ordering::AcqRel);
        let is_over = self.boot.ended_ms.is_some();
        if is_over || self.merged.elapsed() >= MERGE_EVERY {
            self.merged = Instant::now();
            let gone = file.merge().map_err(|cause| WriteFault::File(path.clone(), cause))?;
            tracing::debug!(target: "tollgate::audit", "{gone} small blocks were put together");
        }
        Ok(())
    }

    /// Makes the folder and the mark of this boot, and puts on record which boots ended uncleanly.
    fn begin(&mut self) -> Result<(), WriteFault> {
        if self.mark.is_some() {
            return Ok(());
        }
        let folder = self.files.folder();
        let at = |cause| WriteFault::Folder(folder.to_owned(), cause);
        make_folder(folder).map_err(at)?;
        let mark = Mark::make(folder, &self.boot.boot, self.lanes).map_err(at)?;
        let gone = mark::gone(folder).map_err(at)?;
        // Only what cannot fail any more is kept: this is tried again until it succeeds.
        let tails = self.tails(&gone).map_err(at)?;
        self.waiting.extend(tails);
        self.gone = gone;
        self.mark = Some(mark);
        Ok(())
    }

    /// The tails that boots have lost whose process is gone, and the counts that they had not written.
    fn tails(&self, gone: &[Gone]) -> std::io::Result<Batch> {
        let mut tails = Batch::default();
        for gone in gone {
            tails.gaps.extend(self.tail_of(gone)?);
        }
        if !gone.is_empty() {
            tails.usage = rest(&self.files, |boot| gone.iter().any(|gone| gone.boot == boot.boot))?;
        }
        Ok(tails)
    }

    fn tail_of(&self, gone: &Gone) -> std::io::Result<Vec<Gap>> {
        let mut last = vec![0u64; gone.lanes as usize];
        for path in self.files.list()? {
            // A file that cannot be read says nothing; `audit verify` names it.
            let seqs = DayFile::open_to_read(&path).and_then(|file| file.last_seqs(&gone.boot)).unwrap_or_default();
            for (lane, seq) in seqs {
                if let Some(last) = last.get_mut(lane as usize) {
                    *last = seq.max(*last);
                }
            }
        }
        tracing::warn!(
            target: "tollgate::audit",
            "boot {} ended uncleanly: what happened in about its last second is not on record", gone.boot
        );
        let gap = |(lane, last): (u32, u64)| Gap {
            boot: gone.boot.clone(),
            lane,
            first_seq: last + 1,
            last_seq: None,
            reason: "unclean_end".to_owned(),
            at_ms: self.clock.now_ms(),
        };
        Ok((0..).zip(last).map(gap).collect())
    }

    fn retain(&mut self) -> Result<(), WriteFault> {
        if self.retained.is_some_and(|at| at.elapsed() < RETAIN_EVERY) {
            return Ok(());
        }
        self.retained = Some(Instant::now());
        let removed = self.files.retain(self.settings.days, self.settings.bytes, self.clock.now_ms());
        for path in removed.map_err(|cause| WriteFault::Folder(self.settings.folder.clone(), cause))? {
            tracing::info!(target: "tollgate::audit", "removed {}: older or more than is kept", path.display());
        }
        Ok(())
    }

    /// Makes sure that the file of the day is open.
    fn open(&mut self) -> Result<(), WriteFault> {
        let day = day_of(self.clock.now_ms());
        let current = self.files.current(&day, self.settings.bytes);
        let current = current.map_err(|cause| WriteFault::Folder(self.settings.folder.clone(), cause))?;
        // A clock that was set back must not lead into yesterday's file.
        if self.day_file.as_ref().is_some_and(|(path, _)| !self.files.is_earlier(path, &current)) {
            return Ok(());
        }
        let opened = match DayFile::open(&current) {
            Err(cause) if is_broken(&cause) => {
                let next = self.files.next(&current);
                tracing::error!(
                    target: "tollgate::audit",
                    "{} cannot be used ({cause}); what comes goes into {}", current.display(), next.display()
                );
                DayFile::open(&next).map(|file| (next, file))
            }
            opened => opened.map(|file| (current.clone(), file)),
        };
        self.day_file = Some(opened.map_err(|cause| WriteFault::File(current, cause))?);
        Ok(())
    }
}

/// A folder that only its owner may read: it says who did what.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn check_room(folder: &Path) -> Result<(), WriteFault> {
    let disk = rustix::fs::statvfs(folder).map_err(|cause| WriteFault::Folder(folder.to_owned(), cause.into()))?;
    if disk.f_bavail.saturating_mul(100) < disk.f_blocks.saturating_mul(FREE_MIN_PERCENT) {
        return Err(WriteFault::NoRoom(folder.to_owned()));
    }
    Ok(())
}

/// Whether a file is not one of ours, or no longer.
fn is_broken(cause: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(cause, rusqlite::Error::InvalidPath(_))
        || matches!(cause.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}
