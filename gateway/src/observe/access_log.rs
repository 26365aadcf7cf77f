//! The access log: one JSON line for each request, on standard output, written by a thread of its
//! own behind a bounded queue. A full queue drops lines and counts them; it never slows a request.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::{Metrics, Record};

/// Lines that may wait.
const QUEUE_MAX: usize = 16_384;

/// Takes records.
pub struct AccessLog {
    queue: Option<SyncSender<String>>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// A log that writes to standard output, or one that is switched off.
    pub fn new(is_on: bool, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        if !is_on {
            return Ok(AccessLog { queue: None, metrics });
        }
        let (queue, lines) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&lines))?;
        Ok(AccessLog { queue: Some(queue), metrics })
    }

    /// Whether records are wanted at all.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Writes a record, if there is room.
    pub fn write(&self, record: &Record<'_>) {
        let Some(queue) = &self.queue else { return };
        let Ok(line) = serde_json::to_string(record) else { return };
        match queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.dropped.with_label_values(&["access_log"]).inc();
            }
        }
    }
}

fn write_lines(lines: &Receiver<String>) {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Ok(line) = lines.recv() {
        let mut failed = writeln!(out, "{line}").is_err();
        // Whatever else waits goes out in the same write.
        while let Ok(line) = lines.try_recv() {
            failed |= writeln!(out, "{line}").is_err();
        }
        if failed | out.flush().is_err() {
            // Nobody reads us any more; keep emptying the queue.
            continue;
        }
    }
}
