//! The end of an exchange whose credential has ended: a last word in the protocol's own terms.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::proxy::Session;
use policy::credential::bearer;

use super::Ctx;
use crate::identify::Caller;
use crate::live::{CLOSE_FRAME, Frames, Seat, Tether, Tie};
use crate::proxy::Gate;

/// Longest wait for the client to take its leave after a close frame.
const LEAVE: Duration = Duration::from_secs(1);

/// An exchange on its tether.
pub(super) struct Tied {
    tether: Arc<Tether>,
    frames: Frames,
    _seat: Seat,
}

impl Tied {
    /// Whether the credential has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.tether.has_ended()
    }

    /// Bytes of an upgraded exchange went to the client.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.frames.pass(bytes);
    }
}

impl Gate {
    /// Ties an exchange to its credential, where its route says so. `changes` is how many changes
    /// there had been before the credential was looked up: one that came in between is not missed.
    pub(super) async fn tie(&self, session: &mut Session, ctx: &mut Ctx, changes: u64) {
        let place = ctx.permit.as_ref().and_then(|permit| permit.place(&ctx.snapshot));
        let Some(protocol) = place.and_then(|(_, route)| route.tethered()) else { return };
        let (Some((caller, _)), Some(tether)) = (&ctx.known.caller, Tether::current()) else { return };
        let identities = &self.shared.identities;
        let fields = session.req_header().headers.get_all(header::AUTHORIZATION);
        let secret = bearer(fields.iter().map(http::HeaderValue::as_bytes)).ok().flatten();
        let (digests, ends_ms) = match caller {
            Caller::Key(key) => (secret.map(|secret| identities.digests(secret)), key.facts.not_after_ms),
            Caller::Token(token, _) => (None, Some(token.ends_ms)),
        };
        let tie = Tie { caller: caller.clone(), digests, ends_ms: ends_ms.unwrap_or(u64::MAX), protocol };
        let seat = identities.live.seat(tie, &tether);
        if identities.live.changes() != changes && matches!(identities.is_alive(caller).await, Ok(false)) {
            identities.live.end(seat.number());
        }
        // A byte that a client sends ahead would keep the engine from looking at the connection.
        session.as_downstream_mut().set_pipelining_enabled(false);
        ctx.tie = Some(Tied { tether, frames: Frames::default(), _seat: seat });
    }

    /// Ends an exchange that has begun to be answered, as its protocol does. A plain download is
    /// cut: a clean end would make what came of it look whole.
    pub(super) async fn say_farewell(&self, session: &mut Session, ctx: &mut Ctx) {
        let Some(tie) = &ctx.tie else { return };
        tie.tether.say_farewell();
        session.set_keepalive(None);
        if session.was_upgraded() {
            if tie.frames.is_between() {
                let _ = session.write_response_body(Some(Bytes::from_static(CLOSE_FRAME)), false).await;
                let leave = async { while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {} };
                let _ = tokio::time::timeout(LEAVE, leave).await;
            }
            return;
        }
        let kind = session.response_written().and_then(|response| response.headers.get(header::CONTENT_TYPE));
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            let _ = session.as_downstream_mut().finish_body().await;
        }
    }
}
