//! What an operator sees: metrics, the access log, health and readiness.
//!
//! Each request leaves exactly one [`Record`], made when its exchange ends; everything here
//! is fed from it. Labels come from closed lists and the policy, never from a request.

mod access_log;
mod health;
mod metrics;

pub use self::access_log::AccessLog;
pub use self::health::Health;
pub use self::metrics::{ApiMetrics, LimitMetrics, MetricFault, Metrics, RouteMetrics};

/// What is said of one request, once.
#[derive(Debug, serde::Serialize)]
pub struct Record<'a> {
    /// When it began, RFC 3339.
    pub time: String,
    /// Its id.
    pub request_id: &'a str,
    /// API, when the host is known.
    pub api: &'a str,
    /// Route id, when one matched and the caller may know.
    pub route: &'a str,
    /// Environment of the credential.
    pub environment: &'a str,
    /// Method, when it is a known one.
    pub method: &'a str,
    /// Path as matched; never the query.
    pub path: &'a str,
    /// Protocol towards the client.
    pub protocol: &'a str,
    /// Caller's address.
    pub address: String,
    /// Key id; never the key.
    pub key: &'a str,
    /// Grant of the token; empty for keys.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub grant: &'a str,
    /// Application that holds the token.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub client: &'a str,
    /// User who granted it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: &'a str,
    /// Organization.
    pub organization: &'a str,
    /// `forwarded`, or the code of the denial.
    pub outcome: &'a str,
    /// Whether missing scopes were only shadowed.
    pub shadowed: bool,
    /// How limits were counted: `exact`, or `local_share` or `open` while their server was away.
    pub limits: &'a str,
    /// Status sent.
    pub status: u16,
    /// Bytes of body received.
    pub bytes_in: usize,
    /// Bytes of body sent.
    pub bytes_out: usize,
    /// How the key was found: `cached`, `stored`, `stale` or nothing.
    pub found: &'a str,
    /// Microseconds until the decision.
    pub decision_us: u64,
    /// Microseconds waiting for the upstream's first byte; 0 when not forwarded.
    pub upstream_us: u64,
    /// Microseconds in all.
    pub total_us: u64,
    /// Address of the upstream, when one was chosen.
    pub upstream: String,
}
