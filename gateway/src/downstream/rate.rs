//! The slowest that a body may come. Only time spent waiting for the client counts, not time in which nobody wants
//! more of it.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::timer::Timer;

/// A body's rate is judged over this much time spent waiting for the client.
const INTERVAL: Duration = Duration::from_secs(5);

/// The body of a client is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

/// How fast a body comes.
#[derive(Debug, Default)]
pub(super) struct BodyRate {
    /// Time spent waiting, and bytes that came meanwhile, since the rate was judged last.
    waited: Duration,
    bytes: u64,
    /// Since when a read waits.
    since: Option<Instant>,
}

impl BodyRate {
    /// A read has to wait: until when, before the rate is judged.
    fn wait(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        *self.since.get_or_insert_with(now) + INTERVAL.saturating_sub(self.waited)
    }

    /// What a read gives; `None` when it had to wait until the rate is to be judged.
    pub(super) async fn watch<T>(
        &mut self,
        timer: &mut Timer,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let read = std::future::poll_fn(|cx| match poll(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => timer.poll_until(cx, self.wait(Instant::now)).map(|()| None),
        });
        read.await
    }

    /// So many bytes have come, of a client that must send `least` bytes a second; none when the time of
    /// [`BodyRate::wait`] is over.
    pub(super) fn came(&mut self, bytes: usize, least: u32, now: impl FnOnce() -> Instant) -> Result<(), TooSlow> {
        self.bytes += bytes as u64;
        let Some(since) = self.since.take() else { return Ok(()) };
        self.waited += now().duration_since(since);
        if self.waited < INTERVAL {
            return Ok(());
        }
        let is_enough = self.bytes >= u64::from(least) * INTERVAL.as_secs();
        *self = BodyRate::default();
        if is_enough { Ok(()) } else { Err(TooSlow) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_spent_waiting_counts() {
        let (mut rate, start) = (BodyRate::default(), Instant::now());
        let at = |seconds| move || start + Duration::from_secs(seconds);
        assert_eq!(rate.came(10, 100, at(0)), Ok(()), "it was there already");
        assert_eq!(rate.wait(at(100)), at(105)());
        assert_eq!(rate.came(10, 100, at(103)), Ok(()));
        assert_eq!(rate.wait(at(200)), at(202)());
        assert_eq!(rate.came(479, 100, at(202)), Err(TooSlow), "499 bytes in five seconds of waiting");
    }

    #[test]
    fn a_body_that_came_fast_enough_gets_another_interval() {
        let (mut rate, start) = (BodyRate::default(), Instant::now());
        let at = |seconds| move || start + Duration::from_secs(seconds);
        assert_eq!(rate.wait(at(0)), at(5)());
        assert_eq!(rate.came(500, 100, at(5)), Ok(()));
        assert_eq!(rate.wait(at(6)), at(11)());
        assert_eq!(rate.came(0, 100, at(11)), Err(TooSlow));
        assert_eq!(rate.wait(at(20)), at(25)());
        assert_eq!(rate.came(0, 0, at(25)), Ok(()), "no least rate");
    }
}
