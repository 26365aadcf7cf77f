//! A decision told step by step. It calls the functions that the proxy calls and prints what they
//! return: there is no second evaluator to drift away.

use std::fmt::Write as _;

use crate::bounds::Bounds;
use crate::identity::{Identity, KeyFault};
use crate::path::PathFault;
use crate::policy::Policy;
use crate::route::{Access, Circumstances, Mode, Refusal};
use crate::target::{Target, TargetFault};

/// What is asked about.
#[derive(Debug)]
pub struct Question<'a> {
    /// Method as typed.
    pub method: &'a str,
    /// Path and query as typed.
    pub target: &'a str,
    /// Host as typed.
    pub host: &'a str,
    /// Who asks. Whether a key works at all is part of the answer.
    pub caller: Identity<'a>,
    /// Where the request comes from.
    pub circumstances: Circumstances<'a>,
    /// When, Unix milliseconds.
    pub now_ms: u64,
    /// Bounds of the gateway.
    pub bounds: Bounds,
}

impl<'a> Question<'a> {
    /// The target, canonical.
    pub fn target(&self) -> Result<Target<'a>, TargetFault> {
        Target::parse(self.method, self.target.as_bytes(), Some(self.host.as_bytes()), None, &self.bounds)
    }
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// What was looked at: `target`, `api`, `credential`, `place`, `route`, `scopes`, `limits`, `upstream`.
    pub step: &'static str,
    /// Whether the request got past it.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// Steps in order; the last one refused, if the status is not 200.
    pub steps: Vec<Step>,
    /// Status that the caller would see; 200 stands for whatever the upstream answers.
    pub status: u16,
    /// Problem code, when refused.
    pub code: Option<&'static str>,
}

impl Explanation {
    fn pass(&mut self, step: &'static str, found: impl Into<String>) {
        self.steps.push(Step { step, passed: true, found: found.into() });
    }

    fn refuse(mut self, step: &'static str, found: impl Into<String>, status: u16, code: &'static str) -> Self {
        self.steps.push(Step { step, passed: false, found: found.into() });
        self.status = status;
        self.code = Some(code);
        self
    }
}

/// Explains what would happen, without spending anything.
pub fn explain(policy: &Policy, question: &Question<'_>) -> Explanation {
    let mut told = Explanation { steps: Vec::new(), status: 200, code: None };
    let target = match question.target() {
        Ok(target) => target,
        Err(fault @ (TargetFault::TooLong | TargetFault::Path(PathFault::TooLong))) => {
            return told.refuse("target", fault.detail(), 414, "too_large");
        }
        Err(fault) => return told.refuse("target", fault.detail(), 400, "invalid_request"),
    };
    told.pass("target", format!("{} {} at {}", question.method, target.path.as_str(), target.host.as_str()));
    let Some(api) = policy.api_at(&target.host) else {
        return told.refuse("api", "no API has this host", 404, "no_such_route");
    };
    told.pass("api", api.name.to_string());
    let identity = match judge_credential(question, &api.name) {
        Ok((identity, found)) => {
            told.pass("credential", found);
            identity
        }
        Err((found, code)) => return told.refuse("credential", found, 401, code),
    };
    match api.find(&target) {
        Some(route) => {
            let needs = match &route.access {
                Access::Public => "public".to_owned(),
                Access::Authenticated => "any working credential".to_owned(),
                Access::Scopes(scopes) => format!("scopes: {scopes}"),
            };
            let mode = match route.mode {
                Mode::Enforce => "",
                Mode::Shadow => " (shadow: counted, not enforced)",
            };
            told.pass("route", format!("{} needs {needs}{mode}", route.id));
        }
        None => told.pass("route", "none matches"),
    }
    let grant = match api.authorize(&target, identity, &question.circumstances) {
        Ok(grant) => grant,
        Err(refusal) => return refused(told, refusal, identity),
    };
    told.pass("scopes", if grant.shadowed { "missing, but only shadowed".to_owned() } else { have(identity) });
    match grant.charges() {
        Some(charges) => {
            for charge in charges.iter() {
                told.pass(
                    "limits",
                    format!(
                        "{}: {}/{}, this request takes {}",
                        charge.name,
                        charge.count,
                        charge.period.short(),
                        charge.cost
                    ),
                );
            }
        }
        None => told.pass("limits", "none: anonymous callers have no budget"),
    }
    told.pass("upstream", grant.upstream().addresses.join(", "));
    told
}

/// Who asks, if the credential works at this API; otherwise what is wrong, and the problem code.
fn judge_credential<'a>(question: &Question<'a>, api: &str) -> Result<(Identity<'a>, String), (String, &'static str)> {
    let (key, organization) = match question.caller {
        Identity::Anonymous => return Ok((Identity::Anonymous, "none".to_owned())),
        Identity::Token(token, organization) => {
            let what = format!(
                "a token of the application {} granted by the user {} of organization {}",
                token.client, token.user, organization.id
            );
            if *token.api != *api {
                return Err((format!("{what} belongs to the API {}", token.api), "invalid_credential"));
            }
            return Ok((question.caller, what));
        }
        Identity::Key(key, organization) => (key, organization),
    };
    let (class, environment) = (key.class.as_str(), key.environment.as_str());
    let what = format!("{} ({class}, {environment}) of organization {}", key.id, organization.id);
    if *key.api != *api {
        return Err((format!("{what} belongs to the API {}", key.api), "invalid_credential"));
    }
    match key.live_at(question.now_ms) {
        Ok(()) => Ok((Identity::Key(key, organization), what)),
        Err(KeyFault::Expired) => Err((format!("{what} has expired"), "expired_credential")),
        Err(KeyFault::Revoked) => Err((format!("{what} is revoked"), "revoked_credential")),
        Err(KeyFault::Suspended) => Err((format!("{what} is suspended"), "suspended_credential")),
    }
}

fn have(identity: Identity<'_>) -> String {
    let mut text = String::new();
    for scope in identity.effective_scopes() {
        let _ = write!(text, "{}{scope}", if text.is_empty() { "has: " } else { " " });
    }
    if text.is_empty() { "has none".to_owned() } else { text }
}

fn refused(told: Explanation, refusal: Refusal, identity: Identity<'_>) -> Explanation {
    match refusal {
        Refusal::MissingCredential => told.refuse("route", "a credential is needed", 401, "missing_credential"),
        Refusal::NoSuchRoute => told.refuse("route", "no route for this method and path", 404, "no_such_route"),
        Refusal::MethodNotAllowed { allow } => {
            told.refuse("route", format!("the path takes {allow}"), 405, "method_not_allowed")
        }
        Refusal::PathForm => {
            told.refuse("route", "the route does not take such a path (`paths_may`)", 400, "invalid_request")
        }
        Refusal::MissingScopes { required } => {
            told.refuse("scopes", format!("needs {required}; {}", have(identity)), 403, "insufficient_scope")
        }
        Refusal::PublicKeyNotAccepted => {
            told.refuse("scopes", "the route takes no public keys", 403, "insufficient_scope")
        }
        Refusal::AddressNotAllowed => {
            told.refuse("place", "the key may not be used from this address", 403, "address_not_allowed")
        }
        Refusal::OriginNotAllowed => {
            told.refuse("place", "the key may not be used from this origin", 403, "origin_not_allowed")
        }
        Refusal::ServerOnlyKey => {
            told.refuse("place", "a key of this class may not be used from a browser", 403, "server_only_key")
        }
    }
}
