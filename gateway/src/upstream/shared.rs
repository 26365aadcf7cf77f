//! Connections to a backend that speaks HTTP/2. Many requests share one, each on a stream.
//!
//! What always holds: a connection has no more streams than its backend allows, and none of ours is begun on one that
//! its backend is leaving, or that let a request wait in vain. One that nobody uses is closed after a while.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::idle::IDLE;

/// Most streams on one connection.
const STREAMS_MAX: usize = 100;
/// Bytes of a stream that a backend may send before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of a connection: more than all its streams together, so that one caller who does not read
/// holds up no other.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// Connections to one address.
#[derive(Debug, Default)]
pub struct SharedConnections {
    connections: Mutex<Vec<Arc<Shared>>>,
    /// Whether there ever was one: then those who need one wait while another is being made.
    is_used: AtomicBool,
    making: tokio::sync::Mutex<()>,
}

/// One connection.
#[derive(Debug)]
struct Shared {
    requests: SendRequest<Bytes>,
    streams: AtomicUsize,
    is_leaving: AtomicBool,
    /// On the steady clock.
    last_used_us: AtomicU64,
}

/// A stream of a connection.
#[derive(Debug)]
pub struct Stream {
    connection: Arc<Shared>,
    requests: SendRequest<Bytes>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Relaxed);
    }
}

impl Stream {
    /// What takes its request.
    pub(super) fn requests(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.requests
    }

    /// Nothing new is begun on its connection; what was begun is ended.
    pub(super) fn leave(&self) {
        self.connection.is_leaving.store(true, Relaxed);
    }

    /// It was used until now, on the steady clock.
    pub(super) fn used(&self, now_us: u64) {
        self.connection.last_used_us.fetch_max(now_us, Relaxed);
    }
}

impl Shared {
    /// Whether nothing can be begun on it any more: its backend has said so, or it has ended.
    fn is_over(&self) -> bool {
        let ready = self.requests.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.is_leaving.load(Relaxed) || matches!(ready, Poll::Ready(Err(_)))
    }

    /// One more stream, if it has room for that.
    fn stream(self: &Arc<Self>, now_us: u64) -> Option<Stream> {
        let most = STREAMS_MAX.min(self.requests.current_max_send_streams());
        if self.streams.fetch_add(1, Relaxed) >= most {
            self.streams.fetch_sub(1, Relaxed);
            return None;
        }
        self.last_used_us.fetch_max(now_us, Relaxed);
        Some(Stream { connection: self.clone(), requests: self.requests.clone() })
    }
}

impl SharedConnections {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of a connection that is there. `now_us` is on the steady clock.
    pub(super) fn take(&self, now_us: u64) -> Option<Stream> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.is_over());
        connections.iter().find_map(|connection| connection.stream(now_us))
    }

    /// The same; while a connection is being made it is waited for. `None` when one must be made: the first to
    /// be told so holds up the others until it drops what it got.
    pub(super) async fn take_or_wait(&self, now_us: u64) -> Result<Stream, Option<tokio::sync::MutexGuard<'_, ()>>> {
        if let Some(stream) = self.take(now_us) {
            return Ok(stream);
        }
        if !self.is_used.load(Relaxed) {
            return Err(None);
        }
        if let Ok(making) = self.making.try_lock() {
            return Err(Some(making));
        }
        drop(self.making.lock().await);
        self.take(now_us).ok_or(None)
    }

    /// Speaks HTTP/2 on a new connection; gives its first stream.
    ///
    /// # Errors
    /// The connection has ended, or its backend wants no stream on it.
    pub(super) async fn begin<S>(&self, stream: S, now_us: u64) -> Result<Stream, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX);
        let (requests, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            // How it ends is seen by those who have a stream of it.
            let _ = connection.await;
        });
        let shared = Arc::new(Shared {
            requests,
            streams: AtomicUsize::new(0),
            is_leaving: AtomicBool::new(false),
            last_used_us: AtomicU64::new(now_us),
        });
        let stream = shared.stream(now_us).ok_or(h2::Error::from(h2::Reason::REFUSED_STREAM))?;
        self.is_used.store(true, Relaxed);
        self.connections().push(shared);
        Ok(stream)
    }

    /// Closes what has waited too long, and what is over.
    pub(super) fn tidy(&self, now_us: u64) {
        let is_needed = |shared: &Shared| {
            let idle = now_us.saturating_sub(shared.last_used_us.load(Relaxed));
            shared.streams.load(Relaxed) > 0 || Duration::from_micros(idle) < IDLE
        };
        self.connections().retain(|shared| !shared.is_over() && is_needed(shared));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::base::clock::micros;

    /// A connection whose backend allows so many streams.
    async fn connected(most: u32) -> (SharedConnections, Stream) {
        let (ours, theirs) = duplex(1 << 16);
        let (told, tells) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut server = h2::server::Builder::new();
            let mut connection = server.max_concurrent_streams(most).handshake::<_, Bytes>(theirs).await.unwrap();
            told.send(()).unwrap();
            while connection.accept().await.is_some() {}
        });
        let connections = SharedConnections::default();
        let stream = connections.begin(ours, 0).await.unwrap();
        tells.await.unwrap();
        // Until the settings of the backend have come.
        for _ in 0..100 {
            if stream.requests.current_max_send_streams() == most as usize {
                return (connections, stream);
            }
            tokio::task::yield_now().await;
        }
        panic!("the settings did not come");
    }

    #[tokio::test]
    async fn a_connection_has_no_more_streams_than_its_backend_allows() {
        let (connections, first) = connected(2).await;
        let second = connections.take(1).unwrap();
        assert!(connections.take(1).is_none());
        drop((first, second));
        assert!(connections.take(1).is_some());
    }

    #[tokio::test]
    async fn nothing_is_begun_on_a_connection_that_is_left() {
        let (connections, first) = connected(9).await;
        first.leave();
        assert!(connections.take(1).is_none());
        assert!(connections.connections().is_empty());
    }

    #[tokio::test]
    async fn one_that_nobody_uses_is_closed_after_a_while() {
        let (connections, first) = connected(9).await;
        connections.tidy(micros(IDLE) * 2);
        assert_eq!(connections.connections().len(), 1, "it is used");
        first.used(5);
        drop(first);
        connections.tidy(micros(IDLE));
        assert_eq!(connections.connections().len(), 1);
        connections.tidy(micros(IDLE) + 5);
        assert!(connections.connections().is_empty());
    }

    #[tokio::test]
    async fn only_the_first_makes_a_connection_and_the_others_wait_for_it() {
        let (connections, first) = connected(9).await;
        first.leave();
        let Err(Some(making)) = connections.take_or_wait(0).await else { panic!("there is none") };
        let mut other = std::pin::pin!(connections.take_or_wait(0));
        assert!(futures_util::poll!(other.as_mut()).is_pending());
        // It could not be made.
        drop(making);
        assert!(matches!(other.await, Err(None)));
    }
}
