//! A client's connection over HTTP/2: each of its streams carries one request and its answer (RFC 9113).
//!
//! Every stream is judged, answered and recorded like a connection's request. The library (h2) has the frames.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;

use super::{AnswerHead, ClientFault, Deadlines, HeadError, WRITE_TIMEOUT, peer_address};
use crate::base::clock::http_date;
use crate::base::field_sink::{BadValue, FieldMap, FieldSource};
use crate::base::message::{Fields, RequestHead, Version};
use crate::base::timer::Timer;

/// First bytes of an HTTP/2 connection (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most streams that a client may have at a time.
pub const STREAMS_MAX: u32 = 100;
/// Most that are under way, with those that it has reset: a client that has more is sent away.
const STREAMS_UNDER_WAY_MAX: usize = 300;
/// Bytes that the streams of a connection may send before they are read; one that is not read must not
/// hold up the others. The library also counts small frames against it.
pub const CONNECTION_WINDOW: u32 = 8 << 20;

/// How often a connection with streams under way is looked at though nothing happens on it.
const BUSY: Duration = Duration::from_secs(60);
/// Most fields that are added to those of an answer.
const OURS_MAX: usize = 12;

/// Serves a connection until it ends: its client leaves, nothing happens for a while, or it has
/// answered everything after a stop.
///
/// Its streams run in this task, and the connection is looked at behind them: so all answers that are ready leave in
/// one flush. What its client has begun is ended, and recorded, also when the client is gone.
pub async fn serve<F>(
    stream: Stream,
    options: &Builder,
    deadlines: Deadlines,
    shutdown: ShutdownWatch,
    on_stream: impl Fn(Http2) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let peer = peer_address(&stream);
    // The client's preface is in it.
    let handshake = tokio::time::timeout(deadlines.head, options.handshake(stream)).await;
    let Ok(Ok(mut connection)) = handshake else { return };
    let mut streams = FuturesUnordered::new();
    accept(&mut connection, &mut streams, (deadlines, shutdown), |request, respond| {
        Box::pin(on_stream(Http2::new(request, respond, peer)))
    })
    .await;
    // They learn from it that their client is gone.
    drop(connection);
    while streams.next().await.is_some() {}
}

async fn accept<F: Future<Output = ()>>(
    connection: &mut Connection<Stream, Bytes>,
    streams: &mut FuturesUnordered<F>,
    (deadlines, mut shutdown): (Deadlines, ShutdownWatch),
    on_stream: impl Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> F,
) {
    let mut timer = Timer::default();
    let mut stop = pin!(shutdown.wait_for(|is_stopping| *is_stopping));
    let mut is_stopping = false;
    loop {
        let idle = if streams.is_empty() { deadlines.idle } else { BUSY };
        let accepted = tokio::select! {
            biased;
            _ = stop.as_mut(), if !is_stopping => {
                is_stopping = true;
                connection.graceful_shutdown();
                continue;
            }
            Some(()) = streams.next() => continue,
            accepted = async { timer.within(idle, pin!(connection.accept())).await } => accepted,
        };
        match accepted {
            // What is reset makes room for more, and what it began ends a little later.
            Some(Some(Ok(_))) if streams.len() >= STREAMS_UNDER_WAY_MAX => {
                connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            }
            Some(Some(Ok((request, respond)))) => streams.push(on_stream(request, respond)),
            Some(Some(Err(_)) | None) => return,
            None if streams.is_empty() => return,
            None => {}
        }
    }
}

/// One stream.
pub struct Http2 {
    request: Parts,
    peer: IpAddr,
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
    fn new(request: http::Request<RecvStream>, respond: SendResponse<Bytes>, peer: IpAddr) -> Self {
        let (request, body) = request.into_parts();
        Http2 {
            request,
            peer,
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
        }
    }

    /// The head of the request.
    pub fn head(&self) -> RequestHead<'_> {
        let target = self.request.uri.path_and_query().map_or("", |target| target.as_str());
        RequestHead {
            method: self.request.method.as_str(),
            version: Version::Http2,
            target: target.as_bytes(),
            authority: self.request.uri.authority().map(|authority| authority.as_str().as_bytes()),
            fields: Fields::Map(&self.request.headers),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The length of the request's body, if it is said.
    pub fn content_length(&self) -> Option<u64> {
        self.request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&self) -> bool {
        let says_none = || self.request.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.bytes_in == 0 && (self.body.is_end_stream() || says_none())
    }

    /// Whether all of the request's body was read.
    pub fn is_body_read(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, ClientFault> {
        let data = self.body.data().await.transpose().map_err(|error| gone(&error))?;
        if let Some(data) = &data {
            self.bytes_in += data.len();
            let _ = self.body.flow_control().release_capacity(data.len());
        }
        Ok(data)
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
        let status = StatusCode::from_u16(head.status).map_err(|_| BadValue)?;
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
        let room = ready!(answer.poll_capacity(cx));
        let room = room.ok_or(ClientFault::Gone)?.map_err(|error| gone(&error))?;
        let now = self.waiting.split_to(room.min(self.waiting.len()));
        let ends = self.ends && self.waiting.is_empty();
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

    /// Gives the stream up, if its answer is not over.
    pub fn cut(&mut self) {
        if !self.is_ended {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
            self.is_ended = true;
        }
    }
}
