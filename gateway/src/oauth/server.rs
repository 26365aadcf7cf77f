//! The authorization server as a whole: which endpoint answers what, in which methods.

use std::sync::Arc;

use http::StatusCode;
use http::header::{self};
use serde_json::json;

use super::error::OAuthError;
use super::http::Request;
use super::pages::{message, style};
use super::throttle::Throttle;
use super::token::{cross_origin, preflight};
use crate::base::answer::Answer;
use crate::base::clock::Clock;
use crate::base::digest::Peppers;
use crate::base::http_client::HttpClient;
use crate::identify::{FailureBudget, Identities};
use crate::observe::Metrics;
use crate::registry::access::Registry;
use crate::registry::keyring::PUBLISHED_MAX_AGE_S;
use crate::registry::signing_keys::SigningKeys;
use crate::registry::user::Passwords;

/// The authorization servers of all APIs: they differ in what the policy says of them.
pub struct AuthorizationServer {
    /// Records.
    pub registry: Registry,
    /// Peppers of the hashes.
    pub peppers: Peppers,
    /// This gateway's caches, which learn at once of what ends here.
    pub identities: Arc<Identities>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Password hashes.
    pub passwords: Passwords,
    /// Failed logins.
    pub logins: Throttle,
    /// Failed guesses at the token endpoint and its neighbours.
    pub failures: FailureBudget,
    /// Asks OpenID Providers.
    pub http_client: Arc<HttpClient>,
    /// What they say of themselves.
    pub providers: super::Providers,
}

impl AuthorizationServer {
    pub(super) fn keys(&self) -> &SigningKeys {
        &self.identities.tokens.keys
    }

    /// Answers a request. Never fails: what cannot be answered is a 503 in the form of its endpoint.
    pub async fn answer(&self, mut request: Request<'_>) -> Answer {
        // HEAD is GET; whoever writes the answer leaves the body out.
        let method = if request.method == "HEAD" { "GET" } else { request.method };
        if let Some(reply) = self.public(&request, method).await {
            return reply;
        }
        match self.registry.now_ms(self.clock.now_ms()).await {
            Ok(now_ms) => request.now_ms = now_ms,
            Err(error) if is_for_clients(request.path) => return cross_origin(OAuthError::from(error).reply("")),
            Err(error) => return self.page_fault(&request, &OAuthError::from(error)),
        }
        match request.path {
            "/oauth/token" | "/oauth/revoke" | "/oauth/introspect" => self.for_clients(&request, method).await,
            _ => self.for_people(&request, method).await,
        }
    }

    /// What needs no store, and so no store's clock: documents, the style, and what is not there.
    async fn public(&self, request: &Request<'_>, method: &str) -> Option<Answer> {
        Some(match request.path {
            "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => match method {
                "GET" => document(request, &metadata(request)),
                _ => Answer::method_not_allowed("GET, HEAD"),
            },
            "/oauth/jwks" => match method {
                "GET" => self.jwks(request).await,
                _ => Answer::method_not_allowed("GET, HEAD"),
            },
            "/oauth/token"
            | "/oauth/revoke"
            | "/oauth/introspect"
            | "/oauth/authorize"
            | "/oauth/login"
            | "/oauth/consent"
            | "/oauth/continue"
            | "/account/login"
            | "/account/applications"
            | "/account/applications/revoke"
            | "/account/logout" => return None,
            "/assets/style.css" if method == "GET" => style(request),
            "/" if method == "GET" => Answer::see_other("/account/applications", "page"),
            _ => {
                let words = ("There is nothing here", "Check the address.");
                message(request, StatusCode::NOT_FOUND, words, None)
            }
        })
    }

    /// The endpoints that programs call with a form (RFC 6749 section 3.2, RFC 7009, RFC 7662).
    async fn for_clients(&self, request: &Request<'_>, method: &str) -> Answer {
        match method {
            "POST" => {}
            "OPTIONS" => return preflight(),
            _ => return cross_origin(Answer::method_not_allowed("POST")),
        }
        let realm = &*request.oauth.name;
        if let Some(retry_after_s) = self.failures.is_spent(request.address, request.now_ms) {
            return cross_origin(OAuthError::too_many(retry_after_s).reply(realm));
        }
        let answer = match request.path {
            "/oauth/token" => self.token(request).await,
            "/oauth/revoke" => self.revoke(request).await,
            _ => self.introspect(request).await,
        };
        cross_origin(answer.unwrap_or_else(|error| {
            if error.is_guess {
                self.failures.count(request.address, request.now_ms);
            }
            error.reply(realm)
        }))
    }

    /// The endpoints that people see in a browser.
    async fn for_people(&self, request: &Request<'_>, method: &str) -> Answer {
        let allowed = match request.path {
            "/oauth/continue" | "/account/login" | "/account/applications" => "GET, HEAD",
            "/account/applications/revoke" | "/account/logout" => "POST",
            _ => "GET, HEAD, POST",
        };
        if !allowed.split(", ").any(|known| known == method) {
            return Answer::method_not_allowed(allowed);
        }
        let answer = match request.path {
            "/oauth/authorize" => self.authorize(request).await,
            "/oauth/login" => self.login(request).await,
            "/oauth/consent" => self.consent(request).await,
            "/oauth/continue" => self.go_on_after_login(request).await,
            "/account/login" => self.account_login(request).await,
            "/account/applications" => self.applications(request).await,
            "/account/applications/revoke" => self.revoke_application(request).await,
            _ => self.log_out(request).await,
        };
        answer.unwrap_or_else(|error| self.page_fault(request, &error))
    }

    fn page_fault(&self, request: &Request<'_>, error: &OAuthError) -> Answer {
        if error.code == super::error::Code::TemporarilyUnavailable {
            let words = ("This does not work at the moment", "Nothing is lost. Try again in a moment.");
            return message(request, StatusCode::SERVICE_UNAVAILABLE, words, None).with(header::RETRY_AFTER, "1");
        }
        let words = ("That did not work", "Go back and try again.");
        message(request, StatusCode::BAD_REQUEST, words, Some(&error.description))
    }

    async fn jwks(&self, request: &Request<'_>) -> Answer {
        let ring = match self.keys().ring() {
            Some(ring) => Ok(ring),
            None => self.keys().maintain().await,
        };
        match ring {
            Ok(ring) => document(request, &ring.jwks(request.now_ms)),
            Err(error) => cross_origin(OAuthError::from(error).reply("")),
        }
    }

    /// Drops what has ended, makes the next signing key in time; for as long as the gateway runs.
    pub async fn maintain(&self) {
        if let Err(error) = self.keys().maintain().await {
            tracing::error!(target: "tollgate::oauth", "the signing keys are not in order: {error}");
        }
        loop {
            match self.registry.store().sweep(self.clock.now_ms()).await {
                Ok(0) => return,
                Ok(dropped) => self.metrics.oauth.swept.inc_by(dropped as u64),
                Err(error) => {
                    tracing::warn!(target: "tollgate::oauth", "what has ended could not be dropped: {error}");
                    return;
                }
            }
        }
    }
}

/// Whether an endpoint answers programs, in JSON.
fn is_for_clients(path: &str) -> bool {
    matches!(path, "/oauth/token" | "/oauth/revoke" | "/oauth/introspect")
}

fn document(request: &Request<'_>, value: &serde_json::Value) -> Answer {
    let if_none_match = request.headers.get(header::IF_NONE_MATCH).map(http::HeaderValue::as_bytes);
    Answer::public("application/json", value.to_string(), PUBLISHED_MAX_AGE_S, if_none_match)
}

/// What is true of this authorization server (RFC 8414 section 2).
fn metadata(request: &Request<'_>) -> serde_json::Value {
    let issuer = &*request.oauth.issuer;
    let at = |path: &str| format!("{issuer}{path}");
    let scopes: Vec<&str> = request.api.scopes.iter().map(|(scope, _)| scope.as_str()).collect();
    json!({
        "issuer": issuer,
        "authorization_endpoint": at("/oauth/authorize"),
        "token_endpoint": at("/oauth/token"),
        "revocation_endpoint": at("/oauth/revoke"),
        "introspection_endpoint": at("/oauth/introspect"),
        "jwks_uri": at("/oauth/jwks"),
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
        "revocation_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
        "authorization_response_iss_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "protected_resources": [&*request.oauth.audience],
    })
}
