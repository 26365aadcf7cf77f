//! The story of one request. Read this first, then [`crate::admit`].
//!
//! A head is read, decided upon, answered or forwarded, and leaves one record, whatever happens.
//! Refusals are answers, never errors: an error here means that a message cannot go on.

pub mod answer;
mod connection;
mod forwarding;
pub mod http2;
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

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use pingora::Error;
use pingora::apps::ReusedHttpStream;
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use policy::head::HeadFault;

use self::connection::{peer_address, received};
use self::record::Facts;
use self::relay::End;
use self::retry::denial_of;
use self::serve::keep;
use self::state::{Exchange, Outcome};
use crate::admit::denial::Denial;
use crate::admit::head::Head;
use crate::admit::{self, Decision, Gate};
use crate::base::answer::Answer;
use crate::base::random::RequestIds;
use crate::oauth::AuthorizationServer;
use crate::observe::AccessLog;
use crate::snapshot::PolicyKeeper;
use crate::upstream::Connections;

/// What exchanges need beside decisions, of which all listeners have the same.
pub struct Shared {
    /// What decisions need.
    pub admit: Arc<admit::Shared>,
    /// The policy in force.
    pub keeper: Arc<PolicyKeeper>,
    /// Issues tokens.
    pub authorization: Arc<AuthorizationServer>,
    /// Access log.
    pub access_log: AccessLog,
    /// Ids of requests.
    pub request_ids: RequestIds,
    /// Believed proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Idle time of kept connections, in seconds.
    pub idle_s: u64,
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
    /// Bounds of HTTP/2.
    pub h2_options: H2Options,
    /// Whether HTTP/2 is spoken without TLS too, as gRPC clients behind a TLS terminator do.
    pub is_h2c: bool,
    /// Longest idle time of a connection over HTTP/2.
    pub idle: Duration,
}

impl Exchanges {
    /// One request, from its head to its record. Gives the connection back if it can carry another.
    async fn exchange(&self, mut session: Session, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        if !self.read_head(&mut session, shutdown).await {
            return None;
        }
        let mut exchange = self.begin(&mut session);
        let end = match self.decide(&mut session, &mut exchange).await {
            Decision::Forward(permit) => {
                exchange.permit = Some(permit);
                self.relay(&mut session, &mut exchange).await
            }
            Decision::Answer(answer) => self.answer(&mut session, &mut exchange, *answer).await,
            Decision::Issuer => self.answer_as_issuer(&mut session, &mut exchange).await,
        };
        match end {
            Ok(End::Answered) => {
                self.end(&session, &exchange);
                keep(session).await
            }
            Ok(End::Upgraded(upstream)) => {
                self.run_tunnel(session, upstream, exchange, shutdown).await;
                None
            }
            Err(error) => {
                self.fail(&mut session, &error, &mut exchange).await;
                self.end(&session, &exchange);
                None
            }
        }
    }

    /// Decides what becomes of a request.
    async fn decide(&self, session: &mut Session, exchange: &mut Exchange) -> Decision {
        let (snapshot, known) = (&exchange.snapshot, &mut exchange.known);
        let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes());
        let decision = match Head::check(received(session, raw.as_deref()), self.gate.shared.bounds) {
            Ok(head) => {
                known.origin = head.origin().map(Into::into);
                self.gate.decide(&head, snapshot, known).await
            }
            Err(denial) => {
                // A head that has two readings may have two ends: nothing after it is a request.
                session.set_keepalive(None);
                Decision::Answer(Box::new(self.gate.refuse(&denial, snapshot, known)))
            }
        };
        exchange.decided = Some(self.gate.shared.clock.since(exchange.known.now));
        decision
    }

    /// Answers a request ourselves: the only place where such an answer goes on the wire and on record.
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange, answer: Answer) -> pingora::Result<End> {
        exchange.answered(&answer);
        answer::write(session, answer, &exchange.known.request_id).await?;
        Ok(End::Answered)
    }

    /// An exchange has failed: answers it, if that can still be done, and says so where it matters.
    async fn fail(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) {
        let has_begun = connection::has_begun(session);
        let denial = exchange.late_denial.take().or_else(|| denial_of(error));
        if let Some(denial) = denial.as_ref().filter(|denial| denial.status() >= 500) {
            self.log_trouble(exchange, error, denial, has_begun);
        }
        session.set_keepalive(None);
        match denial {
            Some(denial) if !has_begun => {
                let answer = self.gate.refuse(&denial, &exchange.snapshot, &exchange.known);
                // What fails here is that the client is gone.
                if self.answer(session, exchange, answer).await.is_err() {
                    exchange.outcome = Outcome::Open;
                }
            }
            denial => exchange.outcome = exchange.cut(error, denial.as_ref()),
        }
        if has_begun {
            // An answer that stops must not look like one that ends.
            answer::cut(session).await;
        } else if exchange.outcome == Outcome::Open {
            exchange.status = 0;
        }
    }

    /// A head could not be read: says so, and leaves a record of it.
    async fn refuse_unread(&self, session: &mut Session) {
        let mut exchange = Exchange::begin(&self.shared, peer_address(session));
        exchange.known.request_id = self.shared.request_ids.next();
        let denial = Denial::Head(HeadFault::Unreadable);
        let answer = self.gate.refuse(&denial, &exchange.snapshot, &exchange.known);
        exchange.answered(&answer);
        if answer::write_unread(session, answer, &exchange.known.request_id).await.is_err() {
            exchange.outcome = Outcome::Open;
        }
        self.record(&Facts::unread(), &exchange);
    }
}
