//! Exchanges that outlast their request end with their credential: an event stream with its last chunk, a
//! gRPC call with a status, a plain download by a cut.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use policy::credential::bearer;

use super::Exchanges;
use super::failure::Failure;
use super::state::Exchange;
use crate::base::message::ResponseHead;
use crate::downstream::{ClientFault, Session};
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
    mut write: Pin<&mut impl Future<Output = Result<T, ClientFault>>>,
) -> Result<T, Failure> {
    let Some(guard) = guard else { return Ok(write.await?) };
    tokio::select! {
        biased;
        written = write.as_mut() => Ok(written?),
        () = async { guard.ended().await; tokio::time::sleep(GRACE).await } => Err(Failure::CredentialEnded),
    }
}

impl Exchanges {
    /// Guards an exchange when its answer begins: if it is one that outlasts its request, on a route that
    /// ends such with their credential.
    pub(super) async fn guard(&self, session: &Session, protocol: &'static str, exchange: &mut Exchange) {
        let Some((caller, _)) = &exchange.known.caller else { return };
        if exchange.guard.is_some() || !exchange.place().is_ok_and(|(_, route)| route.ends_with_credential()) {
            return;
        }
        let signal = Arc::<EndSignal>::default();
        let identities = &self.gate.shared.identities;
        let secret = bearer(session.head().fields.all("authorization")).ok().flatten();
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
        exchange.outlasts = Some(protocol);
        exchange.guard = Some(StreamGuard { signal, _registered: registered });
    }

    /// Ends an exchange that has begun to be answered, as its protocol does. A plain download is
    /// cut: a clean end would make what came of it look whole.
    pub(super) async fn close_gracefully(&self, session: &mut Session, exchange: &Exchange) -> Result<(), Failure> {
        session.close_after();
        let is_http2 = session.is_http2();
        let last_words = async {
            match exchange.outlasts {
                Some("sse") => Ok(session.write_body(b"", true).await?),
                Some("grpc") if is_http2 => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("16"));
                    trailers.insert("grpc-message", HeaderValue::from_static("the credential is over"));
                    session.flush().await?;
                    Ok(session.put_trailers(trailers)?)
                }
                Some(_) | None => Err(Failure::CredentialEnded),
            }
        };
        let said = tokio::time::timeout(GRACE, last_words).await;
        said.unwrap_or(Err(Failure::CredentialEnded))
    }
}

/// The protocol of an answer that may go on for ever. Any other one ends by itself.
pub(super) fn outlasts(response: &ResponseHead<'_>) -> Option<&'static str> {
    if response.status == 101 {
        return Some("websocket");
    }
    let kinds = [("sse", &b"text/event-stream"[..]), ("grpc", b"application/grpc")];
    let kind = response.fields.first("content-type")?;
    kinds.into_iter().find(|(_, known)| kind.starts_with(known)).map(|(name, _)| name)
}
