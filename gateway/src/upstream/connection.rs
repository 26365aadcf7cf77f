//! A connection to a backend with two owners: one sends the request while the other reads the answer. It counts
//! the bytes that have come, because a request may be sent again only while no byte of its answer has.
//!
//! Both owners belong to one task, so that the lock is never waited for.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One of its owners.
#[derive(Clone, Debug)]
pub struct BackendConnection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: Mutex<Stream>,
    received: AtomicU64,
}

impl BackendConnection {
    /// Takes a connection.
    pub fn new(stream: Stream) -> Self {
        BackendConnection(Arc::new(Shared { stream: Mutex::new(stream), received: AtomicU64::new(0) }))
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that came since the last [`BackendConnection::begin`].
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// A request begins: nothing of its answer has come.
    pub fn begin(&self) {
        self.0.received.store(0, Ordering::Relaxed);
    }
}

impl AsyncRead for BackendConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.stream()).poll_read(cx, buf);
        let came = buf.filled().len().saturating_sub(before);
        if came > 0 {
            self.0.received.fetch_add(came as u64, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for BackendConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }
}
