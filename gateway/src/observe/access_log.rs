//! The access log: one JSON line for each request, on standard output. A full queue drops lines and counts them;
//! a request never waits for it.

use std::sync::Arc;

use super::{Metrics, Record};
use crate::base::line_writer::LineWriter;

/// Takes records.
pub struct AccessLog {
    lines: Option<LineWriter>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// A log that writes to standard output, or one that is switched off.
    pub fn new(is_on: bool, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let lines = is_on.then(|| LineWriter::start("access-log", std::io::stdout())).transpose()?;
        Ok(AccessLog { lines, metrics })
    }

    /// Whether records are wanted at all.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Waits, at the end, until what was taken is written.
    pub fn flush(&self) {
        if let Some(lines) = &self.lines {
            lines.flush();
        }
    }

    /// Writes a record, if there is room.
    pub fn write(&self, record: &Record<'_>) {
        let Some(lines) = &self.lines else { return };
        let Ok(line) = serde_json::to_string(record) else { return };
        if !lines.write(line) {
            self.metrics.dropped.with_label_values(&["access_log"]).inc();
        }
    }
}
