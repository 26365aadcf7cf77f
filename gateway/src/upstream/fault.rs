//! What a backend did so that an exchange cannot go on.

use http1::Fault;
use pingora::{Error, ErrorType};

use crate::base::field_sink::BadValue;

/// A backend's fault.
#[derive(Debug, thiserror::Error)]
pub enum BackendFault {
    /// No connection to it could be made.
    #[error("no connection: {}", .0.etype().as_str())]
    Connect(Box<Error>),
    /// Its connection ended or broke.
    #[error("the connection ended")]
    Closed,
    /// It said nothing for too long.
    #[error("silence")]
    Silent,
    /// It takes nothing more of a request.
    #[error("it takes no more")]
    TakesNothing,
    /// Its answer cannot be read. What was received is not repeated.
    #[error("{0}")]
    Malformed(#[from] Fault),
    /// Its answer can be read, and is none to this request.
    #[error("{0}")]
    Nonsense(&'static str),
    /// A stream of HTTP/2 ended otherwise than it should.
    #[error("{}", .0.etype().as_str())]
    Http2(Box<Error>),
    /// Not its fault: what it was to be sent is no message.
    #[error(transparent)]
    Ours(#[from] BadValue),
}

impl BackendFault {
    /// Whether it was too slow, and not wrong.
    pub fn is_timeout(&self) -> bool {
        match self {
            BackendFault::Silent | BackendFault::TakesNothing => true,
            BackendFault::Connect(error) | BackendFault::Http2(error) => matches!(
                error.etype(),
                ErrorType::ConnectTimedout
                    | ErrorType::ReadTimedout
                    | ErrorType::WriteTimedout
                    | ErrorType::TLSHandshakeTimedout
            ),
            BackendFault::Closed | BackendFault::Malformed(_) | BackendFault::Nonsense(_) | BackendFault::Ours(_) => {
                false
            }
        }
    }

    /// The error of HTTP/2 behind it.
    pub fn http2(&self) -> Option<&h2::Error> {
        match self {
            BackendFault::Http2(error) => error.root_cause().downcast_ref(),
            BackendFault::Connect(_)
            | BackendFault::Closed
            | BackendFault::Silent
            | BackendFault::TakesNothing
            | BackendFault::Malformed(_)
            | BackendFault::Nonsense(_)
            | BackendFault::Ours(_) => None,
        }
    }
}
