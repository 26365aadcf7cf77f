//! The body of a client's request as it is read: counted, and kept as long as the request may have to
//! be sent again.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;

use crate::downstream::{ClientFault, Session};

/// Most bytes of a body that are kept to be sent again.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Most pieces of it: a client may send a byte at a time, and a piece takes more than its bytes.
const KEPT_PIECES_MAX: usize = 64;

/// A client's body.
pub(super) struct RequestBody {
    /// What was read so far; `None` when that is more than is kept.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// What is to be sent once more before anything new.
    again: VecDeque<Bytes>,
    /// Whether the client has sent all of it.
    is_read: bool,
    /// Bytes read.
    pub(super) bytes: u64,
}

impl RequestBody {
    /// The body of a request whose head was read.
    pub(super) fn of(session: &Session) -> Self {
        let is_read = session.is_body_empty();
        RequestBody { kept: Some(Vec::new()), kept_bytes: 0, again: VecDeque::new(), is_read, bytes: 0 }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.is_read && self.bytes == 0
    }

    /// Whether nothing of it is left to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.is_read && self.again.is_empty()
    }

    /// Whether the client has sent all of it.
    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Goes back to its beginning; `false` when that is gone.
    pub(super) fn rewind(&mut self) -> bool {
        let Some(kept) = &self.kept else { return false };
        self.again = kept.iter().cloned().collect();
        true
    }

    /// All of it, if it came in one piece that was not sent yet.
    pub(super) fn whole(&self) -> Option<&Bytes> {
        match self.kept.as_deref() {
            Some([only]) if self.is_read => Some(only),
            Some(_) | None => None,
        }
    }

    /// All of it was sent.
    pub(super) fn sent_whole(&mut self) {
        self.again.clear();
    }

    /// Reads what is here already, if the client has sent all of a small body. What was read is sent later.
    pub(super) async fn read_ahead(&mut self, session: &mut Session) -> Result<(), ClientFault> {
        while !self.is_read {
            let Poll::Ready(piece) = futures_util::poll!(pin!(self.read(session))) else { break };
            self.again.extend(piece?);
        }
        Ok(())
    }

    /// The next piece; `None` at the end. Can be dropped and asked again.
    pub(super) async fn next(&mut self, session: &mut Session) -> Result<Option<Bytes>, ClientFault> {
        if let Some(piece) = self.again.pop_front() {
            return Ok(Some(piece));
        }
        if self.is_read { Ok(None) } else { self.read(session).await }
    }

    async fn read(&mut self, session: &mut Session) -> Result<Option<Bytes>, ClientFault> {
        let piece = session.read_body().await?;
        match &piece {
            None => self.is_read = true,
            Some(piece) => {
                self.bytes += piece.len() as u64;
                self.keep(piece);
                // Over HTTP/1.1 the end is known with the last piece.
                self.is_read = !session.is_http2() && session.is_body_read();
            }
        }
        Ok(piece)
    }

    fn keep(&mut self, piece: &Bytes) {
        self.kept_bytes += piece.len();
        let pieces = self.kept.as_ref().map_or(0, Vec::len);
        if self.kept_bytes > KEPT_BYTES_MAX || pieces == KEPT_PIECES_MAX {
            self.kept = None;
        } else if let Some(kept) = self.kept.as_mut().filter(|_| !piece.is_empty()) {
            kept.push(piece.clone());
        }
    }
}
