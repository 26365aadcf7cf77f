//! The decision over one request: target, credential, identity, grant, permit.
//!
//! [`Gate::decide`] takes a [`Head`] and gives a [`Decision`]: forward, with the [`Permit`] that proves
//! that every check was made, or an [`Answer`]. Each step takes what the one before proved. Nothing here
//! knows a connection, and nothing is written to anybody: what is done with the decision is told in
//! [`crate::exchange`].

pub mod answers;
mod caller;
pub mod denial;
pub mod head;
pub mod inspect;
mod known;
mod permit;
mod sightings;

use std::net::IpAddr;
use std::sync::Arc;

use policy::limit::Payer;
use policy::route::{Api, Refusal, RouteClass};
use policy::{Circumstances, Destination, Grant, Identity, KeyClass, Route, Target};

pub use self::caller::found_label;
pub use self::known::{Known, RefusedKey};
use self::permit::Counted;
pub use self::permit::{Charged, Permit};
use crate::admit::denial::Denial;
use crate::admit::head::Head;
use crate::admit::inspect::inspect;
use crate::base::answer::Answer;
use crate::base::clock::{Clock, Moment};
use crate::config::ListenKind;
use crate::identify::{Caller, FailureBudget, Identities};
use crate::limit::{Limiter, Standing};
use crate::observe::Metrics;
use crate::snapshot::Snapshot;
use crate::store::Exposure;
use crate::usage::UsageLog;

/// What decisions need, of which all listeners have the same.
pub struct Shared {
    /// Finds keys and tokens.
    pub identities: Arc<Identities>,
    /// Takes tokens of limits.
    pub limiter: Arc<dyn Limiter>,
    /// Failed authentications per address.
    pub failures: FailureBudget,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Last use and exposure of keys.
    pub usage: Arc<UsageLog>,
    /// Kind of store, for metrics.
    pub store_kind: &'static str,
    /// Bounds of request heads.
    pub bounds: policy::Bounds,
}

/// One listener's gate.
#[derive(Clone)]
pub struct Gate {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// What it speaks.
    pub listener: ListenKind,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes to the API's upstream.
    Forward(Permit),
    /// It is refused.
    Refuse(Denial),
    /// It is answered here: a preflight, or what we say of the caller or of an API.
    Answer(Box<Answer>),
    /// It is for the API's authorization server, which must see its body before it can answer.
    Issuer,
}

impl Decision {
    fn answer(answer: Answer) -> Self {
        Decision::Answer(Box::new(answer))
    }
}

impl Gate {
    /// Decides over one request. Nothing is written to anybody.
    pub async fn decide(&self, head: &Head<'_>, snapshot: &Snapshot, known: &mut Known) -> Decision {
        match self.admit(head, snapshot, known).await {
            Ok(decision) => decision,
            Err(denial) => {
                self.note_refused(&denial, known);
                Decision::Refuse(denial)
            }
        }
    }

    /// A browser has used a key that belongs on a server: it is exposed.
    fn note_refused(&self, denial: &Denial, known: &Known) {
        if *denial == Denial::ServerOnlyKey
            && let Some((Caller::Key(key), _)) = &known.caller
            && key.facts.class != KeyClass::Public
        {
            self.note_exposed(key, Exposure::Browser);
        }
    }

    async fn admit(&self, head: &Head<'_>, snapshot: &Snapshot, known: &mut Known) -> Result<Decision, Denial> {
        if self.listener == ListenKind::Plain {
            Box::pin(self.note_exposed_over_plain_http(head, known.address, snapshot)).await;
            return Err(Denial::HttpsRequired);
        }
        let target = head.target().map_err(Denial::Target)?;
        known.keep_target(&target);
        let copied_to = head.copied_to().map_err(Denial::Target)?;
        let destination = snapshot.policy.destination(&target, head.is_preflight())?;
        let api = destination.api();
        known.api = Some(api.index);
        if head.is_websocket_stream() && !matches!(destination, Destination::Route(_)) {
            return Err(no_websocket());
        }
        let is_inspection = match destination {
            Destination::Issuer(..) => return Ok(Decision::Issuer),
            Destination::Preflight(_) => {
                let answer = answers::preflight(api.cors.as_ref(), &known.answer_context(snapshot, 0));
                return Ok(Decision::answer(answer));
            }
            Destination::Metadata(_) => return Ok(Decision::answer(answers::metadata(api, head.if_none_match()))),
            Destination::Inspection(_) => true,
            Destination::Route(_) => false,
        };
        if let Some(secret) = head.credential()? {
            self.identify_caller(api, secret, known).await?;
        }
        let circumstances = circumstances(head, known.address);
        if is_inspection {
            return Box::pin(self.inspect(api, &circumstances, snapshot, known)).await;
        }
        let grant = match authorize(api, (&target, copied_to.as_ref()), known.identity(), &circumstances) {
            Ok(grant) => grant,
            Err(refusal) => {
                let route = api.find(&target).filter(|_| known.caller.is_some());
                known.standing = self.peek(api, known.identity(), route, known.now);
                known.route = route.map(|route| route.index);
                return Err(refusal.into());
            }
        };
        let host = api.hosts.iter().position(|host| **host == *target.host.as_str()).unwrap_or(0);
        let (route, shadowed) = (grant.route, grant.shadowed);
        if head.is_websocket_stream() && !route.protocols.websocket {
            known.route = Some(route.index);
            return Err(no_websocket());
        }
        let charged = match head.content_length().is_some_and(|length| length > route.body_bytes_max) {
            true => Err(Denial::BodyTooLarge),
            false => self.charge(grant, snapshot.version, known.now).await,
        };
        let permitted = charged.map(|charged| (Permit::of(&charged, host), charged.counted()));
        (known.route, known.shadowed) = (Some(route.index), shadowed);
        match permitted {
            Ok((permit, counted)) => {
                if let Some(Counted { shown, certainty }) = counted {
                    (known.standing, known.certainty) = (Some(shown), Some(certainty));
                }
                Ok(Decision::Forward(permit))
            }
            Err(denial) => {
                known.standing = if let Denial::LimitExceeded { limit, standing, .. } = &denial {
                    Some((limit.clone(), *standing))
                } else {
                    self.peek(api, known.identity(), Some(route), known.now)
                };
                Err(denial)
            }
        }
    }

    /// The caller wants to know where it stands. Spends nothing.
    async fn inspect(
        &self,
        api: &Api,
        circumstances: &Circumstances<'_>,
        snapshot: &Snapshot,
        known: &mut Known,
    ) -> Result<Decision, Denial> {
        let identity = known.identity();
        let organization = api.authorize_inspection(identity, circumstances)?;
        let ends_ms = match &known.caller {
            Some((Caller::Key(key), _)) => key.facts.not_after_ms,
            Some((Caller::Token(token, _), _)) => Some(token.ends_ms),
            None => None,
        };
        let (limiter, version) = (&*self.shared.limiter, snapshot.version);
        let seen = inspect(limiter, api, (identity, organization), ends_ms, version, known.now).await;
        known.standing = self.peek(api, identity, None, known.now);
        Ok(Decision::answer(answers::inspection(&seen, &known.answer_context(snapshot, 0))))
    }

    /// Where the documented limit of a caller stands, for answers that take no token.
    fn peek(
        &self,
        api: &Api,
        identity: Identity<'_>,
        route: Option<&Route>,
        now: Moment,
    ) -> Option<(Arc<str>, Standing)> {
        let payer = Payer::of(identity, route.map_or(RouteClass::Read, |route| route.class))?;
        let organization = identity.organization()?;
        let charges = api.plan(organization).charges(&[], 1, payer, organization);
        let standing = self.shared.limiter.peek(&charges.first, now);
        Some((charges.first.name.clone(), standing))
    }
}

/// A stream that asks for a WebSocket where there is none. It is no GET: any 2xx would be a WebSocket to its client.
fn no_websocket() -> Denial {
    Denial::MethodNotAllowed { allow: "GET".into() }
}

/// Both ends of a request, where it has two: a backend does at its destination what the method says.
fn authorize<'p, 'i>(
    api: &'p Api,
    (target, destination): (&Target<'_>, Option<&Target<'_>>),
    identity: Identity<'i>,
    circumstances: &Circumstances<'_>,
) -> Result<Grant<'p, 'i>, Refusal> {
    let grant = api.authorize(target, identity, circumstances)?;
    match destination {
        Some(other) => api.authorize(other, identity, circumstances).map(|_| grant),
        None => Ok(grant),
    }
}

fn circumstances<'a>(head: &Head<'a>, address: IpAddr) -> Circumstances<'a> {
    Circumstances { address, origin: head.origin(), has_fetch_metadata: head.has_fetch_metadata() }
}
