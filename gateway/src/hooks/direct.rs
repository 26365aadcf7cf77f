//! The direct way of a request without a body to a backend that speaks HTTP/1.1.
//!
//! The engine's own way serves everything: two halves that talk over channels, caches, upgrades,
//! bodies in both directions. A request without a body needs none of it, and most requests have
//! none. This way uses the engine's HTTP sessions on both sides and its connector, in one task: a
//! head is sent, an answer is read and passed on, and the client is watched all the while. What it
//! cannot do goes the engine's way: bodies, upgrades, `TE`, `Expect`, HTTP/1.0, HTTP/2 backends.
//!
//! Both ways share their decisions: which backend, what is sent, what is answered, what is tried
//! again, and how an error becomes an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v1::client::HttpSession as Backend;
use pingora::protocols::http::{HttpTask, ServerSession as Session};
use pingora::{Error, ErrorType};

use super::Ctx;
use crate::answer;
use crate::forward;
use crate::proxy::Gate;
use crate::upstream::{Member, Pool};

/// Most informational answers passed on before the final one.
const INFORMATIONAL_MAX: usize = 8;

/// Whether a request can go the direct way, as far as the client's side is concerned.
pub(super) fn is_direct(session: &mut Session) -> bool {
    let head = session.req_header();
    matches!(head.method, Method::GET | Method::HEAD | Method::DELETE)
        && matches!(head.version, Version::HTTP_11 | Version::HTTP_2)
        && forward::is_plain(&head.headers)
        && session.is_body_empty()
}

impl Gate {
    /// Takes a request to its backend and the answer back. An error is one of the engine's own, as
    /// its other way would have ended.
    pub(super) async fn exchange(&self, session: &mut Session, ctx: &mut Ctx, pool: Arc<Pool>) -> pingora::Result<()> {
        let clock = &self.shared.clock;
        loop {
            let member = self.choose(ctx, &pool)?;
            let kept = member.kept.take(clock.steady_us());
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(stream) => Ok(stream),
                None => self.connector.new_stream(&pool.peer(&member, ctx.place()?.1)).await,
            };
            let error = match connection {
                Err(error) => self.failed_to_connect(ctx, error.into_up()),
                Ok(stream) => match self.converse(session, ctx, &pool, Backend::new(stream)).await {
                    Ok(backend) => {
                        release(backend, &member, clock.steady_us()).await;
                        return Ok(());
                    }
                    Err(error) => self.failed_on_the_way(session, ctx, error, was_kept),
                },
            };
            if !error.retry() {
                return Err(error);
            }
        }
    }

    /// One try on one connection; gives it back when the answer was passed on whole.
    async fn converse(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        pool: &Pool,
        mut backend: Backend,
    ) -> pingora::Result<Backend> {
        let (read, write) = pool.silence(ctx.place()?.1);
        (backend.read_timeout, backend.write_timeout) = (Some(read), Some(write));
        let request = self.upstream_request(session.req_header(), ctx)?;
        backend.write_request_header(Box::new(request)).await.map_err(|error| error.into_up())?;
        let has_body = self.pass_head_on(session, ctx, &mut backend).await?;
        if has_body {
            pass_body_on(session, &mut backend).await?;
        }
        Ok(backend)
    }

    /// Passes the head of an answer on, and informational ones before it. Whether a body follows.
    async fn pass_head_on(&self, session: &mut Session, ctx: &mut Ctx, backend: &mut Backend) -> pingora::Result<bool> {
        for _ in 0..=INFORMATIONAL_MAX {
            watched(session, backend.read_response()).await?;
            let Some(theirs) = backend.resp_header() else { break };
            if theirs.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade that nobody asked for").into_up());
            }
            let is_final = !theirs.status.is_informational();
            self.begin_answer(session, theirs, ctx).await?;
            let ours = |has_body| answer::pass_on(theirs, has_body, &self.dressing(ctx));
            if !is_final {
                let ours = ours(false)?;
                session.write_response_header(Box::new(ours)).await.map_err(|e| e.into_down())?;
                continue;
            }
            let has_body = has_body(&session.req_header().method, theirs);
            let ours = Box::new(ours(has_body)?);
            let is_over = !has_body || backend.is_body_done();
            let client = session;
            let written = match is_over {
                // Over HTTP/2 the head itself ends the stream.
                true => client.response_duplex_vec(vec![HttpTask::Header(ours, true)]).await.map(|_| ()),
                false => client.write_response_header(ours).await,
            };
            written.map_err(|error| error.into_down())?;
            return Ok(!is_over);
        }
        Err(Error::explain(ErrorType::InvalidHTTPHeader, "too many informational answers").into_up())
    }
}

/// Whether an answer has a body (RFC 9112 section 6.3).
fn has_body(method: &Method, answer: &ResponseHeader) -> bool {
    let status = answer.status;
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Waits for the backend while the client is there; it fails when the client leaves.
async fn watched<T>(client: &mut Session, backend: impl Future<Output = pingora::Result<T>>) -> pingora::Result<T> {
    tokio::select! {
        biased;
        done = backend => done.map_err(|error| error.into_up()),
        gone = client.read_body_or_idle(true) => Err(match gone {
            Err(error) => error.into_down(),
            Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client sent more than a request").into_down(),
        }),
    }
}

async fn pass_body_on(client: &mut Session, backend: &mut Backend) -> pingora::Result<()> {
    loop {
        let chunk = watched(client, backend.read_body_ref()).await?;
        let written = match (&mut *client, chunk) {
            (Session::H1(client), Some(chunk)) => client.write_body(chunk).await.map(|_| ()),
            (client, chunk) => {
                let chunk = chunk.map(Bytes::copy_from_slice).unwrap_or_default();
                client.write_response_body(chunk, backend.is_body_done()).await
            }
        };
        written.map_err(|error| error.into_down())?;
        if backend.is_body_done() {
            // Nothing more to do where the last chunk has ended it.
            return client.finish_body().await.map_err(|error| error.into_down());
        }
    }
}

/// Keeps a connection, if its backend wants that too.
async fn release(mut backend: Backend, member: &Member, now_us: u64) {
    backend.respect_keepalive();
    if let Some(stream) = backend.reuse().await {
        member.kept.put(stream, now_us);
    }
}
