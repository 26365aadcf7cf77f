//! A decision told step by step. It calls the functions that the gateway calls and prints what they
//! return: there is no second evaluator to drift away.

use std::fmt::Write as _;

use crate::bounds::Bounds;
use crate::destination::Destination;
use crate::identity::{Identity, KeyFault};
use crate::policy::Policy;
use crate::refusal_code::RefusalCode;
use crate::route::{Access, Api, Circumstances, Grant, Mode, Refusal};
use crate::target::{Target, TargetFault};

/// What is asked about.
#[derive(Debug)]
pub struct Question<'a> {
    /// Whether it comes over TLS.
    pub is_https: bool,
    /// Method as typed.
    pub method: &'a str,
    /// Path and query as typed.
    pub target: &'a str,
    /// Host as typed.
    pub host: &'a str,
    /// Who asks; none when the credential is nobody's. Whether a key works at all is part of the answer.
    pub caller: Option<Identity<'a>>,
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

    /// Browsers send `OPTIONS` with an origin as preflights only.
    fn is_preflight(&self) -> bool {
        self.method == "OPTIONS" && self.circumstances.origin.is_some()
    }
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// What was looked at: `transport`, `target`, `api`, `credential`, `place`, `route`, `scopes`,
    /// `limits`, `upstream`.
    pub step: &'static str,
    /// Whether the request got past it.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    /// The API's upstream: with whatever status.
    Upstream,
    /// The API's authorization server, which is the gateway: with whatever status.
    Issuer,
    /// The gateway, with the status that stands beside this.
    Gateway,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// Steps in order; the last one refused, if there is a code.
    pub steps: Vec<Step>,
    /// Who answers.
    pub answered_by: AnsweredBy,
    /// Status that the caller would see; 200 stands for whatever the upstream or the issuer answers.
    pub status: u16,
    /// Problem code, when refused.
    pub code: Option<&'static str>,
}

impl Explanation {
    fn pass(&mut self, step: &'static str, found: impl Into<String>) {
        self.steps.push(Step { step, passed: true, found: found.into() });
    }

    fn refuse(mut self, step: &'static str, found: impl Into<String>, code: RefusalCode) -> Self {
        self.steps.push(Step { step, passed: false, found: found.into() });
        (self.answered_by, self.status, self.code) = (AnsweredBy::Gateway, code.status(), Some(code.as_str()));
        self
    }

    fn answered(mut self, step: &'static str, found: &str, (by, status): (AnsweredBy, u16)) -> Self {
        self.pass(step, found);
        (self.answered_by, self.status) = (by, status);
        self
    }
}

/// Explains what would happen, without spending anything.
pub fn explain(policy: &Policy, question: &Question<'_>) -> Explanation {
    let mut told = Explanation { steps: Vec::new(), answered_by: AnsweredBy::Upstream, status: 200, code: None };
    if !question.is_https {
        return told.refuse("transport", "plain HTTP is always refused", RefusalCode::HTTPS_REQUIRED);
    }
    if question.method == "CONNECT" {
        return told.refuse("target", "nothing here is a tunnel to elsewhere", RefusalCode::METHOD_NOT_ALLOWED);
    }
    let target = match question.target() {
        Ok(target) => target,
        Err(fault) => return told.refuse("target", fault.detail(), fault.code()),
    };
    told.pass("target", format!("{} {} at {}", question.method, target.path.as_str(), target.host.as_str()));
    let destination = match policy.destination(&target, question.is_preflight()) {
        Ok(destination) => destination,
        Err(refusal) => return told.refuse("api", "no API has this host", refusal.code()),
    };
    told.pass("api", destination.api().name.to_string());
    match destination {
        Destination::Issuer(..) => {
            told.answered("route", "the host of the authorization server", (AnsweredBy::Issuer, 200))
        }
        Destination::Preflight(_) => told.answered(
            "route",
            "a preflight (OPTIONS with an origin), answered from `cors`",
            (AnsweredBy::Gateway, 204),
        ),
        Destination::Metadata(_) => {
            told.answered("route", "what the API says of its authorization servers", (AnsweredBy::Gateway, 200))
        }
        Destination::Inspection(api) => match judge_credential(question, &api.name) {
            Ok((identity, found)) => {
                told.pass("credential", found);
                match api.authorize_inspection(identity, &question.circumstances) {
                    Ok(_) => told.answered("route", "the caller's own rights and limits", (AnsweredBy::Gateway, 200)),
                    Err(refusal) => refused(told, &refusal, identity),
                }
            }
            Err((found, code)) => told.refuse("credential", found, code),
        },
        Destination::Route(api) => explain_route(told, api, &target, question),
    }
}

/// The steps of a request for a route.
fn explain_route(mut told: Explanation, api: &Api, target: &Target<'_>, question: &Question<'_>) -> Explanation {
    let identity = match judge_credential(question, &api.name) {
        Ok((identity, found)) => {
            told.pass("credential", found);
            identity
        }
        Err((found, code)) => return told.refuse("credential", found, code),
    };
    match api.find(target) {
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
    match api.authorize(target, identity, &question.circumstances) {
        Ok(grant) => {
            explain_grant(&mut told, &grant);
            told
        }
        Err(refusal) => refused(told, &refusal, identity),
    }
}

fn explain_grant(told: &mut Explanation, grant: &Grant<'_, '_>) {
    let missing = "missing, but only shadowed".to_owned();
    told.pass("scopes", if grant.shadowed { missing } else { have(grant.identity) });
    match grant.charges() {
        Some(charges) => charges.iter().for_each(|charge| {
            let (name, count, period) = (charge.name, charge.count, charge.period.short());
            told.pass("limits", format!("{name}: {count}/{period}, this request takes {}", charge.cost));
        }),
        None => told.pass("limits", "none: anonymous callers have no budget"),
    }
    told.pass("upstream", grant.upstream().addresses.join(", "));
}

/// Who asks, if the credential works at this API; otherwise what is wrong, and how it is answered.
fn judge_credential<'a>(question: &Question<'a>, api: &str) -> Result<(Identity<'a>, String), (String, RefusalCode)> {
    let (key, organization) = match question.caller {
        None => return Err(("nobody has this credential".to_owned(), RefusalCode::INVALID_CREDENTIAL)),
        Some(Identity::Anonymous) => return Ok((Identity::Anonymous, "none".to_owned())),
        Some(Identity::Token(token, organization)) => {
            let what = format!(
                "a token of the application {} granted by the user {} of organization {}",
                token.client, token.user, organization.id
            );
            if *token.api != *api {
                return Err((format!("{what} belongs to the API {}", token.api), RefusalCode::INVALID_CREDENTIAL));
            }
            return Ok((Identity::Token(token, organization), what));
        }
        Some(Identity::Key(key, organization)) => (key, organization),
    };
    let (class, environment) = (key.class.as_str(), key.environment.as_str());
    let what = format!("{} ({class}, {environment}) of organization {}", key.id, organization.id);
    if *key.api != *api {
        return Err((format!("{what} belongs to the API {}", key.api), RefusalCode::INVALID_CREDENTIAL));
    }
    let how = |fault| match fault {
        KeyFault::Expired => "has expired",
        KeyFault::Revoked => "is revoked",
        KeyFault::Suspended => "is suspended",
    };
    match key.live_at(question.now_ms) {
        Ok(()) => Ok((Identity::Key(key, organization), what)),
        Err(fault) => Err((format!("{what} {}", how(fault)), fault.code())),
    }
}

fn have(identity: Identity<'_>) -> String {
    let mut text = String::new();
    for scope in identity.effective_scopes() {
        let _ = write!(text, "{}{scope}", if text.is_empty() { "has: " } else { " " });
    }
    if text.is_empty() { "has none".to_owned() } else { text }
}

fn refused(told: Explanation, refusal: &Refusal, identity: Identity<'_>) -> Explanation {
    let (step, found) = match refusal {
        Refusal::MissingCredential => ("route", "a credential is needed".to_owned()),
        Refusal::NoSuchRoute => ("route", "no route for this method and path".to_owned()),
        Refusal::MethodNotAllowed { allow } => ("route", format!("the path takes {allow}")),
        Refusal::PathForm => ("route", "the route does not take such a path (`paths_may`)".to_owned()),
        Refusal::MissingScopes { required } => ("scopes", format!("needs {required}; {}", have(identity))),
        Refusal::PublicKeyNotAccepted => ("scopes", "the route takes no public keys".to_owned()),
        Refusal::AddressNotAllowed => ("place", "the key may not be used from this address".to_owned()),
        Refusal::OriginNotAllowed => ("place", "the key may not be used from this origin".to_owned()),
        Refusal::ServerOnlyKey => ("place", "a key of this class may not be used from a browser".to_owned()),
    };
    told.refuse(step, found, refusal.code())
}
