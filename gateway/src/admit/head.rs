//! One request's head, checked once and read once.
//!
//! Pingora has parsed it already; this module makes sure that there was only one way to parse it, and
//! hands out the parts that a decision needs.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{self, HeaderValue};
use http::request::Parts;
use ipnet::IpNet;
use policy::Bounds;
use policy::credential::{Secret, bearer};
use policy::fields::{Treatment, treatment};
use policy::head::{HEAD_BYTES_MAX, HeadFault, is_length, lint};
use policy::target::{Target, TargetFault};

use crate::admit::denial::Denial;
use crate::base::field_names::{OF_CONNECTION, REQUEST_ID};

/// The head of a request that has one reading.
pub struct Head<'a> {
    method: &'a str,
    target: &'a [u8],
    host: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    fields: &'a HeaderMap,
    noted: Noted<'a>,
    bounds: Bounds,
}

/// What a decision needs of the fields, noted in one walk over them.
#[derive(Default)]
struct Noted<'a> {
    /// The first two: more than one is a fault.
    authorization: [Option<&'a [u8]>; 2],
    origin: Option<&'a str>,
    has_fetch_site: bool,
    has_fetch_dest: bool,
    has_requested_method: bool,
    content_length: Option<u64>,
    cookies: usize,
    /// The first two; one is the most.
    destinations: [Option<&'a [u8]>; 2],
}

impl<'a> Noted<'a> {
    fn of(fields: &'a HeaderMap) -> Self {
        let mut noted = Noted::default();
        for (name, value) in fields {
            match name.as_str() {
                "authorization" => noted.authorization = [Some(value.as_bytes()), noted.authorization[0]],
                "origin" => {
                    noted.origin.get_or_insert(value.to_str().unwrap_or("null"));
                }
                "sec-fetch-site" => noted.has_fetch_site = true,
                "sec-fetch-dest" => noted.has_fetch_dest = true,
                "cookie" => noted.cookies += 1,
                "destination" => noted.destinations = [Some(value.as_bytes()), noted.destinations[0]],
                "access-control-request-method" => noted.has_requested_method = true,
                "content-length" => noted.content_length = value.to_str().ok().and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        noted
    }
}

/// A head as it came, from whatever connection.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Method, version, URI and fields, as parsed.
    pub parts: &'a Parts,
    /// The target as it was sent; over HTTP/2 path and query.
    pub target: &'a [u8],
    /// The whole head byte for byte; HTTP/2 has none.
    pub raw: Option<&'a [u8]>,
}

/// Whether a request is a gRPC call.
pub fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE);
    parts.version == http::Version::HTTP_2 && kind.is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// Whether every field name a client sent can be forwarded or dropped without doubt.
fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Denial> {
    for name in names {
        match treatment(name) {
            Treatment::Forward | Treatment::Drop => {}
            Treatment::Refuse => return Err(Denial::AliasedField),
        }
    }
    Ok(())
}

impl<'a> Head<'a> {
    /// A head whose parts are known to be good: for benches, which have no session.
    pub fn of(method: &'a str, target: &'a str, host: &'a str, headers: &'a HeaderMap) -> Self {
        Head {
            method,
            target: target.as_bytes(),
            host: Some(host.as_bytes()),
            authority: None,
            fields: headers,
            noted: Noted::of(headers),
            bounds: Bounds::DEFAULT,
        }
    }

    /// Checks a head that came.
    pub fn check(received: Received<'a>, bounds: Bounds) -> Result<Self, Denial> {
        let request = received.parts;
        let headers = &request.headers;
        let (method, noted) = (request.method.as_str(), Noted::of(headers));
        if request.method == http::Method::CONNECT {
            return Err(Denial::MethodNotAllowed { allow: "".into() });
        }
        check_names(headers.keys().map(|name| name.as_str()))?;
        if let Some(raw) = received.raw {
            let line = lint(raw, bounds.fields).map_err(Denial::Head)?;
            let (target, host) = (line.target, Some(line.host));
            return Ok(Head { method, target, host, authority: None, fields: headers, noted, bounds });
        }
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        // Over HTTP/2 a cookie may come in many pieces, which are one field (RFC 9113 section 8.2.3).
        let fields = headers.len() - noted.cookies.saturating_sub(1);
        if fields > bounds.fields || size > HEAD_BYTES_MAX {
            return Err(Denial::Head(HeadFault::TooLarge));
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().map(HeaderValue::as_bytes);
        if hosts.next().is_some() {
            return Err(Denial::Head(HeadFault::Host));
        }
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        if lengths.next().is_some_and(|length| !is_length(length.as_bytes())) || lengths.next().is_some() {
            return Err(Denial::Head(HeadFault::Framing));
        }
        if headers.keys().any(|name| OF_CONNECTION.contains(&name.as_str())) {
            return Err(Denial::Head(HeadFault::Connection));
        }
        let expectations = headers.get_all(header::EXPECT);
        if expectations.iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(Denial::Head(HeadFault::Expect));
        }
        let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
        Ok(Head { method, target: received.target, host, authority, fields: headers, noted, bounds })
    }

    /// The target, canonical.
    pub fn target(&self) -> Result<Target<'a>, TargetFault> {
        Target::parse(self.method, self.target, self.host, self.authority, &self.bounds)
    }

    /// The other target of `COPY` and `MOVE` (RFC 4918 section 10.3). To other methods the field means
    /// nothing.
    pub fn copied_to(&self) -> Result<Option<Target<'a>>, TargetFault> {
        if !matches!(self.method, "COPY" | "MOVE") {
            return Ok(None);
        }
        match self.noted.destinations {
            [None, _] => Ok(None),
            [Some(raw), None] => Target::parse(self.method, raw, self.host, self.authority, &self.bounds).map(Some),
            [Some(_), Some(_)] => Err(TargetFault::Form),
        }
    }

    /// The credential that was presented, if any.
    pub fn credential(&self) -> Result<Option<Secret<'a>>, Denial> {
        bearer(self.noted.authorization.into_iter().flatten()).map_err(Denial::UnreadableCredential)
    }

    /// `Origin`; a value that is not text is no origin that anything allows.
    pub fn origin(&self) -> Option<&'a str> {
        self.noted.origin
    }

    /// Whether it says what only browsers say of themselves (see `policy::Circumstances`).
    pub fn has_fetch_metadata(&self) -> bool {
        self.noted.has_fetch_site && self.noted.has_fetch_dest
    }

    /// Whether it is a CORS preflight.
    pub fn is_preflight(&self) -> bool {
        self.method == "OPTIONS" && self.noted.origin.is_some() && self.noted.has_requested_method
    }

    /// `If-None-Match`, if sent.
    pub fn if_none_match(&self) -> Option<&'a HeaderValue> {
        self.fields.get(header::IF_NONE_MATCH)
    }

    /// `Content-Length`, if sent.
    pub fn content_length(&self) -> Option<u64> {
        self.noted.content_length
    }
}

/// The request's id: the client's, if it is a plain one.
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(REQUEST_ID).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    ((1..=64).contains(&value.len()) && value.bytes().all(fits)).then_some(value)
}

/// Most entries of `X-Forwarded-For` looked at.
const FORWARDED_MAX: usize = 32;

/// The caller's address: the peer's, or what trusted proxies say was in front of them.
pub fn caller_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|range| range.contains(address));
    if trusted.is_empty() || !is_trusted(&peer) {
        return peer;
    }
    let values = headers.get_all("x-forwarded-for");
    let latest_first = values.iter().rev().flat_map(|v| v.as_bytes().rsplit(|b| *b == b','));
    let mut caller = peer;
    for entry in latest_first.take(FORWARDED_MAX) {
        // What a client wrote before, in whatever bytes, does not hide what the proxy wrote behind it.
        match std::str::from_utf8(entry).ok().and_then(|entry| forwarded_address(entry.trim())) {
            Some(address) => caller = address,
            None => break,
        }
        if !is_trusted(&caller) {
            break;
        }
    }
    caller
}

/// An address as proxies write it: plain, or with a port, or (of IPv6) in brackets with or without one.
fn forwarded_address(entry: &str) -> Option<IpAddr> {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let address = if let Some(rest) = entry.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        is_whole.then(|| address.parse().ok().map(IpAddr::V6))??
    } else {
        match entry.split_once(':') {
            Some((address, port)) if is_port(port) && !address.is_empty() => IpAddr::V4(address.parse().ok()?),
            Some(_) | None => entry.parse().ok()?,
        }
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|v| (http::HeaderName::from_static("x-forwarded-for"), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let peer: IpAddr = "203.0.113.9".parse().unwrap();
        assert_eq!(caller_address(peer, &headers(&["10.0.0.1"]), &[]), peer);
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(caller_address(peer, &headers(&["1.2.3.4"]), &trusted), peer);
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let seen = caller_address(proxy, &headers(&["1.1.1.1, 203.0.113.9", "10.0.0.7"]), &trusted);
        assert_eq!(seen, peer);
        assert_eq!(caller_address(proxy, &headers(&["nonsense"]), &trusted), proxy);
        let mut bytes = HeaderMap::new();
        bytes.insert("x-forwarded-for", HeaderValue::from_bytes(b"\xff, 10.0.0.2, 203.0.113.9").unwrap());
        assert_eq!(caller_address(proxy, &bytes, &trusted), peer);
    }

    #[test]
    fn an_address_with_a_port_or_brackets_is_that_address() {
        for (entry, address) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7:51234", Some("203.0.113.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:443", Some("2001:db8::7")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")),
            ("[203.0.113.7]:443", None),
            ("203.0.113.7:x", None),
            ("203.0.113.7:99999", None),
            ("[2001:db8::7]443", None),
            ("unknown", None),
            ("_hidden:443", None),
            (":443", None),
            ("", None),
        ] {
            assert_eq!(forwarded_address(entry), address.map(|a| a.parse().unwrap()), "{entry}");
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let seen = caller_address("10.0.0.1".parse().unwrap(), &headers(&["203.0.113.7:51234, 10.0.0.9:80"]), &trusted);
        assert_eq!(seen, "203.0.113.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn only_a_plain_request_id_is_taken_over() {
        let id = |v: &str| {
            let mut map = HeaderMap::new();
            map.insert("x-request-id", HeaderValue::from_str(v).unwrap());
            request_id(&map).map(str::to_owned)
        };
        assert_eq!(id("a-b.c_1").as_deref(), Some("a-b.c_1"));
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(id(bad), None);
        }
    }
}
