//! The engine's hooks around [`crate::proxy`]: short, in the order in which the engine calls them.
//!
//! A denial is a written response, never an error of the engine (an error would close the
//! connection). A request that reaches the forwarding step without a permit is a bug and fails
//! closed.

mod authorize;
mod decide;
mod direct;
mod farewell;
mod forwarding;
mod record;
mod trouble;
mod wire;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::HttpPeer;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::{Error, ErrorType};

pub(crate) use self::decide::Next;
use self::trouble::denial_of;
use self::wire::set_phase;
use crate::answer;
use crate::clock::Moment;
use crate::deny::Denial;
use crate::guarded::Phase;
use crate::proxy::{Gate, Known, Permit};
use crate::snapshot::Snapshot;
use crate::upstream::Member;

/// How a request ended, for its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Not decided yet: the client went away.
    Open,
    /// Answered without the upstream: `preflight`, or the code of a denial.
    Answered(&'static str),
    /// The upstream's answer was passed on.
    Forwarded,
}

/// One request's state, made by the engine at its start.
pub struct Ctx {
    snapshot: Arc<Snapshot>,
    started: Moment,
    request_id: String,
    known: Known,
    permit: Option<Permit>,
    outcome: Outcome,
    decided: Option<Duration>,
    first_byte: Option<Duration>,
    chosen: Option<Arc<Member>>,
    tries: u32,
    body_bytes: u64,
    /// A denial that was decided after forwarding began.
    late_denial: Option<Denial>,
    status: u16,
    /// Ties an exchange that outlasts its request to its credential.
    tie: Option<farewell::Tied>,
    /// How many changes there had been before the credential was looked up.
    changes: u64,
}

impl Ctx {
    /// The request's id.
    pub(crate) fn id(&self) -> &str {
        &self.request_id
    }

    /// Now, from the one look at the clock and the time since.
    fn now_ms(&self) -> u64 {
        self.started.wall_ms + millis(self.first_byte.or(self.decided))
    }

    /// Milliseconds from the decision to the upstream's first byte, once it came.
    fn since_decision_ms(&self) -> u64 {
        millis(self.first_byte).saturating_sub(millis(self.decided))
    }
}

fn millis(duration: Option<Duration>) -> u64 {
    u64::try_from(duration.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

tokio::task_local! {
    /// What is known of a request that the engine's proxy takes over, until it does.
    static HANDED: Cell<Option<Box<Ctx>>>;
}

/// Runs a part of the engine that takes a judged request over.
pub(crate) fn handing_over<F: Future>(ctx: Ctx, engine: F) -> impl Future<Output = F::Output> {
    HANDED.scope(Cell::new(Some(Box::new(ctx))), engine)
}

impl Gate {
    /// A request begins: now, and under the policy in force.
    pub(crate) fn begin(&self) -> Ctx {
        Ctx {
            snapshot: self.shared.keeper.load(),
            started: self.shared.clock.moment(),
            request_id: String::new(),
            known: Known::default(),
            permit: None,
            outcome: Outcome::Open,
            decided: None,
            first_byte: None,
            chosen: None,
            tries: 0,
            body_bytes: 0,
            late_denial: None,
            status: 0,
            tie: None,
            changes: 0,
        }
    }

    /// A request has failed: answers it, if that can still be done. The status sent, or 0.
    pub(crate) async fn fail(&self, session: &mut ServerSession, error: &Error, ctx: &mut Ctx) -> u16 {
        // An upgrade is an answer too: what is written after it would be taken for data.
        let is_final = |r: &ResponseHeader| !r.status.is_informational() || r.status == SWITCHING_PROTOCOLS;
        let is_answered = session.response_written().is_some_and(is_final);
        let is_over = ctx.tie.as_ref().is_some_and(farewell::Tied::has_ended);
        if is_over && is_answered {
            self.say_farewell(session, ctx).await;
            return 0;
        }
        let denial = ctx.late_denial.take().or_else(|| denial_of(error));
        let mut error_code = 0;
        if let Some(denial) = denial.filter(|_| !is_answered) {
            error_code = denial.status();
            session.set_keepalive(None);
            if denial.status() >= 500 {
                log::warn!(target: "tollgate::upstream", "{}: {}", denial.code(), error.etype().as_str());
            }
            if self.answer_denial(session, ctx, denial).await.is_err() {
                error_code = 0;
            }
        } else if ctx.outcome == Outcome::Open {
            ctx.outcome = Outcome::Answered("client_gone");
        }
        error_code
    }

    /// A request is over.
    pub(crate) fn end(&self, session: &ServerSession, ctx: &Ctx) {
        set_phase(session, Phase::Head);
        self.record(session, ctx);
    }
}

const SWITCHING_PROTOCOLS: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

#[async_trait]
impl ProxyHttp for Gate {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        HANDED.try_with(Cell::take).ok().flatten().map_or_else(|| self.begin(), |ctx| *ctx)
    }

    /// None: answers and requests are never compressed or inflated here.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// The request was judged before it came here (`Gate::decide`); one that was not is a bug.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<bool> {
        self.bound(session);
        if ctx.permit.is_none() {
            self.answer_denial(session, ctx, Denial::NotPermitted).await?;
            return Ok(true);
        }
        if session.req_header().headers.contains_key(http::header::EXPECT) {
            session.as_downstream_mut().write_continue_response().await?;
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Box<HttpPeer>> {
        let Some(pool) = ctx.pool()?.cloned() else {
            ctx.late_denial = Some(Denial::UpstreamUnreachable);
            return Error::e_explain(ErrorType::ConnectNoRoute, "the upstream has no address");
        };
        let member = self.choose(ctx, &pool)?;
        Ok(Box::new(pool.peer(&member, ctx.place()?.1)))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        self.rewrite(request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        if end_of_stream || session.was_upgraded() {
            set_phase(session, Phase::Quiet);
        }
        // The engine takes an empty piece for the end of a chunked body, and then ends it once more: the
        // backend reads the second end as the start of the next caller's request
        // (https://github.com/cloudflare/pingora/issues/935).
        if body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        ctx.body_bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let place = ctx.permit.as_ref().and_then(|permit| permit.place(&ctx.snapshot));
        let most = place.map_or(0, |(_, route)| route.body_bytes_max);
        let allows_grpc = place.is_some_and(|(_, route)| route.protocols.grpc);
        let streams = (allows_grpc && answer::is_grpc(session)) || session.was_upgraded();
        if ctx.body_bytes > most && !streams {
            ctx.late_denial = Some(Denial::BodyTooLarge);
            return Err(Error::explain(ErrorType::HTTPStatus(413), "the body is too large").into_down());
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<Option<Duration>> {
        if let (Some(tie), Some(body)) = (&mut ctx.tie, body) {
            tie.pass(body);
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        self.begin_answer(session, response, ctx).await?;
        answer::redress(response, &self.dressing(ctx))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        error: Box<Error>,
    ) -> Box<Error> {
        self.failed_to_connect(ctx, error)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        self.failed_on_the_way(session, ctx, error.more_context(format!("Peer: {peer}")), client_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        FailToProxy { error_code: self.fail(session, error, ctx).await, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        self.end(session, ctx);
    }

    /// Never the target: it holds the query.
    fn request_summary(&self, _session: &Session, ctx: &Ctx) -> String {
        format!("request {}", ctx.request_id)
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
