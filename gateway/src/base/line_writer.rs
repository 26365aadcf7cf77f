//! Writes lines on a thread of its own, behind a bounded queue. Whoever has a line to write never waits for a
//! terminal, a pipe or a disk. All lines that wait go out in one write.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait.
const QUEUE_MAX: usize = 16_384;
/// Longest wait for what is still to be written at the end.
const FLUSH_TIME: Duration = Duration::from_secs(2);

enum Message {
    Line(String),
    /// Says when everything before it was written.
    Flush(SyncSender<()>),
}

/// Takes lines.
#[derive(Clone, Debug)]
pub struct LineWriter(SyncSender<Message>);

impl LineWriter {
    /// Writes to `out` on a thread with this name.
    pub fn start(name: &str, out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name(name.into()).spawn(move || write_lines(&messages, out))?;
        Ok(LineWriter(queue))
    }

    /// Takes a line, without its end; `false` when there is no room for it.
    pub fn write(&self, line: String) -> bool {
        match self.0.try_send(Message::Line(line)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Waits until what was taken is written, for two seconds at most.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        let started = Instant::now();
        while started.elapsed() < FLUSH_TIME {
            match self.0.try_send(Message::Flush(done.clone())) {
                Ok(()) => {
                    let _ = written.recv_timeout(FLUSH_TIME.saturating_sub(started.elapsed()));
                    return;
                }
                // The thread is at work: there is room in a moment.
                Err(TrySendError::Full(_)) => std::thread::sleep(Duration::from_millis(5)),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

fn write_lines(messages: &Receiver<Message>, out: impl Write) {
    let mut out = std::io::BufWriter::new(out);
    while let Ok(first) = messages.recv() {
        let mut waiting = Vec::new();
        // Whatever else waits goes out in the same write.
        for message in std::iter::once(first).chain(messages.try_iter().take(QUEUE_MAX)) {
            match message {
                // Nobody may read us any more; the queue is emptied all the same.
                Message::Line(line) => drop(writeln!(out, "{line}")),
                Message::Flush(done) => waiting.push(done),
            }
        }
        let _ = out.flush();
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_taken_is_written_in_order_before_a_flush_ends() {
        let out = Shared::default();
        let writer = LineWriter::start("test", out.clone()).unwrap();
        for n in 0..1_000 {
            assert!(writer.write(n.to_string()));
        }
        writer.flush();
        let written = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(written.lines().eq((0..1_000).map(|n| n.to_string())));
    }
}
