//! What is known of an exchange while it goes on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::failure::Failure;
use super::stream_guard::{self, StreamGuard};
use crate::admit::answers::AnswerContext;
use crate::admit::{Known, Permit};
use crate::base::clock::micros;
use crate::downstream::ClientFault;
use crate::snapshot::Snapshot;
use crate::upstream::Endpoint;

/// How an exchange ended, for its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The client went away.
    Open,
    /// Answered without the upstream: the outcome of that answer.
    Answered(&'static str),
    /// The upstream's answer was passed on.
    Forwarded,
    /// The upstream's answer ended in the middle.
    BrokenOff,
    /// We ended an answer in the middle: its request went on wrongly, or its credential is over.
    CutOff,
}

/// One exchange.
pub(super) struct Exchange {
    /// The policy that it is judged by, from its beginning to its end.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) known: Known,
    pub(super) permit: Option<Permit>,
    pub(super) outcome: Outcome,
    /// From its beginning to the decision.
    pub(super) decided: Option<Duration>,
    /// From its beginning to the head of the upstream's answer.
    pub(super) first_byte: Option<Duration>,
    pub(super) chosen: Option<Arc<Endpoint>>,
    pub(super) tries: u32,
    pub(super) status: u16,
    /// Ties an exchange that outlasts its request to its credential.
    pub(super) guard: Option<StreamGuard>,
    /// The protocol of its answer, if that may go on for ever.
    pub(super) outlasts: Option<&'static str>,
    /// How many changes there had been before the credential was looked up.
    pub(super) changes: u64,
}

impl Exchange {
    /// Begins now, under the policy in force.
    pub(super) fn begin(shared: &Shared, address: IpAddr) -> Self {
        Exchange {
            snapshot: shared.keeper.load(),
            known: Known::at(shared.admit.clock.moment(), address),
            permit: None,
            outcome: Outcome::Open,
            decided: None,
            first_byte: None,
            chosen: None,
            tries: 0,
            status: 0,
            guard: None,
            outlasts: None,
            changes: 0,
        }
    }

    /// Waits until the credential of the exchange has ended, if it is tied to one.
    pub(super) async fn credential_ended(&self) {
        stream_guard::ended(self.guard.as_ref()).await;
    }

    /// The request is answered by us.
    pub(super) fn answered(&mut self, outcome: &'static str, status: u16) {
        (self.outcome, self.status) = (Outcome::Answered(outcome), status);
    }

    /// How an answer that had begun ended, when the exchange failed.
    pub(super) fn cut(&self, failure: &Failure) -> Outcome {
        let is_over = self.guard.as_ref().is_some_and(StreamGuard::has_ended);
        match failure.denial() {
            Some(denial) if denial.status() >= 500 => Outcome::BrokenOff,
            Some(_) if !matches!(failure, Failure::Client(ClientFault::BodyCut)) => Outcome::CutOff,
            Some(_) | None if is_over => Outcome::CutOff,
            Some(_) | None => Outcome::Open,
        }
    }

    /// When it was decided, on the steady clock.
    pub(super) fn decided_us(&self) -> u64 {
        self.known.now.steady_us + micros(self.decided.unwrap_or_default())
    }

    /// When its answer began, on the steady clock; before that, when it was decided.
    pub(super) fn answered_us(&self) -> u64 {
        self.first_byte.map_or_else(|| self.decided_us(), |first_byte| self.known.now.steady_us + micros(first_byte))
    }

    /// What an answer says of the request.
    pub(super) fn answer_context(&self) -> AnswerContext<'_> {
        self.known.answer_context(&self.snapshot, self.since_decision_ms())
    }

    /// Milliseconds from the decision to the upstream's first byte, once it came.
    fn since_decision_ms(&self) -> u64 {
        let millis =
            |duration: Option<Duration>| u64::try_from(duration.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        millis(self.first_byte).saturating_sub(millis(self.decided))
    }
}
