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
    #[error("HTTP/2: {}", what_of(.0))]
    Http2(h2::Error),
    /// Not its fault: what it was to be sent is no message.
    #[error(transparent)]
    Ours(#[from] BadValue),
}

impl BackendFault {
    /// Whether it was too slow, and not wrong.
    pub fn is_timeout(&self) -> bool {
        match self {
            BackendFault::Silent | BackendFault::TakesNothing => true,
            BackendFault::Connect(error) => {
                matches!(error.etype(), ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout)
            }
            BackendFault::Closed
            | BackendFault::Malformed(_)
            | BackendFault::Nonsense(_)
            | BackendFault::Http2(_)
            | BackendFault::Ours(_) => false,
        }
    }
}

/// What an error says, without the words of the other side.
fn what_of(error: &h2::Error) -> String {
    error.reason().map_or_else(|| "the connection ended".to_owned(), |reason| reason.to_string())
}
