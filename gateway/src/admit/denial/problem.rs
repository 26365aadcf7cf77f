//! Bodies of denials, `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::sync::LazyLock;

use foldhash::fast::RandomState;
use papaya::HashMap;
use serde::Serialize;

use super::Denial;

/// Room for a body, in bytes: common ones fit.
const BODY_BYTES: usize = 384;

/// One body; its members in alphabetical order.
#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    detail: &'a str,
    instance: String,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scopes: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    status: u16,
    title: &'a str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    violated_policies: Option<[Violated<'a>; 1]>,
}

/// A limit that was exceeded.
#[derive(Serialize)]
struct Violated<'a> {
    limit: u32,
    policy: &'a str,
    window_seconds: u64,
}

/// Stands for the request's id while a body is rendered beforehand. It is no id: a request's has no braces.
const PLACEHOLDER: &str = "{request_id}";

/// A body that was rendered beforehand, in pieces between which the request's id belongs.
#[derive(Debug)]
struct Rendered(Vec<Vec<u8>>);

impl Rendered {
    fn of(problem: &Problem<'_>) -> Self {
        let text = serde_json::to_string(problem).unwrap_or_default();
        Rendered(text.split(PLACEHOLDER).map(|piece| piece.as_bytes().to_vec()).collect())
    }

    fn with(&self, request_id: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        for (i, piece) in self.0.iter().enumerate() {
            body.extend_from_slice(if i > 0 { request_id.as_bytes() } else { b"" });
            body.extend_from_slice(piece);
        }
        body
    }
}

/// Bodies of which only the request's id differs, by code and detail: both are constants, so there is one for each
/// cause of a denial and no more.
static RENDERED: LazyLock<HashMap<(&'static str, &'static str), Rendered, RandomState>> =
    LazyLock::new(HashMap::default);

impl Denial {
    /// The body, as JSON. A request's id needs no escapes.
    pub fn problem(&self, request_id: &str) -> Vec<u8> {
        let detail = self.detail();
        if let (Cow::Borrowed(detail), None) = (&detail, self.limit()) {
            let rendered = RENDERED.pin();
            let made = || Rendered::of(&self.as_problem(detail, PLACEHOLDER));
            return rendered.get_or_insert_with((self.code(), *detail), made).with(request_id);
        }
        let mut body = Vec::with_capacity(BODY_BYTES);
        // Text and numbers into memory: nothing here can fail.
        let _ = serde_json::to_writer(&mut body, &self.as_problem(&detail, request_id));
        body
    }

    /// What an exceeded limit says, which differs from request to request; a number of seconds does too.
    fn limit(&self) -> Option<(Violated<'_>, u64)> {
        if let Denial::LimitExceeded { limit, standing, retry_after_s } = self {
            let window_seconds = standing.window.seconds();
            return Some((Violated { limit: standing.limit, policy: limit, window_seconds }, *retry_after_s));
        }
        None
    }

    fn as_problem<'a>(&'a self, detail: &'a str, request_id: &'a str) -> Problem<'a> {
        let code = self.code();
        let mut problem = Problem {
            code,
            detail,
            instance: ["urn:tollgate:request:", request_id].concat(),
            request_id,
            required_scopes: None,
            retry_after: None,
            status: self.status(),
            title: self.title(),
            r#type: ["urn:tollgate:problem:", code].concat(),
            violated_policies: None,
        };
        if let Denial::InsufficientScope { required } = self {
            problem.required_scopes = Some(required.iter().map(policy::Scope::as_str).collect());
        }
        if let Some((violated, retry_after_s)) = self.limit() {
            (problem.violated_policies, problem.retry_after) = (Some([violated]), Some(retry_after_s));
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rendered_beforehand_says_what_is_rendered_now() {
        for denial in [Denial::MissingCredential, Denial::InvalidCredential, Denial::NoSuchRoute] {
            for id in ["req-1", "another.one_2"] {
                let now = serde_json::to_vec(&denial.as_problem(&denial.detail(), id)).unwrap();
                assert_eq!(denial.problem(id), now);
            }
        }
    }
}
