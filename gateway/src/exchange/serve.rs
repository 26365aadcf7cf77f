//! A client's connection, request by request: each head is read, judged and answered or forwarded,
//! and leaves one record.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream, ServerApp};
use pingora::protocols::http::{ReusableHttpStream, ServerSession as Session};
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;

use super::connection::{peer_address, set_phase};
use super::record::Facts;
use super::state::Exchange;
use super::{Exchanges, answer};
use crate::admit::head::{caller_address, is_grpc, request_id};
use crate::edge::deadlines::{DeadlineStream, H2_PREFACE, Phase};
use crate::exchange::http2::{self, Http2};
use crate::exchange::tunnel::{self, GOING_AWAY, POLICY_VIOLATION};
use crate::upstream::STREAM_SILENCE;
use crate::upstream::backend::Backend;

/// Most requests on one connection over HTTP/1.1.
const REQUESTS_MAX: u32 = 10_000;
/// How long before the end of a drain WebSockets are told to go.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longest wait for the rest of a request body after the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

#[async_trait]
impl ServerApp for Exchanges {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if !self.speaks_http2(&mut stream).await? {
            self.serve_http1(stream, shutdown).await;
            return None;
        }
        let on_stream = |stream: Http2| {
            let (exchanges, shutdown) = (self.clone(), shutdown.clone());
            async move {
                let session = Session::new_custom(Box::new(stream));
                let _ = Box::pin(exchanges.exchange(session, &shutdown)).await;
            }
        };
        http2::serve(stream, &self.h2_options, self.idle, shutdown.clone(), on_stream).await;
        None
    }
}

impl Exchanges {
    /// Which protocol a connection speaks; `None` when it ends before that is known.
    async fn speaks_http2(&self, stream: &mut Stream) -> Option<bool> {
        if stream.get_ssl_digest().is_some() || !self.is_h2c {
            return Some(stream.selected_alpn_proto() == Some(ALPN::H2));
        }
        let mut begin = [0u8; H2_PREFACE.len()];
        let is_known = stream.try_peek(&mut begin).await.ok()?;
        Some(is_known && begin == *H2_PREFACE)
    }

    async fn serve_http1(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut session = Session::new_http1(stream);
        session.set_keepalive((!*shutdown.borrow()).then_some(self.shared.idle_s));
        session.set_keepalive_reuses_remaining(Some(REQUESTS_MAX));
        let mut reused = Box::pin(self.exchange(session, shutdown)).await;
        while let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) {
            let mut session = Session::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reused = Box::pin(self.exchange(session, shutdown)).await;
        }
    }

    /// Begins an exchange whose head was read, and puts our bounds on its session.
    pub(super) fn begin(&self, session: &mut Session) -> Exchange {
        let shared = &self.shared;
        let headers = &session.req_header().headers;
        let address = caller_address(peer_address(session), headers, &shared.trusted_proxies);
        let mut exchange = Exchange::begin(shared, address);
        exchange.known.request_id = request_id(headers).map_or_else(|| shared.request_ids.next(), str::to_owned);
        exchange.known.is_grpc = is_grpc(session.req_header());
        exchange.changes = shared.admit.identities.live.changes();
        let has_body = !session.is_body_empty();
        set_phase(session, if has_body { Phase::Body } else { Phase::Quiet });
        // Pingora has switched keep-alive off where it must: HTTP/1.0, a client's `close`, a stop.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(shared.idle_s));
        }
        session.set_pipelining_enabled(true);
        session.set_write_timeout(Some(answer::WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        exchange
    }

    /// An exchange is over: its connection waits for a head again, and it is recorded.
    pub(super) fn end(&self, session: &Session, exchange: &Exchange) {
        set_phase(session, Phase::Head);
        self.record(&Facts::of(session), exchange);
    }

    /// Reads a head; no request comes of a connection that ends, is told to, or sends no head.
    pub(super) async fn read_head(&self, session: &mut Session, shutdown: &ShutdownWatch) -> bool {
        let mut stop = shutdown.clone();
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            _ = stop.changed() => return false,
        };
        match read {
            Ok(true) => {
                if *shutdown.borrow() {
                    session.set_keepalive(None);
                }
                return true;
            }
            Ok(false) => return false,
            Err(error) if matches!(error.etype(), ErrorType::InvalidHTTPHeader) => {
                self.refuse_unread(session).await;
            }
            Err(_) => {}
        }
        answer::cut(session).await;
        false
    }

    /// Passes the bytes of a WebSocket until it ends.
    pub(super) async fn run_tunnel(
        &self,
        session: Session,
        backend: Backend,
        exchange: Exchange,
        shutdown: &ShutdownWatch,
    ) {
        let mut facts = Facts::of(&session);
        let Session::H1(mut session) = session else { return };
        // What the client sent behind its request, without waiting for more.
        let ahead = at_once(session.read_body_bytes()).await;
        if let Some((answered_ahead, connection)) = backend.into_tunnel() {
            let stop = async {
                tokio::select! {
                    () = exchange.credential_ended() => POLICY_VIOLATION,
                    () = self.drained(shutdown) => GOING_AWAY,
                }
            };
            let ahead = (ahead, answered_ahead);
            let passed = tunnel::run(session.into_inner(), connection, ahead, stop, STREAM_SILENCE).await;
            (facts.bytes_in, facts.bytes_out) = (passed.bytes_in, passed.bytes_out);
        }
        self.record(&facts, &exchange);
    }

    /// Waits until a stopping gateway's time is nearly over.
    async fn drained(&self, shutdown: &ShutdownWatch) {
        let mut stop = shutdown.clone();
        if stop.wait_for(|is_stopping| *is_stopping).await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(self.shared.drain.saturating_sub(LAST_WORDS)).await;
    }
}

/// Ends a session. What a client has sent ahead is read again as the start of its next request.
pub(super) async fn keep(session: Session) -> Option<ReusedHttpStream> {
    let settings = HttpPersistentSettings::for_session(&session);
    let finished = answer::in_time(pin!(session.finish())).await;
    let (stream, ahead) = finished.ok().flatten().map(ReusableHttpStream::into_parts)?;
    let stream = match ahead {
        None => stream,
        Some(ahead) => {
            // A client that always has another request ready must not keep a thread for itself.
            tokio::task::consume_budget().await;
            let mut guarded = stream.into_any().downcast::<DeadlineStream>().ok()?;
            guarded.unread(&ahead);
            guarded as Stream
        }
    };
    Some(ReusedHttpStream::new(stream, Some(settings)))
}

/// The bytes that a read has without waiting.
async fn at_once<T: AsRef<[u8]>>(read: impl Future<Output = pingora::Result<Option<T>>>) -> Vec<u8> {
    match futures_util::poll!(pin!(read)) {
        Poll::Ready(Ok(Some(bytes))) => bytes.as_ref().to_vec(),
        Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => Vec::new(),
    }
}
