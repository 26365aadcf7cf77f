//! Refusals of the management API: RFC 9457 problems. The member `code` stays; `detail` says what would be
//! right, and its words may change.

use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::oauth::error::{Code, OAuthError};
use crate::registry::{ChangeError, change};
use crate::store::StoreError;

/// A refusal: a status, a code that stays, and words that may change.
pub(super) struct Problem(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem(status, code, detail) = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail,
        });
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
    }
}

/// A refusal of the request itself.
pub(super) fn invalid(words: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, "invalid_request", words.into())
}

/// There is no such request under way.
pub(super) fn no_login_request() -> Problem {
    let words = "there is no such login request, or it took too long";
    Problem(StatusCode::NOT_FOUND, "unknown_login_request", words.into())
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Problem(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}")),
            StoreError::Exists(what) => {
                Problem(StatusCode::CONFLICT, change::Code::AlreadyThere.as_str(), format!("{what} already exists"))
            }
            StoreError::Refused(words) => Problem(StatusCode::CONFLICT, "refused", words),
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => {
                tracing::warn!(target: "tollgate::management", "{error}");
                Problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the store cannot answer; try again".into())
            }
        }
    }
}

impl From<OAuthError> for Problem {
    fn from(error: OAuthError) -> Self {
        let status = match error.code {
            Code::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::AccessDenied => StatusCode::FORBIDDEN,
            Code::InvalidRequest
            | Code::InvalidClient
            | Code::InvalidGrant
            | Code::UnauthorizedClient
            | Code::UnsupportedGrantType
            | Code::UnsupportedResponseType
            | Code::InvalidScope
            | Code::InvalidTarget
            | Code::LoginRequired
            | Code::ConsentRequired
            | Code::RequestNotSupported
            | Code::RequestUriNotSupported => StatusCode::BAD_REQUEST,
        };
        Problem(status, error.code.as_str(), error.description)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(code, words) => Problem(status_of(code), code.as_str(), words),
            ChangeError::Store(error) => error.into(),
            ChangeError::Randomness(error) => {
                Problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
            }
        }
    }
}

/// What is named by the path is looked for; what is named by the body must fit.
fn status_of(code: change::Code) -> StatusCode {
    use change::Code;
    match code {
        Code::UnknownApplication | Code::UnknownGrant | Code::UnknownUser => StatusCode::NOT_FOUND,
        Code::AlreadyThere | Code::LogsInElsewhere | Code::HasNoSecret | Code::NotActive | Code::NotExposed => {
            StatusCode::CONFLICT
        }
        Code::InvalidId
        | Code::InvalidName
        | Code::InvalidReason
        | Code::InvalidTime
        | Code::InvalidAddress
        | Code::InvalidOrigin
        | Code::InvalidLimit
        | Code::InvalidRedirectUri
        | Code::InvalidKey
        | Code::InvalidDigest
        | Code::UnknownApi
        | Code::UnknownEnvironment
        | Code::UnknownScope
        | Code::UnknownPlan
        | Code::UnknownOrganization
        | Code::WrongScopes
        | Code::NotPermitted
        | Code::InvalidEmail
        | Code::InvalidPassword => StatusCode::BAD_REQUEST,
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        invalid(rejection.body_text())
    }
}
