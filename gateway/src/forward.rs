//! What the upstream gets to see: our fields, none of the client's copies of them, no credential.
//!
//! Called from the engine's last request hook, after hop-by-hop fields and everything that
//! `Connection` nominated are gone, so that nothing can take our fields away again.

use std::net::IpAddr;

use http::header::{HOST, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use policy::Identity;
use policy::fields::{Treatment, treatment};
use policy::route::Upstream;

use crate::deny::Denial;

/// Prefix of the identity fields.
pub const IDENTITY_PREFIX: &str = "X-Tollgate-";

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

/// Rewrites the request for the upstream: path as matched, fields as decided.
pub fn prepare(
    request: &mut RequestHeader,
    path_and_query: &str,
    upstream: &Upstream,
    identity: Identity<'_>,
    origin: &Origin<'_>,
) -> pingora::Result<()> {
    request.set_raw_path(path_and_query.as_bytes())?;
    remove_client_fields(request);
    if let Some(host) = &upstream.host {
        request.insert_header(HOST, &**host)?;
    } else if !request.headers.contains_key(HOST) {
        request.insert_header(HOST, origin.host)?;
    }
    let (key, organization, environment) = match identity {
        Identity::Anonymous => ("", "", ""),
        Identity::Key(key, organization) => (&*key.id, &*organization.id, key.environment.as_str()),
    };
    let mut scopes = String::new();
    for scope in identity.effective_scopes() {
        if !scopes.is_empty() {
            scopes.push(' ');
        }
        scopes.push_str(scope.as_str());
    }
    // Always all of them, also empty ones: a field that is absent could be somebody else's.
    request.insert_header("X-Tollgate-Key-Id", key)?;
    request.insert_header("X-Tollgate-Org", organization)?;
    request.insert_header("X-Tollgate-User", "")?;
    request.insert_header("X-Tollgate-Scopes", scopes)?;
    request.insert_header("X-Tollgate-Env", environment)?;
    request.insert_header("X-Request-Id", origin.request_id)?;
    request.insert_header("X-Forwarded-For", origin.address.to_string())?;
    request.insert_header("X-Forwarded-Proto", if origin.is_https { "https" } else { "http" })?;
    request.insert_header("X-Forwarded-Host", origin.host)?;
    Ok(())
}

fn remove_client_fields(request: &mut RequestHeader) {
    let doomed: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| match treatment(name.as_str()) {
            Treatment::Forward => false,
            Treatment::Drop | Treatment::Refuse => true,
        })
        .cloned()
        .collect();
    for name in doomed {
        request.remove_header(&name);
    }
    let trailers = request.headers.get(http::header::TE).map(HeaderValue::as_bytes);
    if trailers.is_some_and(|te| te != b"trailers") {
        request.remove_header(&http::header::TE);
    }
    request.remove_header(&http::header::TRAILER);
    request.remove_header(&http::header::EXPECT);
}
