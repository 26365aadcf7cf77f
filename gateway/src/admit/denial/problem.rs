//! Bodies of denials, `application/problem+json` (RFC 9457).

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

impl Denial {
    /// The body, as JSON.
    pub fn problem(&self, request_id: &str) -> Vec<u8> {
        let code = self.code();
        let detail = self.detail();
        let mut problem = Problem {
            code,
            detail: &detail,
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
        if let Denial::LimitExceeded { limit, standing, retry_after_s } = self {
            let window_seconds = standing.window.seconds();
            problem.violated_policies = Some([Violated { limit: standing.limit, policy: limit, window_seconds }]);
            problem.retry_after = Some(*retry_after_s);
        }
        let mut body = Vec::with_capacity(BODY_BYTES);
        // Text and numbers into memory: nothing here can fail.
        let _ = serde_json::to_writer(&mut body, &problem);
        body
    }
}
