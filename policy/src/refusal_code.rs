//! How a refusal is named and numbered: one stable code and one HTTP status for everything that can be
//! wrong with a request. The gateway answers with them, and [`crate::explain`] prints them.

use crate::credential::PresentationFault;
use crate::head::HeadFault;
use crate::identity::KeyFault;
use crate::path::PathFault;
use crate::route::Refusal;
use crate::target::TargetFault;

/// Status and code of a refusal (SPEC section 4). Only the ones listed here exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalCode {
    status: u16,
    code: &'static str,
}

impl RefusalCode {
    /// No credential where one is needed.
    pub const MISSING_CREDENTIAL: RefusalCode = RefusalCode { status: 401, code: "missing_credential" };
    /// There is no such credential.
    pub const INVALID_CREDENTIAL: RefusalCode = RefusalCode { status: 401, code: "invalid_credential" };
    /// Its time is over.
    pub const EXPIRED_CREDENTIAL: RefusalCode = RefusalCode { status: 401, code: "expired_credential" };
    /// It was ended for good.
    pub const REVOKED_CREDENTIAL: RefusalCode = RefusalCode { status: 401, code: "revoked_credential" };
    /// It was stopped until it is resumed.
    pub const SUSPENDED_CREDENTIAL: RefusalCode = RefusalCode { status: 401, code: "suspended_credential" };
    /// A request with two readings.
    pub const INVALID_REQUEST: RefusalCode = RefusalCode { status: 400, code: "invalid_request" };
    /// An expectation that is not met (RFC 9110 section 15.5.18).
    pub const EXPECTATION_FAILED: RefusalCode = RefusalCode { status: 417, code: "invalid_request" };
    /// A target that is too long (RFC 9110 section 15.5.15).
    pub const TARGET_TOO_LONG: RefusalCode = RefusalCode { status: 414, code: "too_large" };
    /// A head that is too large (RFC 6585 section 5).
    pub const HEAD_TOO_LARGE: RefusalCode = RefusalCode { status: 431, code: "too_large" };
    /// A body that is too large (RFC 9110 section 15.5.14).
    pub const BODY_TOO_LARGE: RefusalCode = RefusalCode { status: 413, code: "too_large" };
    /// Scopes are missing (RFC 6750 section 3.1).
    pub const INSUFFICIENT_SCOPE: RefusalCode = RefusalCode { status: 403, code: "insufficient_scope" };
    /// Plain HTTP.
    pub const HTTPS_REQUIRED: RefusalCode = RefusalCode { status: 403, code: "https_required" };
    /// Not from this address.
    pub const ADDRESS_NOT_ALLOWED: RefusalCode = RefusalCode { status: 403, code: "address_not_allowed" };
    /// Not from this origin.
    pub const ORIGIN_NOT_ALLOWED: RefusalCode = RefusalCode { status: 403, code: "origin_not_allowed" };
    /// A key for servers in a browser.
    pub const SERVER_ONLY_KEY: RefusalCode = RefusalCode { status: 403, code: "server_only_key" };
    /// Nothing there.
    pub const NO_SUCH_ROUTE: RefusalCode = RefusalCode { status: 404, code: "no_such_route" };
    /// The path takes other methods.
    pub const METHOD_NOT_ALLOWED: RefusalCode = RefusalCode { status: 405, code: "method_not_allowed" };
    /// A limit is used up.
    pub const LIMIT_EXCEEDED: RefusalCode = RefusalCode { status: 429, code: "limit_exceeded" };
    /// The store or the limits cannot answer.
    pub const TEMPORARILY_UNAVAILABLE: RefusalCode = RefusalCode { status: 503, code: "temporarily_unavailable" };
    /// No backend could be reached, or it broke off.
    pub const UPSTREAM_UNREACHABLE: RefusalCode = RefusalCode { status: 502, code: "upstream_unreachable" };
    /// The backend was too slow.
    pub const UPSTREAM_TIMEOUT: RefusalCode = RefusalCode { status: 504, code: "upstream_timeout" };
    /// A fault of our own; nothing was forwarded.
    pub const INTERNAL_ERROR: RefusalCode = RefusalCode { status: 500, code: "internal_error" };

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.status
    }

    /// The stable code, also a metric label.
    pub fn as_str(self) -> &'static str {
        self.code
    }
}

impl HeadFault {
    /// How it is answered.
    pub fn code(self) -> RefusalCode {
        match self {
            HeadFault::TooLarge => RefusalCode::HEAD_TOO_LARGE,
            HeadFault::Expect => RefusalCode::EXPECTATION_FAILED,
            HeadFault::Unreadable
            | HeadFault::RequestLine
            | HeadFault::LineEnd
            | HeadFault::Field
            | HeadFault::Host
            | HeadFault::Framing
            | HeadFault::Connection => RefusalCode::INVALID_REQUEST,
        }
    }
}

impl TargetFault {
    /// How it is answered.
    pub fn code(self) -> RefusalCode {
        match self {
            TargetFault::TooLong | TargetFault::Path(PathFault::TooLong) => RefusalCode::TARGET_TOO_LONG,
            TargetFault::Form
            | TargetFault::AuthorityMismatch
            | TargetFault::Host
            | TargetFault::Query
            | TargetFault::Path(_) => RefusalCode::INVALID_REQUEST,
        }
    }
}

impl PresentationFault {
    /// How it is answered.
    pub fn code(self) -> RefusalCode {
        match self {
            PresentationFault::Several | PresentationFault::Unreadable => RefusalCode::INVALID_REQUEST,
        }
    }
}

impl KeyFault {
    /// How it is answered.
    pub fn code(self) -> RefusalCode {
        match self {
            KeyFault::Expired => RefusalCode::EXPIRED_CREDENTIAL,
            KeyFault::Revoked => RefusalCode::REVOKED_CREDENTIAL,
            KeyFault::Suspended => RefusalCode::SUSPENDED_CREDENTIAL,
        }
    }
}

impl Refusal {
    /// How it is answered.
    pub fn code(&self) -> RefusalCode {
        match self {
            Refusal::MissingCredential => RefusalCode::MISSING_CREDENTIAL,
            Refusal::NoSuchRoute => RefusalCode::NO_SUCH_ROUTE,
            Refusal::MethodNotAllowed { .. } => RefusalCode::METHOD_NOT_ALLOWED,
            Refusal::PathForm => RefusalCode::INVALID_REQUEST,
            Refusal::MissingScopes { .. } | Refusal::PublicKeyNotAccepted => RefusalCode::INSUFFICIENT_SCOPE,
            Refusal::AddressNotAllowed => RefusalCode::ADDRESS_NOT_ALLOWED,
            Refusal::OriginNotAllowed => RefusalCode::ORIGIN_NOT_ALLOWED,
            Refusal::ServerOnlyKey => RefusalCode::SERVER_ONLY_KEY,
        }
    }
}
