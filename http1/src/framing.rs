//! How long a message is, and whether its connection goes on behind it (RFC 9112 sections 6.3 and 9.3).

use crate::Fault;
use crate::head::Version;

/// Most digits of the length of a response.
const LENGTH_DIGITS_MAX: usize = 18;
/// Most digits of the length of a request.
const REQUEST_DIGITS_MAX: usize = 15;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks (section 7.1).
    Chunked,
    /// It ends where the connection ends.
    UntilClose,
}

/// Whether the sender of a message goes on with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It may be used again.
    Persistent,
    /// It ends behind this message.
    Close,
}

/// What a request says of its body and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfRequest {
    /// Its body; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Its connection. One over HTTP/1.0 always ends: what its programs mean by `keep-alive` differs.
    pub persistence: Persistence,
    /// Whether its client waits for a 100 before it sends its body. Over HTTP/1.0 that means nothing (RFC 9110
    /// section 10.1.1).
    pub expects_continue: bool,
    /// Which of its fields is `Host`.
    pub host: usize,
}

/// Reads the framing of a request, whose names of fields are in lower case. Where programs are known to differ,
/// it is a fault: nothing is repaired.
///
/// # Errors
/// A length that is there twice, is no number, or stands beside a transfer coding; any transfer coding but
/// `chunked` alone, once, over HTTP/1.1; a name that only differs from one of these in its punctuation; no `Host`,
/// or two; an expectation that is not `100-continue`.
pub fn of_request<'b>(
    version: Version,
    fields: impl Iterator<Item = (&'b [u8], &'b [u8])>,
) -> Result<OfRequest, Fault> {
    let (mut length, mut is_chunked, mut host, mut expects, mut says_close) = (None, false, None, None, false);
    for (index, (name, value)) in fields.enumerate() {
        match name {
            b"host" => once(&mut host, index, Fault::Host)?,
            b"content-length" if is_request_length(value) => once(&mut length, number(value)?, Fault::Framing)?,
            b"content-length" => return Err(Fault::Framing),
            b"transfer-encoding" => {
                let is_first = !std::mem::replace(&mut is_chunked, true);
                if !is_first || !value.eq_ignore_ascii_case(b"chunked") || version == Version::Http10 {
                    return Err(Fault::Framing);
                }
            }
            b"connection" => says_close |= options(value).any(|option| option.eq_ignore_ascii_case(b"close")),
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => once(&mut expects, (), Fault::Expect)?,
            b"expect" => return Err(Fault::Expect),
            _ if is_alias_of(name, b"content-length") || is_alias_of(name, b"transfer-encoding") => {
                return Err(Fault::Framing);
            }
            _ => {}
        }
    }
    let framing = match (is_chunked, length) {
        (true, Some(_)) => return Err(Fault::Framing),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    let persistence = match version {
        Version::Http11 if !says_close => Persistence::Persistent,
        Version::Http11 | Version::Http10 => Persistence::Close,
    };
    let expects_continue = expects.is_some() && version == Version::Http11;
    Ok(OfRequest { framing, persistence, expects_continue, host: host.ok_or(Fault::Host)? })
}

/// Notes what may be said once.
fn once<T>(noted: &mut Option<T>, value: T, fault: Fault) -> Result<(), Fault> {
    if noted.replace(value).is_some() { Err(fault) } else { Ok(()) }
}

/// Whether a value is one `Content-Length` of a request, not a list or a number of another kind (RFC 9110 section
/// 8.6).
pub fn is_request_length(value: &[u8]) -> bool {
    (1..=REQUEST_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// Whether a name in lower case is another spelling of a name, for programs that read all punctuation alike.
fn is_alias_of(name: &[u8], field: &[u8]) -> bool {
    let is_same = |(a, b): (&u8, &u8)| if a.is_ascii_alphanumeric() { a == b } else { *b == b'-' };
    name.len() == field.len() && name.iter().zip(field).all(is_same)
}

/// The options of a `Connection` field (RFC 9110 section 7.6.1).
pub fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// What a response says of its body and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfResponse {
    /// Its body.
    pub framing: Framing,
    /// Its connection.
    pub persistence: Persistence,
    /// Its one length, whether a body follows or not: that of a response to HEAD, say.
    pub length: Option<u64>,
    /// Whether a length was there that must not be believed or passed on: beside a transfer coding, or where
    /// no message may have one (RFC 9110 section 8.6).
    pub has_void_length: bool,
}

/// Reads the framing of a response, whose names of fields are in lower case.
///
/// Equal lengths, in several fields or as a list, count as one. Chunks beside a length win, and end the
/// connection: somebody on the way may have believed the length (section 6.1).
///
/// # Errors
/// Lengths that differ or are no numbers; any transfer coding but `chunked` alone, once, over HTTP/1.1.
pub fn of_response<'b>(
    (version, status): (Version, u16),
    fields: impl Iterator<Item = (&'b [u8], &'b [u8])>,
    is_answer_to_head: bool,
) -> Result<OfResponse, Fault> {
    let (mut length, mut is_chunked) = (None, false);
    let (mut says_close, mut says_keep) = (false, false);
    for (name, value) in fields {
        if name == b"content-length" {
            for member in value.split(|byte| *byte == b',') {
                let new = number(member.trim_ascii())?;
                if length.replace(new).is_some_and(|old| old != new) {
                    return Err(Fault::Framing);
                }
            }
        } else if name == b"transfer-encoding" {
            let is_first = !std::mem::replace(&mut is_chunked, true);
            if !is_first || !value.eq_ignore_ascii_case(b"chunked") || version == Version::Http10 {
                return Err(Fault::Framing);
            }
        } else if name == b"connection" {
            for option in options(value) {
                says_close |= option.eq_ignore_ascii_case(b"close");
                says_keep |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    let has_no_length = matches!(status, 100..=199 | 204);
    let has_no_body = is_answer_to_head || has_no_length || status == 304;
    let framing = match (has_no_body, is_chunked, length) {
        (true, _, _) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::UntilClose,
    };
    let is_two = is_chunked && length.is_some();
    let goes_on = match version {
        Version::Http11 => !says_close,
        Version::Http10 => says_keep && !says_close,
    };
    let persistence = match goes_on && !is_two && framing != Framing::UntilClose {
        true => Persistence::Persistent,
        false => Persistence::Close,
    };
    let has_void_length = length.is_some() && (is_chunked || has_no_length);
    Ok(OfResponse { framing, persistence, length: length.filter(|_| !has_void_length), has_void_length })
}

/// A length: digits only (RFC 9110 section 8.6).
fn number(text: &[u8]) -> Result<u64, Fault> {
    if text.is_empty() || text.len() > LENGTH_DIGITS_MAX || !text.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Framing);
    }
    Ok(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
