//! The direct way of a request to a backend that speaks HTTP/1.1.
//!
//! The engine's own way serves everything: two halves that talk over channels, caches, upgrades,
//! bodies that flow both ways at once. Most requests need none of it: they have no body, or a small
//! one of a known length. This way uses the engine's HTTP sessions on both sides and its connector,
//! in one task: a request is sent, an answer is read and passed on, and the client is watched all
//! the while. What it cannot do goes the engine's way: other bodies, upgrades, `TE`, `Expect`,
//! HTTP/1.0, HTTP/2 backends.
//!
//! Both ways share their decisions: which backend, what is sent, what is answered, what is tried
//! again, and how an error becomes an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v1::client::HttpSession as Backend;
use pingora::protocols::http::{HttpTask, ServerSession as Session};
use pingora::{Error, ErrorType};

use super::Ctx;
use super::wire::set_phase;
use crate::answer;
use crate::forward;
use crate::guarded::Phase;
use crate::proxy::Gate;
use crate::upstream::{Member, Pool};

/// Most informational answers passed on before the final one.
const INFORMATIONAL_MAX: usize = 8;

/// Largest body that is sent before an answer is looked for, in bytes. A backend's and a
/// connection's buffers hold as much, so that sending it hardly waits.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// Whether a request can go the direct way, as far as the client's side is concerned.
pub(super) fn is_direct(session: &mut Session) -> bool {
    let head = session.req_header();
    let fits = match head.method {
        Method::GET | Method::HEAD | Method::DELETE => Some(0),
        // Never sent twice, so that nothing of the body need be kept.
        Method::POST | Method::PATCH => Some(BODY_BYTES_MAX),
        _ => None,
    };
    let is_direct = matches!(head.version, Version::HTTP_11 | Version::HTTP_2)
        && forward::is_plain(&head.headers)
        && fits.is_some_and(|most| forward::content_length(&head.headers).unwrap_or(0) <= most);
    // Over HTTP/2 a body need not say its length.
    is_direct && (session.req_header().headers.contains_key(CONTENT_LENGTH) || session.is_body_empty())
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
                    Ok(None) => return Ok(()),
                    Ok(Some(backend)) => {
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

    /// One try on one connection; gives it back when request and answer were passed on whole.
    async fn converse(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        pool: &Pool,
        mut backend: Backend,
    ) -> pingora::Result<Option<Backend>> {
        let (read, write) = pool.silence(ctx.place()?.1);
        (backend.read_timeout, backend.write_timeout) = (Some(read), Some(write));
        let request = self.upstream_request(session.req_header(), ctx)?;
        backend.write_request_header(Box::new(request)).await.map_err(|error| error.into_up())?;
        let mut body = Body::Sent;
        if !session.is_body_empty() {
            body = send_body(session, &mut backend).await?;
            set_phase(session, Phase::Quiet);
        }
        if body != Body::Sent {
            session.set_keepalive(None);
        }
        if self.pass_head_on(session, ctx, &mut backend, body).await? {
            pass_body_on(session, &mut backend).await?;
        }
        // What is left of a request would be the start of the next one.
        Ok((body == Body::Sent).then_some(backend))
    }

    /// Passes the head of an answer on, and informational ones before it. Whether a body follows.
    async fn pass_head_on(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        backend: &mut Backend,
        body: Body,
    ) -> pingora::Result<bool> {
        for round in 0..=INFORMATIONAL_MAX {
            if body != Body::Answered || round > 0 {
                watched(session, backend.read_response()).await?;
            }
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
            // Asked in any case: a backend whose answer was not looked at to its end is not kept.
            let is_done = backend.is_body_done();
            let is_over = !has_body || is_done;
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

/// What became of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// The backend has all of it.
    Sent,
    /// The backend takes no more of it; it may have answered.
    Refused,
    /// The backend has begun to answer before it had all of it.
    Answered,
}

/// Sends a body, as far as the backend wants it: it may answer, or fall silent, before.
async fn send_body(client: &mut Session, backend: &mut Backend) -> pingora::Result<Body> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = client.read_request_body() => chunk.map_err(|error| error.into_down())?,
            answer = backend.read_response() => {
                answer.map_err(|error| error.into_up())?;
                // An early hint is no answer yet, and comes too early to be passed on.
                let is_hint = |head: &ResponseHeader| {
                    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
                };
                if backend.resp_header().is_some_and(is_hint) {
                    continue;
                }
                return Ok(Body::Answered);
            }
        };
        let Some(chunk) = chunk else { break };
        if backend.write_body(&chunk).await.is_err() {
            return Ok(Body::Refused);
        }
    }
    Ok(if backend.finish_body().await.is_ok() { Body::Sent } else { Body::Refused })
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
            // An empty chunk is the end of a chunked body, and not every empty read is one.
            (Session::H1(client), Some(chunk)) if !chunk.is_empty() => client.write_body(chunk).await.map(|_| ()),
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
    if backend.will_keepalive()
        && let Some(stream) = backend.reuse().await
    {
        member.kept.put(stream, now_us);
    }
}
