//! The decision over one request: target, credential, identity, grant, permit.
//!
//! Each step takes what the one before proved. Only a [`Permit`] can be forwarded, and only
//! [`Gate::admit`] makes one. What is done with the decision is told in [`crate::exchange`].

pub mod denial;
pub mod head;
pub mod inspect;
mod known;
mod sightings;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use policy::credential::Secret;
use policy::limit::Payer;
use policy::route::{Api, CredentialKind, Refusal, RouteClass};
use policy::{Circumstances, Destination, Grant, Identity, KeyClass, Route, Target};

pub use self::known::{Known, RefusedKey};
use crate::admit::denial::Denial;
use crate::admit::head::Head;
use crate::admit::inspect::{Inspection, inspect};
use crate::base::clock::{Clock, Moment};
use crate::base::random::RequestIds;
use crate::config::ListenKind;
use crate::identify::{Caller, FailureBudget, Found, Identified, Identities, Unidentified};
use crate::limit::{Ask, Limiter, Standing, Verdict};
use crate::oauth::AuthorizationServer;
use crate::observe::{AccessLog, Metrics, UsageLog};
use crate::snapshot::{PolicyKeeper, Snapshot};
use crate::upstream::Connections;

/// What all listeners of a gateway share.
pub struct Shared {
    /// The policy in force.
    pub keeper: Arc<PolicyKeeper>,
    /// Finds keys.
    pub identities: Arc<Identities>,
    /// Issues tokens.
    pub authorization: Arc<AuthorizationServer>,
    /// Takes tokens.
    pub limiter: Arc<dyn Limiter>,
    /// Failed authentications per address.
    pub failures: FailureBudget,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Access log.
    pub access_log: AccessLog,
    /// Last use and exposure of keys.
    pub usage: Arc<UsageLog>,
    /// Ids of requests.
    pub request_ids: RequestIds,
    /// Believed proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Kind of store, for metrics.
    pub store_kind: &'static str,
    /// Bounds of request heads.
    pub bounds: policy::Bounds,
    /// Idle time of kept connections, in seconds.
    pub idle_s: u64,
    /// Longest time for requests under way when the gateway stops.
    pub drain: Duration,
}

/// One listener's gate.
#[derive(Clone)]
pub struct Gate {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// What it speaks.
    pub listener: ListenKind,
    /// Connects to backends.
    pub connections: Arc<Connections>,
}

/// Proof that a request may be forwarded. Holds no borrow, so it can wait for the engine.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    api: u32,
    route: u32,
    host: usize,
}

impl Permit {
    /// The API and route, from the snapshot that the permit was made under.
    pub fn place<'s>(&self, snapshot: &'s Snapshot) -> Option<(&'s Api, &'s Route)> {
        let api = snapshot.policy.apis.get(self.api as usize)?;
        Some((api, api.routes.get(self.route as usize)?))
    }

    /// The host as matched.
    pub fn host<'s>(&self, api: &'s Api) -> &'s str {
        api.hosts.get(self.host).map_or("", |host| host)
    }
}

/// How a request goes on.
#[derive(Debug)]
pub enum Admission {
    /// To the upstream.
    Forward(Permit),
    /// A CORS preflight, answered from the policy.
    Preflight,
    /// The caller wants to know where it stands.
    Inspect(Box<Inspection>),
    /// To the API's authorization server, which is us.
    Authorize,
    /// The API says who its authorization servers are.
    Describe,
}

impl Gate {
    /// Decides over one request.
    pub async fn admit(
        &self,
        head: &Head<'_>,
        address: IpAddr,
        snapshot: &Snapshot,
        known: &mut Known,
    ) -> Result<Admission, Denial> {
        if self.listener == ListenKind::Plain {
            self.note_exposed_over_plain_http(head, address, snapshot).await;
            return Err(Denial::HttpsRequired);
        }
        let target = head.target().map_err(Denial::Target)?;
        known.keep_target(&target);
        let copied_to = head.destination().map_err(Denial::Target)?;
        let destination = snapshot.policy.destination(&target, head.is_preflight())?;
        let api = destination.api();
        known.api = Some(api.index);
        let is_inspection = match destination {
            Destination::Issuer(..) => return Ok(Admission::Authorize),
            Destination::Preflight(_) => return Ok(Admission::Preflight),
            Destination::Metadata(_) => return Ok(Admission::Describe),
            Destination::Inspection(_) => true,
            Destination::Route(_) => false,
        };
        if let Some(secret) = head.credential()? {
            let identified = match self.identify(api, secret, address, known.now.wall_ms).await {
                Ok(identified) => identified,
                Err(denial) => {
                    known.refused = self.refused_key(api, secret, &denial);
                    return Err(denial);
                }
            };
            known.found = Some(identified.found);
            known.caller = Some((identified.caller, identified.organization));
        }
        let circumstances = circumstances(head, address);
        if is_inspection {
            return self.inspect(api, &circumstances, snapshot.version, known).await;
        }
        let identity = known.identity();
        let grant = match authorize(api, (&target, copied_to.as_ref()), identity, &circumstances) {
            Ok(grant) => grant,
            Err(refusal) => {
                let route = api.find(&target).filter(|_| known.caller.is_some());
                let standing = self.peek(api, identity, route, known.now);
                known.route = route.map(|route| route.index);
                known.standing = standing;
                return Err(refusal.into());
            }
        };
        let (shadowed, route) = (grant.shadowed, grant.route);
        let too_large = head.content_length().is_some_and(|length| length > route.body_bytes_max);
        let charged = match too_large {
            true => Err(Denial::BodyTooLarge),
            false => self.charge(&grant, snapshot.version, known.now).await,
        };
        known.route = Some(route.index);
        known.shadowed = shadowed;
        if charged.is_err() {
            known.standing = self.peek(api, known.identity(), Some(route), known.now);
        }
        if let Some((name, verdict)) = charged? {
            known.standing = Some((name.clone(), verdict.standing()));
            match verdict {
                Verdict::Admitted { certainty, .. } => known.certainty = Some(certainty),
                Verdict::Over { standing, .. } => {
                    let retry_after_s = standing.window.seconds_left(standing.now_ms);
                    return Err(Denial::LimitExceeded { limit: name, standing, retry_after_s });
                }
            }
        }
        let host = api.hosts.iter().position(|host| **host == *target.host.as_str()).unwrap_or(0);
        Ok(Admission::Forward(Permit { api: api.index, route: route.index, host }))
    }

    /// The caller wants to know where it stands. Spends nothing.
    async fn inspect(
        &self,
        api: &Api,
        circumstances: &Circumstances<'_>,
        version: u64,
        known: &mut Known,
    ) -> Result<Admission, Denial> {
        let identity = known.identity();
        let organization = api.authorize_inspection(identity, circumstances)?;
        let ends_ms = match &known.caller {
            Some((Caller::Key(key), _)) => key.facts.not_after_ms,
            Some((Caller::Token(token, _), _)) => Some(token.ends_ms),
            None => None,
        };
        let limiter = &*self.shared.limiter;
        let seen = inspect(limiter, api, (identity, organization), ends_ms, version, known.now).await;
        known.standing = self.peek(api, identity, None, known.now);
        Ok(Admission::Inspect(Box::new(seen)))
    }

    /// From a credential to a working one.
    async fn identify(
        &self,
        api: &Api,
        secret: Secret<'_>,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<Identified, Denial> {
        let shared = &self.shared;
        let kind = api.classify(secret);
        let cached = match kind {
            CredentialKind::Key(_) => shared.identities.identify_cached(secret, now_ms),
            CredentialKind::Token | CredentialKind::ForeignToken => {
                shared.identities.tokens.identify_cached(api, secret, now_ms)
            }
            CredentialKind::Junk => Some(Err(Unidentified::Unknown)),
        };
        let answer = match cached {
            Some(answer) => answer,
            None => {
                // A key that is only due for a refresh is no guess, whatever its neighbours did.
                let spent = shared.failures.is_spent(address, now_ms);
                let is_known = || shared.identities.is_known(secret) || shared.identities.tokens.is_known(api, secret);
                if let Some(retry_after_s) = spent.filter(|_| !is_known()) {
                    return Err(Denial::TooManyFailures { retry_after_s });
                }
                shared.metrics.store_round_trips.with_label_values(&[shared.store_kind]).inc();
                match kind {
                    CredentialKind::Key(_) | CredentialKind::Junk => shared.identities.identify(secret).await,
                    CredentialKind::Token | CredentialKind::ForeignToken => {
                        shared.identities.tokens.identify(api, secret).await
                    }
                }
            }
        };
        // A key of another API is nothing here, whatever it opens elsewhere.
        let answer = answer.and_then(|found| match &found.caller {
            Caller::Key(key) if key.facts.api != api.name => Err(Unidentified::Unknown),
            Caller::Key(_) | Caller::Token(..) => Ok(found),
        });
        // A token that has ended was a good one: its holder guesses nothing.
        let is_guess = match answer {
            Err(Unidentified::Unknown) => true,
            Err(Unidentified::Dead(_)) => matches!(kind, CredentialKind::Key(_)),
            Ok(_) | Err(Unidentified::CannotKnow) => false,
        };
        if is_guess {
            shared.failures.count(address, now_ms);
        }
        self.count_lookup(&answer);
        answer.map_err(|why| match why {
            Unidentified::Unknown => Denial::InvalidCredential,
            Unidentified::Dead(fault) => Denial::DeadCredential(fault),
            Unidentified::CannotKnow => Denial::TemporarilyUnavailable,
        })
    }

    /// Who was refused, if it is a key that exists and does not work. Its record was just read.
    fn refused_key(&self, api: &Api, secret: Secret<'_>, denial: &Denial) -> Option<RefusedKey> {
        let is_key =
            matches!(denial, Denial::DeadCredential(_)) && matches!(api.classify(secret), CredentialKind::Key(_));
        let key = is_key.then(|| self.shared.identities.peek(secret)).flatten()?;
        let organization =
            key.organization.current().map_or_else(|| "".into(), |organization| organization.id.to_string());
        Some(RefusedKey { id: key.facts.id.to_string().into(), organization: organization.into() })
    }

    fn count_lookup(&self, answer: &Result<Identified, Unidentified>) {
        let label = match answer {
            Ok(identified) => found_label(identified.found),
            Err(Unidentified::Unknown) => "unknown",
            Err(Unidentified::Dead(_)) => "dead",
            Err(Unidentified::CannotKnow) => "unavailable",
        };
        match answer {
            Ok(identified) if identified.found == Found::Cached => self.shared.metrics.cached_lookups.inc(),
            Ok(_) | Err(_) => self.shared.metrics.lookups.with_label_values(&[label]).inc(),
        }
    }

    /// Takes the grant's tokens. `None` for callers without a budget.
    async fn charge(
        &self,
        grant: &Grant<'_, '_>,
        version: u64,
        now: Moment,
    ) -> Result<Option<(Arc<str>, Verdict)>, Denial> {
        let Some(charges) = grant.charges() else { return Ok(None) };
        // A plan that was changed later than the policy is the newer limit.
        let version = grant.identity.organization().map_or(version, |o| version.max(o.changed_ms));
        let ask = Ask { charges: &charges, version, outage: grant.route.outage, now };
        let verdict = match self.shared.limiter.admit_now(&ask) {
            Some(verdict) => verdict,
            None => self.shared.limiter.admit(&ask).await.map_err(|_| Denial::LimitsUnavailable)?,
        };
        let name = match verdict {
            Verdict::Admitted { .. } => charges.first.name,
            Verdict::Over { index, .. } => charges.iter().nth(index).map_or(charges.first.name, |c| c.name),
        };
        Ok(Some((name.clone(), verdict)))
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

/// Label of how a key was found.
pub fn found_label(found: Found) -> &'static str {
    match found {
        Found::Cached => "cached",
        Found::Stored => "stored",
        Found::Stale => "stale",
    }
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

/// Whether a denial means that a key for servers was seen in a browser.
pub fn is_browser_exposure(denial: &Denial, known: &Known) -> bool {
    *denial == Denial::ServerOnlyKey
        && matches!(&known.caller, Some((Caller::Key(key), _)) if key.facts.class != KeyClass::Public)
}
