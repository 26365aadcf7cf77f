//! Pages for people: plain HTML without scripts, in force under a policy that allows none.

use askama::Template;
use http::{StatusCode, header};

use super::http::Request;
use crate::base::answer::Answer;
use crate::registry::app::AppRecord;

/// What every page has.
pub(super) struct Frame {
    product: String,
    initial: String,
    home: Option<String>,
    /// Who is logged in.
    pub(super) who: Option<String>,
    /// Goes into every form.
    pub(super) csrf: String,
}

impl Frame {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let product = request.oauth.name.to_string();
        Frame {
            initial: product.chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default(),
            home: request.oauth.home.as_deref().map(str::to_owned),
            product,
            who: None,
            csrf: String::new(),
        }
    }
}

/// A scope in words.
pub(super) struct ScopeWords {
    pub(super) name: String,
    pub(super) words: String,
}

/// Scopes in the API's own words.
pub(super) fn in_words(request: &Request<'_>, scopes: &[String]) -> Vec<ScopeWords> {
    let words = |name: &str| {
        let known = request.api.scopes.iter().find(|(scope, _)| scope.as_str() == name);
        known.map_or_else(|| name.to_owned(), |(_, words)| words.to_string())
    };
    scopes.iter().map(|name| ScopeWords { name: name.clone(), words: words(name) }).collect()
}

#[derive(Template)]
#[template(path = "login.html")]
pub(super) struct LoginPage {
    pub(super) frame: Frame,
    pub(super) flow: String,
    pub(super) app: Option<String>,
    pub(super) email: String,
    pub(super) problem: Option<String>,
}

/// An organization to choose.
pub(super) struct Choice {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Template)]
#[template(path = "consent.html")]
pub(super) struct ConsentPage {
    pub(super) frame: Frame,
    pub(super) flow: String,
    pub(super) app: String,
    pub(super) owner: String,
    pub(super) host: String,
    pub(super) scopes: Vec<ScopeWords>,
    pub(super) organizations: Vec<Choice>,
}

/// One connected application.
pub(super) struct Connected {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) organizations: String,
    pub(super) scopes: Vec<ScopeWords>,
    pub(super) since: String,
    pub(super) since_words: String,
    pub(super) last_used: String,
}

#[derive(Template)]
#[template(path = "applications.html")]
pub(super) struct ApplicationsPage {
    pub(super) frame: Frame,
    pub(super) applications: Vec<Connected>,
    pub(super) done: Option<String>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    frame: Frame,
    heading: String,
    words: String,
    detail: Option<String>,
}

/// The style of all pages.
const STYLE: &str = include_str!("../../templates/style.css");

/// How long browsers keep the style, seconds.
const STYLE_MAX_AGE_S: u64 = 3_600;

pub(super) fn style(request: &Request<'_>) -> Answer {
    let if_none_match = request.headers.get(header::IF_NONE_MATCH).map(http::HeaderValue::as_bytes);
    Answer::public("text/css; charset=utf-8", STYLE, STYLE_MAX_AGE_S, if_none_match)
}

/// Where the redirect after a form may lead. The browser holds redirects to it too, so that an
/// application's own origin must be named, or the last step would be blocked silently.
fn form_action(redirect_uri: Option<&str>) -> String {
    let Some(uri) = redirect_uri else { return "'self'".into() };
    let scheme = uri.split(':').next().unwrap_or_default();
    let authority = uri.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    match authority {
        // The grammar of the policy has no IPv6 addresses.
        Some(authority) if matches!(scheme, "https" | "http") && !authority.starts_with('[') => {
            format!("'self' {scheme}://{authority}")
        }
        Some(_) | None => format!("'self' {scheme}:"),
    }
}

/// Sends a page. What it may load and where its forms may lead is said in its head.
pub(super) fn page<T: Template>(
    status: StatusCode,
    outcome: &'static str,
    page: &T,
    redirect_uri: Option<&str>,
) -> Answer {
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action {}; frame-ancestors 'none'; base-uri 'none'",
        form_action(redirect_uri)
    );
    let html = page.render().unwrap_or_else(|error| {
        tracing::error!(target: "tollgate::oauth", "a page could not be made: {error}");
        String::new()
    });
    Answer::new(status, outcome)
        .with(header::CONTENT_SECURITY_POLICY, &policy)
        .with(header::X_FRAME_OPTIONS, "DENY")
        .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // Not `no-referrer`: browsers would send `Origin: null` with our own forms.
        .with(header::REFERRER_POLICY, "same-origin")
        .body("text/html; charset=utf-8", html)
}

/// A page that says why it goes no further.
pub(super) fn message(
    request: &Request<'_>,
    status: StatusCode,
    (heading, words): (&str, &str),
    detail: Option<&str>,
) -> Answer {
    let (heading, words, detail) = (heading.to_owned(), words.to_owned(), detail.map(str::to_owned));
    let outcome = if status.is_server_error() { "temporarily_unavailable" } else { "page" };
    page(status, outcome, &MessagePage { frame: Frame::of(request), heading, words, detail }, None)
}

/// Where people go back to, in words they can check: the host, or that it is on their own machine.
pub(super) fn destination(app: &AppRecord, redirect_uri: &str) -> String {
    match url::Url::parse(redirect_uri).ok().and_then(|url| url.host_str().map(str::to_owned)) {
        Some(host) if matches!(host.as_str(), "127.0.0.1" | "[::1]" | "localhost") => {
            "an application on this device".into()
        }
        Some(host) => host,
        None => format!("{} on this device", app.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_lead_here_and_to_the_applications_origin_only() {
        assert_eq!(form_action(None), "'self'");
        assert_eq!(form_action(Some("https://a.example/cb?x=1")), "'self' https://a.example");
        assert_eq!(form_action(Some("http://127.0.0.1:5000/cb")), "'self' http://127.0.0.1:5000");
        assert_eq!(form_action(Some("com.example.app:/cb")), "'self' com.example.app:");
        assert_eq!(form_action(Some("http://[::1]:5/cb")), "'self' http:");
    }
}
