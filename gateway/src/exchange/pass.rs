//! Passes an answer on from the backend to the client: its head, its body in pieces, its end.

use std::pin::pin;

use bytes::Bytes;
use http::HeaderName;

use super::Exchanges;
use super::failure::Failure;
use super::state::Exchange;
use super::stream_guard::before_the_end;
use crate::base::message::{RequestHead, Version};
use crate::downstream::{AnswerHead, Delimited, Session};
use crate::exchange::answer::{OwnHosts, PassedOn, has_links, is_trailer};
use crate::exchange::websocket::Wish;
use crate::upstream::backend::{Backend, Data, Piece};
use crate::upstream::fault::BackendFault;

/// What a head that was passed on means for the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Another one comes.
    Informational,
    /// A body comes.
    BodyFollows,
    /// That was all.
    Whole,
    /// The connection is a WebSocket from here on.
    Upgraded,
}

impl Exchanges {
    /// Passes on the head that a backend has just sent. What follows it may be sent with it: see
    /// [`Session::flush`].
    pub(super) async fn pass_head(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        backend: &mut Backend,
        wish: &Wish,
    ) -> Result<Head, Failure> {
        // Asked in any case: a backend whose answer was not looked at to its end is not kept.
        let is_done = backend.is_done()?;
        let Some(theirs) = backend.head() else { return Err(nonsense("an answer without a head")) };
        if theirs.status == 100 {
            // The client has had its own from us, or wants none.
            return Ok(Head::Informational);
        }
        let is_tunnel = theirs.status == 101;
        if is_tunnel && !wish.is_granted(theirs.fields) {
            return Err(nonsense("an upgrade that nobody asked for"));
        }
        let is_stream = session.head().is_websocket_stream;
        if is_stream && matches!(theirs.status, 200..=299) {
            // To its client that would be a WebSocket (RFC 8441 section 5).
            return Err(nonsense("an answer without the WebSocket that was asked for"));
        }
        let is_informational = theirs.is_informational();
        if is_informational && session.head().version < Version::Http11 {
            return Ok(Head::Informational);
        }
        if !is_informational {
            self.begin_answer(session, &theirs, exchange).await;
            // What the client is told instead of 101.
            exchange.status = if is_stream && is_tunnel { 200 } else { theirs.status };
        }
        let request = session.head();
        let has_body = !is_informational && request.method != "HEAD" && !matches!(theirs.status, 204 | 205 | 304);
        let delimited = match (is_tunnel, has_body, theirs.length) {
            (true, _, _) => Delimited::Tunnel,
            (false, false, _) => Delimited::NoBody,
            (false, true, Some(_)) => Delimited::Length,
            // Its end is the end of the connection.
            (false, true, None) if request.version < Version::Http11 => Delimited::Close,
            (false, true, None) => Delimited::Itself,
        };
        // Over HTTP/2 the head itself ends the stream.
        let is_whole = !is_tunnel && !is_informational && (!has_body || is_done);
        // Copied: the head is written into the session that it stands in. Most answers have no links.
        let has_links = has_links(theirs.fields);
        let named = if has_links { host_of(&request).to_owned() } else { String::new() };
        let own = OwnHosts { hosts: &exchange.place()?.0.hosts, named: &named };
        let fields = PassedOn { theirs, own, has_links, is_stream, context: exchange.answer_context() };
        let now_ms = exchange.known.now.wall_ms;
        let head = AnswerHead { status: theirs.status, reason: theirs.reason, fields: &fields, delimited, now_ms };
        session.write_head(&head, is_whole)?;
        if is_whole {
            before_the_end(exchange.guard.as_ref(), pin!(session.write_body(b"", true))).await?;
        } else if is_informational || is_tunnel || !backend.has_more() {
            before_the_end(exchange.guard.as_ref(), pin!(session.flush())).await?;
        }
        Ok(match (is_informational, is_tunnel, is_whole) {
            (true, _, _) => Head::Informational,
            (false, true, _) => Head::Upgraded,
            (false, false, true) => Head::Whole,
            (false, false, false) => Head::BodyFollows,
        })
    }

    /// Passes a piece of a body on, and the end of the answer if that has come. Whether it has. While some of the
    /// request is still to come, the client is not waited for: see [`Session::poll_taken`].
    pub(super) async fn pass_piece(
        &self,
        session: &mut Session,
        exchange: &Exchange,
        (piece, is_request_over): (Piece<'_>, bool),
    ) -> Result<bool, Failure> {
        let guard = exchange.guard.as_ref();
        let is_last = piece.is_last;
        match (piece.data, is_request_over) {
            (Data::Lent(data), true) => before_the_end(guard, pin!(session.write_body(data, is_last))).await?,
            (Data::Owned(data), true) => before_the_end(guard, pin!(session.write_bytes(data, is_last))).await?,
            (Data::Lent(data), false) => session.put_body(Bytes::copy_from_slice(data), is_last)?,
            (Data::Owned(data), false) => session.put_body(data, is_last)?,
        }
        Ok(is_last)
    }

    /// The body of an answer is over: puts its trailers and its end behind what waits for the client.
    pub(super) async fn pass_end(&self, session: &mut Session, backend: &mut Backend) -> Result<(), Failure> {
        match backend.read_trailers().await? {
            Some(mut trailers) => {
                let names: Vec<HeaderName> = trailers.keys().filter(|name| !is_trailer(name)).cloned().collect();
                names.iter().for_each(|name| drop(trailers.remove(name)));
                Ok(session.put_trailers(trailers)?)
            }
            None => Ok(session.put_body(Bytes::new(), true)?),
        }
    }
}

/// The host as the client named it.
fn host_of<'a>(request: &RequestHead<'a>) -> &'a str {
    request.host().and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default()
}

/// A fault of the backend: what it sent is no answer.
pub(super) fn nonsense(what: &'static str) -> Failure {
    Failure::Backend(BackendFault::Nonsense(what))
}
