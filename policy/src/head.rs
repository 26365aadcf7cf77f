//! Why a request's head is refused, and what its `Connection` field may name.
//!
//! How a head is read, and that it has one reading, is the crate `http1`'s matter.

use http1::Fault;
use http1::bytes::Class;

use crate::fields::{alias, is_protected};

/// Largest head accepted, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most tokens in `Connection`.
pub const CONNECTION_TOKENS_MAX: usize = 10;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// Larger than [`HEAD_BYTES_MAX`] or more fields than are accepted: 431.
    TooLarge,
    /// It cannot be parsed at all.
    Unreadable,
    /// The request line is not `method SP target SP HTTP/1.x CRLF`.
    RequestLine,
    /// A line that does not end in CRLF, or a control byte.
    LineEnd,
    /// A folded line, a missing colon, a space before the colon, or a name that is not a token.
    Field,
    /// No `Host`, or more than one.
    Host,
    /// Two framings, or one that is not understood.
    Framing,
    /// `Connection` names a field that must not be removed, or too many.
    Connection,
    /// `Expect` other than `100-continue`: 417.
    Expect,
}

impl From<Fault> for HeadFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge | Fault::TooManyFields => HeadFault::TooLarge,
            Fault::RequestLine => HeadFault::RequestLine,
            Fault::Line => HeadFault::LineEnd,
            Fault::Field => HeadFault::Field,
            Fault::Host => HeadFault::Host,
            Fault::Framing => HeadFault::Framing,
            Fault::Expect => HeadFault::Expect,
            // No head of a request has these.
            Fault::StatusLine | Fault::Chunk | Fault::Incomplete => HeadFault::Unreadable,
        }
    }
}

impl HeadFault {
    /// A constant sentence for the caller.
    pub fn detail(self) -> &'static str {
        match self {
            HeadFault::TooLarge => "The request head is too large.",
            HeadFault::Unreadable => "The request head could not be read.",
            HeadFault::RequestLine => "The request line is malformed.",
            HeadFault::LineEnd => "The request head has a malformed line.",
            HeadFault::Field => "The request head has a malformed field.",
            HeadFault::Host => "The request must name exactly one valid host.",
            HeadFault::Framing => "The length of the request body is ambiguous.",
            HeadFault::Connection => "The Connection field names a field that must not be named there.",
            HeadFault::Expect => "The expectation cannot be met.",
        }
    }
}

/// `Connection` may nominate at most [`CONNECTION_TOKENS_MAX`] fields, none of them one that the
/// decision or the upstream depends on.
pub fn check_connection(value: &[u8]) -> Result<(), HeadFault> {
    // What nearly everybody says.
    if value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close") {
        return Ok(());
    }
    for (count, token) in value.split(|b| *b == b',').map(<[u8]>::trim_ascii).enumerate() {
        if count >= CONNECTION_TOKENS_MAX || !Class::TOKEN.has_all(token) {
            return Err(HeadFault::Connection);
        }
        let alias = alias(token);
        let essential = matches!(&*alias, b"host" | b"content-length" | b"content-type" | b"origin" | b"cookie");
        let removed_anyway = matches!(&*alias, b"proxy-connection" | b"proxy-authorization");
        if essential || (is_protected(&alias) && !removed_anyway) {
            return Err(HeadFault::Connection);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connection_names_only_what_nobody_depends_on() {
        for value in ["keep-alive, x-mine", "Close", "close, TE", "close,", "proxy-connection", "upgrade"] {
            assert_eq!(check_connection(value.as_bytes()), Ok(()), "{value}");
        }
        for value in [
            "x-tollgate-key-id",
            "X_Forwarded_For",
            "host",
            "authorization",
            "close, content_length",
            "keep-alive, Cookie",
            "a b",
            "é",
            "a,b,c,d,e,f,g,h,i,j,k",
        ] {
            assert_eq!(check_connection(value.as_bytes()), Err(HeadFault::Connection), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = check_connection(&raw);
        }
    }
}
