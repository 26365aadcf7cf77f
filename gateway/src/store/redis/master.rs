//! Which server is the master: both connections of a store must speak to the same one.
//!
//! A server that was replaced may go on answering, with old records. So turns are counted. Whoever meets another
//! server than before, or hears that this one is no master any more, begins a new turn, and connections of
//! earlier turns are closed. After another server was met, all caches must forget: what they hold may have been
//! read from the old server after it was replaced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The master as it is known.
pub(super) struct Master {
    id: Mutex<Option<String>>,
    turn: watch::Sender<u64>,
    replaced: AtomicU64,
}

impl Default for Master {
    fn default() -> Self {
        Master { id: Mutex::default(), turn: watch::Sender::new(0), replaced: AtomicU64::new(0) }
    }
}

impl Master {
    /// The turn now.
    pub(super) fn now(&self) -> u64 {
        *self.turn.borrow()
    }

    /// Begins a new turn: whoever is connected looks again.
    pub(super) fn turn(&self) {
        self.turn.send_modify(|turn| *turn += 1);
    }

    /// A master was met; gives the turn that a connection to it belongs to.
    pub(super) fn met(&self, id: Option<&str>) -> u64 {
        let Some(id) = id else { return self.now() };
        let before = self.id.lock().unwrap_or_else(PoisonError::into_inner).replace(id.to_owned());
        if before.is_some_and(|before| before != id) {
            self.replaced.fetch_add(1, Ordering::AcqRel);
            self.turn();
        }
        self.now()
    }

    /// Waits until a turn is over.
    pub(super) async fn turned(&self, turn: u64) {
        let mut watch = self.turn.subscribe();
        if watch.wait_for(|now| *now != turn).await.is_err() {
            std::future::pending().await
        }
    }

    /// How often another server was met than before.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_begins_a_turn_and_the_same_one_does_not() {
        let master = Master::default();
        let first = master.met(Some("a"));
        assert_eq!((master.met(Some("a")), master.replaced()), (first, 0));
        let second = master.met(Some("b"));
        assert!(second != first && master.replaced() == 1);
        master.turn();
        assert!(master.now() != second && master.replaced() == 1);
    }
}
