//! A linter for the raw head of an HTTP/1 request.
//!
//! An HTTP parser accepts some heads that can be read in more than one way (bare LF, two framings, several
//! hosts). Once it has made its map of fields, nobody can see that any more. This module looks at the bytes,
//! and refuses every head that another program could read differently. It builds nothing: parsing is done
//! elsewhere.

use memchr::memchr;

use crate::fields::NAME_BYTES_MAX;
use http1::bytes::Class;

/// Largest head accepted, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most digits in `Content-Length`.
const LENGTH_DIGITS_MAX: usize = 15;
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

/// The parts of the request line, as they stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The target.
    pub target: &'a [u8],
    /// The value of the one `Host` field.
    pub host: &'a [u8],
}

/// Checks a whole head, request line to blank line inclusive. One empty line before it is ignored: some
/// clients send one behind a body (RFC 9112 section 2.2).
pub fn lint(raw: &[u8], fields_max: usize) -> Result<RequestLine<'_>, HeadFault> {
    if raw.len() > HEAD_BYTES_MAX {
        return Err(HeadFault::TooLarge);
    }
    let raw = raw.strip_prefix(b"\r\n").unwrap_or(raw);
    let (line, mut rest) = take_line(raw)?;
    let (target, is_1_1) = request_line(line)?;
    let mut seen = Seen { is_1_1, ..Seen::default() };
    for count in 0.. {
        let (line, after) = take_line(rest)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        if count >= fields_max {
            return Err(HeadFault::TooLarge);
        }
        let (name, value) = field(line)?;
        seen.note(name, value)?;
    }
    if !rest.is_empty() {
        return Err(HeadFault::LineEnd);
    }
    if seen.has_length && seen.has_encoding {
        return Err(HeadFault::Framing);
    }
    let host = seen.host.ok_or(HeadFault::Host)?;
    Ok(RequestLine { target, host })
}

/// Cuts one line off; it ends in CRLF and holds no other control byte than HTAB.
fn take_line(raw: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    let end = memchr(b'\n', raw).ok_or(HeadFault::LineEnd)?;
    let (line, rest) = raw.split_at(end);
    let line = line.strip_suffix(b"\r").ok_or(HeadFault::LineEnd)?;
    if Class::CONTROL.has_any(line) {
        return Err(HeadFault::LineEnd);
    }
    Ok((line, rest.get(1..).unwrap_or_default()))
}

fn request_line(line: &[u8]) -> Result<(&[u8], bool), HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadFault::RequestLine);
    };
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(HeadFault::RequestLine),
    };
    if method.is_empty() || method.len() > 32 || !Class::TOKEN.has_all(method) || target.is_empty() {
        return Err(HeadFault::RequestLine);
    }
    Ok((target, is_1_1))
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    let colon = memchr(b':', line).ok_or(HeadFault::Field)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !Class::TOKEN.has_all(name) {
        return Err(HeadFault::Field);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// What the fields so far said about host and framing.
#[derive(Default)]
struct Seen<'a> {
    is_1_1: bool,
    host: Option<&'a [u8]>,
    has_length: bool,
    has_encoding: bool,
    has_expect: bool,
}

impl<'a> Seen<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), HeadFault> {
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.replace(value).is_some() {
                return Err(HeadFault::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if std::mem::replace(&mut self.has_length, true) || !is_length(value) {
                return Err(HeadFault::Framing);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let chunked = value.eq_ignore_ascii_case(b"chunked");
            if std::mem::replace(&mut self.has_encoding, true) || !chunked || !self.is_1_1 {
                return Err(HeadFault::Framing);
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            check_connection(value)?;
        } else if name.eq_ignore_ascii_case(b"expect") {
            if std::mem::replace(&mut self.has_expect, true) || !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadFault::Expect);
            }
        } else if is_alias_of(name, b"content-length") || is_alias_of(name, b"transfer-encoding") {
            return Err(HeadFault::Framing);
        }
        Ok(())
    }
}

/// Whether a value is one `Content-Length` (RFC 9110 section 8.6), not a list or a number of another kind.
pub fn is_length(value: &[u8]) -> bool {
    (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// Whether a name is another spelling of a framing field.
fn is_alias_of(name: &[u8], field: &[u8]) -> bool {
    name.len() == field.len()
        && name.iter().zip(field).all(|(a, b)| {
            let alias = if a.is_ascii_alphanumeric() { a.to_ascii_lowercase() } else { b'-' };
            alias == *b
        })
}

/// `Connection` may nominate at most [`CONNECTION_TOKENS_MAX`] fields, none of them one that the
/// decision or the upstream depends on.
pub fn check_connection(value: &[u8]) -> Result<(), HeadFault> {
    for (count, token) in value.split(|b| *b == b',').map(<[u8]>::trim_ascii).enumerate() {
        if count >= CONNECTION_TOKENS_MAX || !Class::TOKEN.has_all(token) {
            return Err(HeadFault::Connection);
        }
        let Ok(name) = std::str::from_utf8(token) else { return Err(HeadFault::Connection) };
        let alias: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let essential = matches!(alias.as_str(), "host" | "content-length" | "content-type" | "origin" | "cookie");
        let removed_anyway = alias == "proxy-connection" || alias == "proxy-authorization";
        if essential || (crate::fields::is_protected(&alias) && !removed_anyway) {
            return Err(HeadFault::Connection);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: usize = crate::Bounds::DEFAULT.fields;

    fn head(fields: &str) -> Vec<u8> {
        format!("GET /v2/packs HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn a_clean_head_passes() {
        let raw = head("Accept: */*\r\nContent-Length: 5\r\nConnection: keep-alive, x-mine\r\nX-T: a\tb\r\n");
        let line = lint(&raw, FIELDS).unwrap();
        assert_eq!((line.target, line.host), (&b"/v2/packs"[..], &b"a.example"[..]));
    }

    #[test]
    fn a_head_with_two_readings_is_refused() {
        let cases: &[(&str, HeadFault)] = &[
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadFault::Framing),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", HeadFault::Framing),
            ("Content-Length: 5, 5\r\n", HeadFault::Framing),
            ("Content-Length: +5\r\n", HeadFault::Framing),
            ("Content-Length: \r\n", HeadFault::Framing),
            ("Content-Length: 0x5\r\n", HeadFault::Framing),
            ("Content-Length: 1234567890123456\r\n", HeadFault::Framing),
            ("Content_Length: 5\r\n", HeadFault::Framing),
            ("Transfer-Encoding: gzip, chunked\r\n", HeadFault::Framing),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadFault::Framing),
            ("Transfer-Encoding: xchunked\r\n", HeadFault::Framing),
            ("Transfer_Encoding: chunked\r\n", HeadFault::Framing),
            ("Host: b.example\r\n", HeadFault::Host),
            (" folded: x\r\n", HeadFault::Field),
            ("A: b\r\n\tc\r\n", HeadFault::Field),
            ("A : b\r\n", HeadFault::Field),
            (": b\r\n", HeadFault::Field),
            ("A\r\n", HeadFault::Field),
            ("A: b\n", HeadFault::LineEnd),
            ("A: b\rc\r\n", HeadFault::LineEnd),
            ("A: b\0c\r\n", HeadFault::LineEnd),
            ("A: b\x1b[31m\r\n", HeadFault::LineEnd),
            ("Connection: x-tollgate-key-id\r\n", HeadFault::Connection),
            ("Connection: X_Forwarded_For\r\n", HeadFault::Connection),
            ("Connection: host\r\n", HeadFault::Connection),
            ("Connection: authorization\r\n", HeadFault::Connection),
            ("Connection: a,b,c,d,e,f,g,h,i,j,k\r\n", HeadFault::Connection),
            ("Expect: 200-ok\r\n", HeadFault::Expect),
        ];
        for (fields, fault) in cases {
            assert_eq!(lint(&head(fields), FIELDS), Err(*fault), "{fields:?}");
        }
        assert!(lint(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", FIELDS).is_ok());
        assert!(lint(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", FIELDS).is_err());
        assert!(lint(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", FIELDS).is_err());
        for raw in [
            &b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET /\r\nHost: a\r\n\r\n",
            b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(lint(raw, FIELDS), Err(HeadFault::RequestLine));
        }
        assert_eq!(lint(b"GET / HTTP/1.1\r\n\r\n", FIELDS), Err(HeadFault::Host));
        assert_eq!(
            lint(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", FIELDS),
            Err(HeadFault::Framing)
        );
        assert_eq!(lint(&head(&"A: b\r\n".repeat(FIELDS)), FIELDS), Err(HeadFault::TooLarge));
        assert_eq!(lint(&head(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX))), FIELDS), Err(HeadFault::TooLarge));
        assert_eq!(lint(&head(&format!("{}: b\r\n", "a".repeat(NAME_BYTES_MAX + 1))), FIELDS), Err(HeadFault::Field));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = lint(&raw, FIELDS);
        }
    }
}
