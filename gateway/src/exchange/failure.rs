//! Why an exchange cannot go on, and whose fault that is.

use crate::admit::denial::Denial;
use crate::base::field_sink::BadValue;
use crate::downstream::{ClientFault, HeadError};
use crate::upstream::fault::BackendFault;

/// Why an exchange cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The client's fault.
    #[error(transparent)]
    Client(#[from] ClientFault),
    /// The backend's fault.
    #[error(transparent)]
    Backend(#[from] BackendFault),
    /// The upstream has no address.
    #[error("the upstream has no address")]
    NoAddress,
    /// It was denied after forwarding began.
    #[error("denied")]
    Denied(Denial),
    /// Its credential has ended, and its answer cannot be ended well.
    #[error("the credential is over")]
    CredentialEnded,
    /// A bug of ours.
    #[error("{0}")]
    Ours(&'static str),
}

impl From<BadValue> for Failure {
    fn from(BadValue: BadValue) -> Self {
        Failure::Ours("a value of ours is not a field value")
    }
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::BadValue(bad) => bad.into(),
            HeadError::Client(fault) => fault.into(),
        }
    }
}

impl Failure {
    /// What its client is told; nothing when the client is gone.
    pub(super) fn denial(&self) -> Option<Denial> {
        match self {
            Failure::Client(ClientFault::Gone | ClientFault::TakesNothing) | Failure::CredentialEnded => None,
            Failure::Client(ClientFault::BodyCut | ClientFault::BodySlow | ClientFault::BodyMalformed) => {
                Some(Denial::BrokenBody)
            }
            Failure::Backend(BackendFault::Ours(_)) | Failure::Ours(_) => Some(Denial::NotPermitted),
            Failure::Backend(fault) if fault.is_timeout() => Some(Denial::UpstreamTimeout),
            Failure::Backend(_) | Failure::NoAddress => Some(Denial::UpstreamUnreachable),
            Failure::Denied(denial) => Some(denial.clone()),
        }
    }
}
