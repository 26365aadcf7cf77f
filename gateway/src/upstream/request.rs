//! A request to a backend, before it is known over which protocol it goes.

use http::header::CONTENT_LENGTH;

use super::outbound::Framing;
use crate::base::field_sink::{FieldSink, FieldSource, Indexing};

/// A request to a backend.
#[derive(Clone, Copy, Debug)]
pub struct BackendRequest<'a, F> {
    /// A token.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Its host: `Host`, or `:authority`.
    pub host: &'a [u8],
    /// Its fields, without the host and those of the connection.
    pub fields: &'a F,
    /// How its body is framed.
    pub framing: Framing,
    /// Whether it asks for a WebSocket.
    pub upgrade: Upgrade<'a>,
}

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade<'a> {
    /// It does not.
    None,
    /// It does, with the key that is among its fields.
    Passed,
    /// It does, with this key.
    Keyed(&'a str),
}

impl<F: FieldSource> BackendRequest<'_, F> {
    /// Puts the length of the body in, where it has one. Where content is expected, none is said to be none (RFC 9110
    /// section 8.6).
    pub(super) fn put_framing(&self, sink: &mut impl FieldSink) {
        let length = match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None if matches!(self.method, "POST" | "PUT" | "PATCH") => Some(0),
            Framing::None | Framing::Unknown => None,
        };
        if let Some(length) = length {
            sink.number(&CONTENT_LENGTH, Indexing::Usual, length);
        }
    }
}
