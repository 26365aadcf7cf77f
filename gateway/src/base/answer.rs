//! An answer that the gateway writes itself, as a value: refusals, documents, pages.
//!
//! Who makes one knows no connection; one writer puts it on the wire.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

/// An answer of ours, whole.
#[derive(Debug)]
pub struct Answer {
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

impl Answer {
    /// A status and nothing else.
    pub fn empty(status: StatusCode, outcome: &'static str) -> Self {
        Answer { status, fields: HeaderMap::new(), body: Bytes::new(), outcome }
    }

    /// A fault of our own, of which nothing is said to the client: a value that is no field value.
    pub fn internal_error() -> Self {
        tracing::error!(target: "tollgate::answer", "an answer of ours has a text that cannot be a field; it is a 500");
        Answer::empty(StatusCode::INTERNAL_SERVER_ERROR, "internal_error").no_store()
    }

    /// JSON that nobody may store.
    pub fn json_bytes(status: StatusCode, outcome: &'static str, body: Vec<u8>) -> Self {
        Answer::empty(status, outcome).no_store().body("application/json", body)
    }

    fn no_store(mut self) -> Self {
        self.fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self
    }

    /// An answer that nobody may store (`no-store`).
    pub fn new(status: StatusCode, outcome: &'static str) -> Self {
        Answer::empty(status, outcome).no_store().with(header::PRAGMA, "no-cache")
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
        Answer::new(status, outcome).body("application/json", value.to_string())
    }

    /// A redirect after which the method is GET (RFC 9110 section 15.4.4); never 307, which would
    /// send a password on (RFC 9700 section 4.12).
    pub fn see_other(location: &str, outcome: &'static str) -> Self {
        Answer::new(StatusCode::SEE_OTHER, outcome)
            .with(header::LOCATION, location)
            .with(header::REFERRER_POLICY, "no-referrer")
            .with(header::X_FRAME_OPTIONS, "DENY")
    }

    /// A public document: everybody may read and keep it for a while.
    pub fn public(kind: &'static str, body: impl Into<Bytes>, max_age_s: u64, if_none_match: Option<&[u8]>) -> Self {
        let body = body.into();
        let hash = blake3::hash(&body).to_hex();
        let etag = format!("\"{}\"", hash.get(..32).unwrap_or_default());
        let is_known = if_none_match.is_some_and(|seen| seen == etag.as_bytes());
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut answer = Answer::empty(status, "document")
            .with(header::CACHE_CONTROL, &format!("public, max-age={max_age_s}"))
            .with(header::ETAG, &etag)
            .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        if !is_known {
            answer = answer.body(kind, body);
        }
        answer
    }

    /// The wrong method (RFC 9110 section 15.5.6).
    pub fn method_not_allowed(allowed: &str) -> Self {
        Answer::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            .with(header::ALLOW, allowed)
            .body("text/plain; charset=utf-8", format!("Use {allowed}.\n"))
    }
}
