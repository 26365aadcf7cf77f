//! The request target: method, host and canonical path, or a reason to refuse.
//!
//! Parsed once per request from bytes that nobody has touched. Everything after this module works
//! on the values here and never looks at the raw target again.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use crate::bounds::Bounds;
use crate::path::{CanonicalPath, PathFault};
use http1::bytes::Class;

/// Longest host name accepted, in bytes (RFC 1035 section 2.3.4), without port.
pub const HOST_BYTES_MAX: usize = 253;

/// Longest method accepted, in bytes.
pub const METHOD_BYTES_MAX: usize = http1::head::METHOD_BYTES_MAX;

/// A request's method: any token (RFC 9110 section 9.1), so also those of WebDAV and QUERY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method<'a>(&'a str);

impl<'a> Method<'a> {
    /// GET.
    pub const GET: Method<'static> = Method("GET");
    /// HEAD, for which the routes of GET hold.
    pub const HEAD: Method<'static> = Method("HEAD");

    /// Parses a method; methods are case-sensitive. CONNECT is none: nothing here is a tunnel to
    /// elsewhere. Nor is TRACE: it would show a caller the fields that we add (RFC 9110 section 9.3.8).
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_method = (1..=METHOD_BYTES_MAX).contains(&text.len())
            && Class::TOKEN.has_all(text.as_bytes())
            && !matches!(text, "CONNECT" | "TRACE");
        is_method.then_some(Method(text))
    }

    /// The token.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The method whose routes apply: HEAD is GET.
    pub fn rule(self) -> Self {
        if self == Method::HEAD { Method::GET } else { self }
    }

    /// Whether it only reads, as GET and HEAD do.
    pub fn is_read(self) -> bool {
        self.rule() == Method::GET
    }
}

impl fmt::Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// Longer than accepted: 414.
    TooLong,
    /// Neither origin-form nor absolute-form.
    Form,
    /// Absolute-form that names another host than `Host`, or `Host` that differs from `:authority`.
    AuthorityMismatch,
    /// No host, or not a host.
    Host,
    /// A query byte that must be escaped.
    Query,
    /// The path.
    Path(PathFault),
}

impl TargetFault {
    /// A constant sentence for the caller.
    pub fn detail(self) -> &'static str {
        match self {
            TargetFault::TooLong => "The request target is too long.",
            TargetFault::Form => "The request target must be a path, or an http or https URL.",
            TargetFault::AuthorityMismatch => "The request names two different hosts.",
            TargetFault::Host => "The request must name exactly one valid host.",
            TargetFault::Query => "The query has a character that must be escaped.",
            TargetFault::Path(fault) => fault.detail(),
        }
    }
}

/// What a label of a host is made of.
const LABEL: Class = Class::ALPHANUMERIC.with(b"-_");

/// A host name for look-up: lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// Parses `host[:port]` as found in `Host` or `:authority`. User information, a trailing dot,
    /// an empty label and anything outside letters, digits, `-`, `_` and `.` (or an IPv6 literal)
    /// is refused.
    pub fn parse(raw: &'a [u8]) -> Result<Self, TargetFault> {
        let text = std::str::from_utf8(raw).map_err(|_| TargetFault::Host)?;
        let name = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(TargetFault::Host)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| TargetFault::Host)?;
                check_port(port)?;
                text.get(..address.len() + 2).ok_or(TargetFault::Host)?
            }
            None => {
                let (name, port) = memchr(b':', raw).map_or((text, ""), |at| text.split_at(at));
                check_port(port)?;
                let label_fits = |label: &[u8]| (1..=63).contains(&label.len()) && LABEL.has_all(label);
                if name.len() > HOST_BYTES_MAX || !name.as_bytes().split(|b| *b == b'.').all(label_fits) {
                    return Err(TargetFault::Host);
                }
                name
            }
        };
        Ok(Host(if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        }))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Accepts nothing or `:` and 1 to 5 digits.
fn check_port(port: &str) -> Result<(), TargetFault> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits)
            if (1..=5).contains(&digits.len())
                && digits.bytes().all(|b| b.is_ascii_digit())
                && digits.parse::<u16>().is_ok() =>
        {
            Ok(())
        }
        None | Some(_) => Err(TargetFault::Host),
    }
}

/// A request target that was understood.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The method; `None` for one that no route can name.
    pub method: Option<Method<'a>>,
    /// The host it is for.
    pub host: Host<'a>,
    /// The path, as matched and forwarded.
    pub path: CanonicalPath<'a>,
    /// The query, byte for byte, without the question mark. Never matched, never logged.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Parses an untrusted target. `host` is the value of the single `Host` field (HTTP/1) and
    /// `authority` that of `:authority` (HTTP/2); where both are there they must agree.
    pub fn parse(
        method: &'a str,
        raw: &'a [u8],
        host: Option<&'a [u8]>,
        authority: Option<&'a [u8]>,
        bounds: &Bounds,
    ) -> Result<Self, TargetFault> {
        if raw.len() > bounds.target_bytes {
            return Err(TargetFault::TooLong);
        }
        let (in_target, origin_form) = split_absolute(raw)?;
        let mut named = [host, authority, in_target].into_iter().flatten();
        let first = named.next().ok_or(TargetFault::Host)?;
        if named.any(|other| !other.eq_ignore_ascii_case(first)) {
            return Err(TargetFault::AuthorityMismatch);
        }
        let host = Host::parse(first)?;
        let (path, query) = match origin_form.iter().position(|b| *b == b'?') {
            Some(at) => {
                let (path, rest) = origin_form.split_at(at);
                (path, rest.get(1..))
            }
            None => (origin_form, None),
        };
        let query = match query {
            Some(q) if q.iter().all(|b| matches!(b, 0x21..=0x7e) && *b != b'#') => {
                Some(std::str::from_utf8(q).map_err(|_| TargetFault::Query)?)
            }
            Some(_) => return Err(TargetFault::Query),
            None => None,
        };
        let path = CanonicalPath::parse(path, bounds).map_err(|fault| match fault {
            PathFault::TooLong => TargetFault::TooLong,
            PathFault::NotAbsolute => TargetFault::Form,
            PathFault::RawByte
            | PathFault::EmptySegment
            | PathFault::BadEscape
            | PathFault::EscapedSyntax
            | PathFault::DotSegment
            | PathFault::Unicode
            | PathFault::TooManySegments => TargetFault::Path(fault),
        })?;
        Ok(Target { method: Method::parse(method), host, path, query })
    }
}

/// Splits an absolute-form target (RFC 9112 section 3.2.2) into authority and the rest.
fn split_absolute(raw: &[u8]) -> Result<(Option<&[u8]>, &[u8]), TargetFault> {
    if raw.first() == Some(&b'/') {
        return Ok((None, raw));
    }
    let scheme_end = raw.windows(3).position(|w| w == b"://").ok_or(TargetFault::Form)?;
    let (scheme, rest) = raw.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(TargetFault::Form);
    }
    let rest = rest.get(3..).ok_or(TargetFault::Form)?;
    let path_at = rest.iter().position(|b| *b == b'/').ok_or(TargetFault::Form)?;
    let (authority, path) = rest.split_at(path_at);
    Ok((Some(authority), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(raw: &'a str, host: &'a str) -> Result<Target<'a>, TargetFault> {
        Target::parse("GET", raw.as_bytes(), Some(host.as_bytes()), None, &Bounds::DEFAULT)
    }

    #[test]
    fn the_query_is_split_off_and_kept_byte_for_byte() {
        let target = parse("/v2/packs?q=%2e%2E//..&x=/../", "API.iconflow.dev:8443").unwrap();
        assert_eq!(target.path.as_str(), "/v2/packs");
        assert_eq!(target.query, Some("q=%2e%2E//..&x=/../"));
        assert_eq!(target.host.as_str(), "api.iconflow.dev");
    }

    #[test]
    fn an_absolute_target_must_name_the_host_of_the_request() {
        let ok = parse("https://api.iconflow.dev/v2/packs", "API.ICONFLOW.DEV").unwrap();
        assert_eq!(ok.path.as_str(), "/v2/packs");
        for (raw, host, fault) in [
            ("http://evil.example/v2", "api.iconflow.dev", TargetFault::AuthorityMismatch),
            ("http://user@api.iconflow.dev/v2", "api.iconflow.dev", TargetFault::AuthorityMismatch),
            ("ftp://api.iconflow.dev/v2", "api.iconflow.dev", TargetFault::Form),
            ("http://api.iconflow.dev", "api.iconflow.dev", TargetFault::Form),
            ("*", "api.iconflow.dev", TargetFault::Form),
            ("api.iconflow.dev:443", "api.iconflow.dev", TargetFault::Form),
            ("", "api.iconflow.dev", TargetFault::Form),
            ("/v2?a b", "api.iconflow.dev", TargetFault::Query),
        ] {
            assert_eq!(parse(raw, host).unwrap_err(), fault, "{raw}");
        }
    }

    #[test]
    fn a_host_that_is_not_a_host_is_refused() {
        for host in [
            "",
            ".",
            "a..b",
            "api.iconflow.dev.",
            "a b",
            "a,b",
            "a@b",
            "a/b",
            "[::1",
            "[zz]",
            "a:",
            "a:99999",
            "a:1:2",
            "a:x",
            "é",
        ] {
            assert_eq!(Host::parse(host.as_bytes()), Err(TargetFault::Host), "{host}");
        }
        assert_eq!(Host::parse(b"[::1]:8443").unwrap().as_str(), "[::1]");
    }

    #[test]
    fn any_token_is_a_method_but_those_that_no_gateway_forwards() {
        for method in ["GET", "PROPFIND", "QUERY", "M-SEARCH", "get"] {
            assert_eq!(Method::parse(method).map(Method::as_str), Some(method));
        }
        for method in ["", "GE T", "GET/", "CONNECT", "TRACE", &"A".repeat(METHOD_BYTES_MAX + 1)] {
            assert_eq!(Method::parse(method), None, "{method}");
        }
        assert_eq!(Method::HEAD.rule(), Method::GET);
    }

    #[test]
    fn two_names_for_the_host_must_agree() {
        let refused = Target::parse("GET", b"/", Some(b"a.example"), Some(b"b.example"), &Bounds::DEFAULT);
        assert_eq!(refused.unwrap_err(), TargetFault::AuthorityMismatch);
        assert_eq!(Target::parse("GET", b"/", None, None, &Bounds::DEFAULT).unwrap_err(), TargetFault::Host);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..300), host in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Target::parse("GET", &raw, Some(&host), None, &Bounds::DEFAULT);
        }
    }
}
