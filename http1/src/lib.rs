//! HTTP/1.1 as values (RFC 9112): heads, framing and bodies, without a socket, a clock or a thread.
//!
//! Whoever holds a connection gives bytes and is told what they are. What always holds:
//! - one reading: a message that two programs could read differently is a [`Fault`], and its connection ends;
//! - total: no bytes make it panic, loop or allocate without a bound;
//! - the same bytes give the same result, however they were cut into pieces.
//!
//! It repairs no message, never looks at what a field means beyond framing, and never copies a body.
//!
//! | RFC 9112 | where |
//! |---|---|
//! | 2.2 message parsing | [`mod@head`]: lines end in CRLF; a bare LF, a bare CR and control characters are faults |
//! | 3 request line | [`head::RequestHead`]; what the target means is not looked at |
//! | 4 status line | [`head::ResponseHead`] |
//! | 5 field syntax | [`head::FieldSpan`]: no folding (5.2), no space before the colon (5.1) |
//! | 6.1, 6.2, 6.3 framing | [`framing::of_request`], [`framing::of_response`] |
//! | 7.1 chunked coding | [`body::Decoder`], [`chunk`] |
//! | 7.1.1 chunk extensions | read over, within [`body::EXTENSION_BYTES_MAX`] |
//! | 7.1.2 trailers | [`body::Decoder::trailers`], within [`body::TRAILER_BYTES_MAX`] |
//! | 8 incomplete messages | [`body::Decoder::end_of_input`] |
//! | 9.3 persistence | [`framing::Persistence`] |

pub mod body;
pub mod bytes;
pub mod chunk;
pub mod framing;
pub mod head;

/// Why a message cannot be read. Its connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A head, or its trailers, are larger than is accepted.
    TooLarge,
    /// More fields than are accepted.
    TooManyFields,
    /// The first line is not a request line of HTTP/1.1 or HTTP/1.0 (section 3).
    RequestLine,
    /// The first line is not a status line (RFC 9112 section 4).
    StatusLine,
    /// A line that does not end in CRLF, or a control character in one (section 2.2).
    Line,
    /// A folded line, a missing colon, a space before it, or a name that is no token (section 5).
    Field,
    /// Two lengths, a length that is no number, or a transfer coding that is not `chunked` alone (section 6).
    Framing,
    /// A request without `Host`, or with two (section 3.2).
    Host,
    /// An expectation that nobody meets (RFC 9110 section 10.1.1).
    Expect,
    /// A chunk whose size, extension or end is malformed (section 7.1).
    Chunk,
    /// The connection ended in the middle of a message (section 8).
    Incomplete,
}

impl Fault {
    /// A constant text for logs and errors: nothing that was received is in it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::TooLarge => "a head or trailers that are too large",
            Fault::TooManyFields => "too many fields",
            Fault::RequestLine => "a malformed request line",
            Fault::Host => "no host, or two",
            Fault::Expect => "an unknown expectation",
            Fault::StatusLine => "a malformed status line",
            Fault::Line => "a malformed line in a head",
            Fault::Field => "a malformed field",
            Fault::Framing => "a body whose length is ambiguous",
            Fault::Chunk => "a malformed chunk",
            Fault::Incomplete => "a message that was not whole",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Fault {}
