//! An answer on its way to a client over HTTP/1.1: what waits to be sent, and how far it has come.
//!
//! A head waits for what follows it, so that both leave in one send, and in one record of TLS.

use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, StatusCode};
use http1::chunk::{self, SizeLine};
use pingora::protocols::Stream;
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};

use super::{AnswerHead, ClientFault, Delimited, WRITE_TIMEOUT};
use crate::base::clock::http_date;
use crate::base::field_names::TRAILERS;
use crate::base::field_sink::{BadValue, FieldLines, FieldSink as _, FieldSource};
use crate::base::timer::Timer;

/// What is sent is put together into one buffer up to this size: one record of TLS.
const TOGETHER_MAX: usize = 16 * 1024;

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    NotBegun,
    /// Its final head was written, and how its body is delimited.
    Begun(Delimited),
    /// All of it was written.
    Ended(Delimited),
    /// It was cut off.
    Cut,
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(super) struct Output {
    waiting: Vec<u8>,
    /// How many of these bytes the client has taken.
    taken: usize,
    /// Whether they are to be sent, whatever follows.
    is_due: bool,
    /// Whether something that was written will never be sent.
    is_lost: bool,
    stage: Stage,
    body_bytes: usize,
}

impl Output {
    /// Another exchange begins.
    pub(super) fn begin(&mut self) {
        (self.stage, self.body_bytes, self.is_lost) = (Stage::NotBegun, 0, false);
    }

    /// Whether a final answer has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.stage != Stage::NotBegun
    }

    /// Whether it was cut off.
    pub(super) fn is_cut(&self) -> bool {
        self.stage == Stage::Cut
    }

    /// Bytes of the body that were written.
    pub(super) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Cuts the answer off. How the body is delimited whose end the client has not.
    pub(super) fn cut(&mut self) -> Option<Delimited> {
        let is_lost = self.is_lost || !self.waiting.is_empty();
        match std::mem::replace(&mut self.stage, Stage::Cut) {
            Stage::Begun(delimited) => Some(delimited),
            Stage::Ended(delimited) if is_lost => Some(delimited),
            Stage::NotBegun | Stage::Ended(_) | Stage::Cut => None,
        }
    }

    /// RFC 9110 section 15.2.1.
    pub(super) fn write_continue(&mut self) {
        self.waiting.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Writes a head; `is_last` when the connection carries no other answer.
    ///
    /// # Errors
    /// A field of ours is none; nothing was written.
    pub(super) fn write_head(
        &mut self,
        head: &AnswerHead<'_, impl FieldSource>,
        is_last: bool,
    ) -> Result<(), BadValue> {
        let start = self.waiting.len();
        let is_final = !head.is_informational();
        let written = write_head(&mut self.waiting, head, is_final && is_last);
        if written.is_err() {
            self.waiting.truncate(start);
        } else if is_final {
            self.stage = Stage::Begun(head.delimited);
        }
        written
    }

    /// Sends bytes of the body, and all that waits; `is_last` when nothing follows.
    pub(super) async fn write_body(
        &mut self,
        stream: &mut Stream,
        timer: &mut Timer,
        data: &[u8],
        is_last: bool,
    ) -> Result<(), ClientFault> {
        if self.waiting.len() + data.len() <= TOGETHER_MAX {
            self.put_body(data, is_last);
            return self.flush(stream, timer).await;
        }
        let (data, end) = self.frame(data, is_last);
        self.send(stream, timer, (data, end)).await
    }

    /// Puts bytes of the body behind what waits; `is_last` when nothing follows.
    pub(super) fn put_body(&mut self, data: &[u8], is_last: bool) {
        let (data, end) = self.frame(data, is_last);
        self.waiting.extend_from_slice(data);
        self.waiting.extend_from_slice(end);
        self.is_due = !self.waiting.is_empty();
    }

    /// Puts what stands before a piece of the body behind what waits; gives the piece, and what stands behind it.
    fn frame<'d>(&mut self, data: &'d [u8], is_last: bool) -> (&'d [u8], &'static [u8]) {
        let Stage::Begun(delimited) = self.stage else { return (b"", b"") };
        let (data, is_chunked) = match delimited {
            Delimited::NoBody => (&b""[..], false),
            Delimited::Length | Delimited::Close | Delimited::Tunnel => (data, false),
            Delimited::Itself => (data, true),
        };
        let size = SizeLine::of(data.len() as u64).filter(|_| is_chunked);
        self.waiting.extend_from_slice(size.as_ref().map_or(&b""[..], SizeLine::as_bytes));
        self.body_bytes += data.len();
        if is_last {
            self.stage = Stage::Ended(delimited);
        }
        let end: &[u8] = match (is_chunked, is_last, size.is_some()) {
            (true, true, true) => chunk::END_AND_LAST,
            (true, true, false) => chunk::LAST,
            (true, false, true) => chunk::END,
            (true, false, false) | (false, _, _) => b"",
        };
        (data, end)
    }

    fn all_taken(&mut self) {
        self.waiting.clear();
        (self.taken, self.is_due) = (0, false);
    }

    /// Whether there is something to be sent that the client has not taken.
    pub(super) fn is_busy(&self) -> bool {
        self.is_due
    }

    /// Ready when the client has taken all that waits.
    pub(super) fn poll_taken(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        loop {
            let rest = self.waiting.get(self.taken..).unwrap_or_default();
            if rest.is_empty() {
                ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(|_| ClientFault::Gone)?;
                self.all_taken();
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest)) {
                Ok(sent @ 1..) => self.taken += sent,
                Ok(0) | Err(_) => return Poll::Ready(Err(ClientFault::Gone)),
            }
        }
    }

    /// Writes the last chunk of a body and known trailers behind it (RFC 9112 section 7.1.2). The end of the body
    /// is still to be sent.
    pub(super) fn write_trailers(&mut self, trailers: &HeaderMap) {
        if self.stage != Stage::Begun(Delimited::Itself) {
            return;
        }
        self.waiting.extend_from_slice(b"0\r\n");
        let mut lines = FieldLines::new(&mut self.waiting);
        let is_known = |name: &HeaderName| TRAILERS.contains(&name.as_str());
        trailers.iter().filter(|(name, _)| is_known(name)).for_each(|(name, value)| lines.copy(name, value));
        // Values of others, which were read: they are field values.
        let _ = lines.end();
        self.stage = Stage::Begun(Delimited::NoBody);
    }

    /// Sends all that waits. Can be dropped and asked again.
    pub(super) async fn flush(&mut self, stream: &mut Stream, timer: &mut Timer) -> Result<(), ClientFault> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let taken = std::future::poll_fn(|cx| self.poll_taken(stream, cx));
        let taken = timer.within(WRITE_TIMEOUT, pin!(taken)).await.unwrap_or(Err(ClientFault::TakesNothing));
        if taken.is_err() {
            self.is_lost = true;
            self.all_taken();
        }
        taken
    }

    /// Sends what waits, and these bytes behind it. Dropped before its end, it leaves an answer that can only be cut
    /// off.
    async fn send(
        &mut self,
        stream: &mut Stream,
        timer: &mut Timer,
        (data, end): (&[u8], &[u8]),
    ) -> Result<(), ClientFault> {
        self.flush_taken(stream, timer).await?;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.is_lost = true;
        let send = async {
            let mut parts = [IoSlice::new(&waiting), IoSlice::new(data), IoSlice::new(end)];
            write_all_vectored(stream, &mut parts).await?;
            stream.flush().await
        };
        let sent: Option<std::io::Result<()>> = timer.within(WRITE_TIMEOUT, pin!(send)).await;
        waiting.clear();
        self.waiting = waiting;
        self.all_taken();
        match sent {
            Some(Ok(())) => {
                self.is_lost = false;
                Ok(())
            }
            Some(Err(_)) => Err(ClientFault::Gone),
            None => Err(ClientFault::TakesNothing),
        }
    }

    /// Sends what waits if a part of it was sent: what is left of it would be sent with the rest.
    async fn flush_taken(&mut self, stream: &mut Stream, timer: &mut Timer) -> Result<(), ClientFault> {
        if self.taken > 0 { self.flush(stream, timer).await } else { Ok(()) }
    }
}

async fn write_all_vectored(stream: &mut Stream, mut parts: &mut [IoSlice<'_>]) -> std::io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let sent = stream.write_vectored(parts).await?;
        if sent == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut parts, sent);
    }
    Ok(())
}

/// Writes a head behind what is there.
fn write_head(bytes: &mut Vec<u8>, head: &AnswerHead<'_, impl FieldSource>, is_close: bool) -> Result<(), BadValue> {
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
    bytes.push(b' ');
    let usual = || StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    match head.reason {
        b"" => bytes.extend_from_slice(usual().unwrap_or_default().as_bytes()),
        reason => bytes.extend_from_slice(reason),
    }
    bytes.extend_from_slice(b"\r\n");
    let mut lines = FieldLines::new(bytes);
    head.fields.put_into(&mut lines);
    if !lines.has_date() && !head.is_informational() && head.delimited != Delimited::Tunnel {
        lines.pass(b"date", &http_date(head.now_ms));
    }
    match head.delimited {
        Delimited::Itself => lines.pass(b"transfer-encoding", b"chunked"),
        Delimited::Tunnel => {
            lines.pass(b"connection", b"upgrade");
            lines.pass(b"upgrade", b"websocket");
        }
        Delimited::NoBody | Delimited::Length | Delimited::Close => {}
    }
    if head.delimited == Delimited::Close || is_close && head.delimited != Delimited::Tunnel {
        lines.pass(b"connection", b"close");
    }
    lines.end()
}
