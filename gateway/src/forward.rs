//! What the upstream gets to see: our fields, none of the client's copies of them, no credential.
//!
//! Called from the engine's last request hook, after hop-by-hop fields and everything that
//! `Connection` nominated are gone, so that nothing can take our fields away again.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER};
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr};
use policy::Identity;
use policy::fields::{Treatment, treatment};
use policy::route::Upstream;

use crate::deny::Denial;
use crate::values::Values;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The caller's address.
    pub address: IpAddr,
    /// The host as the client named it.
    pub host: &'a str,
    /// Whether it came over TLS, to us or to whoever is trusted in front of us.
    pub is_https: bool,
    /// The request's id.
    pub request_id: &'a str,
}

/// Whether every field name a client sent can be forwarded or dropped without doubt.
pub fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Denial> {
    for name in names {
        match treatment(name) {
            Treatment::Forward | Treatment::Drop => {}
            Treatment::Refuse => return Err(Denial::AliasedField),
        }
    }
    Ok(())
}

pub(crate) mod names {
    //! Our fields, parsed once.
    use http::header::HeaderName;

    pub(super) const KEY_ID: HeaderName = HeaderName::from_static("x-tollgate-key-id");
    pub(super) const ORG: HeaderName = HeaderName::from_static("x-tollgate-org");
    pub(super) const USER: HeaderName = HeaderName::from_static("x-tollgate-user");
    pub(super) const SCOPES: HeaderName = HeaderName::from_static("x-tollgate-scopes");
    pub(super) const ENV: HeaderName = HeaderName::from_static("x-tollgate-env");
    pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
}

/// Rewrites the request for the upstream: path as matched, fields as decided. The engine's map of
/// the client's spelling of names is let go: keeping it would double the work of each field.
pub fn prepare(
    request: &mut RequestHeader,
    path_and_query: &str,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &Origin<'_>,
) -> pingora::Result<()> {
    let taken = std::mem::replace(request, RequestHeader::build_no_case("GET", b"/", None)?);
    let mut parts = http::request::Parts::from(taken);
    remove_client_fields(&mut parts.headers);
    add_our_fields(&mut parts.headers, upstream, identity, origin)?;
    *request = RequestHeader::from(parts);
    request.set_raw_path(path_and_query.as_bytes())
}

/// Most fields that are added to those of the client.
const OURS_MAX: usize = 10;
/// Room for their values, in bytes: common ones fit.
const VALUES_BYTES: usize = 256;

/// The request for the upstream, made anew: for a request of which nothing nominates fields (see
/// [`is_plain`]).
pub fn request(
    head: &RequestHeader,
    path_and_query: &str,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &Origin<'_>,
) -> pingora::Result<RequestHeader> {
    let mut fields = HeaderMap::with_capacity(head.headers.len() + OURS_MAX);
    for (name, value) in &head.headers {
        let goes_on = match treatment(name.as_str()) {
            Treatment::Forward => !is_hop_by_hop(name.as_str()),
            Treatment::Drop | Treatment::Refuse => false,
        };
        if goes_on {
            fields.append(name.clone(), value.clone());
        }
    }
    // Over HTTP/2 the host is not among the fields; the engine's way forwards it as it was named.
    if let Some(authority) = head.uri.authority().filter(|_| !fields.contains_key(HOST)) {
        let host = HeaderValue::from_str(authority.as_str());
        fields.insert(HOST, host.or_err(ErrorType::InternalError, "an authority is a field value")?);
    }
    add_our_fields(&mut fields, upstream, identity, origin)?;
    // Canonical, so ASCII: the engine keeps no other bytes of it beside its parts.
    let request = RequestHeader::build_no_case(head.method.clone(), path_and_query.as_bytes(), Some(0))?;
    let mut parts = http::request::Parts::from(request);
    parts.headers = fields;
    Ok(RequestHeader::from(parts))
}

/// Whether no field of a request says anything of a body but its length, of the connection or of
/// another protocol.
pub fn is_plain(fields: &HeaderMap) -> bool {
    fields.iter().all(|(name, value)| match name.as_str() {
        "connection" => {
            let value = value.as_bytes();
            value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
        }
        "content-length" => value.as_bytes().iter().all(u8::is_ascii_digit),
        "transfer-encoding" | "te" | "trailer" | "upgrade" | "expect" | "http2-settings" => false,
        _ => true,
    })
}

/// `Content-Length`, if sent; the head was checked.
pub fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Fields of one connection, not of the message (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "proxy-authenticate" | "proxy-authorization")
}

fn add_our_fields(
    fields: &mut HeaderMap,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &Origin<'_>,
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

fn remove_client_fields(fields: &mut HeaderMap) {
    let is_doomed = |name: &&HeaderName| match treatment(name.as_str()) {
        Treatment::Forward => false,
        Treatment::Drop | Treatment::Refuse => true,
    };
    let doomed: Vec<HeaderName> = fields.keys().filter(is_doomed).cloned().collect();
    for name in doomed {
        fields.remove(name);
    }
    if fields.get(TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        fields.remove(TE);
    }
    fields.remove(TRAILER);
    fields.remove(EXPECT);
}
