//! A client connection with the deadlines that Pingora does not have.
//!
//! Pingora waits up to a minute for each read; a client that sends one byte a minute could hold
//! a connection for ever. This wrapper sits between TLS and Pingora and ends a connection whose
//! request head takes too long in all, or whose body comes too slowly. A timer is only touched
//! when a read has to wait, so a client that sends whole requests never pays for it.
//!
//! It can also be told to deliver bytes once more: what a client has sent ahead of its next request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, Ssl, Stream, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A request head; its time runs from the first byte (on a new connection, from the start).
    Head,
    /// A request body; it must keep a minimum rate.
    Body,
    /// Nothing in particular: the upstream works, or a stream is open. No deadline of ours.
    Quiet,
}

/// Shared between the connection and the request under way on it. Counts its changes, so that a
/// phase that came and went between two reads is not missed.
#[derive(Debug)]
pub struct PhaseCell(AtomicU64);

impl PhaseCell {
    fn new() -> Self {
        PhaseCell(AtomicU64::new(Phase::Head as u64))
    }

    /// Says what comes next.
    pub fn set(&self, phase: Phase) {
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(((word >> 2) + 1) << 2 | phase as u64));
    }

    /// The phase and the number of changes so far.
    fn get(&self) -> (Phase, u64) {
        let word = self.0.load(Ordering::Acquire);
        let phase = match word & 3 {
            0 => Phase::Head,
            1 => Phase::Body,
            _ => Phase::Quiet,
        };
        (phase, word >> 2)
    }
}

/// Deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Longest time for a head, first byte to last.
    pub head: Duration,
    /// Slowest body, in bytes per second.
    pub body_rate: u32,
}

/// A body's rate is judged over this much time spent waiting for the client.
const RATE_INTERVAL: Duration = Duration::from_secs(5);

/// Most bytes read in search of the end of a head. Heads between the documented limit and this one
/// get an answer, larger ones only an end. A read may bring some of the body with it.
const HEAD_READ_MAX: u64 = 128 * 1024;
/// First bytes of an HTTP/2 connection (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client connection under watch.
pub struct DeadlineStream {
    stream: Stream,
    phase: Arc<PhaseCell>,
    deadlines: Deadlines,
    timer: Pin<Box<Sleep>>,
    /// HTTP/2: Pingora has deadlines of its own for what follows the preface.
    is_h2: bool,
    /// The phase that `waited` and `bytes` belong to, and which one it was.
    measured: Phase,
    changes: u64,
    /// Time spent waiting for the client; time in which nobody wants to read does not count.
    waited: Duration,
    /// Bytes that came meanwhile.
    bytes: u64,
    /// Since when a read waits.
    pending_since: Option<Instant>,
    /// The first head on a connection counts from its start, later ones from their first byte.
    is_new: bool,
    /// What is read next, before anything of the stream.
    again: Vec<u8>,
}

impl std::fmt::Debug for DeadlineStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadlineStream").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl DeadlineStream {
    /// Watches a new connection; the time of its first head starts now.
    pub fn new(stream: Stream, deadlines: Deadlines) -> Self {
        let stream_is_h2 = stream.selected_alpn_proto() == Some(ALPN::H2);
        DeadlineStream {
            stream,
            phase: Arc::new(PhaseCell::new()),
            changes: 0,
            is_h2: stream_is_h2,
            deadlines,
            timer: Box::pin(sleep_until(Instant::now() + deadlines.head)),
            measured: Phase::Head,
            waited: Duration::ZERO,
            bytes: 0,
            pending_since: None,
            is_new: true,
            again: Vec::new(),
        }
    }

    /// Where to say what comes next.
    pub fn phase(&self) -> &PhaseCell {
        &self.phase
    }

    /// Puts bytes back, to be read next.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.again.splice(..0, bytes.iter().copied());
    }

    fn begin(&mut self, phase: Phase) {
        self.measured = phase;
        self.waited = Duration::ZERO;
        self.bytes = 0;
        self.pending_since = None;
    }

    fn follow_phase(&mut self) {
        let (phase, changes) = self.phase.get();
        if changes != self.changes {
            self.changes = changes;
            self.is_new = false;
            self.begin(phase);
        }
    }

    /// How long the client may keep us waiting now; `None` for as long as it likes.
    fn patience(&self) -> Option<Duration> {
        match self.measured {
            Phase::Head if self.is_new || self.bytes > 0 => Some(self.deadlines.head),
            Phase::Body => Some(RATE_INTERVAL),
            Phase::Head | Phase::Quiet => None,
        }
    }

    /// Whether the client's time is up. A body that came fast enough gets another interval.
    fn is_over(&mut self, patience: Duration) -> bool {
        if self.waited < patience {
            return false;
        }
        let enough = u64::from(self.deadlines.body_rate) * RATE_INTERVAL.as_secs();
        if self.measured == Phase::Body && self.bytes >= enough {
            self.begin(Phase::Body);
            return false;
        }
        true
    }

    /// After bytes came: books the time that they took.
    fn book(&mut self, bytes: usize) -> std::io::Result<()> {
        self.follow_phase();
        if let Some(since) = self.pending_since.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes as u64;
        if self.is_h2 && self.measured == Phase::Head && self.bytes >= H2_PREFACE.len() as u64 {
            self.phase.set(Phase::Quiet);
            return Ok(());
        }
        // Pingora parses a head again with each read, up to a megabyte of it.
        if self.measured == Phase::Head && self.bytes > HEAD_READ_MAX {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the request head is too large"));
        }
        match self.patience() {
            Some(patience) if self.is_over(patience) => Err(too_slow()),
            Some(_) | None => Ok(()),
        }
    }

    /// After bytes came into a buffer that held some.
    fn took(&mut self, buffer: &ReadBuf<'_>, before: usize) -> std::io::Result<()> {
        self.book(buffer.filled().len().saturating_sub(before))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Error> {
        self.follow_phase();
        loop {
            let Some(patience) = self.patience() else { return Poll::Pending };
            if self.pending_since.is_none() {
                let now = Instant::now();
                self.pending_since = Some(now);
                self.timer.as_mut().reset(now + patience.saturating_sub(self.waited));
            }
            if self.timer.as_mut().poll_elapsed(cx).is_pending() {
                return Poll::Pending;
            }
            self.waited = patience;
            self.pending_since = None;
            if self.is_over(patience) {
                return Poll::Ready(too_slow());
            }
        }
    }
}

fn too_slow() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the client is too slow")
}

/// `Sleep` as something to poll by name.
trait PollElapsed {
    fn poll_elapsed(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

impl PollElapsed for Sleep {
    fn poll_elapsed(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        std::future::Future::poll(self, cx)
    }
}

impl AsyncRead for DeadlineStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.again.is_empty() {
            let count = this.again.len().min(buf.remaining());
            let rest = this.again.split_off(count);
            buf.put_slice(&std::mem::replace(&mut this.again, rest));
            return Poll::Ready(this.took(buf, before));
        }
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(this.took(buf, before)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_deadline(cx).map(Err),
        }
    }
}

impl AsyncWrite for DeadlineStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for DeadlineStream {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for DeadlineStream {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for DeadlineStream {
    fn get_ssl_digest(&self) -> Option<Arc<pingora::protocols::tls::SslDigest>> {
        self.stream.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for DeadlineStream {
    fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for DeadlineStream {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for DeadlineStream {
    fn get_socket_digest(&self) -> Option<Arc<pingora::protocols::SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

#[async_trait]
impl Peek for DeadlineStream {
    /// Pingora peeks at the first bytes of a plain connection, to tell HTTP/2 from HTTP/1.
    async fn try_peek(&mut self, buf: &mut [u8]) -> std::io::Result<bool> {
        let peeked = tokio::time::timeout(self.deadlines.head, self.stream.try_peek(buf));
        let is_peeked = peeked.await.unwrap_or_else(|_| Err(too_slow()))?;
        self.is_h2 |= is_peeked && buf == H2_PREFACE;
        Ok(is_peeked)
    }
}
