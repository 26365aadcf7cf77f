//! What can go wrong at the endpoints, and the one form each has.
//!
//! Errors of the token endpoint and its neighbours are RFC 6749 JSON (section 5.2); errors of the
//! authorization endpoint go back to the application as parameters (section 4.1.2.1) once it is
//! proven, and onto a page before that. An outage is a 503, never an `invalid_grant`: a client would
//! throw its refresh token away.

use http::{StatusCode, header};

use super::http::FormFault;
use crate::base::answer::Answer;
use crate::registry::signing_keys::SigningKeysError;
use crate::store::StoreError;

/// The error codes of RFC 6749 sections 4.1.2.1 and 5.2, RFC 7662, RFC 8707 and OpenID Connect Core
/// section 3.1.2.6 that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the RFCs")]
pub enum Code {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
    InvalidScope,
    InvalidTarget,
    AccessDenied,
    LoginRequired,
    ConsentRequired,
    RequestNotSupported,
    RequestUriNotSupported,
    /// Too many failed attempts, with 429; and an outage, with 503.
    TemporarilyUnavailable,
}

impl Code {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::InvalidClient => "invalid_client",
            Code::InvalidGrant => "invalid_grant",
            Code::UnauthorizedClient => "unauthorized_client",
            Code::UnsupportedGrantType => "unsupported_grant_type",
            Code::UnsupportedResponseType => "unsupported_response_type",
            Code::InvalidScope => "invalid_scope",
            Code::InvalidTarget => "invalid_target",
            Code::AccessDenied => "access_denied",
            Code::LoginRequired => "login_required",
            Code::ConsentRequired => "consent_required",
            Code::RequestNotSupported => "request_not_supported",
            Code::RequestUriNotSupported => "request_uri_not_supported",
            Code::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

/// A refusal: a code, a sentence for the developer, and how it is sent where there is a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthError {
    /// The code.
    pub code: Code,
    /// What to do about it. Holds nothing that was sent.
    pub description: String,
    /// Whether the client tried HTTP Basic, and so gets a 401 with a challenge.
    pub tried_basic: bool,
    /// Seconds to wait, after too many failures.
    pub retry_after_s: Option<u64>,
    /// Whether a secret was guessed wrong, which counts against the budget of its address. Codes and
    /// refresh tokens cannot be guessed: those that fail are old.
    pub is_guess: bool,
}

/// Seconds to wait during an outage.
const OUTAGE_S: u64 = 1;

impl OAuthError {
    /// A refusal.
    pub fn new(code: Code, description: impl Into<String>) -> Self {
        OAuthError { code, description: description.into(), tried_basic: false, retry_after_s: None, is_guess: false }
    }

    /// The client could not be authenticated.
    pub fn client(description: &str, tried_basic: bool) -> Self {
        OAuthError { tried_basic, ..OAuthError::new(Code::InvalidClient, description) }
    }

    /// Too many failures from an address.
    pub fn too_many(retry_after_s: u64) -> Self {
        let words = "too many failed attempts from this address";
        OAuthError { retry_after_s: Some(retry_after_s), ..OAuthError::new(Code::TemporarilyUnavailable, words) }
    }

    /// As the token endpoint says it.
    pub fn reply(&self, realm: &str) -> Answer {
        let status = match (self.code, self.tried_basic, self.retry_after_s) {
            (Code::TemporarilyUnavailable, _, Some(_)) => StatusCode::TOO_MANY_REQUESTS,
            (Code::TemporarilyUnavailable, _, None) => StatusCode::SERVICE_UNAVAILABLE,
            (Code::InvalidClient, true, _) => StatusCode::UNAUTHORIZED,
            (_, _, _) => StatusCode::BAD_REQUEST,
        };
        let body = serde_json::json!({ "error": self.code.as_str(), "error_description": self.description });
        let mut reply = Answer::json(status, self.code.as_str(), &body);
        if status == StatusCode::UNAUTHORIZED {
            reply = reply.with(header::WWW_AUTHENTICATE, &format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        }
        if self.code == Code::TemporarilyUnavailable {
            reply = reply.with(header::RETRY_AFTER, &self.retry_after_s.unwrap_or(OUTAGE_S).to_string());
        }
        reply
    }
}

impl From<FormFault> for OAuthError {
    fn from(fault: FormFault) -> Self {
        OAuthError::new(Code::InvalidRequest, fault.0)
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        tracing::warn!(target: "tollgate::oauth", "a request could not be answered: {error}");
        OAuthError::new(Code::TemporarilyUnavailable, "try again in a moment")
    }
}

impl From<SigningKeysError> for OAuthError {
    fn from(error: SigningKeysError) -> Self {
        tracing::error!(target: "tollgate::oauth", "a token could not be signed: {error}");
        OAuthError::new(Code::TemporarilyUnavailable, "try again in a moment")
    }
}

impl From<crate::base::random::NoRandomness> for OAuthError {
    fn from(error: crate::base::random::NoRandomness) -> Self {
        tracing::error!(target: "tollgate::oauth", "{error}");
        OAuthError::new(Code::TemporarilyUnavailable, "try again in a moment")
    }
}
