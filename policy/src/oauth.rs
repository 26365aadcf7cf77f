//! Tokens as a policy knows them: an API's authorization server, and other issuers it trusts.
//!
//! Whose a token is, is decided by its prefix and by its `iss` alone, before anything is asked of
//! anybody. What the issuer says about itself in a token (`jku`, `x5u`, `jwk`) is never used.

use std::collections::HashMap;

use crate::credential::Secret;
pub use crate::file::AlgorithmFile as Algorithm;
use crate::identity::{Organization, Scopes};
use crate::jws::{self, Claims};

/// An authorization server that this gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// Issuer identifier (RFC 8414 section 2), byte for byte.
    pub issuer: Box<str>,
    /// Its host, lower case, without port.
    pub host: Box<str>,
    /// The product's name, for people.
    pub name: Box<str>,
    /// The `aud` of its tokens.
    pub audience: Box<str>,
    /// Where the API says that this is its authorization server (RFC 9728 section 3).
    pub resource_metadata: Box<str>,
    /// Where lost people are sent.
    pub home: Option<Box<str>>,
    /// Who knows the users.
    pub login: Login,
}

/// Path of the protected-resource metadata (RFC 9728 section 3).
pub const RESOURCE_METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// Who knows the users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// Our own accounts.
    Builtin,
    /// A page of the company's own.
    Handoff {
        /// The page.
        url: Box<str>,
        /// Public keys of signed logins, as JWK texts.
        keys: Box<[Box<str>]>,
        /// Whether that page asks for consent too.
        consents: bool,
    },
    /// An OpenID Provider.
    Oidc {
        /// Its issuer identifier.
        issuer: Box<str>,
        /// Our client id.
        client_id: Box<str>,
        /// File with our secret.
        client_secret_file: Box<str>,
        /// Organization that its users join.
        organization: Option<Box<str>>,
    },
}

/// Whether text is an absolute URL that we are willing to call or to send people to: https, or http
/// on loopback.
pub fn is_url(text: &str) -> bool {
    crate::compile::oauth::url(text).is_ok()
}

/// Another issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The `iss`, byte for byte.
    pub issuer: Box<str>,
    /// The `aud` its tokens must have.
    pub audience: Box<str>,
    /// How a token of it is judged.
    pub judged: Judged,
    /// The claim with the scopes.
    pub scope_claim: Box<str>,
    /// What its tokens may do at most.
    pub permissions: Scopes,
    /// Plan of its users; empty for the default plan.
    pub plan: Box<str>,
    /// A claim that says the plan.
    pub plan_claim: Option<Box<str>>,
    /// What values of that claim mean.
    pub plans: HashMap<Box<str>, Box<str>>,
}

/// How a token of another issuer is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// By its signature.
    ByKeys {
        /// Where the public keys are.
        jwks: Box<str>,
        /// Algorithms of these keys.
        algorithms: Box<[Algorithm]>,
    },
    /// By asking the issuer.
    ByAsking {
        /// The introspection endpoint.
        endpoint: Box<str>,
        /// Our client id.
        client_id: Box<str>,
        /// File with our secret.
        client_secret_file: Box<str>,
        /// How its tokens begin; `None` for whatever is no JWT.
        prefix: Option<Box<str>>,
    },
}

impl Issuer {
    /// The organization that stands for the users of this issuer who are on the same plan; which
    /// one, the claims say.
    pub fn organization(&self, claims: &Claims) -> Organization {
        let said = self.plan_claim.as_ref().and_then(|name| self.plans.get(claims.text(name)?));
        let plan = said.unwrap_or(&self.plan);
        Organization {
            id: "".into(),
            subject: crate::limit::stable_number(&["issuer", &self.issuer, plan]),
            plan: plan.clone(),
            permissions: self.permissions.clone(),
            changed_ms: 0,
        }
    }
}

impl crate::route::Api {
    /// Which of the other issuers a credential can be of: by prefix, then by the `iss` of a JWT,
    /// then whoever is asked about everything else.
    pub fn issuer_of(&self, secret: Secret<'_>) -> Option<&std::sync::Arc<Issuer>> {
        let text = secret.expose();
        let prefix_of = |issuer: &Issuer| match &issuer.judged {
            Judged::ByAsking { prefix, .. } => Some(prefix.clone()),
            Judged::ByKeys { .. } => None,
        };
        let by_prefix = self.issuers.iter().find(|i| prefix_of(i).flatten().is_some_and(|p| text.starts_with(&*p)));
        if by_prefix.is_some() {
            return by_prefix;
        }
        match jws::parse(text) {
            Ok(token) => {
                let claims = token.claims().ok()?;
                self.issuers.iter().find(|i| matches!(i.judged, Judged::ByKeys { .. }) && *i.issuer == *claims.iss)
            }
            Err(_) => self.issuers.iter().find(|i| prefix_of(i) == Some(None)),
        }
    }
}
