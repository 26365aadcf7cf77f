//! A client's connection, request by request: each head is read, judged and answered or forwarded,
//! and leaves one record.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::http::{ReusableHttpStream, ServerSession};
use pingora::server::ShutdownWatch;

use crate::guarded::Guarded;
use crate::hooks::{Ctx, Facts, Next};
use crate::live::{GOING_AWAY, POLICY_VIOLATION, tunnel};
use crate::proxy::Gate;
use crate::upstream::STREAM_SILENCE;
use crate::upstream::backend::Backend;

/// One listener's connections.
pub struct Front {
    /// Judges and forwards.
    pub gate: Gate,
    /// Bounds of HTTP/2.
    pub h2_options: H2Options,
    /// How HTTP/1.1 and HTTP/2 are told apart, and how long connections last.
    pub server_options: HttpServerOptions,
}

/// How long before the end of a drain WebSockets are told to go.
const LAST_WORDS: Duration = Duration::from_secs(2);

type Exchange<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

impl HttpServerApp for Front {
    // By hand, not by `async_trait`, to say its lifetimes.
    fn process_new_http<'life0, 'life1, 'async_trait>(
        self: &'life0 Arc<Self>,
        session: ServerSession,
        shutdown: &'life1 ShutdownWatch,
    ) -> Exchange<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.serve(session, shutdown))
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2_options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}

impl Front {
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
        session.shutdown().await;
        false
    }

    /// Passes the bytes of a WebSocket until it ends.
    async fn run_tunnel(&self, session: ServerSession, backend: Backend, ctx: Ctx, shutdown: &ShutdownWatch) {
        let mut facts = Facts::of(&session);
        let ServerSession::H1(mut session) = session else { return };
        // What the client sent behind its request, without waiting for more.
        let ahead = {
            let read = std::pin::pin!(session.read_body_bytes());
            match futures_util::poll!(read) {
                Poll::Ready(Ok(Some(bytes))) => bytes.to_vec(),
                Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => Vec::new(),
            }
        };
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
    let (stream, ahead) = session.finish().await.ok().flatten().map(ReusableHttpStream::into_parts)?;
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
