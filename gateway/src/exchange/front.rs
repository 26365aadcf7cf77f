//! A client's connection, request by request: each head is read, judged and answered or forwarded,
//! and leaves one record.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream, ServerApp};
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::http::{ReusableHttpStream, ServerSession};
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;

use crate::admit::Gate;
use crate::edge::deadlines::Guarded;
use crate::exchange::answer;
use crate::exchange::http2::{self, Http2};
use crate::exchange::{Ctx, Facts, Next};
use crate::live::{GOING_AWAY, POLICY_VIOLATION, tunnel};
use crate::upstream::STREAM_SILENCE;
use crate::upstream::backend::{Backend, at_once};

/// One listener's connections.
pub struct Front {
    /// Judges and forwards.
    pub gate: Gate,
    /// Bounds of HTTP/2.
    pub h2_options: H2Options,
    /// Whether HTTP/2 is spoken without TLS too, as gRPC clients behind a TLS terminator do.
    pub is_h2c: bool,
    /// Longest idle time of a connection over HTTP/2.
    pub idle: Duration,
}

/// Most requests on one connection over HTTP/1.1.
const REQUESTS_MAX: u32 = 10_000;
/// How an HTTP/2 connection begins (RFC 9113 section 3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long before the end of a drain WebSockets are told to go.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if !self.speaks_http2(&mut stream).await? {
            self.serve_http1(stream, shutdown).await;
            return None;
        }
        let on_stream = |stream: Http2| {
            let (front, shutdown) = (self.clone(), shutdown.clone());
            async move {
                let session = ServerSession::new_custom(Box::new(stream));
                let _ = Box::pin(front.serve(session, &shutdown)).await;
            }
        };
        http2::serve(stream, &self.h2_options, self.idle, shutdown.clone(), on_stream).await;
        None
    }
}

impl Front {
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
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive((!*shutdown.borrow()).then_some(self.gate.shared.idle_s));
        session.set_keepalive_reuses_remaining(Some(REQUESTS_MAX));
        let mut reused = Box::pin(self.serve(session, shutdown)).await;
        while let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) {
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reused = Box::pin(self.serve(session, shutdown)).await;
        }
    }

    /// One request; gives the connection back if it can carry another.
    async fn serve(&self, mut session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        if !self.read_head(&mut session, shutdown).await {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let mut ctx = self.gate.begin();
        match self.gate.decide(&mut session, &mut ctx).await {
            Ok(Next::Answered) => {
                self.gate.end(&session, &ctx);
                keep(session).await
            }
            Ok(Next::Tunnel(backend)) => {
                self.run_tunnel(session, backend, ctx, shutdown).await;
                None
            }
            Err(error) => {
                self.gate.fail(&mut session, &error, &mut ctx).await;
                self.gate.end(&session, &ctx);
                None
            }
        }
    }

    /// Reads a head; no request comes of a connection that ends, is told to, or sends no head.
    async fn read_head(&self, session: &mut ServerSession, shutdown: &ShutdownWatch) -> bool {
        let mut stop = shutdown.clone();
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            _ = stop.changed() => return false,
        };
        match read {
            Ok(is_read) => return is_read,
            Err(error) if matches!(error.etype(), ErrorType::InvalidHTTPHeader) => {
                self.gate.refuse_unread(session).await;
            }
            Err(_) => {}
        }
        answer::cut(session).await;
        false
    }

    /// Passes the bytes of a WebSocket until it ends.
    async fn run_tunnel(&self, session: ServerSession, backend: Backend, ctx: Ctx, shutdown: &ShutdownWatch) {
        let mut facts = Facts::of(&session);
        let ServerSession::H1(mut session) = session else { return };
        // What the client sent behind its request, without waiting for more.
        let ahead = at_once(session.read_body_bytes()).await;
        if let Some((answered_ahead, wire)) = backend.into_tunnel().await {
            let stop = async {
                tokio::select! {
                    () = ctx.credential_ended() => POLICY_VIOLATION,
                    () = self.drained(shutdown) => GOING_AWAY,
                }
            };
            let ahead = (ahead, answered_ahead);
            let passed = tunnel::run(session.into_inner(), wire, ahead, stop, STREAM_SILENCE).await;
            (facts.bytes_in, facts.bytes_out) = (passed.bytes_in, passed.bytes_out);
        }
        self.gate.record(&facts, &ctx);
    }

    /// Waits until a stopping gateway's time is nearly over.
    async fn drained(&self, shutdown: &ShutdownWatch) {
        let mut stop = shutdown.clone();
        if stop.wait_for(|is_stopping| *is_stopping).await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(self.gate.shared.drain.saturating_sub(LAST_WORDS)).await;
    }
}

/// Ends a session. What a client has sent ahead is read again as the start of its next request.
async fn keep(session: ServerSession) -> Option<ReusedHttpStream> {
    let settings = HttpPersistentSettings::for_session(&session);
    let finished = answer::in_time(pin!(session.finish())).await;
    let (stream, ahead) = finished.ok().flatten().map(ReusableHttpStream::into_parts)?;
    let stream = match ahead {
        None => stream,
        Some(ahead) => {
            // A client that always has another request ready must not keep a thread for itself.
            tokio::task::consume_budget().await;
            let mut guarded = stream.into_any().downcast::<Guarded>().ok()?;
            guarded.unread(&ahead);
            guarded as Stream
        }
    };
    Some(ReusedHttpStream::new(stream, Some(settings)))
}
