//! The end of an exchange whose credential has ended: a last word in the protocol's own terms.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};
use policy::credential::bearer;

use super::Ctx;
use crate::deny::Denial;
use crate::identify::Caller;
use crate::live::{CLOSE_FRAME, Frames, Seat, Tether, Tie};
use crate::proxy::Gate;

/// Longest wait for the client to take its leave after a close frame.
const LEAVE: Duration = Duration::from_secs(1);

/// An exchange on its tether.
pub(super) struct Tied {
    tether: Arc<Tether>,
    /// Follows the frames of a WebSocket.
    frames: Option<Frames>,
    _seat: Seat,
}

impl Tied {
    /// Whether the credential has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.tether.has_ended()
    }

    /// Bytes of an upgraded exchange went to the client.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
        }
    }
}

impl Gate {
    /// Ties an exchange to its credential when its answer begins: if it is one that outlasts its
    /// request, on a route that ends such with their credential. What cannot be tied does not begin.
    pub(super) async fn tie(
        &self,
        session: &mut Session,
        response: &ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        let is_upgrade = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = if is_upgrade { Some("websocket") } else { outlasts(response) };
        let (Some(protocol), Some((caller, _))) = (protocol, &ctx.known.caller) else { return Ok(()) };
        let place = ctx.permit.as_ref().and_then(|permit| permit.place(&ctx.snapshot));
        if ctx.tie.is_some() || !place.is_some_and(|(_, route)| route.is_tethered()) {
            return Ok(());
        }
        let Some(tether) = Tether::current() else {
            // The route came with a reload that this connection has waited through.
            ctx.late_denial = Some(Denial::TemporarilyUnavailable);
            return Error::e_explain(ErrorType::InternalError, "an exchange that could not be ended");
        };
        let identities = &self.shared.identities;
        let fields = session.req_header().headers.get_all(header::AUTHORIZATION);
        let secret = bearer(fields.iter().map(http::HeaderValue::as_bytes)).ok().flatten();
        let (digests, ends_ms) = match caller {
            Caller::Key(key) => (secret.map(|secret| identities.digests(secret)), key.facts.not_after_ms),
            Caller::Token(token, _) => (None, Some(token.ends_ms)),
        };
        let tie = Tie { caller: caller.clone(), digests, ends_ms: ends_ms.unwrap_or(u64::MAX), protocol };
        let seat = identities.live.seat(tie, &tether);
        // A change that came after the credential was looked up is not missed.
        if identities.live.changes() != ctx.changes && identities.recheck(seat.number(), caller).await.is_err() {
            identities.live.end(seat.number());
        }
        // A byte that a client sends ahead would keep the engine from looking at the connection.
        session.set_pipelining_enabled(false);
        ctx.tie = Some(Tied { tether, frames: is_upgrade.then(Frames::default), _seat: seat });
        Ok(())
    }

    /// Ends an exchange that has begun to be answered, as its protocol does. A plain download is
    /// cut: a clean end would make what came of it look whole.
    pub(super) async fn say_farewell(&self, session: &mut Session, ctx: &mut Ctx) {
        let Some(tie) = &ctx.tie else { return };
        tie.tether.say_farewell();
        session.set_keepalive(None);
        if let Some(frames) = &tie.frames {
            if frames.is_between() {
                let _ = session.write_response_body(Bytes::from_static(CLOSE_FRAME), false).await;
                let leave = async { while let Ok(Some(_)) = session.read_request_body().await {} };
                let _ = tokio::time::timeout(LEAVE, leave).await;
            }
            return;
        }
        if session.response_written().is_some_and(|response| is_kind(response, b"text/event-stream")) {
            let _ = session.finish_body().await;
        }
    }
}

fn is_kind(response: &ResponseHeader, kind: &[u8]) -> bool {
    response.headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(kind))
}

/// The protocol of an answer that may go on for ever. Any other one ends by itself.
fn outlasts(response: &ResponseHeader) -> Option<&'static str> {
    let kinds = [("sse", &b"text/event-stream"[..]), ("grpc", b"application/grpc")];
    kinds.into_iter().find(|(_, kind)| is_kind(response, kind)).map(|(name, _)| name)
}
