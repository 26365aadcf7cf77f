//! One stream: a request and its answer.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http1::Fault;
use http1::head::Bounds;
use tokio::time::Instant;

use super::Limits;
use super::meter::Tally;
use super::tunnel::StreamTunnel;
use crate::base::clock::http_date;
use crate::base::field_sink::{BadValue, FieldMap, FieldSource};
use crate::base::message::{Fields, RequestHead, Version};
use crate::base::timer::Timer;
use crate::downstream::rate::{BodyRate, TooSlow};
use crate::downstream::{AnswerHead, ClientFault, Delimited, HeadError, WRITE_TIMEOUT};

/// Most fields that are added to those of an answer.
const OURS_MAX: usize = 12;

/// One stream.
pub struct Http2 {
    request: Parts,
    /// Whether it asks for a WebSocket (RFC 8441 section 5): then it has no body, and what follows is the socket's.
    is_websocket: bool,
    peer: IpAddr,
    tally: Arc<Tally>,
    body_rate: u32,
    rate: BodyRate,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    answer: Option<SendStream<Bytes>>,
    timer: Timer,
    /// Bytes of the answer that the client has not taken, and whether nothing follows them.
    waiting: Bytes,
    ends: bool,
    is_ended: bool,
    was_told: bool,
    bytes_in: usize,
    bytes_out: usize,
}

/// What an error of a stream means: mostly that its client is gone.
fn gone(error: &h2::Error) -> ClientFault {
    let is_gone = error.is_reset() || error.is_io() || error.is_go_away();
    if is_gone { ClientFault::Gone } else { ClientFault::BodyCut }
}

impl Http2 {
    /// A stream that begins, and whether its head is a faulty one. What was too large is forgotten at once.
    pub(super) fn new(
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        (peer, limits, tally): (IpAddr, Limits, Arc<Tally>),
    ) -> (Self, Option<Fault>) {
        let (mut request, body) = request.into_parts();
        let protocol = request.extensions.get::<Protocol>();
        let is_websocket =
            request.method == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
        let fault = fault(&request, limits.head);
        if fault.is_some() {
            request.headers = HeaderMap::new();
        }
        let stream = Http2 {
            request,
            is_websocket,
            peer,
            tally,
            body_rate: limits.deadlines.body_rate,
            rate: BodyRate::default(),
            body,
            respond,
            answer: None,
            timer: Timer::default(),
            waiting: Bytes::new(),
            ends: false,
            is_ended: false,
            was_told: false,
            bytes_in: 0,
            bytes_out: 0,
        };
        (stream, fault)
    }

    /// The head of the request. One that asks for a WebSocket is a GET, as over HTTP/1.1.
    pub fn head(&self) -> RequestHead<'_> {
        let target = self.request.uri.path_and_query().map_or("", |target| target.as_str());
        RequestHead {
            method: if self.is_websocket { "GET" } else { self.request.method.as_str() },
            version: Version::Http2,
            target: target.as_bytes(),
            authority: self.request.uri.authority().map(|authority| authority.as_str().as_bytes()),
            fields: Fields::Map(&self.request.headers),
            is_websocket_stream: self.is_websocket,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The length of the request's body, if it is said.
    pub fn content_length(&self) -> Option<u64> {
        let length = self.request.headers.get(header::CONTENT_LENGTH).filter(|_| !self.is_websocket)?;
        length.to_str().ok()?.parse().ok()
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&self) -> bool {
        let says_none = || self.request.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.is_websocket || self.bytes_in == 0 && (self.body.is_end_stream() || says_none())
    }

    /// Whether all of the request's body was read.
    pub fn is_body_read(&self) -> bool {
        self.is_websocket || self.body.is_end_stream()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, ClientFault> {
        loop {
            let body = &mut self.body;
            let data = match self.rate.watch(&mut self.timer, |cx| body.poll_data(cx)).await {
                Some(data) => data.transpose().map_err(|error| gone(&error))?,
                None => Some(Bytes::new()),
            };
            let Some(data) = data else { return Ok(None) };
            self.rate.came(data.len(), self.body_rate, Instant::now).map_err(|TooSlow| ClientFault::BodySlow)?;
            if !data.is_empty() || self.body.is_end_stream() {
                self.bytes_in += data.len();
                let _ = self.body.flow_control().release_capacity(data.len());
                return Ok(Some(data));
            }
        }
    }

    /// Its body may pause as long as it likes.
    pub fn may_pause(&mut self) {
        self.body_rate = 0;
    }

    /// Waits until the client gives the stream up.
    pub async fn left(&mut self) -> ClientFault {
        let reset = std::future::poll_fn(|cx| match &mut self.answer {
            Some(answer) => answer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        let _ = reset.await;
        ClientFault::Gone
    }

    /// Whether the client was told to send its body.
    pub fn was_told(&self) -> bool {
        self.was_told
    }

    /// Tells the client to send its body.
    pub fn write_continue(&mut self) -> Result<(), ClientFault> {
        self.was_told = true;
        self.inform(StatusCode::CONTINUE, HeaderMap::new())
    }

    fn inform(&mut self, status: StatusCode, fields: HeaderMap) -> Result<(), ClientFault> {
        let mut informational = http::Response::new(());
        (*informational.status_mut(), *informational.headers_mut()) = (status, fields);
        self.respond.send_informational(informational).map_err(|error| gone(&error))
    }

    /// Writes a head; `is_whole` when nothing follows.
    pub fn write_head(&mut self, head: &AnswerHead<'_, impl FieldSource>, is_whole: bool) -> Result<(), HeadError> {
        // What a 101 says elsewhere (RFC 8441 section 5).
        let status = if head.delimited == Delimited::Tunnel { 200 } else { head.status };
        let status = StatusCode::from_u16(status).map_err(|_| BadValue)?;
        let mut fields = FieldMap::with_capacity(OURS_MAX);
        head.fields.put_into(&mut fields);
        let mut fields = fields.end()?;
        if head.is_informational() {
            return Ok(self.inform(status, fields)?);
        }
        if !fields.contains_key(header::DATE) {
            let date = HeaderValue::from_bytes(&http_date(head.now_ms)).map_err(|_| BadValue)?;
            fields.insert(header::DATE, date);
        }
        let mut response = http::Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (status, fields);
        self.answer = Some(self.respond.send_response(response, is_whole).map_err(|error| gone(&error))?);
        self.is_ended = is_whole;
        Ok(())
    }

    /// Sends bytes of the body; `is_last` when nothing follows.
    pub async fn write_body(&mut self, data: Bytes, is_last: bool) -> Result<(), ClientFault> {
        self.flush().await?;
        self.put_body(data, is_last)?;
        self.flush().await
    }

    /// Sends all that waits.
    pub async fn flush(&mut self) -> Result<(), ClientFault> {
        let mut timer = std::mem::take(&mut self.timer);
        while self.is_busy() {
            let step = std::future::poll_fn(|cx| self.poll_step(cx));
            timer.within(WRITE_TIMEOUT, pin!(step)).await.unwrap_or(Err(ClientFault::TakesNothing))?;
        }
        self.timer = timer;
        Ok(())
    }

    /// Takes bytes of the body to be sent, when nothing waits; `is_last` when nothing follows.
    pub fn put_body(&mut self, data: Bytes, is_last: bool) -> Result<(), ClientFault> {
        let Some(answer) = self.answer.as_mut().filter(|_| !self.is_ended) else { return Ok(()) };
        self.bytes_out += data.len();
        self.ends = is_last;
        if data.is_empty() && is_last {
            // The end needs no room.
            answer.send_data(data, true).map_err(|error| gone(&error))?;
            self.is_ended = true;
        } else {
            self.waiting = data;
        }
        Ok(())
    }

    /// Whether the client has not taken all that it was sent.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ready when the client has taken all that waits.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        while self.is_busy() {
            ready!(self.poll_step(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as much of what waits as the client takes now.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        answer.reserve_capacity(self.waiting.len());
        while answer.capacity() == 0 {
            ready!(answer.poll_capacity(cx)).ok_or(ClientFault::Gone)?.map_err(|error| gone(&error))?;
        }
        let room = answer.capacity();
        let now = self.waiting.split_to(room.min(self.waiting.len()));
        let ends = self.ends && self.waiting.is_empty();
        self.tally.sent();
        answer.send_data(now, ends).map_err(|error| gone(&error))?;
        self.is_ended |= ends;
        Poll::Ready(Ok(()))
    }

    /// Ends the answer with trailers.
    pub fn put_trailers(&mut self, trailers: HeaderMap) -> Result<(), ClientFault> {
        let Some(answer) = self.answer.as_mut().filter(|_| !self.is_ended) else { return Ok(()) };
        answer.send_trailers(trailers).map_err(|error| gone(&error))?;
        self.is_ended = true;
        Ok(())
    }

    /// Whether a final answer has begun.
    pub fn has_begun(&self) -> bool {
        self.answer.is_some()
    }

    /// Bytes of the request's body that were read, and of the answer's that were written.
    pub fn body_bytes(&self) -> (usize, usize) {
        (self.bytes_in, self.bytes_out)
    }

    /// A WebSocket, if its answer has begun.
    pub fn into_tunnel(self) -> Option<StreamTunnel> {
        self.answer.map(|answer| StreamTunnel::new(self.body, answer, self.tally))
    }

    /// Gives the stream up, if its answer is not over.
    pub fn cut(&mut self) {
        if !self.is_ended {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
            self.is_ended = true;
        }
    }
}

/// Whether a head is too large, or has too many fields. A cookie may come in many pieces, which are one field (RFC 9113
/// section 8.2.3).
fn fault(request: &Parts, bounds: Bounds) -> Option<Fault> {
    let fields = &request.headers;
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let cookies = fields.get_all(header::COOKIE).iter().count();
    if target + size > bounds.bytes {
        Some(Fault::TooLarge)
    } else if fields.len() - cookies.saturating_sub(1) > bounds.fields {
        Some(Fault::TooManyFields)
    } else {
        None
    }
}
