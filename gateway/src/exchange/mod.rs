//! One request, from its head to its record: decided, answered or forwarded, recorded.
//!
//! A denial is a written response, never an error (an error would close the connection). A request
//! that reaches the forwarding step without a permit is a bug and fails closed.

pub mod answer;
mod connection;
mod decide;
mod farewell;
mod forwarding;
pub mod front;
pub mod http2;
mod issuer;
mod pass;
mod record;
mod relay;
mod request_body;
pub mod request_fields;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use policy::head::HeadFault;

use self::connection::set_phase;
pub(crate) use self::decide::Next;
pub(crate) use self::farewell::Tied;
pub(crate) use self::record::Facts;
use self::retry::denial_of;
use crate::admit::denial::Denial;
use crate::admit::{Gate, Known, Permit};
use crate::base::clock::Moment;
use crate::edge::deadlines::Phase;
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
    /// The upstream's answer ended in the middle.
    BrokenOff,
    /// We ended an answer in the middle: its request went on wrongly, or its credential is over.
    CutOff,
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
    /// A denial that was decided after forwarding began.
    late_denial: Option<Denial>,
    status: u16,
    /// Ties an exchange that outlasts its request to its credential.
    tie: Option<Tied>,
    /// How many changes there had been before the credential was looked up.
    changes: u64,
}

impl Ctx {
    /// Waits until the credential of the exchange has ended, if it is tied to one.
    pub(crate) async fn credential_ended(&self) {
        farewell::ended(self.tie.as_ref()).await;
    }

    /// Milliseconds from the decision to the upstream's first byte, once it came.
    fn since_decision_ms(&self) -> u64 {
        millis(self.first_byte).saturating_sub(millis(self.decided))
    }
}

fn millis(duration: Option<Duration>) -> u64 {
    u64::try_from(duration.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
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
            late_denial: None,
            status: 0,
            tie: None,
            changes: 0,
        }
    }

    /// A request has failed: answers it, if that can still be done, and says so where it matters.
    pub(crate) async fn fail(&self, session: &mut ServerSession, error: &Error, ctx: &mut Ctx) {
        let is_answered = is_answered(session);
        let is_broken = *error.etype() == ErrorType::ReadError;
        let is_over = ctx.tie.as_ref().is_some_and(Tied::has_ended);
        let denial = ctx.late_denial.take().or_else(|| denial_of(error));
        if let Some(denial) = &denial
            && denial.status() >= 500
        {
            self.log_trouble(ctx, error, denial, is_answered);
        }
        session.set_keepalive(None);
        match denial {
            // What fails here is that the client is gone.
            Some(denial) if !is_answered => {
                if self.answer_denial(session, ctx, denial).await.is_err() {
                    ctx.outcome = Outcome::Open;
                }
            }
            Some(denial) if denial.status() >= 500 => ctx.outcome = Outcome::BrokenOff,
            Some(_) if !is_broken => ctx.outcome = Outcome::CutOff,
            Some(_) | None => ctx.outcome = if is_over { Outcome::CutOff } else { Outcome::Open },
        }
        if is_answered {
            // An answer that stops must not look like one that ends.
            answer::cut(session).await;
        }
    }

    /// A head could not be read: says so, and leaves a record of it.
    pub(crate) async fn refuse_unread(&self, session: &mut ServerSession) {
        let mut ctx = self.begin();
        let denial = Denial::Head(HeadFault::Unreadable);
        ctx.request_id = self.shared.request_ids.next();
        ctx.known.address = Some(connection::peer_address(session));
        (ctx.outcome, ctx.status) = (Outcome::Answered(denial.code()), denial.status());
        if answer::deny_unread(session, &denial, &ctx.request_id).await.is_err() {
            ctx.outcome = Outcome::Open;
        }
        self.record(&Facts::unread(), &ctx);
    }

    fn log_trouble(&self, ctx: &Ctx, error: &Error, denial: &Denial, is_answered: bool) {
        let api = ctx.api_name();
        let address = ctx.chosen.as_ref().map_or_else(String::new, |member| format!(" at {}", member.address));
        let when = if is_answered { ", in the middle of its answer" } else { "" };
        log::warn!(
            target: "tollgate::upstream",
            "{api}: {}{address}{when} ({}), request {}", denial.code(), error.etype().as_str(), ctx.request_id
        );
    }

    /// A request is over.
    pub(crate) fn end(&self, session: &ServerSession, ctx: &Ctx) {
        set_phase(session, Phase::Head);
        self.record(&Facts::of(session), ctx);
    }
}

/// Whether a final answer has begun. An upgrade is one too: what is written after it would be taken
/// for data.
fn is_answered(session: &ServerSession) -> bool {
    let is_final = |r: &ResponseHeader| !r.status.is_informational() || r.status == SWITCHING_PROTOCOLS;
    session.response_written().is_some_and(is_final)
}

const SWITCHING_PROTOCOLS: http::StatusCode = http::StatusCode::SWITCHING_PROTOCOLS;
