//! One timer for all the waits of a connection.
//!
//! Mostly what is waited for comes in time, and the next wait ends later than the one before. So the timer is not
//! set again for each: it is set when a wait ends before it would fire, and when it has fired too early. A wait
//! that need not wait does not touch it, and reads no clock.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that belongs to one connection, for one wait at a time.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// What a future gives within a time, which begins when it has to wait.
    pub async fn within<F: Future>(&mut self, time: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
        let mut until = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + time);
            self.poll_until(cx, until).map(|()| None)
        })
        .await
    }

    /// What a future gives before an instant.
    pub async fn by<F: Future>(&mut self, until: Instant, mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_until(cx, until).map(|()| None),
        })
        .await
    }

    /// Ready at an instant.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if sleep.deadline() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_time() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        for (seconds, at) in [(60, 60), (10, 70), (10, 80), (100, 180), (1, 181)] {
            let waited = timer.within(Duration::from_secs(seconds), pin!(std::future::pending::<()>())).await;
            assert_eq!((waited, start.elapsed().as_secs()), (None, at));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_set_for_less_does_not_end_a_longer_wait() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        let soon = pin!(tokio::time::sleep(Duration::from_secs(1)));
        assert!(timer.within(Duration::from_secs(2), soon).await.is_some());
        let later = pin!(tokio::time::sleep(Duration::from_secs(5)));
        assert!(timer.within(Duration::from_secs(10), later).await.is_some());
        assert_eq!(start.elapsed().as_secs(), 6);
        assert!(timer.by(start + Duration::from_secs(7), pin!(std::future::pending::<()>())).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
