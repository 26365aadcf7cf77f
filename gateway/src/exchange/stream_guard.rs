//! Exchanges that outlast their request end with their credential: an event stream with its last chunk, a
//! gRPC call with a status, a plain download by a cut.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};
use policy::credential::bearer;

use super::Exchanges;
use super::state::Exchange;
use crate::exchange::answer;
use crate::identify::Caller;
use crate::identify::live::{EndSignal, LiveExchange, Registered};

/// How long an exchange has for its last words.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// Ends an exchange with its credential, while it is held.
pub(crate) struct StreamGuard {
    signal: Arc<EndSignal>,
    _registered: Registered,
}

impl StreamGuard {
    /// Waits until the credential has ended.
    pub(super) async fn ended(&self) {
        self.signal.ended().await;
    }

    /// Whether the credential has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.signal.has_ended()
    }
}

/// Waits until the credential of an exchange has ended; one that is not guarded goes on for ever.
pub(super) async fn ended(guard: Option<&StreamGuard>) {
    match guard {
        Some(guard) => guard.ended().await,
        None => std::future::pending().await,
    }
}

/// Writes to a client, which is not waited for much longer than its credential lives.
pub(super) async fn before_the_end<T>(
    guard: Option<&StreamGuard>,
    write: Pin<&mut impl Future<Output = pingora::Result<T>>>,
) -> pingora::Result<T> {
    let Some(guard) = guard else { return answer::in_time(write).await };
    tokio::select! {
        biased;
        written = answer::in_time(write) => written,
        () = async { guard.ended().await; tokio::time::sleep(GRACE).await } => {
            Err(Error::explain(ErrorType::WriteTimedout, "the credential is over").into_down())
        }
    }
}

impl Exchanges {
    /// Guards an exchange when its answer begins: if it is one that outlasts its request, on a route that
    /// ends such with their credential.
    pub(super) async fn guard(&self, session: &Session, response: &ResponseHeader, exchange: &mut Exchange) {
        let is_upgrade = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = if is_upgrade { Some("websocket") } else { outlasts(response) };
        let (Some(protocol), Some((caller, _))) = (protocol, &exchange.known.caller) else { return };
        if exchange.guard.is_some() || !exchange.place().is_ok_and(|(_, route)| route.ends_with_credential()) {
            return;
        }
        let signal = Arc::<EndSignal>::default();
        let identities = &self.gate.shared.identities;
        let fields = session.req_header().headers.get_all(header::AUTHORIZATION);
        let secret = bearer(fields.iter().map(http::HeaderValue::as_bytes)).ok().flatten();
        let (digests, ends_ms) = match caller {
            Caller::Key(key) => (secret.map(|secret| identities.digests(secret)), key.facts.not_after_ms),
            Caller::Token(token, _) => (None, Some(token.ends_ms)),
        };
        let live = LiveExchange { caller: caller.clone(), digests, ends_ms: ends_ms.unwrap_or(u64::MAX), protocol };
        let registered = identities.live.register(live, &signal);
        // A change that came after the credential was looked up is not missed.
        if identities.live.changes() != exchange.changes
            && identities.recheck(registered.number(), caller).await.is_err()
        {
            identities.live.end(registered.number());
        }
        exchange.guard = Some(StreamGuard { signal, _registered: registered });
    }

    /// Ends an exchange that has begun to be answered, as its protocol does. A plain download is
    /// cut: a clean end would make what came of it look whole.
    pub(super) async fn close_gracefully(&self, session: &mut Session) -> pingora::Result<()> {
        session.set_keepalive(None);
        let protocol = session.response_written().and_then(outlasts);
        let is_http1 = session.as_http1().is_some();
        let last_words = async {
            if protocol == Some("sse") {
                return session.write_response_body(Bytes::new(), true).await;
            }
            if protocol == Some("grpc") && !is_http1 {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("16"));
                trailers.insert("grpc-message", HeaderValue::from_static("the credential is over"));
                return session.write_response_trailers(trailers).await;
            }
            Err(Error::explain(ErrorType::ConnectionClosed, "the credential is over"))
        };
        let said = tokio::time::timeout(GRACE, last_words).await;
        let said = said.unwrap_or_else(|_| Error::e_explain(ErrorType::WriteTimedout, "the credential is over"));
        said.map_err(|error| error.into_down())
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
