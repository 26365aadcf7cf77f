//! Backends as data: where they are and how to speak to them.

use std::time::Duration;

/// HTTP version towards an upstream.
pub use crate::file::HttpVersionFile as HttpVersion;

/// TLS towards an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Name its certificate must carry.
    pub name: Box<str>,
    /// Whether the certificate is checked.
    pub verify: bool,
}

/// Active health checks of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path that must answer 200; `None` when a connection is enough.
    pub path: Option<Box<str>>,
    /// Time between checks.
    pub every: Duration,
}

/// One backend of an API, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `host:port`, used in turn.
    pub addresses: Box<[Box<str>]>,
    /// TLS, or plain HTTP.
    pub tls: Option<UpstreamTls>,
    /// HTTP version.
    pub http: HttpVersion,
    /// How often names are resolved again.
    pub resolve_every: Duration,
    /// Active health checks.
    pub health: Option<Health>,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest silence.
    pub timeout: Duration,
    /// Further tries of a request that reached no backend.
    pub retries: u32,
    /// Host sent instead of the client's.
    pub host: Option<Box<str>>,
}
