//! The compiled policy: APIs, routes, and the one place where access is decided.
//!
//! A [`Grant`] can only be made by [`Api::authorize`]; whoever holds one knows that identity,
//! address, origin, route and scopes were checked. There is no default access: a route without an
//! answer to "who may call it" does not compile, and a request without a route is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cors::Cors;
use crate::credential::Secret;
use crate::file::LimitHeadersFile as LimitHeaders;
pub use crate::file::OutageFile as Outage;
use crate::identity::{Environment, Identity, Key, KeyClass, Organization, Scope, Scopes};
use crate::limit::{Charges, Limit, Payer, Plan};
use crate::oauth::{Issuer, OAuth};
use crate::path::Forms;
use crate::router::{RouteIndex, Router};
use crate::target::{Method, Target};
pub use crate::upstream::{Health, HttpVersion, Upstream, UpstreamTls};

/// What a policy calls by name. Its keys come from the operator alone, so that a fast hash does: a
/// client can look names up, and not put any in.
pub type Names<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// Who may call a route. There is deliberately no `Default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, with or without a credential.
    Public,
    /// Any working credential of the API.
    Authenticated,
    /// A working credential with all of these scopes.
    Scopes(Scopes),
}

/// Whether missing scopes refuse a request or are only counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse.
    Enforce,
    /// Count and log.
    Shadow,
}

/// Limit class of a route, for credentials without a class of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// Counts against the plan's read limit.
    Read,
    /// Counts against the plan's write limit.
    Write,
}

/// Protocols that pass only where a route says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protocols {
    /// WebSocket upgrades.
    pub websocket: bool,
    /// Answers that never end.
    pub sse: bool,
    /// gRPC.
    pub grpc: bool,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its place in the API.
    pub index: RouteIndex,
    /// Unique in its API; a metric label.
    pub id: Arc<str>,
    /// Who may call it.
    pub access: Access,
    /// Whether public keys may.
    pub public_keys: bool,
    /// Its limit class.
    pub class: RouteClass,
    /// Tokens a request takes.
    pub cost: u32,
    /// Its own limits.
    pub limits: Box<[Limit]>,
    /// Largest request body, in bytes.
    pub body_bytes_max: u64,
    /// Longest silence of the upstream; `None` for the upstream's own.
    pub timeout: Option<Duration>,
    /// Whether exchanges under way end when their credential does.
    pub ends_with_credential: bool,
    /// Protocols allowed.
    pub protocols: Protocols,
    /// Forms of paths that it takes beside the ordinary ones.
    pub paths_may: Forms,
    /// What limits do while their store cannot answer.
    pub outage: Outage,
    /// Enforced or shadowed.
    pub mode: Mode,
}

/// One API.
#[derive(Clone, Debug)]
pub struct Api {
    /// Its place in the policy.
    pub index: u32,
    /// Its name; a metric label.
    pub name: Arc<str>,
    /// `realm` of `WWW-Authenticate`; printable ASCII without quote and backslash.
    pub realm: Box<str>,
    /// Hosts, lower case.
    pub hosts: Box<[Box<str>]>,
    /// Its authorization server, which this gateway is too.
    pub oauth: Option<Arc<OAuth>>,
    /// How credentials of ours begin, those of other APIs too: nobody else is asked about them.
    pub(crate) reserved: Arc<[Box<str>]>,
    /// Other issuers whose tokens are accepted.
    pub issuers: Box<[Arc<Issuer>]>,
    /// Key prefixes and what they open.
    pub prefixes: Box<[(Box<str>, Environment)]>,
    /// Whether keys without checksum are looked up.
    pub foreign_keys: bool,
    /// Scopes and what they allow, in words.
    pub scopes: Box<[(Scope, Box<str>)]>,
    /// Plans by name.
    pub plans: Names<Plan>,
    /// Name of the plan of organizations that name none or one that is gone.
    pub default_plan: Box<str>,
    /// Classes of keys that may be used from a browser.
    pub browser_keys: Box<[KeyClass]>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// Path at which a caller sees its own rights and limits; `None` when there is none.
    pub inspection: Option<Box<str>>,
    /// Which limit headers are sent.
    pub limit_headers: LimitHeaders,
    /// Backend for live credentials.
    pub live: Upstream,
    /// Backend for test credentials.
    pub test: Option<Upstream>,
    /// All routes.
    pub routes: Box<[Route]>,
    pub(crate) router: Router,
    pub(crate) fallback_plan: Plan,
}

/// Why a request that was understood is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No credential, and the request needs one (or its route is nobody's business).
    MissingCredential,
    /// A known caller asked for what is not there.
    NoSuchRoute,
    /// The path is there, and takes other methods.
    MethodNotAllowed {
        /// Those that the caller may know of, as `Allow` names them.
        allow: Box<str>,
    },
    /// The path has a form that the route does not take.
    PathForm,
    /// These scopes are needed and not all there.
    MissingScopes {
        /// What the route requires.
        required: Scopes,
    },
    /// A public key on a route that does not take public keys.
    PublicKeyNotAccepted,
    /// The key may not be used from this address.
    AddressNotAllowed,
    /// The key may not be used from this origin.
    OriginNotAllowed,
    /// The key belongs on a server and came from a browser.
    ServerOnlyKey,
}

/// What a decision needs of a request beside target and identity.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The caller's address.
    pub address: IpAddr,
    /// `Origin`, if sent.
    pub origin: Option<&'a str>,
    /// Whether it says what only browsers say of themselves: `Sec-Fetch-Site` with `Sec-Fetch-Dest`.
    /// `Sec-Fetch-Mode` alone comes from Node's `fetch` too.
    pub has_fetch_metadata: bool,
}

/// Proof that a request may be forwarded, as far as access goes. Limits come next.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Grant<'p, 'i> {
    /// The API.
    pub api: &'p Api,
    /// The route.
    pub route: &'p Route,
    /// Who asks.
    pub identity: Identity<'i>,
    /// Scopes are missing but the route only shadows its authorization.
    pub shadowed: bool,
}

impl<'p> Grant<'p, '_> {
    /// The buckets to charge; `None` for anonymous callers of public routes, who have no budget.
    pub fn charges(&self) -> Option<Charges<'p>> {
        match self.identity {
            Identity::Anonymous => None,
            Identity::Key(_, organization) | Identity::Token(_, organization) => {
                let payer = Payer::of(self.identity, self.route.class)?;
                Some(self.api.plan(organization).charges(&self.route.limits, self.route.cost, payer, organization))
            }
        }
    }

    /// The backend that the caller's environment opens.
    pub fn upstream(&self) -> &'p Upstream {
        self.api.upstream(self.identity.environment())
    }
}

/// What the prefix of a credential says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A key that could exist and should be looked up.
    Key(Environment),
    /// A token of the API's own authorization server.
    Token,
    /// Perhaps a token of another issuer.
    ForeignToken,
    /// Nothing that could exist: refused without a look-up.
    Junk,
}

impl Api {
    /// What a credential is, from its prefix and form alone.
    pub fn classify(&self, secret: Secret<'_>) -> CredentialKind {
        use crate::credential::{KeyForm, key_form};
        let prefixed = self.prefixes.iter().find(|(prefix, _)| secret.expose().starts_with(&**prefix));
        let Some((prefix, environment)) = prefixed else { return self.classify_token(secret) };
        match key_form(secret, prefix) {
            KeyForm::Minted => CredentialKind::Key(*environment),
            KeyForm::Foreign if self.foreign_keys => CredentialKind::Key(*environment),
            KeyForm::Foreign | KeyForm::Malformed => CredentialKind::Junk,
        }
    }

    /// Tokens of ours go nowhere but to us, also when this API has no authorization server.
    fn classify_token(&self, secret: Secret<'_>) -> CredentialKind {
        use crate::credential::{CLIENT_SECRET_PREFIX, REFRESH_TOKEN_PREFIX, TOKEN_PREFIX};
        let text = secret.expose();
        if text.starts_with(TOKEN_PREFIX) && self.oauth.is_some() {
            return CredentialKind::Token;
        }
        let is_ours = [TOKEN_PREFIX, REFRESH_TOKEN_PREFIX, CLIENT_SECRET_PREFIX].iter().any(|p| text.starts_with(p));
        if is_ours || self.reserved.iter().any(|prefix| text.starts_with(&**prefix)) {
            return CredentialKind::Junk;
        }
        if self.issuers.is_empty() { CredentialKind::Junk } else { CredentialKind::ForeignToken }
    }

    /// The route that a target matches, if any.
    pub fn find(&self, target: &Target<'_>) -> Option<&Route> {
        let index = self.router.find(target.path.decoded(), target.method)?;
        self.routes.get(index as usize)
    }

    /// The backend of an environment. An API without sandbox has no test keys to ask with.
    pub fn upstream(&self, environment: Environment) -> &Upstream {
        match environment {
            Environment::Live => &self.live,
            Environment::Test => self.test.as_ref().unwrap_or(&self.live),
        }
    }

    /// The plan of an organization; one whose plan is gone is on the default plan.
    pub fn plan(&self, organization: &Organization) -> &Plan {
        self.plans.get(&organization.plan).or_else(|| self.plans.get(&self.default_plan)).unwrap_or(&self.fallback_plan)
    }

    /// Decides whether an identity may make a request, in the documented order: address, origin,
    /// route, scopes. The key's own validity was checked when it became an [`Identity`].
    pub fn authorize<'p, 'i>(
        &'p self,
        target: &Target<'_>,
        identity: Identity<'i>,
        circumstances: &Circumstances<'_>,
    ) -> Result<Grant<'p, 'i>, Refusal> {
        if let Identity::Key(key, _) = identity {
            self.check_place(key, circumstances)?;
        }
        let route = match (self.find(target), identity) {
            (Some(route), Identity::Key(..) | Identity::Token(..)) => route,
            (Some(route), Identity::Anonymous) if route.access == Access::Public => route,
            (Some(_), Identity::Anonymous) => return Err(Refusal::MissingCredential),
            (None, identity) => return Err(self.unmatched(target, identity)),
        };
        if !target.path.forms().are_among(route.paths_may) {
            return Err(Refusal::PathForm);
        }
        let shadowed = match (route.check_scopes(identity), route.mode) {
            (Ok(()), Mode::Enforce | Mode::Shadow) => false,
            (Err(_), Mode::Shadow) => true,
            (Err(refusal), Mode::Enforce) => return Err(refusal),
        };
        Ok(Grant { api: self, route, identity, shadowed })
    }

    /// Why no route takes a request. Who is not known learns of public routes only.
    fn unmatched(&self, target: &Target<'_>, identity: Identity<'_>) -> Refusal {
        let is_known = !matches!(identity, Identity::Anonymous);
        let may_know = |index: RouteIndex| {
            is_known || self.routes.get(index as usize).is_some_and(|route| route.access == Access::Public)
        };
        let known = self.router.methods(target.path.decoded()).filter(|(_, index)| may_know(*index));
        let mut methods: Vec<&str> = known.map(|(method, _)| method).collect();
        if methods.contains(&Method::GET.as_str()) {
            methods.push(Method::HEAD.as_str());
        }
        methods.sort_unstable();
        match (methods.is_empty(), is_known) {
            (true, true) if target.path.forms() != Forms::NONE => Refusal::PathForm,
            (false, _) => Refusal::MethodNotAllowed { allow: methods.join(", ").into() },
            (true, true) => Refusal::NoSuchRoute,
            (true, false) => Refusal::MissingCredential,
        }
    }

    /// Whether a request asks for the caller's own rights and limits.
    pub fn is_inspection(&self, target: &Target<'_>) -> bool {
        self.inspection.as_deref() == Some(target.path.decoded()) && target.method.is_some_and(Method::is_read)
    }

    /// Decides whether a caller may see its own rights and limits: anyone may who is known, from
    /// where its key may be used. No scope is needed.
    pub fn authorize_inspection<'i>(
        &self,
        identity: Identity<'i>,
        circumstances: &Circumstances<'_>,
    ) -> Result<&'i Organization, Refusal> {
        match identity {
            Identity::Anonymous => Err(Refusal::MissingCredential),
            Identity::Key(key, organization) => {
                self.check_place(key, circumstances)?;
                Ok(organization)
            }
            Identity::Token(_, organization) => Ok(organization),
        }
    }

    /// Address, browser and origin rules of a key.
    fn check_place(&self, key: &Key, circumstances: &Circumstances<'_>) -> Result<(), Refusal> {
        let places = key.places.as_deref();
        let networks = places.map_or(&[][..], |p| &p.networks);
        if !networks.is_empty() && !networks.iter().any(|n| n.contains(&circumstances.address)) {
            return Err(Refusal::AddressNotAllowed);
        }
        let is_browser = circumstances.origin.is_some() || circumstances.has_fetch_metadata;
        if is_browser && !self.browser_keys.contains(&key.class) {
            return Err(Refusal::ServerOnlyKey);
        }
        let origins = places.map_or(&[][..], |p| &p.origins);
        if !origins.is_empty() && !circumstances.origin.is_some_and(|sent| origins.iter().any(|o| o.matches(sent))) {
            return Err(Refusal::OriginNotAllowed);
        }
        Ok(())
    }
}

impl Route {
    /// Whether exchanges of this route that outlast their request end with their credential.
    pub fn ends_with_credential(&self) -> bool {
        let Protocols { websocket, sse, grpc } = self.protocols;
        self.ends_with_credential && (websocket || sse || grpc)
    }

    fn check_scopes(&self, identity: Identity<'_>) -> Result<(), Refusal> {
        if let Identity::Key(key, _) = identity
            && key.class == KeyClass::Public
            && !self.public_keys
            && self.access != Access::Public
        {
            return Err(Refusal::PublicKeyNotAccepted);
        }
        match &self.access {
            Access::Public | Access::Authenticated => Ok(()),
            Access::Scopes(required) if required.iter().all(|scope| identity.has(scope)) => Ok(()),
            Access::Scopes(required) => Err(Refusal::MissingScopes { required: required.clone() }),
        }
    }
}
