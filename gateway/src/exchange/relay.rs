//! Forwards one permitted request to its backend, and the answer back to the client. All requests go this way,
//! whatever their bodies, protocols and backends.
//!
//! One task sends the request, reads the answer, passes it on and watches the client meanwhile. What always
//! holds: a connection to a backend is used again only when both messages on it were whole; a request is sent
//! again only as [`Again`] allows; an error says whose fault it is.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};

use super::Exchanges;
use super::connection::set_phase;
use super::pass::{Head, is_over};
use super::request_body::RequestBody;
use super::state::Exchange;
use super::stream_guard::ended;
use crate::admit::denial::Denial;
use crate::base::clock::within;
use crate::edge::deadlines::Phase;
use crate::exchange::answer;
use crate::exchange::request_fields::{self, Shape};
use crate::upstream::backend::{Again, Backend, Piece};
use crate::upstream::outbound::{Framing, Outbound};
use crate::upstream::{Endpoint, Left, Pool, STREAM_SILENCE};

/// Most informational answers before the final one, whatever the protocols.
const INFORMATIONAL_MAX: usize = 8;

/// Largest body that is sent before an answer is looked for, in bytes. The buffers of a connection
/// hold as much.
const SMALL_BYTES: u64 = 16 * 1024;

/// How an exchange ended well.
pub(super) enum End {
    /// The answer was passed on.
    Answered,
    /// Both sides have agreed on a WebSocket; the 101 was passed on.
    Upgraded(Backend),
}

/// How one try ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// Both messages were whole.
    Whole,
    /// The answer was passed on; more may come on the connection.
    Answered,
    /// The 101 was passed on.
    Upgraded,
}

/// What happens next in an exchange.
enum Event<'b> {
    /// A head came from the backend.
    Head,
    /// A piece of the answer; `None` at its end.
    Answer(Option<Piece<'b>>),
    /// A piece of the request; `None` at its end.
    Request(Option<Bytes>),
    /// The backend took what was sent of the request, or takes no more.
    Sent,
    /// The credential has ended.
    Ended,
}

impl Exchanges {
    /// Takes a permitted request to its backend and the answer back.
    pub(super) async fn relay(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<End> {
        let Some(pool) = exchange.pool()?.cloned() else {
            exchange.late_denial = Some(Denial::UpstreamUnreachable);
            return Error::e_explain(ErrorType::ConnectNoRoute, "the upstream has no address");
        };
        let mut body = RequestBody::of(session);
        let is_upgrade = is_upgrade(session, &body) && exchange.place()?.1.protocols.websocket;
        let mut is_http1 = is_upgrade || pool.is_http1();
        if !body.is_read() && answer::expects(session) {
            answer::in_time(pin!(session.write_continue_response())).await.map_err(|error| error.into_down())?;
        }
        loop {
            let (endpoint, mut backend) = self.reach(exchange, &pool, is_http1).await?;
            let done = self.converse(session, exchange, (&pool, is_upgrade), &mut backend, &mut body).await;
            let left = match &done {
                Ok(Done::Whole) => Left::Whole,
                Ok(Done::Answered | Done::Upgraded) => Left::Midway,
                Err(error) => Left::after(error),
            };
            let again = match done {
                Ok(Done::Upgraded) => return Ok(End::Upgraded(backend)),
                Ok(_) => None,
                Err(error) => Some((backend.again(&error), error)),
            };
            self.connections.give_back(&endpoint, backend, left, self.gate.shared.clock.steady_us()).await;
            let Some((again, error)) = again else {
                // What is left of a request would be the start of the next one.
                if !body.is_read() {
                    session.set_keepalive(None);
                    answer::drain(session).await;
                }
                return Ok(End::Answered);
            };
            is_http1 |= again == Again::OverHttp1;
            if !self.is_tried_again(session, exchange, &mut body, &error, again) {
                return Err(error);
            }
        }
    }

    /// A connection to a backend. One that cannot be made costs no retry: every address is tried.
    async fn reach(
        &self,
        exchange: &mut Exchange,
        pool: &Pool,
        is_http1: bool,
    ) -> pingora::Result<(Arc<Endpoint>, Backend)> {
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut last = None;
        let mut now_us = self.gate.shared.clock.steady_us();
        while let Some(endpoint) = pool.pick(now_us, &failed) {
            exchange.chosen = Some(endpoint.clone());
            match self.connections.reach(pool, &endpoint, is_http1, now_us).await {
                Ok(backend) => {
                    endpoint.connected();
                    return Ok((endpoint, backend));
                }
                Err(error) => {
                    self.failed_to_connect(exchange, &endpoint, &error);
                    failed.push(endpoint.address);
                    now_us = self.gate.shared.clock.steady_us();
                    last = Some(error.into_up());
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::explain(ErrorType::ConnectNoRoute, "the upstream has no address")))
    }

    /// One try, on one connection.
    async fn converse(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        (pool, is_upgrade): (&Pool, bool),
        backend: &mut Backend,
        body: &mut RequestBody,
    ) -> pingora::Result<Done> {
        let (head_patience, body_patience) = pool.silence(exchange.place()?.1);
        let framing = framing(session, body);
        let shape = Shape { framing, is_upgrade, may_be_http2: matches!(backend, Backend::Http2(..)) };
        let request = self.upstream_request(session.req_header(), shape, exchange)?;
        let sent = backend.send_head(request, framing, (pool.is_tls(), head_patience)).await;
        let mut outbound = sent.map_err(|error| error.into_up())?;
        if matches!(framing, Framing::Length(1..=SMALL_BYTES)) {
            while self.send_what_is_here(session, exchange, body, &mut outbound).await? {}
        }
        let mut informational = 0;
        let mut is_answered = false;
        loop {
            let (is_sending, is_wanted) = (outbound.is_busy(), outbound.is_ready());
            backend.set_patience(match is_answered {
                true => body_patience,
                // A client's pause is no silence of its backend.
                false if is_wanted && !body.is_over() => STREAM_SILENCE,
                false => head_patience,
            });
            let event = tokio::select! {
                biased;
                () = ended(exchange.guard.as_ref()), if exchange.guard.is_some() => Event::Ended,
                // When it fails, the backend takes no more; it may have answered.
                _ = outbound.drive(), if is_sending => Event::Sent,
                event = from_backend(backend, is_answered) => event?,
                piece = from_client(session, body, is_wanted, body_patience) => Event::Request(piece?),
            };
            match event {
                Event::Sent => {}
                Event::Request(piece) => {
                    self.send_piece(session, exchange, body, &mut outbound, piece).await?;
                }
                Event::Head => {
                    count_informational(backend, &mut informational)?;
                    if !body.is_read() {
                        session.set_keepalive(None);
                    }
                    match self.pass_head(session, exchange, backend, is_upgrade).await? {
                        Head::Informational => {}
                        Head::Upgraded => return Ok(Done::Upgraded),
                        Head::Whole => break,
                        Head::BodyFollows => {
                            is_answered = true;
                        }
                    }
                }
                Event::Answer(piece) => {
                    let rest = self.pass_piece(session, exchange, piece).await?;
                    if is_over(session, exchange, backend, rest).await? {
                        break;
                    }
                    // A backend that always has more must not keep the request waiting.
                    self.send_what_is_here(session, exchange, body, &mut outbound).await?;
                }
                Event::Ended => {
                    self.close_gracefully(session).await?;
                    return Ok(Done::Answered);
                }
            }
        }
        Ok(if outbound.is_sent() { Done::Whole } else { Done::Answered })
    }

    /// Sends a piece of the request if it is there already: of a small body, which mostly comes with
    /// its head, before an answer is looked for. Whether there was one.
    async fn send_what_is_here(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        body: &mut RequestBody,
        outbound: &mut Outbound,
    ) -> pingora::Result<bool> {
        if !outbound.is_ready() || body.is_over() {
            return Ok(false);
        }
        let Poll::Ready(piece) = futures_util::poll!(pin!(body.next(session))) else { return Ok(false) };
        self.send_piece(session, exchange, body, outbound, piece?).await?;
        Ok(true)
    }

    /// Takes a piece of the request, and sends what the backend takes at once.
    async fn send_piece(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        body: &RequestBody,
        outbound: &mut Outbound,
        piece: Option<Bytes>,
    ) -> pingora::Result<()> {
        if let Some(piece) = piece {
            check_size(exchange, body)?;
            outbound.push(piece)?;
        }
        if body.is_over() {
            set_phase(session, Phase::Quiet);
            outbound.finish().map_err(|error| error.into_down())?;
        }
        // When it fails, the backend takes no more; it may have answered.
        let _ = futures_util::poll!(pin!(outbound.drive()));
        Ok(())
    }
}

/// Counts the informational answers before the final one.
fn count_informational(backend: &Backend, count: &mut usize) -> pingora::Result<()> {
    *count += usize::from(backend.is_informational());
    if *count > INFORMATIONAL_MAX { Err(nonsense("too many informational answers")) } else { Ok(()) }
}

/// A fault of the backend: what it sent is no answer.
pub(super) fn nonsense(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what).into_up()
}

/// What comes next from the backend. Can be dropped and asked again.
async fn from_backend(backend: &mut Backend, is_answered: bool) -> pingora::Result<Event<'_>> {
    if is_answered {
        return backend.read_body().await.map(Event::Answer).map_err(|error| error.into_up());
    }
    backend.read_head().await.map(|()| Event::Head).map_err(|error| error.into_up())
}

/// The next piece of the request, if it can be sent; otherwise waits until the client leaves. Can be
/// dropped and asked again. A client that pauses for longer than `patience` is at fault.
async fn from_client(
    session: &mut Session,
    body: &mut RequestBody,
    is_wanted: bool,
    patience: Duration,
) -> pingora::Result<Option<Bytes>> {
    if is_wanted {
        let late = || Error::explain(ErrorType::ReadTimedout, "the client sends no more of its body").into_down();
        return within(patience, pin!(body.next(session))).await.unwrap_or_else(|| Err(late()));
    }
    // A client's connection over HTTP/1.1 cannot be watched while there is more of its body on it.
    if !body.is_read() && session.as_http1().is_some() {
        return std::future::pending().await;
    }
    match session.read_body_or_idle(true).await {
        Err(error) => Err(error.into_down()),
        Ok(_) => Err(Error::explain(ErrorType::ConnectionClosed, "the client sent more than a request").into_down()),
    }
}

/// Whether a request asks for a WebSocket.
fn is_upgrade(session: &Session, body: &RequestBody) -> bool {
    let head = session.req_header();
    let may_be = head.version == Version::HTTP_11 && head.method == Method::GET && body.is_read();
    may_be && request_fields::is_websocket(&head.headers)
}

/// How a request's body is framed.
fn framing(session: &Session, body: &RequestBody) -> Framing {
    match request_fields::content_length(&session.req_header().headers) {
        Some(length) => Framing::Length(length),
        None if body.is_empty() => Framing::None,
        None => Framing::Unknown,
    }
}

/// Holds a body to its route's bound. A call of gRPC that streams has none.
fn check_size(exchange: &mut Exchange, body: &RequestBody) -> pingora::Result<()> {
    let route = exchange.place()?.1;
    if body.bytes <= route.body_bytes_max || (route.protocols.grpc && exchange.known.is_grpc) {
        return Ok(());
    }
    exchange.late_denial = Some(Denial::BodyTooLarge);
    Err(Error::explain(ErrorType::HTTPStatus(413), "the body is too large").into_down())
}
