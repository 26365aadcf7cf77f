//! Sends the body of a request to a backend: framed as the backend's protocol wants it, as fast as the backend
//! takes it, and ended exactly once.
//!
//! Each step can be cancelled and begun again without losing or repeating a byte. Whoever sends also reads the
//! answer, and neither waits for the other.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::SendStream;
use http1::chunk::{self, SizeLine};
use tokio::io::AsyncWrite;

use super::connection::BackendConnection;
use super::fault::BackendFault;
use crate::base::clock::within;

/// How long a body is, as far as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// It ends where it ends: in chunks over HTTP/1.1 (RFC 9112 section 7.1).
    Unknown,
}

enum Way {
    Nowhere,
    /// Bytes left of the announced length.
    Length(BackendConnection, u64),
    Chunked(BackendConnection),
    Stream(SendStream<Bytes>),
}

/// Where a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// More may come.
    Open,
    /// All of it was given to us; some may still wait to be sent.
    Ending,
    /// The backend has all of it.
    Sent,
    /// The backend takes no more of it.
    Refused,
}

/// A body is not as long as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a body is not as long as its head says")]
pub struct WrongLength;

/// A request's body going out.
pub struct Outbound {
    way: Way,
    stage: Stage,
    /// Framed bytes that wait to be sent.
    waiting: Bytes,
    /// Sent bytes that the connection may still hold back.
    is_unflushed: bool,
    /// Longest time without progress.
    patience: Duration,
}

impl Outbound {
    /// A request without a body.
    pub fn none() -> Self {
        Self::new(Way::Nowhere, Stage::Sent, Duration::ZERO)
    }

    /// Over HTTP/1.1.
    pub(super) fn http1(connection: &BackendConnection, framing: Framing, patience: Duration) -> Self {
        let connection = || connection.clone();
        match framing {
            Framing::None | Framing::Length(0) => Self::none(),
            Framing::Length(length) => Self::new(Way::Length(connection(), length), Stage::Open, patience),
            Framing::Unknown => Self::new(Way::Chunked(connection()), Stage::Open, patience),
        }
    }

    /// Over HTTP/2.
    pub(super) fn http2(stream: SendStream<Bytes>, patience: Duration) -> Self {
        Self::new(Way::Stream(stream), Stage::Open, patience)
    }

    fn new(way: Way, stage: Stage, patience: Duration) -> Self {
        Outbound { way, stage, waiting: Bytes::new(), is_unflushed: false, patience }
    }

    /// Whether it can take a piece.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Open && self.waiting.is_empty() && !self.is_unflushed
    }

    /// Whether something waits to be sent.
    pub fn is_busy(&self) -> bool {
        match self.stage {
            Stage::Open => !self.waiting.is_empty() || self.is_unflushed,
            Stage::Ending => true,
            Stage::Sent | Stage::Refused => false,
        }
    }

    /// Whether the backend has all of it.
    pub fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }

    /// Takes a piece, when [`Outbound::is_ready`]. An empty one says nothing: it is not an end
    /// (cloudflare/pingora#935 is what comes of it).
    ///
    /// # Errors
    /// More than was announced: the codec of the client lets nothing such through.
    pub fn push(&mut self, piece: Bytes) -> Result<(), WrongLength> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.way {
            Way::Nowhere => return Err(WrongLength),
            Way::Length(_, left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(WrongLength)?;
                self.waiting = piece;
            }
            Way::Chunked(_) => self.waiting = framed(&piece),
            Way::Stream(_) => self.waiting = piece,
        }
        Ok(())
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// Less came than was announced.
    pub fn finish(&mut self) -> Result<(), WrongLength> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        if !self.waiting.is_empty() && matches!(self.way, Way::Chunked(_)) {
            // The last chunk waits for its turn.
            self.waiting = [&*self.waiting, chunk::LAST].concat().into();
            self.stage = Stage::Ending;
            return Ok(());
        }
        match &self.way {
            Way::Length(_, 1..) => return Err(WrongLength),
            Way::Chunked(_) => self.waiting = Bytes::from_static(chunk::LAST),
            Way::Nowhere | Way::Length(..) | Way::Stream(_) => {}
        }
        self.stage = Stage::Ending;
        Ok(())
    }

    /// Sends what waits. When it fails, the backend takes no more.
    pub async fn drive(&mut self) -> Result<(), BackendFault> {
        let patience = self.patience;
        let sent = within(patience, pin!(std::future::poll_fn(|cx| self.poll_drive(cx)))).await;
        let sent = sent.unwrap_or(Err(BackendFault::TakesNothing));
        if sent.is_err() {
            self.stage = Stage::Refused;
            self.waiting = Bytes::new();
        }
        sent
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BackendFault>> {
        match &mut self.way {
            Way::Nowhere => {}
            Way::Length(connection, _) | Way::Chunked(connection) => {
                while !self.waiting.is_empty() {
                    let sent = ready!(Pin::new(&mut *connection).poll_write(cx, &self.waiting));
                    let sent = sent.unwrap_or(0);
                    if sent == 0 {
                        return Poll::Ready(Err(BackendFault::Closed));
                    }
                    self.waiting.advance(sent);
                    self.is_unflushed = true;
                }
                if self.is_unflushed {
                    ready!(Pin::new(connection).poll_flush(cx)).map_err(|_| BackendFault::Closed)?;
                    self.is_unflushed = false;
                }
            }
            Way::Stream(stream) => {
                while !self.waiting.is_empty() {
                    stream.reserve_capacity(self.waiting.len());
                    let room = ready!(stream.poll_capacity(cx));
                    let room = room.and_then(Result::ok).ok_or(BackendFault::Closed)?;
                    let now = self.waiting.split_to(room.min(self.waiting.len()));
                    stream.send_data(now, false).map_err(|_| BackendFault::Closed)?;
                }
                if self.stage == Stage::Ending {
                    stream.send_data(Bytes::new(), true).map_err(|_| BackendFault::Closed)?;
                }
            }
        }
        if self.stage == Stage::Ending {
            self.stage = Stage::Sent;
        }
        Poll::Ready(Ok(()))
    }
}

/// A piece as a chunk; nothing for an empty one, which would be the end.
fn framed(piece: &[u8]) -> Bytes {
    let Some(size) = SizeLine::of(piece.len() as u64) else { return Bytes::new() };
    [size.as_bytes(), piece, chunk::END].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// What a backend receives of pieces.
    fn received(framing: Framing, pieces: &[Vec<u8>]) -> Option<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = duplex(1 << 20);
            let mut body = Outbound::http1(&BackendConnection::new(Box::new(ours)), framing, Duration::from_secs(1));
            for piece in pieces {
                body.push(Bytes::copy_from_slice(piece)).ok()?;
                body.drive().await.ok()?;
                assert!(body.is_ready());
            }
            body.finish().ok()?;
            body.drive().await.ok()?;
            assert!(body.is_sent() && !body.is_busy());
            drop(body);
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            Some(all)
        })
    }

    /// Reads chunks strictly; gives the body and what follows its end.
    fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut body = Vec::new();
        loop {
            let line = bytes.windows(2).position(|w| w == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
            body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
            assert_eq!(&bytes[line + 2 + size..line + 4 + size], b"\r\n");
            bytes = &bytes[line + 4 + size..];
            if size == 0 {
                return (body, bytes.to_vec());
            }
        }
    }

    proptest! {
        #[test]
        fn a_chunked_body_has_one_end_whatever_pieces_it_came_in(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let (body, after) = unchunk(&received(Framing::Unknown, &pieces).unwrap());
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(after, b"");
        }

        #[test]
        fn a_body_of_a_known_length_is_that_long_or_not_finished(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            length in 1u64..200,
        ) {
            let total = pieces.iter().map(Vec::len).sum::<usize>() as u64;
            match received(Framing::Length(length), &pieces) {
                Some(all) => prop_assert_eq!((all, total), (pieces.concat(), length)),
                None => prop_assert_ne!(total, length),
            }
        }
    }
}
