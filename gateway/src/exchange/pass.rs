//! Passes an answer on from the backend to the client: its head, its body in pieces, its end.

use std::pin::pin;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode, Version};
use pingora::protocols::http::{HttpTask, ServerSession as Session};

use super::Exchanges;
use super::relay::nonsense;
use super::state::Exchange;
use super::stream_guard::before_the_end;
use crate::exchange::answer::{self, Follows};
use crate::exchange::request_fields::is_websocket;
use crate::upstream::backend::{Backend, Piece};

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

/// What is left of a piece that was passed on.
pub(super) enum Rest {
    /// Nothing: it was written.
    Written,
    /// These bytes, to be written together with the end if that is what follows.
    Unwritten(Bytes),
    /// There was none: the body is over.
    End,
}

impl Exchanges {
    /// Passes on the head that a backend has just sent.
    pub(super) async fn pass_head(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        backend: &mut Backend,
        is_upgrade: bool,
    ) -> pingora::Result<Head> {
        // Asked in any case: a backend whose answer was not looked at to its end is not kept.
        let is_done = backend.is_done().map_err(|error| error.into_up())?;
        let Some(theirs) = backend.head() else { return Err(nonsense("an answer without a head")) };
        let status = theirs.status;
        if status == StatusCode::CONTINUE {
            // The client has had its own from us, or wants none.
            return Ok(Head::Informational);
        }
        let is_tunnel = status == StatusCode::SWITCHING_PROTOCOLS;
        if is_tunnel && !(is_upgrade && is_websocket(&theirs.headers)) {
            return Err(nonsense("an upgrade that nobody asked for"));
        }
        if status.is_informational() && !is_tunnel {
            if session.req_header().version >= Version::HTTP_11 {
                let ours = answer::pass_on(
                    theirs,
                    Follows::Nothing,
                    &exchange.own_hosts(session.req_header())?,
                    &exchange.answer_context(),
                )?;
                answer::in_time(pin!(session.write_response_header(Box::new(ours))))
                    .await
                    .map_err(|error| error.into_down())?;
            }
            return Ok(Head::Informational);
        }
        self.begin_answer(session, theirs, exchange).await;
        let request = session.req_header();
        let has_body = request.method != Method::HEAD
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        let follows = match (is_tunnel, has_body) {
            (true, _) => Follows::Tunnel,
            (false, false) => Follows::Nothing,
            (false, true) if request.version < Version::HTTP_11 => Follows::BodyWithoutChunks,
            (false, true) => Follows::Body,
        };
        let ours = Box::new(answer::pass_on(
            theirs,
            follows,
            &exchange.own_hosts(session.req_header())?,
            &exchange.answer_context(),
        )?);
        if follows == Follows::BodyWithoutChunks && !ours.headers.contains_key(CONTENT_LENGTH) {
            // Its end is the end of the connection.
            session.set_keepalive(None);
        }
        let is_over = !is_tunnel && (!has_body || is_done);
        let write = async {
            match is_over {
                // Over HTTP/2 the head itself ends the stream.
                true => session.response_duplex_vec(vec![HttpTask::Header(ours, true)]).await.map(|_| ()),
                false => session.write_response_header(ours).await,
            }
        };
        before_the_end(exchange.guard.as_ref(), pin!(write)).await.map_err(|error| error.into_down())?;
        Ok(match (is_tunnel, is_over) {
            (true, _) => Head::Upgraded,
            (false, true) => Head::Whole,
            (false, false) => Head::BodyFollows,
        })
    }

    /// Passes a piece of a body on, as far as that can be done before its end is known.
    pub(super) async fn pass_piece(
        &self,
        session: &mut Session,
        exchange: &Exchange,
        piece: Option<Piece<'_>>,
    ) -> pingora::Result<Rest> {
        let Some(piece) = piece else { return Ok(Rest::End) };
        match session {
            // An empty chunk is the end of a chunked body, and not every empty read is one.
            Session::H1(_) if piece.as_bytes().is_empty() => Ok(Rest::Written),
            Session::H1(client) => {
                let write = client.write_body(piece.as_bytes());
                before_the_end(exchange.guard.as_ref(), pin!(write)).await.map_err(|error| error.into_down())?;
                Ok(Rest::Written)
            }
            Session::H2(_) | Session::Subrequest(_) | Session::Custom(_) => Ok(Rest::Unwritten(piece.into_bytes())),
        }
    }
}

/// Writes what is left of a piece, and the end of the answer if that has come. Whether it has.
pub(super) async fn is_over(
    session: &mut Session,
    exchange: &Exchange,
    backend: &mut Backend,
    rest: Rest,
) -> pingora::Result<bool> {
    let is_done = match rest {
        Rest::End => true,
        Rest::Written | Rest::Unwritten(_) => backend.is_done().map_err(|error| error.into_up())?,
    };
    let trailers = match rest {
        Rest::End => backend.read_trailers().await.map_err(|error| error.into_up())?,
        Rest::Written | Rest::Unwritten(_) => None,
    };
    let write = async {
        match (trailers, rest) {
            (Some(trailers), _) if session.as_http1().is_none() => session.write_response_trailers(trailers).await,
            (_, Rest::Unwritten(bytes)) => session.write_response_body(bytes, is_done).await,
            (_, Rest::Written | Rest::End) if is_done => session.write_response_body(Bytes::new(), true).await,
            (_, Rest::Written | Rest::End) => Ok(()),
        }
    };
    before_the_end(exchange.guard.as_ref(), pin!(write)).await.map_err(|error| error.into_down())?;
    Ok(is_done)
}
