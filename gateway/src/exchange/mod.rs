//! The story of one request. Read this first, then [`crate::admit`].
//!
//! A head is read, decided upon, answered or forwarded, and leaves one record, whatever happens.
//! Refusals are answers, never errors: an error here means that a message cannot go on.

pub mod answer;
mod failure;
mod forwarding;
mod issuer;
mod pass;
mod record;
mod relay;
mod request_body;
pub mod request_fields;
mod retry;
mod serve;
mod state;
mod stream_guard;
pub mod tunnel;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use self::failure::Failure;
use self::record::Facts;
use self::relay::End;
use self::state::{Exchange, Outcome};
use crate::admit::denial::{Denial, DenialAnswer};
use crate::admit::head::Head;
use crate::admit::{self, Decision, Gate};
use crate::audit::Audit;
use crate::base::answer::Answer;
use crate::base::random::RequestIds;
use crate::downstream::{Deadlines, Session};
use crate::oauth::AuthorizationServer;
use crate::snapshot::PolicyKeeper;
use crate::upstream::Connections;
use crate::upstream::backend::Backend;

/// What exchanges need beside decisions, of which all listeners have the same.
pub struct Shared {
    /// What decisions need.
    pub admit: Arc<admit::Shared>,
    /// The policy in force.
    pub keeper: Arc<PolicyKeeper>,
    /// Issues tokens.
    pub authorization: Arc<AuthorizationServer>,
    /// Requests on record.
    pub audit: Audit,
    /// Ids of requests.
    pub request_ids: RequestIds,
    /// Believed proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Longest time for requests under way when the gateway stops.
    pub drain: Duration,
}

/// The exchanges of one listener.
pub struct Exchanges {
    /// What it shares with the other listeners.
    pub shared: Arc<Shared>,
    /// Decides.
    pub gate: Gate,
    /// Connects to upstreams.
    pub connections: Arc<Connections>,
    /// Whether HTTP/2 is spoken without TLS too, as gRPC clients behind a TLS terminator do.
    pub is_h2c: bool,
    /// Deadlines of clients.
    pub deadlines: Deadlines,
}

/// What is left to do behind an exchange.
enum Then {
    /// Nothing: the session can carry another one, if its client wants that.
    Finish,
    /// Its connection is a WebSocket from here on.
    Tunnel(Backend, Box<Exchange>),
}

impl Exchanges {
    /// One request, from its head to its record. The head has come; `unread` says if it has another reading.
    async fn exchange(&self, session: &mut Session, unread: Option<Denial>) -> Then {
        let mut exchange = self.begin(session);
        let end = match self.decide(session, &mut exchange, unread).await {
            Decision::Forward(permit) => {
                exchange.permit = Some(permit);
                self.relay(session, &mut exchange).await
            }
            Decision::Refuse(denial) => self.refuse(session, &mut exchange, &denial).await,
            Decision::Answer(answer) => self.answer(session, &mut exchange, *answer).await,
            Decision::Issuer => Box::pin(self.answer_as_issuer(session, &mut exchange)).await,
        };
        match end {
            Ok(End::Answered) => {}
            Ok(End::Upgraded(backend)) => return Then::Tunnel(backend, Box::new(exchange)),
            Err(failure) => Box::pin(self.fail(session, &failure, &mut exchange)).await,
        }
        self.record(&Facts::of(session), &exchange);
        Then::Finish
    }

    /// Decides what becomes of a request.
    async fn decide(&self, session: &Session, exchange: &mut Exchange, unread: Option<Denial>) -> Decision {
        let (snapshot, known) = (&exchange.snapshot, &mut exchange.known);
        let received = session.head();
        let head = match unread {
            Some(denial) => Err(denial),
            None if self.shared.audit.is_refusing() => Err(Denial::NotOnRecord),
            None => Head::check(&received, self.gate.shared.bounds),
        };
        let decision = match head {
            Ok(head) => {
                known.origin = head.origin().map(Into::into);
                self.gate.decide(&head, snapshot, known).await
            }
            Err(denial) => Decision::Refuse(denial),
        };
        exchange.decided = Some(self.gate.shared.clock.since(exchange.known.now));
        decision
    }

    /// Answers a request ourselves: the only place where such an answer goes on the wire and on record.
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange, answer: Answer) -> Result<End, Failure> {
        exchange.answered(answer.outcome, answer.status.as_u16());
        answer::write(session, answer, (exchange.known.request_id.as_str(), exchange.known.now.wall_ms)).await?;
        Ok(End::Answered)
    }

    /// Refuses a request: the same for a refusal.
    async fn refuse(&self, session: &mut Session, exchange: &mut Exchange, denial: &Denial) -> Result<End, Failure> {
        exchange.answered(denial.code(), denial.status());
        let context = exchange.known.answer_context(&exchange.snapshot, 0);
        let refusal = DenialAnswer::new(denial, context, exchange.known.is_grpc);
        match answer::refuse(session, &refusal, exchange.known.now.wall_ms).await {
            // A text of ours is no field value: nothing of it was sent.
            Err(Failure::Ours(_)) => self.answer(session, exchange, Answer::internal_error()).await,
            done => done.map(|()| End::Answered),
        }
    }

    /// An exchange has failed: answers it, if that can still be done, and says so where it matters.
    async fn fail(&self, session: &mut Session, failure: &Failure, exchange: &mut Exchange) {
        let (has_begun, denial) = (session.has_begun(), failure.denial());
        if let Some(denial) = denial.as_ref().filter(|denial| denial.status() >= 500) {
            self.log_trouble(exchange, failure, denial, has_begun);
        }
        session.close_after();
        match denial {
            Some(denial) if !has_begun => {
                // What fails here is that the client is gone.
                if self.refuse(session, exchange, &denial).await.is_err() {
                    exchange.outcome = Outcome::Open;
                }
            }
            Some(_) | None => exchange.outcome = exchange.cut(failure),
        }
        if has_begun {
            // An answer that stops must not look like one that ends.
            session.cut().await;
        } else if exchange.outcome == Outcome::Open {
            exchange.status = 0;
        }
    }
}
