//! One client's connection over HTTP/2, and its streams as Pingora's sessions.
//!
//! Pingora's own session cannot send informational answers, answers some bad heads itself without
//! a word to us, and takes a client that leaves for a fault. This one is the same library (h2) without
//! a layer in between: every stream is judged, answered and recorded like any other request.

mod active;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream as Items;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType};

use self::active::Active;
use crate::base::field_names::OF_CONNECTION;

/// Most streams that a client may have at a time.
pub const STREAMS_MAX: u32 = 100;
/// Most that are under way, with those that it has reset: a client that has more is sent away.
const STREAMS_UNDER_WAY_MAX: usize = 300;
/// Bytes that the streams of a connection may send before they are read; one that is not read must not
/// hold up the others. The library also counts small frames against it.
pub const CONNECTION_WINDOW: u32 = 8 << 20;

/// Serves a connection until it ends: its client leaves, nothing happens for `idle`, or it has
/// answered everything after a stop. Each stream runs in a task of its own.
pub async fn serve<F>(
    stream: Stream,
    options: &Builder,
    idle: Duration,
    mut shutdown: ShutdownWatch,
    on_stream: impl Fn(Http2) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: Vec::new(),
        proxy_digest: None,
        socket_digest: stream.get_socket_digest(),
    });
    let Ok(mut connection): Result<Connection<Stream, Bytes>, h2::Error> = options.handshake(stream).await else {
        return;
    };
    let active = Arc::<Active>::default();
    let mut is_stopping = *shutdown.borrow();
    if is_stopping {
        connection.graceful_shutdown();
    }
    loop {
        let accepted = tokio::select! {
            biased;
            changed = shutdown.changed(), if !is_stopping => {
                is_stopping = true;
                if changed.is_ok() {
                    connection.graceful_shutdown();
                }
                continue;
            }
            accepted = connection.accept() => accepted,
            () = active.idle_for(idle) => return,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        // What is reset makes room for more, and what it began ends a little later.
        if active.count() >= STREAMS_UNDER_WAY_MAX {
            connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            continue;
        }
        let guard = active.begin();
        let stream = on_stream(Http2::new(request, respond, digest.clone()));
        tokio::spawn(async move {
            stream.await;
            drop(guard);
        });
    }
}

/// One stream.
pub struct Http2 {
    request: RequestHeader,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    answer: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    is_ended: bool,
    bytes_read: usize,
    bytes_sent: usize,
    write_timeout: Option<Duration>,
    digest: Arc<Digest>,
}

/// What an error of a stream means: mostly that its client is gone.
fn gone(error: h2::Error, what: &'static str) -> Box<Error> {
    let is_gone = error.is_reset() || error.is_io() || error.is_go_away();
    let kind = if is_gone { ErrorType::ConnectionClosed } else { ErrorType::ReadError };
    Error::because(kind, what, error).into_down()
}

impl Http2 {
    fn new(request: http::Request<RecvStream>, respond: SendResponse<Bytes>, digest: Arc<Digest>) -> Self {
        let (head, body) = request.into_parts();
        Http2 {
            request: head.into(),
            body,
            respond,
            answer: None,
            written: None,
            is_ended: false,
            bytes_read: 0,
            bytes_sent: 0,
            write_timeout: None,
            digest,
        }
    }

    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> pingora::Result<()> {
        if self.is_ended || self.written.is_some() {
            return Ok(());
        }
        for name in OF_CONNECTION {
            head.remove_header(name);
        }
        if head.status.is_informational() {
            let informational = http::Response::from_parts(head.as_owned_parts(), ());
            return self.respond.send_informational(informational).map_err(|error| gone(error, "writing a head"));
        }
        if !head.headers.contains_key(header::DATE) {
            head.insert_header(header::DATE, get_cached_date())?;
        }
        let response = http::Response::from_parts(head.as_owned_parts(), ());
        let answer = self.respond.send_response(response, end).map_err(|error| gone(error, "writing a head"))?;
        (self.written, self.answer, self.is_ended) = (Some(head), Some(answer), end);
        Ok(())
    }

    async fn write(&mut self, mut data: Bytes, end: bool) -> pingora::Result<()> {
        if self.is_ended {
            return Ok(());
        }
        let Some(answer) = &mut self.answer else {
            return Error::e_explain(ErrorType::InternalError, "a body before its head");
        };
        let length = data.len();
        while !data.is_empty() {
            answer.reserve_capacity(data.len());
            let room = std::future::poll_fn(|cx| answer.poll_capacity(cx));
            let room = match self.write_timeout {
                Some(patience) => tokio::time::timeout(patience, room)
                    .await
                    .map_err(|_| Error::explain(ErrorType::WriteTimedout, "the client takes no more").into_down())?,
                None => room.await,
            };
            let closed = || Error::explain(ErrorType::ConnectionClosed, "the stream is closed").into_down();
            let room = room.ok_or_else(closed)?.map_err(|error| gone(error, "writing a body"))?;
            let now = data.split_to(room.min(data.len()));
            let is_last = end && data.is_empty();
            answer.send_data(now, is_last).map_err(|error| gone(error, "writing a body"))?;
            self.is_ended |= is_last;
        }
        if end && !self.is_ended {
            answer.send_data(Bytes::new(), true).map_err(|error| gone(error, "ending a body"))?;
            self.is_ended = true;
        }
        self.bytes_sent += length;
        Ok(())
    }

    async fn read(&mut self) -> pingora::Result<Option<Bytes>> {
        let data = self.body.data().await.transpose().map_err(|error| gone(error, "reading a body"))?;
        if let Some(data) = &data {
            self.bytes_read += data.len();
            let _ = self.body.flow_control().release_capacity(data.len());
        }
        Ok(data)
    }

    /// Waits until the client gives the stream up.
    async fn reset(&mut self) -> pingora::Result<()> {
        let reason = std::future::poll_fn(|cx| match &mut self.answer {
            Some(answer) => answer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        let reason = reason.await.map_err(|error| gone(error, "waiting for a client"))?;
        Err(Error::explain(ErrorType::ConnectionClosed, format!("the client reset the stream: {reason}")).into_down())
    }
}

#[async_trait]
impl Session for Http2 {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> pingora::Result<Option<Bytes>> {
        self.read().await
    }

    async fn drain_request_body(&mut self) -> pingora::Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> pingora::Result<()> {
        self.write_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> pingora::Result<()> {
        self.write_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> pingora::Result<()> {
        self.write(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> pingora::Result<()> {
        let Some(answer) = self.answer.as_mut().filter(|_| !self.is_ended) else { return Ok(()) };
        answer.send_trailers(trailers).map_err(|error| gone(error, "writing trailers"))?;
        self.is_ended = true;
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> pingora::Result<bool> {
        for task in tasks {
            match task {
                HttpTask::Header(head, end) => self.write_head(head, end)?,
                HttpTask::Body(data, end) => self.write(data.unwrap_or_default(), end).await?,
                HttpTask::Trailer(Some(trailers)) => self.write_trailers(*trailers).await?,
                HttpTask::Trailer(None) | HttpTask::Done => self.write(Bytes::new(), true).await?,
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "no upgrades over HTTP/2");
                }
                HttpTask::Failed(error) => return Err(error),
            }
        }
        Ok(self.is_ended)
    }

    /// Deadlines of bodies are those of the exchange.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    /// Never the target: it holds the query.
    fn request_summary(&self) -> String {
        String::new()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        if !self.is_ended {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
            self.is_ended = true;
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_end_stream()
    }

    async fn finish(&mut self) -> pingora::Result<()> {
        if self.answer.is_some() { self.write(Bytes::new(), true).await } else { Ok(()) }
    }

    fn is_body_empty(&mut self) -> bool {
        let says_none = || self.request.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.bytes_read == 0 && (self.body.is_end_stream() || says_none())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> pingora::Result<Option<Bytes>> {
        if no_body_expected || self.body.is_end_stream() {
            self.reset().await?;
        }
        self.read().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.bytes_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.bytes_read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        true
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> pingora::Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Items<Item = pingora::Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Items<Item = pingora::Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> pingora::Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> pingora::Result<()> {
        Ok(())
    }
}
