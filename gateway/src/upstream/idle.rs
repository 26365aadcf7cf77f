//! Connections to one backend that wait for their next request.
//!
//! They belong to the backend's entry in its pool. So finding one costs neither a key nor a hash, and they are
//! closed when the backend leaves the pool. No task watches an idle connection: it is looked at when it is
//! taken, and now and then by [`IdlePool::tidy`].

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};

use super::http1::Http1;
use crate::base::clock::micros;

/// Most connections kept to one backend.
const KEPT_MAX: usize = 1_024;
/// How long an idle connection is kept. Shorter than what servers commonly allow (nginx: 75 s).
pub(super) const IDLE: Duration = Duration::from_secs(55);
/// A connection is given up so long before its backend would close it: a request must not meet that.
const MARGIN: Duration = Duration::from_millis(500);

/// Idle connections, the one used last at the back, each with its end on the steady clock.
#[derive(Debug, Default)]
pub struct IdlePool {
    idle: Mutex<VecDeque<(Box<Http1>, u64)>>,
}

impl IdlePool {
    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<(Box<Http1>, u64)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still usable. `now_us` is on the steady clock.
    pub fn take(&self, now_us: u64) -> Option<Box<Http1>> {
        loop {
            let (mut connection, end_us) = self.idle().pop_back()?;
            if now_us < end_us && is_quiet(&mut connection) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose exchange ended cleanly, no longer than its backend does (`most`, as
    /// it says). One too many is closed.
    pub fn put(&self, mut connection: Box<Http1>, most: Option<Duration>, now_us: u64) {
        let life = most.map_or(IDLE, |most| IDLE.min(most.saturating_sub(MARGIN)));
        let mut idle = self.idle();
        if idle.len() < KEPT_MAX && !life.is_zero() {
            connection.rest();
            idle.push_back((connection, now_us.saturating_add(micros(life))));
        }
    }

    /// Closes what has waited too long, and what the backend has closed.
    pub fn tidy(&self, now_us: u64) {
        self.idle().retain_mut(|(connection, end_us)| now_us < *end_us && is_quiet(connection));
    }
}

/// Whether the other side has neither closed an idle connection nor said anything on it. Bytes that
/// nobody asked for must not be taken for the next answer.
fn is_quiet(connection: &mut Http1) -> bool {
    let connection = connection.connection_mut();
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let look = std::future::poll_fn(|cx| Pin::new(&mut *connection).poll_read(cx, &mut buffer));
    // Outside the task's budget: a budget that is spent would look like quiet.
    let look = pin!(tokio::task::unconstrained(look));
    matches!(look.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::upstream::connection::BackendConnection;

    /// Keeps a connection; gives the backend's end of it.
    fn keep(idle: &IdlePool, now_us: u64) -> DuplexStream {
        let (ours, theirs) = duplex(64);
        idle.put(Box::new(Http1::new(BackendConnection::new(Box::new(ours)))), None, now_us);
        theirs
    }

    #[test]
    fn a_quiet_connection_is_taken_once_and_not_after_its_time() {
        let idle = IdlePool::default();
        let _ends = (keep(&idle, 0), keep(&idle, 10));
        assert!(idle.take(micros(IDLE)).is_some(), "the younger one is still good");
        assert!(idle.take(micros(IDLE)).is_none(), "the older one is not");
        assert!(idle.take(0).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_or_has_spoken_is_not_taken() {
        let idle = IdlePool::default();
        drop(keep(&idle, 0));
        assert!(idle.take(1).is_none());
        let mut backend = keep(&idle, 2);
        backend.write_all(b"HTTP/1.1 408 Request Timeout\r\n").await.unwrap_or_default();
        assert!(idle.take(3).is_none());
    }

    #[test]
    fn tidying_closes_what_nobody_will_take() {
        let idle = IdlePool::default();
        drop(keep(&idle, 5));
        let _old = keep(&idle, 0);
        let _good = keep(&idle, 5);
        idle.tidy(micros(IDLE));
        assert_eq!(idle.idle().len(), 1);
    }

    #[test]
    fn a_connection_is_kept_no_longer_than_its_backend_says() {
        let idle = IdlePool::default();
        let put = |most: u64| {
            let (ours, theirs) = duplex(64);
            idle.put(Box::new(Http1::new(BackendConnection::new(Box::new(ours)))), Some(Duration::from_secs(most)), 0);
            theirs
        };
        let _ends = (put(0), put(5));
        assert_eq!(idle.idle().len(), 1, "one that is closed at once is not kept");
        assert!(idle.take(4_600_000).is_none(), "it may be closed any moment");
        let _end = put(5);
        assert!(idle.take(4_400_000).is_some());
        let _end = put(600);
        assert!(idle.take(micros(IDLE)).is_none(), "not longer than our own bound");
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        let idle = IdlePool::default();
        let _ends: Vec<DuplexStream> = (0..=KEPT_MAX).map(|_| keep(&idle, 0)).collect();
        assert_eq!(idle.idle().len(), KEPT_MAX);
    }
}
