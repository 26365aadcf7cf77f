//! What the authorization server reads and writes: requests taken apart, answers put together.
//!
//! Every answer says whether it may be stored; only public documents may.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use policy::form::Login;
pub use policy::form::{Form, FormFault};
use policy::oauth::OAuth;
use policy::route::Api;

/// Longest body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// One request to the authorization server.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The API.
    pub api: &'a Api,
    /// Its authorization server.
    pub oauth: &'a OAuth,
    /// Method, as sent.
    pub method: &'a str,
    /// Canonical path.
    pub path: &'a str,
    /// What follows the first `?`.
    pub query: &'a str,
    /// All fields.
    pub headers: &'a HeaderMap,
    /// The body, whole.
    pub body: &'a [u8],
    /// The caller's address.
    pub address: IpAddr,
    /// Now, by the clock that all gateways share.
    pub now_ms: u64,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub fields: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How it ended, for metrics and the log: a word from a closed list.
    pub outcome: &'static str,
}

fn field(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    // A value of ours that is no field value would be a bug; the field is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.append(name, value);
    }
}

impl Reply {
    /// An answer that nobody may store.
    pub fn new(status: StatusCode, outcome: &'static str) -> Self {
        let fields = HeaderMap::new();
        let reply = Reply { status, fields, body: Bytes::new(), outcome };
        reply.with(header::CACHE_CONTROL, "no-store").with(header::PRAGMA, "no-cache")
    }

    /// Adds a field.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        field(&mut self.fields, name, value);
        self
    }

    /// Gives it a body.
    pub fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        self.body = body.into();
        self
    }

    /// A JSON answer.
    pub fn json(status: StatusCode, outcome: &'static str, value: &serde_json::Value) -> Self {
        Reply::new(status, outcome).body("application/json", value.to_string())
    }

    /// A redirect after which the method is GET (RFC 9110 section 15.4.4); never 307, which would
    /// send a password on (RFC 9700 section 4.12).
    pub fn see_other(location: &str, outcome: &'static str) -> Self {
        Reply::new(StatusCode::SEE_OTHER, outcome)
            .with(header::LOCATION, location)
            .with(header::REFERRER_POLICY, "no-referrer")
            .with(header::X_FRAME_OPTIONS, "DENY")
    }

    /// A public document: everybody may read and keep it for a while.
    pub fn public(
        kind: &'static str,
        body: impl Into<Bytes>,
        max_age_s: u64,
        if_none_match: Option<&HeaderValue>,
    ) -> Self {
        let body = body.into();
        let hash = blake3::hash(&body).to_hex();
        let etag = format!("\"{}\"", hash.get(..32).unwrap_or_default());
        let is_known = if_none_match.is_some_and(|seen| seen.as_bytes() == etag.as_bytes());
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut reply = Reply { status, fields: HeaderMap::new(), body: Bytes::new(), outcome: "document" }
            .with(header::CACHE_CONTROL, &format!("public, max-age={max_age_s}"))
            .with(header::ETAG, &etag)
            .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        if !is_known {
            reply = reply.body(kind, body);
        }
        reply
    }

    /// The wrong method (RFC 9110 section 15.5.6).
    pub fn method_not_allowed(allowed: &str) -> Self {
        Reply::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            .with(header::ALLOW, allowed)
            .body("text/plain; charset=utf-8", format!("Use {allowed}.\n"))
    }
}

/// Reads a request's body as a form.
pub fn body_form(request: &Request<'_>) -> Result<Form, FormFault> {
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(FormFault("the body must be application/x-www-form-urlencoded".into()));
    }
    let text = std::str::from_utf8(request.body).map_err(|_| FormFault("the body is not UTF-8".into()))?;
    Form::parse(text)
}

/// Client id and secret of `Authorization: Basic`; none where there is no such field.
pub fn basic(headers: &HeaderMap) -> Result<Option<Login>, FormFault> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match values.next() {
        None => Login::basic(value.as_bytes()).map(Some),
        Some(_) => Err(FormFault("there are two Authorization fields".into())),
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut found = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(known, _)| *known == name);
    let value = found.next()?.1;
    // Two of one name: somebody else has put one there.
    found.next().is_none().then_some(value)
}

/// A redirect back to an application: its URI with parameters added, whatever query it has.
pub fn with_parameters(uri: &str, parameters: &[(&str, &str)]) -> String {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        query.append_pair(name, value);
    }
    format!("{uri}{separator}{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_that_comes_twice_is_nobodys() {
        let headers = |values: &[&str]| -> HeaderMap {
            values.iter().map(|v| (header::COOKIE, HeaderValue::from_str(v).unwrap())).collect()
        };
        assert_eq!(cookie(&headers(&["a=1; b=2"]), "b"), Some("2"));
        assert_eq!(cookie(&headers(&["a=1; b=2", "b=3"]), "b"), None);
        assert_eq!(cookie(&headers(&["ab=1"]), "b"), None);
    }

    #[test]
    fn a_redirect_keeps_the_query_it_has() {
        assert_eq!(
            with_parameters("https://a/cb", &[("code", "x y"), ("state", "&=")]),
            "https://a/cb?code=x+y&state=%26%3D"
        );
        assert_eq!(with_parameters("https://a/cb?k=1", &[("code", "c")]), "https://a/cb?k=1&code=c");
    }
}
