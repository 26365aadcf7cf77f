//! Requests as the authorization server reads them: parameters, cookies, client credentials.

use std::net::IpAddr;

use http::HeaderMap;
use http::header;
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
    use http::HeaderValue;

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
