//! What the upstream gets to see: our fields, none of the client's copies of them, no credential.
//!
//! The request is made anew, and ours are put in last: nothing that a client nominates can take them
//! away again.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Version};
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr};
use policy::Identity;
use policy::fields::{Treatment, treatment};
use policy::route::Upstream;

use crate::base::field_names as names;
use crate::base::header_values::Values;
use crate::upstream::outbound::Framing;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo<'a> {
    /// The caller's address.
    pub address: IpAddr,
    /// The host as the client named it.
    pub host: &'a str,
    /// Whether it came over TLS, to us or to whoever is trusted in front of us.
    pub is_https: bool,
    /// The request's id.
    pub request_id: &'a str,
}

/// Most fields that are added to those of the client.
const OURS_MAX: usize = 10;
/// Room for their values, in bytes: common ones fit.
const VALUES_BYTES: usize = 256;

/// What a request to a backend is beside its fields.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How its body is framed.
    pub framing: Framing,
    /// Whether it asks for a WebSocket (RFC 6455 section 4.1).
    pub is_upgrade: bool,
    /// Whether the backend may speak HTTP/2.
    pub may_be_http2: bool,
}

/// The request for the upstream, made anew: the client's fields without those of its connection and
/// those that only we write, in our framing, and ours.
pub fn request(
    head: &RequestHeader,
    shape: Shape,
    path_and_query: &str,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &ClientInfo<'_>,
) -> pingora::Result<RequestHeader> {
    let theirs = &head.headers;
    let nominations = Nominations::of(theirs);
    let mut fields = HeaderMap::with_capacity(theirs.len() + OURS_MAX);
    for (name, value) in theirs {
        let goes_on = match treatment(name.as_str()) {
            Treatment::Forward => !is_hop_by_hop(name.as_str()) && !nominations.contain(name.as_str()),
            Treatment::Drop | Treatment::Refuse => false,
        };
        if goes_on {
            fields.append(name.clone(), value.clone());
        }
    }
    if head.version == Version::HTTP_2 {
        join_cookies(&mut fields)?;
    }
    // Over HTTP/2 the host is not among the fields; it is forwarded as it was named.
    if let Some(authority) = head.uri.authority().filter(|_| !fields.contains_key(HOST)) {
        let host = HeaderValue::from_str(authority.as_str());
        fields.insert(HOST, host.or_err(ErrorType::InternalError, "an authority is a field value")?);
    }
    frame(&mut fields, head, shape);
    add_our_fields(&mut fields, upstream, identity, origin)?;
    // Canonical, so ASCII: Pingora keeps no other bytes of it beside its parts.
    let request = RequestHeader::build_no_case(head.method.clone(), path_and_query.as_bytes(), Some(0))?;
    let mut parts = http::request::Parts::from(request);
    parts.headers = fields;
    Ok(RequestHeader::from(parts))
}

/// Adds the fields of the connection to a backend.
fn frame(fields: &mut HeaderMap, head: &RequestHeader, shape: Shape) {
    match shape.framing {
        // RFC 9110 section 8.6: where content is expected, none is said to be none.
        Framing::None if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Framing::None => {}
        Framing::Length(length) => {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Framing::Unknown if shape.may_be_http2 => {}
        Framing::Unknown => {
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if shape.is_upgrade {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    // gRPC wants to see it; nothing else that it can say is for anybody but us.
    if shape.may_be_http2 && head.headers.get(TE).is_some_and(|te| te.as_bytes() == b"trailers") {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Over HTTP/2 a client may send its cookies in several fields; elsewhere they are one (RFC 9113
/// section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) -> pingora::Result<()> {
    let mut crumbs = fields.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) else { return Ok(()) };
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    fields.insert(COOKIE, joined.or_err(ErrorType::InternalError, "cookies are field values")?);
    Ok(())
}

/// Fields that a `Connection` field calls its own (RFC 9110 section 7.6.1).
pub struct Nominations<'a>(Vec<&'a str>);

impl<'a> Nominations<'a> {
    /// Reads the fields of a message.
    pub fn of(fields: &'a HeaderMap) -> Self {
        let values = fields.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).map(str::trim);
        let is_option = |name: &&str| name.eq_ignore_ascii_case("keep-alive") || name.eq_ignore_ascii_case("close");
        Nominations(names.filter(|name| !is_option(name)).collect())
    }

    /// Whether it is one of them.
    pub fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
}

/// Whether a message asks for, or grants, a WebSocket on its connection.
pub fn is_websocket(fields: &HeaderMap) -> bool {
    let mut protocols = fields.get_all(UPGRADE).iter();
    let is_one = protocols.next().is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_one && protocols.next().is_none() && Nominations::of(fields).contain("upgrade")
}

/// `Content-Length`, if sent; the head was checked.
pub fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Fields of one connection, not of the message (RFC 9110 section 7.6.1), and those that frame it.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn add_our_fields(
    fields: &mut HeaderMap,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &ClientInfo<'_>,
) -> pingora::Result<()> {
    let mut values = Values::with_capacity(VALUES_BYTES);
    if let Some(host) = &upstream.host {
        fields.insert(HOST, values.text(host)?);
    } else if !fields.contains_key(HOST) {
        fields.insert(HOST, values.text(origin.host)?);
    }
    let (key, user) = match identity {
        Identity::Anonymous => ("", ""),
        Identity::Key(key, _) => (&*key.id, ""),
        Identity::Token(token, _) => ("", &*token.user),
    };
    let organization = identity.organization().map_or("", |organization| &*organization.id);
    let environment = match identity {
        Identity::Anonymous => "",
        Identity::Key(..) | Identity::Token(..) => identity.environment().as_str(),
    };
    let scopes = values.list(identity.effective_scopes().map(policy::Scope::as_str))?;
    // Always all of them, also empty ones: a field that is absent could be somebody else's.
    fields.insert(names::KEY_ID, values.text(key)?);
    fields.insert(names::ORG, values.text(organization)?);
    fields.insert(names::USER, values.text(user)?);
    fields.insert(names::SCOPES, scopes);
    fields.insert(names::ENV, HeaderValue::from_static(environment));
    fields.insert(names::REQUEST_ID, values.text(origin.request_id)?);
    fields.insert(names::FORWARDED_FOR, values.address(origin.address)?);
    fields.insert(names::FORWARDED_PROTO, HeaderValue::from_static(if origin.is_https { "https" } else { "http" }));
    fields.insert(names::FORWARDED_HOST, values.text(origin.host)?);
    Ok(())
}
