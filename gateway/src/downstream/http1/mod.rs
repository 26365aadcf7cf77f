//! A client's connection over HTTP/1.1 and HTTP/1.0: its requests one after the other, read by the codec of the
//! crate `http1`, and their answers.
//!
//! Three buffers live as long as the connection: what came and is not used up, the head of the request under way,
//! and what waits to be sent. They are given back while the connection is idle, which reads into one that all of its
//! thread share. The head of an answer and the first bytes of its body leave in one send. Each wait can be dropped and
//! begun again without losing a byte.

mod body;

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::HeaderMap;
use http1::Fault;
use http1::body::Decoder;
use http1::framing::{Framing, Persistence, of_request, options};
use http1::head::{Bounds, RequestHead as Spans, pairs};
use pingora::protocols::Stream;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::output::Output;
use super::rate::BodyRate;
use super::{AnswerHead, ClientFault, Deadlines, Delimited, LEAVE, peer_address};
use crate::base::field_sink::{BadValue, FieldSource};
use crate::base::message::{Fields, RequestHead, Version};
use crate::base::scratch::append;
use crate::base::timer::Timer;

/// Most requests on one connection.
const REQUESTS_MAX: u32 = 10_000;
/// Most bytes that a client may send ahead while its request is under way; then it is not watched.
const AHEAD_MAX: usize = 16 * 1024;
/// Buffers are given back when no request has come for so long.
const BUSY: Duration = Duration::from_secs(1);
/// A client that says that it sends no more may still wait for its answer, for so long: whether it has left or
/// only closed its half cannot be told.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// What came on a connection that waited for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A request.
    Request,
    /// A head that has another reading, or none.
    Faulty(Fault),
    /// Nothing more: the connection ends.
    End,
}

/// A client's connection.
pub struct Http1 {
    stream: Stream,
    peer: IpAddr,
    deadlines: Deadlines,
    bounds: Bounds,
    timer: Timer,
    input: BytesMut,
    head: Vec<u8>,
    /// Its method, as far as it could be read.
    method: String,
    spans: Spans,
    framing: Framing,
    body: Decoder,
    rate: BodyRate,
    output: Output,
    /// Whether another request may follow.
    goes_on: bool,
    /// Until when the head must have come; none before its first byte, but for a new connection.
    head_until: Option<Instant>,
    /// When the client said that it sends no more.
    half_closed: Option<Instant>,
    /// Whether the client was told to send its body.
    was_told: bool,
    requests: u32,
    bytes_in: usize,
}

impl Http1 {
    /// A new connection; the time of its first head starts now.
    pub fn new(stream: Stream, deadlines: Deadlines, bounds: Bounds) -> Self {
        Http1 {
            peer: peer_address(&stream),
            stream,
            deadlines,
            bounds,
            timer: Timer::default(),
            input: BytesMut::new(),
            head: Vec::new(),
            method: String::new(),
            spans: Spans::default(),
            framing: Framing::None,
            body: Decoder::new(Framing::None),
            rate: BodyRate::default(),
            output: Output::default(),
            goes_on: true,
            head_until: Some(Instant::now() + deadlines.head),
            half_closed: None,
            was_told: false,
            requests: 0,
            bytes_in: 0,
        }
    }

    /// Waits for a request. `stop` ends a connection that waits between two.
    pub async fn read_head(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Incoming {
        self.begin();
        let idle_since = Instant::now();
        loop {
            if !self.input.is_empty() {
                match self.spans.read(&mut self.input, self.bounds) {
                    Ok(Some(length)) => return self.take_head(length),
                    Ok(None) => {}
                    Err(fault) => {
                        self.head.extend_from_slice(self.input.get(..self.spans.method().end).unwrap_or_default());
                        self.take_method();
                        self.input.clear();
                        return self.faulty(fault);
                    }
                }
                self.head_until.get_or_insert_with(|| Instant::now() + self.deadlines.head);
            }
            let is_between = self.input.is_empty() && self.head_until.is_none();
            let holds_buffers = is_between && self.head.capacity() > 0;
            let until = match self.head_until {
                Some(until) => until,
                None if holds_buffers => idle_since + self.deadlines.idle.min(BUSY),
                None => idle_since + self.deadlines.idle,
            };
            let read = tokio::select! {
                biased;
                read = async { self.timer.by(until, pin!(append(&mut self.stream, &mut self.input))).await } => read,
                () = stop.as_mut(), if self.requests == 0 || is_between => return Incoming::End,
            };
            match read {
                Some(Ok(1..)) => {}
                None if holds_buffers && Instant::now() < idle_since + self.deadlines.idle => self.give_buffers_back(),
                Some(Ok(0) | Err(_)) | None => return Incoming::End,
            }
        }
    }

    /// Forgets the exchange before.
    fn begin(&mut self) {
        self.head.clear();
        self.output.begin();
        (self.rate, self.was_told, self.bytes_in) = (BodyRate::default(), false, 0);
    }

    fn give_buffers_back(&mut self) {
        (self.input, self.head, self.output) = (BytesMut::new(), Vec::new(), Output::default());
        (self.spans, self.body) = (Spans::default(), Decoder::new(Framing::None));
    }

    /// Takes a head that was read.
    fn take_head(&mut self, length: usize) -> Incoming {
        self.head.extend_from_slice(self.input.get(..length).unwrap_or_default());
        self.input.advance(length);
        self.take_method();
        (self.head_until, self.requests) = (None, self.requests + 1);
        match of_request(self.spans.version(), pairs(self.spans.fields(), &self.head)) {
            Ok(of) => {
                self.goes_on &= of.persistence == Persistence::Persistent && self.requests < REQUESTS_MAX;
                (self.framing, self.body) = (of.framing, Decoder::new(of.framing));
                Incoming::Request
            }
            Err(fault) => self.faulty(fault),
        }
    }

    /// A head that has two readings may have two ends: nothing after it is a request. What comes there is read as
    /// a body that nobody wants.
    fn faulty(&mut self, fault: Fault) -> Incoming {
        self.goes_on = false;
        (self.framing, self.body) = (Framing::UntilClose, Decoder::new(Framing::UntilClose));
        Incoming::Faulty(fault)
    }

    fn take_method(&mut self) {
        let method = self.head.get(self.spans.method()).unwrap_or_default();
        self.method.clear();
        self.method.push_str(std::str::from_utf8(method).unwrap_or_default());
    }

    /// The head of the request.
    pub fn head(&self) -> RequestHead<'_> {
        let part = |range: std::ops::Range<usize>| self.head.get(range).unwrap_or_default();
        RequestHead {
            method: &self.method,
            version: Version::from(self.spans.version()),
            target: part(self.spans.target()),
            authority: None,
            fields: Fields::Spans(self.spans.fields(), &self.head, self.spans.names()),
            is_websocket_stream: false,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The length of the request's body, if it is said.
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&self) -> bool {
        matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// Whether all of the request's body was read.
    pub fn is_body_read(&self) -> bool {
        self.body.is_done()
    }

    /// Waits until the client leaves.
    pub async fn left(&mut self) -> ClientFault {
        loop {
            if let Some(since) = self.half_closed {
                let _ = self.timer.by(since + HALF_CLOSED, pin!(std::future::pending::<()>())).await;
                return ClientFault::Gone;
            }
            if !self.body.is_done() || self.input.len() >= AHEAD_MAX {
                return std::future::pending().await;
            }
            match append(&mut self.stream, &mut self.input).await {
                Ok(0) => (self.half_closed, self.goes_on) = (Some(Instant::now()), false),
                Ok(_) => {}
                Err(_) => return ClientFault::Gone,
            }
        }
    }

    /// Whether the client was told to send its body.
    pub fn was_told(&self) -> bool {
        self.was_told
    }

    /// No other request follows.
    pub fn close_after(&mut self) {
        self.goes_on = false;
    }

    /// Tells the client to send its body.
    pub async fn write_continue(&mut self) -> Result<(), ClientFault> {
        self.was_told = true;
        self.output.write_continue();
        self.flush().await
    }

    /// Writes a head, which is sent with what follows it.
    ///
    /// # Errors
    /// A field of ours is none; nothing was written.
    pub fn write_head(&mut self, head: &AnswerHead<'_, impl FieldSource>) -> Result<(), BadValue> {
        self.output.write_head(head, !self.goes_on)?;
        self.goes_on &= !matches!(head.delimited, Delimited::Close | Delimited::Tunnel);
        Ok(())
    }

    /// Sends bytes of the body, and all that waits; `is_last` when nothing follows.
    pub async fn write_body(&mut self, data: &[u8], is_last: bool) -> Result<(), ClientFault> {
        self.output.write_body(&mut self.stream, &mut self.timer, data, is_last).await
    }

    /// Puts bytes of the body behind what waits; `is_last` when nothing follows.
    pub fn put_body(&mut self, data: &[u8], is_last: bool) {
        self.output.put_body(data, is_last);
    }

    /// Ends the answer with those of the trailers that may be passed on, if the client wants trailers (RFC 9110
    /// section 6.5.1). They wait to be sent.
    pub fn put_trailers(&mut self, trailers: &HeaderMap) {
        let is_wish = |wish: &[u8]| wish.eq_ignore_ascii_case(b"trailers");
        if self.head().fields.all("te").flat_map(options).any(is_wish) {
            self.output.write_trailers(trailers);
        }
        self.output.put_body(b"", true);
    }

    /// Whether the client has not taken all that it was sent.
    pub fn is_busy(&self) -> bool {
        self.output.is_busy()
    }

    /// Ready when the client has taken all that waits.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        self.output.poll_taken(&mut self.stream, cx)
    }

    /// Sends all that waits.
    pub async fn flush(&mut self) -> Result<(), ClientFault> {
        self.output.flush(&mut self.stream, &mut self.timer).await
    }

    /// Whether a final answer has begun.
    pub fn has_begun(&self) -> bool {
        self.output.has_begun()
    }

    /// Bytes of the request's body that were read, and of the answer's that were written.
    pub fn body_bytes(&self) -> (usize, usize) {
        (self.bytes_in, self.output.body_bytes())
    }

    /// An exchange is over. Whether another one may follow; otherwise the client was told goodbye.
    pub async fn finish(&mut self) -> bool {
        if self.goes_on && self.body.is_done() && self.flush().await.is_ok() {
            return true;
        }
        if !self.output.is_cut() {
            self.take_leave().await;
        }
        false
    }

    /// Cuts the client off. One whose answer ends where the connection ends gets no goodbye of TLS: it could not
    /// tell the two ends apart.
    pub async fn cut(&mut self) {
        self.goes_on = false;
        if self.output.cut() != Some(Delimited::Close) {
            self.take_leave().await;
        }
    }

    async fn take_leave(&mut self) {
        let leave = async {
            let _ = self.flush().await;
            let _ = self.stream.shutdown().await;
        };
        // What it does not do in time is done when the connection is dropped.
        let _ = tokio::time::timeout(LEAVE, leave).await;
    }

    /// The connection of a WebSocket, and what its client has sent behind its request.
    pub fn into_tunnel(self) -> (Stream, Vec<u8>) {
        (self.stream, self.input.to_vec())
    }
}

#[cfg(test)]
mod tests;
