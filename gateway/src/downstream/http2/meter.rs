//! Counts the frames that a client over HTTP/2 sends (RFC 9113 section 4.1), below the library that reads them.
//!
//! Two things are bounded here. Frames that cost us something and ask for nothing (pings, settings, windows,
//! resets, priorities, unknown ones) are paid from a purse that requests, bodies and answers fill: a client that
//! empties it is sent away. And heads are read only so far ahead of what is done with them, because a byte of a head can
//! become a field of a hundred (RFC 7541 section 7.3).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::H2_PREFACE;

/// Most frames that can be paid for at a time.
const PURSE: u32 = 2_000;
/// So many a second are paid for in any case.
const FREE_EACH_SECOND: u32 = 100;
/// A request pays for so many.
const OF_REQUEST: u32 = 8;
/// A piece of an answer pays for so many.
const OF_PIECE: u32 = 4;
/// So many bytes of a body or an answer pay for one.
const OF_BYTES: usize = 256;
/// When so many bytes of heads have come, what came with them is looked at before more is read.
const HEADS_AHEAD_MAX: usize = 16 * 1024;
/// Bytes of the head of a frame.
const FRAME_HEAD: usize = 9;

/// What is known of a connection's frames; shared with whoever serves it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    is_flooded: AtomicBool,
    heads_ahead: AtomicUsize,
    /// Frames that pieces of answers have paid for since it was looked at.
    earned: AtomicU32,
}

impl Tally {
    /// A piece of an answer was sent: its client may say that it came, and look how far away we are. gRPC's clients
    /// do both, however small it is.
    pub(super) fn sent(&self) {
        self.earned.fetch_add(OF_PIECE, Relaxed);
    }

    /// Whether the client has sent more than is good.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.load(Relaxed)
    }

    /// All that was read has been looked at.
    pub(super) fn caught_up(&self) {
        self.heads_ahead.store(0, Relaxed);
    }
}

/// A client's connection, metered.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    frames: Frames,
    tally: Arc<Tally>,
}

impl<S> Metered<S> {
    /// A connection on which nothing was read.
    pub(super) fn new(stream: S) -> (Self, Arc<Tally>) {
        let tally = Arc::<Tally>::default();
        (Metered { stream, frames: Frames::new(), tally: tally.clone() }, tally)
    }
}

/// Follows frames.
#[derive(Debug)]
struct Frames {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// Bytes left of the frame under way.
    left: usize,
    purse: u32,
    /// Bytes of answers that have not paid for a frame.
    written: usize,
    refilled: Option<Instant>,
}

impl Frames {
    fn new() -> Self {
        Frames { head: [0; FRAME_HEAD], have: 0, left: H2_PREFACE.len(), purse: PURSE, written: 0, refilled: None }
    }

    fn earn(&mut self, count: u32) {
        self.purse = self.purse.saturating_add(count).min(PURSE);
    }

    /// Pays for a frame; `false` when that cannot be done.
    fn pay(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.purse == 0 {
            let now = now();
            let since = self.refilled.map(|refilled| now.duration_since(refilled));
            let second = Duration::from_secs(1);
            let free = since.map_or(FREE_EACH_SECOND, |since| {
                u32::try_from(since.min(second).as_millis()).unwrap_or(0) * FREE_EACH_SECOND / 1_000
            });
            if free == 0 {
                return false;
            }
            (self.purse, self.refilled) = (free, Some(now));
        }
        self.purse -= 1;
        true
    }

    /// Bytes came from the client. How many of them are of heads; `None` when they are not paid for.
    fn came(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Option<usize> {
        let mut heads = 0;
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (FRAME_HEAD - self.have).min(bytes.len());
            let (part, rest) = bytes.split_at_checked(wanted).unwrap_or_default();
            if let Some(slot) = self.head.get_mut(self.have..self.have + wanted) {
                slot.copy_from_slice(part);
            }
            self.have += wanted;
            bytes = rest;
            if self.have == FRAME_HEAD {
                heads += self.begin(&now)?;
            }
        }
        Some(heads)
    }

    /// A frame begins. How many bytes of it are a head's; `None` when it is not paid for.
    fn begin(&mut self, now: impl FnOnce() -> Instant) -> Option<usize> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        (self.have, self.left) = (0, length);
        let is_end = flags & 1 == 1;
        match kind {
            // DATA: an empty one that ends nothing says nothing.
            0 if length > 0 || is_end => {
                self.earn(u32::try_from(length / OF_BYTES).unwrap_or(0).max(1));
                Some(0)
            }
            // HEADERS
            1 => {
                self.earn(OF_REQUEST);
                Some(length)
            }
            // CONTINUATION
            9 => self.pay(now).then_some(length),
            _ => self.pay(now).then_some(0),
        }
    }

    /// Bytes went to the client.
    fn went(&mut self, bytes: usize) {
        self.written += bytes;
        self.earn(u32::try_from(self.written / OF_BYTES).unwrap_or(0));
        self.written %= OF_BYTES;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.tally.is_flooded() || this.tally.heads_ahead.load(Relaxed) >= HEADS_AHEAD_MAX {
            // Whoever serves the connection looks at what came, and asks again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.tally.earned.load(Relaxed) > 0 {
            this.frames.earn(this.tally.earned.swap(0, Relaxed));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        match this.frames.came(buf.filled().get(before..).unwrap_or_default(), Instant::now) {
            Some(heads) => {
                this.tally.heads_ahead.fetch_add(heads, Relaxed);
            }
            None => this.tally.is_flooded.store(true, Relaxed),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.frames.went(sent);
        Poll::Ready(Ok(sent))
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
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, parts))?;
        this.frames.went(sent);
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![0xff; length]);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        assert_eq!(frames.came(H2_PREFACE, Instant::now), Some(0));
        frames
    }

    #[test]
    fn whoever_asks_for_something_is_never_sent_away() {
        let (mut frames, now) = (begun(), Instant::now());
        for _ in 0..10_000 {
            // A head, a body, and the pings and windows of a busy client.
            for frame in [frame(1, 4, 40), frame(0, 1, 100), frame(8, 0, 4), frame(8, 0, 4), frame(6, 0, 8)] {
                assert!(frames.came(&frame, || now).is_some());
            }
        }
    }

    #[test]
    fn whoever_reads_a_long_answer_may_say_so_often() {
        let (mut frames, now) = (begun(), Instant::now());
        for _ in 0..100_000 {
            frames.went(1_024);
            assert!(frames.came(&[frame(8, 0, 4), frame(8, 0, 4)].concat(), || now).is_some());
        }
    }

    #[tokio::test]
    async fn whoever_says_of_each_small_piece_that_it_came_is_not_sent_away() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut metered, tally) = Metered::new(ours);
        theirs.write_all(H2_PREFACE).await.unwrap();
        let mut begin = [0; H2_PREFACE.len()];
        metered.read_exact(&mut begin).await.unwrap();
        // As gRPC's clients do: a ping and a window for each.
        let says = [frame(6, 0, 8), frame(8, 0, 4), frame(6, 1, 8)].concat();
        let mut read = vec![0; says.len()];
        for _ in 0..10_000 {
            tally.sent();
            theirs.write_all(&says).await.unwrap();
            metered.read_exact(&mut read).await.unwrap();
        }
        assert!(!tally.is_flooded());
    }

    #[test]
    fn a_flood_ends_whatever_it_is_made_of() {
        for (kind, flags, length) in
            [(6, 0, 8), (4, 0, 0), (3, 0, 4), (2, 0, 5), (8, 0, 4), (0, 0, 0), (9, 0, 1), (77, 0, 3)]
        {
            let (mut frames, now) = (begun(), Instant::now());
            let frame = frame(kind, flags, length);
            let good = (0..10_000).take_while(|_| frames.came(&frame, || now).is_some()).count();
            assert_eq!(good as u32, PURSE + FREE_EACH_SECOND, "{kind}");
            assert!(frames.came(&frame, || now + Duration::from_secs(1)).is_some());
        }
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_are_cut(
            lengths in proptest::collection::vec((0u8..10, 0usize..300), 1..20),
            cut in 1usize..50,
        ) {
            let all: Vec<u8> = lengths.iter().flat_map(|(kind, length)| frame(*kind, 1, *length)).collect();
            let now = Instant::now();
            let (mut whole, mut cuts) = (begun(), begun());
            let heads = whole.came(&all, || now);
            let sum: usize = all.chunks(cut).map(|part| cuts.came(part, || now).unwrap()).sum();
            prop_assert_eq!(heads, Some(sum));
            let of_heads = lengths.iter().filter(|(kind, _)| matches!(kind, 1 | 9)).map(|(_, length)| *length);
            prop_assert_eq!(sum, of_heads.sum::<usize>());
            prop_assert_eq!((whole.purse, whole.left, whole.have), (cuts.purse, cuts.left, cuts.have));
        }
    }
}
