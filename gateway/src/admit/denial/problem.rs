//! Bodies of denials, `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

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
const ID_PLACEHOLDER: &str = "{request_id}";
/// Stands for the seconds of `retry_after`: far beyond every number that a limit or a status has.
const SECONDS_PLACEHOLDER: u64 = u64::MAX;
/// Bodies that are kept: keys may have limits of their own.
const RENDERED_MAX: usize = 4_096;

/// A body that was rendered beforehand: pieces, and what belongs behind each.
#[derive(Debug)]
struct Rendered(Vec<(Box<[u8]>, Behind)>);

/// What belongs behind a piece of a body.
#[derive(Clone, Copy, Debug)]
enum Behind {
    RequestId,
    RetryAfter,
    Nothing,
}

impl Rendered {
    fn of(problem: &Problem<'_>) -> Self {
        let text = serde_json::to_string(problem).unwrap_or_default();
        let seconds = SECONDS_PLACEHOLDER.to_string();
        let (mut pieces, mut rest) = (Vec::new(), text.as_str());
        let next = |rest: &str| {
            let id = rest.find(ID_PLACEHOLDER).map(|at| (at, ID_PLACEHOLDER.len(), Behind::RequestId));
            let seconds = rest.find(&seconds).map(|at| (at, seconds.len(), Behind::RetryAfter));
            id.into_iter().chain(seconds).min_by_key(|(at, ..)| *at)
        };
        while let Some((at, length, behind)) = next(rest) {
            let (piece, more) = rest.split_at_checked(at).unwrap_or_default();
            pieces.push((piece.as_bytes().into(), behind));
            rest = more.get(length..).unwrap_or_default();
        }
        pieces.push((rest.as_bytes().into(), Behind::Nothing));
        Rendered(pieces)
    }

    fn with(&self, request_id: &str, retry_after_s: Option<u64>) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        let mut digits = itoa::Buffer::new();
        for (piece, behind) in &self.0 {
            body.extend_from_slice(piece);
            body.extend_from_slice(match (behind, retry_after_s) {
                (Behind::RequestId, _) => request_id.as_bytes(),
                (Behind::RetryAfter, Some(seconds)) => digits.format(seconds).as_bytes(),
                (Behind::RetryAfter, None) | (Behind::Nothing, _) => b"",
            });
        }
        body
    }
}

/// A limit as a body names it: its name, its number, its window in seconds.
type Limit = (Arc<str>, u32, u64);

/// What a body is about: code and detail, which are constants, and a limit where one was exceeded.
type Cause = (&'static str, &'static str, Option<Limit>);

/// Bodies that were rendered beforehand, at most [`RENDERED_MAX`].
static RENDERED: LazyLock<HashMap<Cause, Rendered, RandomState>> = LazyLock::new(HashMap::default);

impl Denial {
    /// The body, as JSON. A request's id needs no escapes.
    pub fn problem(&self, request_id: &str) -> Vec<u8> {
        let detail = match self.detail() {
            Cow::Borrowed(detail) => detail,
            Cow::Owned(detail) => return self.rendered_now(&detail, request_id),
        };
        let (limit, retry_after_s) = if let Denial::LimitExceeded { limit, standing, retry_after_s } = self {
            (Some((limit.clone(), standing.limit, standing.window.seconds())), Some(*retry_after_s))
        } else {
            (None, None)
        };
        let (rendered, key) = (RENDERED.pin(), (self.code(), detail, limit));
        if let Some(rendered) = rendered.get(&key) {
            return rendered.with(request_id, retry_after_s);
        }
        let mut problem = self.as_problem(detail, ID_PLACEHOLDER);
        problem.retry_after = problem.retry_after.map(|_| SECONDS_PLACEHOLDER);
        let made = Rendered::of(&problem);
        let body = made.with(request_id, retry_after_s);
        if rendered.len() < RENDERED_MAX {
            rendered.insert(key, made);
        }
        body
    }

    fn rendered_now(&self, detail: &str, request_id: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        // Text and numbers into memory: nothing here can fail.
        let _ = serde_json::to_writer(&mut body, &self.as_problem(detail, request_id));
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
    use crate::limit::Standing;

    #[test]
    fn what_was_rendered_beforehand_says_what_is_rendered_now() {
        let window = policy::window::Period::Minute.window(1_790_000_000_000, 0);
        let exceeded = |limit, retry_after_s| Denial::LimitExceeded {
            limit: "minute".into(),
            standing: Standing { limit, remaining: 0, window, now_ms: window.start_ms },
            retry_after_s,
        };
        let limits = [exceeded(200, 17), exceeded(200, 3), exceeded(u32::MAX, 0)];
        let others = [Denial::MissingCredential, Denial::InvalidCredential, Denial::NoSuchRoute];
        for denial in others.into_iter().chain(limits) {
            for id in ["req-1", "another.one_2"] {
                let now = denial.rendered_now(&denial.detail(), id);
                assert_eq!(denial.problem(id), now);
                assert_eq!(denial.problem(id), now, "the second time too");
            }
        }
    }
}
