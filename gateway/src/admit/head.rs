//! One request's head, checked once and read once.
//!
//! The codec has made sure that there is one way to read it; this module makes sure that every field of it can be
//! forwarded or dropped without doubt, and hands out the parts that a decision needs.

use std::net::IpAddr;

use http::HeaderMap;
use http1::framing::is_request_length;
use ipnet::IpNet;
use policy::Bounds;
use policy::credential::{Secret, bearer};
use policy::fields::{Treatment, treatment};
use policy::head::{HeadFault, check_connection};
use policy::target::{Target, TargetFault};

use crate::admit::denial::Denial;
use crate::base::field_names::OF_CONNECTION;
use crate::base::message::{Fields, RequestHead, Version};
use crate::base::random::RequestId;

/// The head of a request that has one reading.
pub struct Head<'a> {
    method: &'a str,
    target: &'a [u8],
    authority: Option<&'a [u8]>,
    noted: Noted<'a>,
    is_websocket_stream: bool,
    bounds: Bounds,
}

/// What a decision needs of the fields, noted in one walk over them.
#[derive(Default)]
struct Noted<'a> {
    host: Option<&'a [u8]>,
    /// The first two: more than one is a fault.
    authorization: [Option<&'a [u8]>; 2],
    origin: Option<&'a str>,
    has_fetch_site: bool,
    has_fetch_dest: bool,
    has_requested_method: bool,
    content_length: Option<u64>,
    if_none_match: Option<&'a [u8]>,
    /// The first two; one is the most.
    destinations: [Option<&'a [u8]>; 2],
}

impl<'a> Noted<'a> {
    fn of(fields: Fields<'a>) -> Result<Self, Denial> {
        let mut noted = Noted::default();
        let are_plain = fields.are_plain();
        for (name, value) in fields.iter() {
            if !are_plain && treatment(name) == Treatment::Refuse {
                return Err(Denial::AliasedField);
            }
            match name {
                b"authorization" => noted.authorization = [Some(value), noted.authorization[0]],
                b"connection" => check_connection(value).map_err(Denial::Head)?,
                b"host" => noted.host = Some(value),
                b"origin" => {
                    noted.origin.get_or_insert(std::str::from_utf8(value).unwrap_or("null"));
                }
                b"sec-fetch-site" => noted.has_fetch_site = true,
                b"sec-fetch-dest" => noted.has_fetch_dest = true,
                b"destination" => noted.destinations = [Some(value), noted.destinations[0]],
                b"access-control-request-method" => noted.has_requested_method = true,
                b"content-length" => noted.content_length = number(value),
                b"if-none-match" => noted.if_none_match = Some(value),
                _ => {}
            }
        }
        Ok(noted)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a request is a gRPC call.
pub fn is_grpc(head: &RequestHead<'_>) -> bool {
    let is_kind = |kind: &[u8]| kind.starts_with(b"application/grpc");
    head.version == Version::Http2
        && !head.is_websocket_stream
        && head.fields.first("content-type").is_some_and(is_kind)
}

/// What the codec makes sure of over HTTP/1.1, and nobody has yet of a head over HTTP/2.
fn check_http2(fields: Fields<'_>) -> Result<(), Denial> {
    let (mut hosts, mut lengths) = (0usize, 0usize);
    for (name, value) in fields.iter() {
        let fault = match name {
            b"host" => {
                hosts += 1;
                (hosts > 1).then_some(HeadFault::Host)
            }
            b"content-length" => {
                lengths += 1;
                (lengths > 1 || !is_request_length(value)).then_some(HeadFault::Framing)
            }
            b"expect" => (!value.eq_ignore_ascii_case(b"100-continue")).then_some(HeadFault::Expect),
            _ => OF_CONNECTION.iter().any(|other| other.as_bytes() == name).then_some(HeadFault::Connection),
        };
        if let Some(fault) = fault {
            return Err(Denial::Head(fault));
        }
    }
    Ok(())
}

impl<'a> Head<'a> {
    /// A head whose parts are known to be good: for benches, which have no session.
    pub fn of(method: &'a str, target: &'a str, host: &'a str, headers: &'a HeaderMap) -> Self {
        let noted = Noted::of(Fields::Map(headers)).unwrap_or_default();
        let (noted, target) = (Noted { host: Some(host.as_bytes()), ..noted }, target.as_bytes());
        Head { method, target, authority: None, noted, is_websocket_stream: false, bounds: Bounds::DEFAULT }
    }

    /// Checks a head that came.
    pub fn check(head: &RequestHead<'a>, bounds: Bounds) -> Result<Self, Denial> {
        if head.method == "CONNECT" {
            return Err(Denial::MethodNotAllowed { allow: "".into() });
        }
        if head.version == Version::Http2 {
            check_http2(head.fields)?;
        }
        let noted = Noted::of(head.fields)?;
        let RequestHead { method, target, authority, is_websocket_stream, .. } = *head;
        Ok(Head { method, target, authority, noted, is_websocket_stream, bounds })
    }

    /// The target, canonical.
    pub fn target(&self) -> Result<Target<'a>, TargetFault> {
        Target::parse(self.method, self.target, self.noted.host, self.authority, &self.bounds)
    }

    /// The other target of `COPY` and `MOVE` (RFC 4918 section 10.3). To other methods the field means
    /// nothing.
    pub fn copied_to(&self) -> Result<Option<Target<'a>>, TargetFault> {
        if !matches!(self.method, "COPY" | "MOVE") {
            return Ok(None);
        }
        match self.noted.destinations {
            [None, _] => Ok(None),
            [Some(raw), None] => {
                Target::parse(self.method, raw, self.noted.host, self.authority, &self.bounds).map(Some)
            }
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

    /// Whether it asks for a WebSocket in the way of HTTP/2: no backend can answer it as a plain GET.
    pub fn is_websocket_stream(&self) -> bool {
        self.is_websocket_stream
    }

    /// `If-None-Match`, if sent.
    pub fn if_none_match(&self) -> Option<&'a [u8]> {
        self.noted.if_none_match
    }

    /// `Content-Length`, if sent.
    pub fn content_length(&self) -> Option<u64> {
        self.noted.content_length
    }
}

/// The request's id: the client's, if it is a plain one.
pub fn request_id(fields: Fields<'_>) -> Option<RequestId> {
    let mut values = fields.all("x-request-id");
    let value = std::str::from_utf8(values.next().filter(|_| values.next().is_none())?).ok()?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    RequestId::of_client(value).filter(|_| !value.is_empty() && value.bytes().all(fits))
}

/// Most entries of `X-Forwarded-For` looked at.
const FORWARDED_MAX: usize = 32;

/// The caller's address: the peer's, or what trusted proxies say was in front of them.
pub fn caller_address(peer: IpAddr, fields: Fields<'_>, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|range| range.contains(address));
    if trusted.is_empty() || !is_trusted(&peer) {
        return peer;
    }
    let values: Vec<&[u8]> = fields.all("x-forwarded-for").collect();
    let latest_first = values.into_iter().rev().flat_map(|value| value.rsplit(|b| *b == b','));
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
    use http::HeaderValue;

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
        assert_eq!(caller_address(peer, Fields::Map(&headers(&["10.0.0.1"])), &[]), peer);
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(caller_address(peer, Fields::Map(&headers(&["1.2.3.4"])), &trusted), peer);
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let seen = caller_address(proxy, Fields::Map(&headers(&["1.1.1.1, 203.0.113.9", "10.0.0.7"])), &trusted);
        assert_eq!(seen, peer);
        assert_eq!(caller_address(proxy, Fields::Map(&headers(&["nonsense"])), &trusted), proxy);
        let mut bytes = HeaderMap::new();
        bytes.insert("x-forwarded-for", HeaderValue::from_bytes(b"\xff, 10.0.0.2, 203.0.113.9").unwrap());
        assert_eq!(caller_address(proxy, Fields::Map(&bytes), &trusted), peer);
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
        let seen = caller_address(
            "10.0.0.1".parse().unwrap(),
            Fields::Map(&headers(&["203.0.113.7:51234, 10.0.0.9:80"])),
            &trusted,
        );
        assert_eq!(seen, "203.0.113.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn only_a_plain_request_id_is_taken_over() {
        let id = |v: &str| {
            let mut map = HeaderMap::new();
            map.insert("x-request-id", HeaderValue::from_str(v).unwrap());
            request_id(Fields::Map(&map)).map(|id| id.as_str().to_owned())
        };
        assert_eq!(id("a-b.c_1").as_deref(), Some("a-b.c_1"));
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(id(bad), None);
        }
    }
}
