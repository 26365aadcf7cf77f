//! Every way in which Tollgate says no: one closed list, one wire form each.
//!
//! A denial is decided elsewhere and written once, here. Its text is constant: nothing that the
//! client sent is echoed. What the operator should know goes to the log, not into the answer.

mod answer;
mod problem;

use std::borrow::Cow;
use std::sync::Arc;

use policy::credential::PresentationFault;
use policy::head::HeadFault;
use policy::target::TargetFault;
use policy::{KeyFault, Refusal, RefusalCode, Scopes};

pub use self::answer::DenialAnswer;
use crate::limit::Standing;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No credential.
    MissingCredential,
    /// There is no such credential, or it cannot be one.
    InvalidCredential,
    /// The credential exists and does not work.
    DeadCredential(KeyFault),
    /// Two credentials, or one that cannot be read.
    UnreadableCredential(PresentationFault),
    /// The head has two readings.
    Head(HeadFault),
    /// A field that spells one of ours in another way.
    AliasedField,
    /// The target cannot be accepted.
    Target(TargetFault),
    /// The path has a form that the route does not take.
    PathForm,
    /// Scopes are missing.
    InsufficientScope {
        /// What the route requires.
        required: Scopes,
    },
    /// The route takes no public keys.
    PublicKeyNotAccepted,
    /// Plain HTTP.
    HttpsRequired,
    /// The key may not be used from this address.
    AddressNotAllowed,
    /// The key may not be used from this origin.
    OriginNotAllowed,
    /// A key for servers in a browser's request.
    ServerOnlyKey,
    /// Nothing here, for a caller we know (or a host that is nobody's).
    NoSuchRoute,
    /// The path is there, and takes other methods; or a method that nothing here takes.
    MethodNotAllowed {
        /// Those it takes, as `Allow` names them (RFC 9110 section 10.2.1).
        allow: Box<str>,
    },
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// A limit is used up.
    LimitExceeded {
        /// Its name.
        limit: Arc<str>,
        /// Where it stands.
        standing: Standing,
        /// Seconds to wait.
        retry_after_s: u64,
    },
    /// The address has failed too often.
    TooManyFailures {
        /// Seconds to wait.
        retry_after_s: u64,
    },
    /// The store cannot say what a credential is.
    TemporarilyUnavailable,
    /// The limiter cannot say what is left.
    LimitsUnavailable,
    /// What happens cannot be put on record, and must be.
    NotOnRecord,
    /// No backend could be reached, or it broke off.
    UpstreamUnreachable,
    /// The backend was too slow.
    UpstreamTimeout,
    /// The client's body could not be read to its end.
    BrokenBody,
    /// A bug: a request reached the forwarding step without a permit.
    NotPermitted,
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::MissingCredential => Denial::MissingCredential,
            Refusal::NoSuchRoute => Denial::NoSuchRoute,
            Refusal::MethodNotAllowed { allow } => Denial::MethodNotAllowed { allow },
            Refusal::PathForm => Denial::PathForm,
            Refusal::MissingScopes { required } => Denial::InsufficientScope { required },
            Refusal::PublicKeyNotAccepted => Denial::PublicKeyNotAccepted,
            Refusal::AddressNotAllowed => Denial::AddressNotAllowed,
            Refusal::OriginNotAllowed => Denial::OriginNotAllowed,
            Refusal::ServerOnlyKey => Denial::ServerOnlyKey,
        }
    }
}

/// Seconds after which a caller may try again when something of ours is down.
const RETRY_AFTER_OUTAGE_S: u64 = 1;

impl Denial {
    /// Its code and status (SPEC section 4).
    fn refusal_code(&self) -> RefusalCode {
        match self {
            Denial::MissingCredential => RefusalCode::MISSING_CREDENTIAL,
            Denial::InvalidCredential => RefusalCode::INVALID_CREDENTIAL,
            Denial::DeadCredential(fault) => fault.code(),
            Denial::UnreadableCredential(fault) => fault.code(),
            Denial::Head(fault) => fault.code(),
            Denial::Target(fault) => fault.code(),
            Denial::AliasedField | Denial::PathForm | Denial::BrokenBody => RefusalCode::INVALID_REQUEST,
            Denial::InsufficientScope { .. } | Denial::PublicKeyNotAccepted => RefusalCode::INSUFFICIENT_SCOPE,
            Denial::HttpsRequired => RefusalCode::HTTPS_REQUIRED,
            Denial::AddressNotAllowed => RefusalCode::ADDRESS_NOT_ALLOWED,
            Denial::OriginNotAllowed => RefusalCode::ORIGIN_NOT_ALLOWED,
            Denial::ServerOnlyKey => RefusalCode::SERVER_ONLY_KEY,
            Denial::NoSuchRoute => RefusalCode::NO_SUCH_ROUTE,
            Denial::MethodNotAllowed { .. } => RefusalCode::METHOD_NOT_ALLOWED,
            Denial::BodyTooLarge => RefusalCode::BODY_TOO_LARGE,
            Denial::LimitExceeded { .. } | Denial::TooManyFailures { .. } => RefusalCode::LIMIT_EXCEEDED,
            Denial::TemporarilyUnavailable | Denial::LimitsUnavailable | Denial::NotOnRecord => {
                RefusalCode::TEMPORARILY_UNAVAILABLE
            }
            Denial::UpstreamUnreachable => RefusalCode::UPSTREAM_UNREACHABLE,
            Denial::UpstreamTimeout => RefusalCode::UPSTREAM_TIMEOUT,
            Denial::NotPermitted => RefusalCode::INTERNAL_ERROR,
        }
    }

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.refusal_code().status()
    }

    /// The stable problem code; also the metric label.
    pub fn code(&self) -> &'static str {
        self.refusal_code().as_str()
    }

    /// All codes, for metrics and documentation.
    pub const CODES: [&'static str; 22] = [
        "missing_credential",
        "invalid_credential",
        "expired_credential",
        "revoked_credential",
        "suspended_credential",
        "invalid_request",
        "insufficient_scope",
        "https_required",
        "address_not_allowed",
        "origin_not_allowed",
        "server_only_key",
        "no_such_route",
        "method_not_allowed",
        "too_large",
        "limit_exceeded",
        "temporarily_unavailable",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_broke_off",
        "cut_off",
        "internal_error",
        "client_gone",
    ];

    /// A constant title.
    pub fn title(&self) -> &'static str {
        match self {
            Denial::MissingCredential => "A credential is required",
            Denial::InvalidCredential => "The credential is not valid",
            Denial::DeadCredential(KeyFault::Expired) => "The credential has expired",
            Denial::DeadCredential(KeyFault::Revoked) => "The credential is revoked",
            Denial::DeadCredential(KeyFault::Suspended) => "The credential is suspended",
            Denial::UnreadableCredential(_) => "The credential cannot be read",
            Denial::Head(HeadFault::TooLarge) => "The request head is too large",
            Denial::Target(TargetFault::TooLong) => "The request target is too long",
            Denial::Head(_) | Denial::AliasedField | Denial::Target(_) | Denial::PathForm => {
                "The request cannot be accepted"
            }
            Denial::BrokenBody => "The request body could not be read",
            Denial::InsufficientScope { .. } | Denial::PublicKeyNotAccepted => "The credential may not do this",
            Denial::HttpsRequired => "HTTPS is required",
            Denial::AddressNotAllowed => "The credential may not be used from this address",
            Denial::OriginNotAllowed => "The credential may not be used from this origin",
            Denial::ServerOnlyKey => "The credential belongs on a server",
            Denial::NoSuchRoute => "There is no such route",
            Denial::MethodNotAllowed { .. } => "The method is not allowed here",
            Denial::BodyTooLarge => "The request body is too large",
            Denial::LimitExceeded { .. } => "The limit is exceeded",
            Denial::TooManyFailures { .. } => "Too many failed attempts",
            Denial::TemporarilyUnavailable | Denial::LimitsUnavailable | Denial::NotOnRecord => {
                "Temporarily unavailable"
            }
            Denial::UpstreamUnreachable => "The API's backend cannot be reached",
            Denial::UpstreamTimeout => "The API's backend did not answer in time",
            Denial::NotPermitted => "Internal error",
        }
    }

    /// A sentence that says what to do.
    pub fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Denial::MissingCredential => "Send a key or token: `Authorization: Bearer <credential>`.",
            Denial::InvalidCredential => "Check that the whole key or token was sent, to the API it belongs to.",
            Denial::DeadCredential(KeyFault::Expired) => "Use a newer key, or refresh the token.",
            Denial::DeadCredential(KeyFault::Revoked) => {
                "It will not work again. Use another key, or ask the user again."
            }
            Denial::DeadCredential(KeyFault::Suspended) => "It can be resumed by those it belongs to.",
            Denial::UnreadableCredential(PresentationFault::Several) => "Send one Authorization field.",
            Denial::UnreadableCredential(PresentationFault::Unreadable) => "Send `Bearer`, one space and a credential.",
            Denial::Head(fault) => fault.detail(),
            Denial::AliasedField => "The request has a field whose name is reserved in another spelling.",
            Denial::Target(fault) => fault.detail(),
            Denial::PathForm => {
                "This path does not take such a form: an escaped `;`, `?`, `#` or dot, or text that is not in NFC."
            }
            Denial::BrokenBody => "The body ended early, came too slowly, or was malformed.",
            Denial::InsufficientScope { required } => {
                return Cow::Owned(format!("This needs the permission {required}. Use a key that has it."));
            }
            Denial::PublicKeyNotAccepted => "Public keys are not accepted here.",
            Denial::HttpsRequired => {
                "Use https://. A credential sent over plain HTTP must be taken for exposed: replace it."
            }
            Denial::AddressNotAllowed => "The key is restricted to certain addresses.",
            Denial::OriginNotAllowed => "The key is restricted to certain origins.",
            Denial::ServerOnlyKey => {
                "A key of this class must not be in a browser. Take it out of the page and replace it."
            }
            Denial::NoSuchRoute => "Check the path.",
            Denial::MethodNotAllowed { .. } => "Use one of the methods that Allow names.",
            Denial::BodyTooLarge => "Send a smaller body.",
            Denial::LimitExceeded { .. } => "Wait until the window resets, as Retry-After says.",
            Denial::TooManyFailures { .. } => "Wait, as Retry-After says, and check the credential.",
            Denial::TemporarilyUnavailable => "The credential could not be checked. Try again.",
            Denial::LimitsUnavailable => "The limit could not be checked; the credential is not at fault. Try again.",
            Denial::NotOnRecord => "Requests must be put on record here, and cannot be at the moment. Try again.",
            Denial::UpstreamUnreachable | Denial::UpstreamTimeout => "Try again later.",
            Denial::NotPermitted => "The request was not forwarded.",
        })
    }

    /// Seconds of `Retry-After`, where there is one.
    pub fn retry_after_s(&self) -> Option<u64> {
        if let Denial::LimitExceeded { retry_after_s, .. } | Denial::TooManyFailures { retry_after_s } = self {
            return Some(*retry_after_s);
        }
        (self.status() == 503).then_some(RETRY_AFTER_OUTAGE_S)
    }

    /// gRPC status: 16 UNAUTHENTICATED, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED, 14 UNAVAILABLE,
    /// 12 UNIMPLEMENTED for what is not there, 3 INVALID_ARGUMENT for what cannot be read.
    pub fn grpc_status(&self) -> u8 {
        match self.status() {
            401 => 16,
            403 => 7,
            404 | 405 => 12,
            429 => 8,
            502..=504 => 14,
            500 => 13,
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::path::PathFault;

    use super::*;

    fn every() -> Vec<Denial> {
        let window = policy::window::Period::Minute.window(1_790_000_000_000, 0);
        let standing = Standing { limit: 200, remaining: 0, window, now_ms: window.start_ms };
        vec![
            Denial::MissingCredential,
            Denial::InvalidCredential,
            Denial::DeadCredential(KeyFault::Expired),
            Denial::DeadCredential(KeyFault::Revoked),
            Denial::DeadCredential(KeyFault::Suspended),
            Denial::UnreadableCredential(PresentationFault::Several),
            Denial::Head(HeadFault::Framing),
            Denial::Head(HeadFault::TooLarge),
            Denial::AliasedField,
            Denial::Target(TargetFault::Path(PathFault::DotSegment)),
            Denial::Target(TargetFault::TooLong),
            Denial::PathForm,
            Denial::InsufficientScope { required: Scopes::parse("packs:read packs:write").unwrap() },
            Denial::PublicKeyNotAccepted,
            Denial::HttpsRequired,
            Denial::AddressNotAllowed,
            Denial::OriginNotAllowed,
            Denial::ServerOnlyKey,
            Denial::NoSuchRoute,
            Denial::MethodNotAllowed { allow: "GET, HEAD".into() },
            Denial::BodyTooLarge,
            Denial::LimitExceeded { limit: "minute".into(), standing, retry_after_s: 17 },
            Denial::TooManyFailures { retry_after_s: 30 },
            Denial::TemporarilyUnavailable,
            Denial::LimitsUnavailable,
            Denial::NotOnRecord,
            Denial::UpstreamUnreachable,
            Denial::UpstreamTimeout,
            Denial::BrokenBody,
            Denial::NotPermitted,
        ]
    }

    #[test]
    fn the_wire_form_of_every_denial_is_as_documented() {
        let mut table = String::new();
        for denial in every() {
            assert!(Denial::CODES.contains(&denial.code()));
            table.push_str(&format!(
                "{} {} grpc={} retry={:?}\n  {:?}\n  {}\n",
                denial.status(),
                denial.code(),
                denial.grpc_status(),
                denial.retry_after_s(),
                denial.challenge_text(None),
                String::from_utf8(denial.problem("REQUEST")).unwrap(),
            ));
        }
        insta::assert_snapshot!(table);
    }
}
