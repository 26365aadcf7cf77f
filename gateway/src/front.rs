//! The way of a request before, and mostly instead of, the engine's proxy.
//!
//! The engine reads heads, frames messages and keeps connections; its proxy on top of that can do
//! far more than most requests need. Here each head is read and judged once. What can be answered
//! or forwarded in one task is; the rest is handed to the engine's proxy together with its permit,
//! which it gets nowhere else.

use std::pin::Pin;
use std::sync::Arc;

use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::http::{ReusableHttpStream, ServerSession};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use crate::guarded::Guarded;
use crate::hooks::{Ctx, Next, handing_over};
use crate::proxy::Gate;

/// A gate before the engine's proxy.
pub struct Front {
    /// Judges and forwards.
    pub gate: Gate,
    /// Forwards what needs more.
    pub engine: Arc<HttpProxy<Gate>>,
}

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
        self.engine.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.engine.server_options()
    }

    fn http_cleanup<'life0, 'async_trait>(&'life0 self) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.engine.http_cleanup()
    }
}

impl Front {
    /// One request; gives the connection back if it can carry another.
    async fn serve(&self, mut session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        if !read_head(&mut session, shutdown).await {
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
            Ok(Next::Engine) => self.hand_over(session, ctx, shutdown).await,
            Err(error) => {
                self.gate.fail(&mut session, &error, &mut ctx).await;
                self.gate.end(&session, &ctx);
                None
            }
        }
    }

    /// Hands a request with its permit to the engine's proxy, as if it had just arrived.
    async fn hand_over(&self, session: ServerSession, ctx: Ctx, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let session = match session {
            ServerSession::H1(session) => {
                let (keepalive, left) = (session.get_keepalive_timeout(), session.get_keepalive_reuses_remaining());
                let head = session.get_headers_raw_bytes();
                let mut guarded = session.into_inner().into_any().downcast::<Guarded>().ok()?;
                // What was read of a head by the engine alone cannot be read again: the client of a
                // closed connection knows that its request was not answered.
                if !guarded.rewind(&head) {
                    log::warn!(target: "tollgate::front", "request {} cannot be handed on", ctx.id());
                    return None;
                }
                let mut again = ServerSession::new_http1(guarded);
                again.set_keepalive(keepalive);
                again.set_keepalive_reuses_remaining(left);
                again
            }
            session @ (ServerSession::H2(_) | ServerSession::Subrequest(_) | ServerSession::Custom(_)) => session,
        };
        handing_over(ctx, self.engine.process_new_http(session, shutdown)).await
    }
}

/// Reads a head; no request comes of a connection that ends, is told to, or sends no head.
async fn read_head(session: &mut ServerSession, shutdown: &ShutdownWatch) -> bool {
    let mut stop = shutdown.clone();
    let read = tokio::select! {
        biased;
        read = session.read_request() => read,
        _ = stop.changed() => return false,
    };
    let status = match read {
        Ok(true) if session.req_header().method == http::Method::CONNECT => 405,
        Ok(is_read) => return is_read,
        Err(error) if matches!(error.etype(), ErrorType::InvalidHTTPHeader) => 400,
        Err(_) => {
            session.shutdown().await;
            return false;
        }
    };
    let _ = session.respond_error(status).await;
    session.shutdown().await;
    false
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
