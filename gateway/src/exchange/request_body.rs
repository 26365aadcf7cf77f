//! The body of a client's request as it is read: counted, and kept as long as the request may have to
//! be sent again.

use std::collections::VecDeque;

use bytes::Bytes;
use pingora::protocols::http::ServerSession as Session;

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
    pub(super) fn of(session: &mut Session) -> Self {
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

    /// The next piece; `None` at the end. Can be dropped and asked again.
    pub(super) async fn next(&mut self, session: &mut Session) -> pingora::Result<Option<Bytes>> {
        if let Some(piece) = self.again.pop_front() {
            return Ok(Some(piece));
        }
        if self.is_read {
            return Ok(None);
        }
        let piece = session.read_request_body().await.map_err(|error| error.into_down())?;
        match &piece {
            None => self.is_read = true,
            Some(piece) => {
                self.bytes += piece.len() as u64;
                self.keep(piece);
                // Over HTTP/1.1 the end is known with the last piece.
                self.is_read = session.as_http1().is_some() && session.is_body_done();
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
