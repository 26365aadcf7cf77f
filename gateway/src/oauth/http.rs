//! What the authorization server reads and writes: requests taken apart, answers put together.
//!
//! Form parameters follow RFC 6749 sections 3.1 and 3.2: an empty value counts as omitted, a known
//! parameter that comes twice is an error, unknown ones are nobody's business. Every answer says
//! whether it may be stored; only public documents may.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use policy::oauth::OAuth;
use policy::route::Api;
use zeroize::Zeroizing;

/// Longest body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most parameters of a form or query.
const PARAMETERS_MAX: usize = 64;

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

/// A request that cannot be read as a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormFault(pub String);

/// Parameters of a form or a query. Values may be secrets: they are wiped, and do not print.
pub struct Form(Vec<(String, Zeroizing<String>)>);

/// Percent-decoding that takes nothing back: each escape is whole, and the result is UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Form {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Result<Self, FormFault> {
        let mut list = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if list.len() == PARAMETERS_MAX {
                return Err(FormFault("there are too many parameters".into()));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(FormFault("a parameter is not percent-encoded UTF-8".into()));
            };
            list.push((name, Zeroizing::new(value)));
        }
        Ok(Form(list))
    }

    /// Reads a request's body.
    pub fn of_body(request: &Request<'_>) -> Result<Self, FormFault> {
        let kind = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(FormFault("the body must be application/x-www-form-urlencoded".into()));
        }
        let text = std::str::from_utf8(request.body).map_err(|_| FormFault("the body is not UTF-8".into()))?;
        Form::parse(text)
    }

    /// A parameter; none when it is absent or empty.
    pub fn get(&self, name: &str) -> Result<Option<&str>, FormFault> {
        let mut found = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        if found.next().is_some() {
            return Err(FormFault(format!("{name} comes more than once")));
        }
        Ok(first.filter(|value| !value.is_empty()))
    }
}

/// Client id and secret of `Authorization: Basic` (RFC 6749 section 2.3.1: both form-encoded inside).
pub fn basic(headers: &HeaderMap) -> Result<Option<(String, Zeroizing<String>)>, FormFault> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let fault = || FormFault("the Authorization field is not `Basic` with a client id and secret".into());
    if values.next().is_some() {
        return Err(fault());
    }
    let text = value.to_str().map_err(|_| fault())?;
    let (scheme, encoded) = text.split_once(' ').ok_or_else(fault)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(fault());
    }
    let bytes = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| fault())?);
    let pair = std::str::from_utf8(&bytes).map_err(|_| fault())?;
    let (id, secret) = pair.split_once(':').ok_or_else(fault)?;
    let (id, secret) = (decode(id).ok_or_else(fault)?, Zeroizing::new(decode(secret).ok_or_else(fault)?));
    Ok(Some((id, secret)))
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
    use proptest::prelude::*;

    fn get(text: &str, name: &str) -> Result<Option<String>, FormFault> {
        Form::parse(text)?.get(name).map(|v| v.map(str::to_owned))
    }

    #[test]
    fn an_empty_value_is_omitted_and_a_repeated_one_is_refused() {
        assert_eq!(get("a=1&b=2", "b"), Ok(Some("2".into())));
        assert_eq!(get("a=&b=2", "a"), Ok(None));
        assert_eq!(get("b=2", "a"), Ok(None));
        assert_eq!(get("x=1&x=2&a=3", "a"), Ok(Some("3".into())), "only parameters that are asked for count");
        assert!(get("a=1&a=1", "a").is_err() && get("a=1&a=", "a").is_err());
        assert_eq!(get("a=x%20y+z%C3%A9", "a"), Ok(Some("x y z\u{e9}".into())));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=1", "a=%+1"] {
            assert!(get(bad, "a").is_err(), "{bad}");
        }
    }

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

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_was_encoded_comes_back(text in ".{0,100}") {
            let _ = Form::parse(&text);
            let encoded = form_urlencoded::Serializer::new(String::new()).append_pair("a", &text).finish();
            let back = get(&encoded, "a").unwrap();
            prop_assert_eq!(back.unwrap_or_default(), text);
        }
    }
}
