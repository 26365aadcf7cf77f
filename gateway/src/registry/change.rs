//! What every change by a person has in common: who makes it, and why it may be refused.

use crate::base::random::NoRandomness;
use crate::store::StoreError;

/// Who makes a change, as the record that it leaves names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Somebody at a command line: user, number and host, such as `jo(1000)@host`.
    pub fn cli(who: &str) -> Self {
        Actor(format!("cli:{who}"))
    }

    /// A gateway by itself, such as when a signing key is due.
    pub fn gateway() -> Self {
        Actor("gateway".to_owned())
    }

    /// Whoever holds the key of the management API.
    pub fn management() -> Self {
        Actor("management".to_owned())
    }

    /// As it stands in records.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// By whom a change is made, and when.
#[derive(Clone, Debug)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// When, Unix milliseconds.
    pub now_ms: u64,
}

impl By {
    /// Tells the process log of a change that was made: an operator sees who did what.
    pub(super) fn tell(&self, what: &str, id: &str) {
        tracing::info!(target: "tollgate::changes", "{}: {what} {id}", self.actor.as_str());
    }
}

/// Why a change was refused, as programs tell it. Codes stay; words may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An id has characters that it may not have, or too many.
    InvalidId,
    /// A name is empty, too long, or has control characters.
    InvalidName,
    /// A reason is.
    InvalidReason,
    /// A time is none, or is over.
    InvalidTime,
    /// Not an address range.
    InvalidAddress,
    /// Not an origin.
    InvalidOrigin,
    /// Not a rate.
    InvalidLimit,
    /// Not a redirect URI that an application may have, or too many of them.
    InvalidRedirectUri,
    /// Not a key of that API and environment.
    InvalidKey,
    /// Not a digest.
    InvalidDigest,
    /// The policy has no such API, or it has several and none was named.
    UnknownApi,
    /// The API has no such environment.
    UnknownEnvironment,
    /// No API declares that scope.
    UnknownScope,
    /// No API has that plan.
    UnknownPlan,
    /// There is no such organization.
    UnknownOrganization,
    /// Scopes are needed, or none may be named.
    WrongScopes,
    /// The organization may not do that itself.
    NotPermitted,
    /// Not an e-mail address.
    InvalidEmail,
    /// A password is too short or too long.
    InvalidPassword,
    /// There is no such user.
    UnknownUser,
    /// There is no such application.
    UnknownApplication,
    /// There is no such grant.
    UnknownGrant,
    /// The application is public: it has no secret.
    HasNoSecret,
    /// It is there already.
    AlreadyThere,
    /// Another system logs the user in.
    LogsInElsewhere,
    /// The key is not active.
    NotActive,
    /// The key is not marked as exposed.
    NotExposed,
}

impl Code {
    /// The code.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidId => "invalid_id",
            Code::InvalidName => "invalid_name",
            Code::InvalidReason => "invalid_reason",
            Code::InvalidTime => "invalid_time",
            Code::InvalidAddress => "invalid_address",
            Code::InvalidOrigin => "invalid_origin",
            Code::InvalidLimit => "invalid_limit",
            Code::InvalidRedirectUri => "invalid_redirect_uri",
            Code::InvalidKey => "invalid_key",
            Code::InvalidDigest => "invalid_digest",
            Code::UnknownApi => "unknown_api",
            Code::UnknownEnvironment => "unknown_environment",
            Code::UnknownScope => "unknown_scope",
            Code::UnknownPlan => "unknown_plan",
            Code::UnknownOrganization => "unknown_organization",
            Code::WrongScopes => "wrong_scopes",
            Code::NotPermitted => "not_permitted",
            Code::InvalidEmail => "invalid_email",
            Code::InvalidPassword => "invalid_password",
            Code::UnknownUser => "unknown_user",
            Code::UnknownApplication => "unknown_application",
            Code::UnknownGrant => "unknown_grant",
            Code::HasNoSecret => "has_no_secret",
            Code::AlreadyThere => "already_there",
            Code::LogsInElsewhere => "logs_in_elsewhere",
            Code::NotActive => "not_active",
            Code::NotExposed => "not_exposed",
        }
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What was asked for cannot be; the words say what would be right.
    #[error("{1}")]
    Refused(Code, String),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Randomness.
    #[error("{0}")]
    Randomness(#[from] NoRandomness),
}

/// A refusal with its words.
pub(super) fn refused<T>(code: Code, words: impl Into<String>) -> Result<T, ChangeError> {
    Err(ChangeError::Refused(code, words.into()))
}

/// A refusal in the words of whoever found it.
pub(super) fn with(code: Code) -> impl Fn(String) -> ChangeError {
    move |words| ChangeError::Refused(code, words)
}

/// Longest name for people, in characters.
const NAME_CHARS_MAX: usize = 100;

/// Looks at a name for people.
pub(super) fn check_name(name: &str) -> Result<(), ChangeError> {
    if is_line(name, NAME_CHARS_MAX) {
        return Ok(());
    }
    refused(Code::InvalidName, format!("a name is 1 to {NAME_CHARS_MAX} characters without control characters"))
}

/// Whether a text is one line that says something.
pub(super) fn is_line(text: &str, chars_max: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= chars_max && !text.chars().any(char::is_control)
}
