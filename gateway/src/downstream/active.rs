//! How many streams of a connection are under way: each counts from its head to the end of its task,
//! also when its client has reset it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Streams under way on a connection.
#[derive(Default)]
pub(super) struct Active {
    count: AtomicUsize,
    is_idle: Notify,
}

impl Active {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// One begins; it ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Guard {
        self.count.fetch_add(1, Ordering::AcqRel);
        Guard(self.clone())
    }

    /// Waits until there has been none for so long.
    pub(super) async fn idle_for(&self, time: Duration) {
        while self.count.load(Ordering::Acquire) > 0 {
            self.is_idle.notified().await;
        }
        tokio::time::sleep(time).await;
    }
}

/// One of them.
pub(super) struct Guard(Arc<Active>);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.is_idle.notify_one();
        }
    }
}
