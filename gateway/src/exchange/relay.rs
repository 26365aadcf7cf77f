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

use super::Exchanges;
use super::failure::Failure;
use super::forwarding::backend_request;
use super::pass::{Head, nonsense};
use super::request_body::RequestBody;
use super::state::Exchange;
use super::stream_guard::ended;
use super::websocket::Wish;
use crate::admit::denial::Denial;
use crate::base::clock::within;
use crate::downstream::{ClientFault, Session, WRITE_TIMEOUT};
use crate::exchange::answer;
use crate::upstream::backend::{Again, Backend, Piece};
use crate::upstream::fault::BackendFault;
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
    /// The client took what was sent of the answer.
    Taken,
    /// The credential has ended.
    Ended,
}

impl Exchanges {
    /// Takes a permitted request to its backend and the answer back.
    pub(super) async fn relay(&self, session: &mut Session, exchange: &mut Exchange) -> Result<End, Failure> {
        let pool = exchange.pool()?.cloned().ok_or(Failure::NoAddress)?;
        let mut body = RequestBody::of(session);
        if is_streaming_call(exchange)? {
            session.may_pause();
        }
        let wish = match exchange.place()?.1.protocols.websocket && body.is_read() {
            true => Wish::of(&session.head()).map_err(|_| Failure::Ours("no randomness"))?,
            false => Wish::Answer,
        };
        let mut is_http1 = wish.is_websocket() || pool.is_http1();
        if !body.is_read() && session.expects_continue() {
            session.write_continue().await?;
        }
        loop {
            let (endpoint, mut backend) = self.reach(exchange, &pool, is_http1).await?;
            let done = self.converse(session, exchange, (&pool, &wish), &mut backend, &mut body).await;
            let (left, again) = match &done {
                Ok(Done::Upgraded) => return Ok(End::Upgraded(backend)),
                Ok(Done::Whole) => (Left::Whole, Again::No),
                Err(Failure::Backend(fault)) => (Left::after(fault), backend.again(fault)),
                Ok(Done::Answered) | Err(_) => (Left::Midway, Again::No),
            };
            self.connections.give_back(&endpoint, backend, left, exchange.answered_us());
            match done {
                Ok(_) => {
                    // What is left of a request would be the start of the next one.
                    if !body.is_read() {
                        session.close_after();
                        Box::pin(answer::drain(session)).await;
                    }
                    return Ok(End::Answered);
                }
                Err(_) if self.is_tried_again(session, exchange, &mut body, again) => {
                    is_http1 |= again == Again::OverHttp1;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A connection to a backend. One that cannot be made costs no retry: every address is tried.
    async fn reach(
        &self,
        exchange: &mut Exchange,
        pool: &Pool,
        is_http1: bool,
    ) -> Result<(Arc<Endpoint>, Backend), Failure> {
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut last = None;
        // At the first try the decision has just been made.
        let clock = &self.gate.shared.clock;
        let mut now_us = if exchange.tries == 0 { exchange.decided_us() } else { clock.steady_us() };
        while let Some(endpoint) = pool.pick(now_us, &failed) {
            exchange.chosen = Some(endpoint.clone());
            match self.connections.reach(pool, &endpoint, is_http1, now_us).await {
                Ok(backend) => {
                    endpoint.connected();
                    return Ok((endpoint, backend));
                }
                Err(fault) => {
                    self.failed_to_connect(exchange, &endpoint, &fault);
                    failed.push(endpoint.address);
                    now_us = clock.steady_us();
                    last = Some(fault);
                }
            }
        }
        Err(last.map_or(Failure::NoAddress, Failure::Backend))
    }

    /// One try, on one connection.
    async fn converse(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        (pool, wish): (&Pool, &Wish),
        backend: &mut Backend,
        body: &mut RequestBody,
    ) -> Result<Done, Failure> {
        let (head_patience, body_patience) = pool.silence(exchange.place()?.1);
        let mut outbound = self.send_head(session, exchange, (pool, wish), backend, body).await?;
        let (mut informational, mut is_answered, mut is_over) = (0, false, false);
        while !is_over || session.is_busy() {
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
                // What the client has not taken holds up its backend, and not the rest of its request.
                event = from_backend(backend, is_answered), if !is_over && !session.is_busy() => event?,
                event = from_client(session, body, is_wanted, body_patience) => event?,
            };
            match event {
                Event::Sent | Event::Taken => {}
                Event::Request(piece) => send_piece(exchange, body, &mut outbound, piece).await?,
                Event::Head => {
                    count_informational(backend, &mut informational)?;
                    if !body.is_read() {
                        session.close_after();
                    }
                    match self.pass_head(session, exchange, backend, wish).await? {
                        Head::Informational => {}
                        Head::Upgraded => return Ok(Done::Upgraded),
                        Head::Whole => is_over = true,
                        Head::BodyFollows => is_answered = true,
                    }
                }
                Event::Answer(Some(piece)) => {
                    let is_request_over = body.is_over() && !outbound.is_busy();
                    is_over = self.pass_piece(session, exchange, (piece, is_request_over)).await?;
                    // A backend that always has more must not keep the request waiting.
                    send_what_is_here(session, exchange, body, &mut outbound).await?;
                }
                Event::Answer(None) => {
                    self.pass_end(session, backend).await?;
                    is_over = true;
                }
                Event::Ended => {
                    Box::pin(self.close_gracefully(session, exchange)).await?;
                    return Ok(Done::Answered);
                }
            }
        }
        Ok(if outbound.is_sent() { Done::Whole } else { Done::Answered })
    }

    /// Sends the head of a request, and with it the body if that is a small one and here.
    async fn send_head(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        (pool, wish): (&Pool, &Wish),
        backend: &mut Backend,
        body: &mut RequestBody,
    ) -> Result<Outbound, Failure> {
        let (head_patience, _) = pool.silence(exchange.place()?.1);
        let framing = framing(session, body);
        let is_small = matches!(framing, Framing::Length(1..=SMALL_BYTES));
        if is_small {
            body.read_ahead(session).await?;
            check_size(exchange, body)?;
        }
        // A larger one is not sent at once, also when it is sent again: the backend may answer meanwhile.
        let whole = body.whole().filter(|_| is_small);
        let fields = self.forwarded_fields(session.head(), exchange, backend.is_http2())?;
        let request = backend_request(&fields, exchange, (framing, wish.upgrade()))?;
        let is_whole = whole.is_some();
        let mut outbound = backend.send_head(&request, whole, (pool.is_tls(), head_patience)).await?;
        if is_whole {
            body.sent_whole();
            // When it fails, the backend takes no more; it may have answered.
            let _ = futures_util::poll!(pin!(outbound.drive()));
        } else {
            while send_what_is_here(session, exchange, body, &mut outbound).await? {}
        }
        Ok(outbound)
    }
}

/// Sends a piece of the request if it is there already. Whether there was one.
async fn send_what_is_here(
    session: &mut Session,
    exchange: &Exchange,
    body: &mut RequestBody,
    outbound: &mut Outbound,
) -> Result<bool, Failure> {
    if !outbound.is_ready() || body.is_over() {
        return Ok(false);
    }
    let Poll::Ready(piece) = futures_util::poll!(pin!(body.next(session))) else { return Ok(false) };
    send_piece(exchange, body, outbound, piece?).await?;
    Ok(true)
}

/// Takes a piece of the request, and sends what the backend takes at once.
async fn send_piece(
    exchange: &Exchange,
    body: &RequestBody,
    outbound: &mut Outbound,
    piece: Option<Bytes>,
) -> Result<(), Failure> {
    // A length that was checked cannot be wrong over HTTP/1.1; over HTTP/2 it is the client's fault.
    let broken = |_| Failure::Client(ClientFault::BodyCut);
    if let Some(piece) = piece {
        check_size(exchange, body)?;
        outbound.push(piece).map_err(broken)?;
    }
    if body.is_over() {
        outbound.finish().map_err(broken)?;
    }
    // When it fails, the backend takes no more; it may have answered.
    let _ = futures_util::poll!(pin!(outbound.drive()));
    Ok(())
}

/// Counts the informational answers before the final one.
fn count_informational(backend: &Backend, count: &mut usize) -> Result<(), Failure> {
    *count += usize::from(backend.is_informational());
    if *count > INFORMATIONAL_MAX { Err(nonsense("too many informational answers")) } else { Ok(()) }
}

/// What comes next from the backend. Can be dropped and asked again.
async fn from_backend(backend: &mut Backend, is_answered: bool) -> Result<Event<'_>, BackendFault> {
    if is_answered {
        return backend.read_body().await.map(Event::Answer);
    }
    backend.read_head().await.map(|()| Event::Head)
}

/// What comes next from the client: it takes what was sent of the answer; the next piece of its request comes, if that
/// can be sent; it leaves. Can be dropped and asked again. A client that pauses for longer than `patience` is at fault.
async fn from_client<'b>(
    session: &mut Session,
    body: &mut RequestBody,
    is_wanted: bool,
    patience: Duration,
) -> Result<Event<'b>, ClientFault> {
    if session.is_busy() {
        return Box::pin(both_ways(session, body, is_wanted)).await;
    }
    if is_wanted {
        let piece = within(patience, pin!(body.next(session))).await;
        return piece.unwrap_or(Err(ClientFault::BodySlow)).map(Event::Request);
    }
    Err(session.left().await)
}

/// Waits for a client that has both to take and to send. As long as it does one of them it may go on.
async fn both_ways<'b>(
    session: &mut Session,
    body: &mut RequestBody,
    is_wanted: bool,
) -> Result<Event<'b>, ClientFault> {
    let event = std::future::poll_fn(|cx| {
        if let Poll::Ready(taken) = session.poll_taken(cx) {
            return Poll::Ready(taken.map(|()| Event::Taken));
        }
        if is_wanted && let Poll::Ready(piece) = pin!(body.next(session)).poll(cx) {
            return Poll::Ready(piece.map(Event::Request));
        }
        Poll::Pending
    });
    within(WRITE_TIMEOUT, pin!(event)).await.unwrap_or(Err(ClientFault::TakesNothing))
}

/// How a request's body is framed.
fn framing(session: &Session, body: &RequestBody) -> Framing {
    match session.content_length() {
        Some(length) => Framing::Length(length),
        None if body.is_empty() => Framing::None,
        None => Framing::Unknown,
    }
}

/// Whether it is a call of gRPC on a route that allows those: it may go on for as long as it likes.
fn is_streaming_call(exchange: &Exchange) -> Result<bool, Failure> {
    Ok(exchange.place()?.1.protocols.grpc && exchange.known.is_grpc)
}

/// Holds a body to its route's bound. A call of gRPC that streams has none.
fn check_size(exchange: &Exchange, body: &RequestBody) -> Result<(), Failure> {
    if body.bytes <= exchange.place()?.1.body_bytes_max || is_streaming_call(exchange)? {
        return Ok(());
    }
    Err(Failure::Denied(Denial::BodyTooLarge))
}
