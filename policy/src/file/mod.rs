//! The policy file as it is written: a mirror of the YAML, nothing decided yet.
//!
//! Unknown fields are refused. Values that point elsewhere keep their place, so that the compiler
//! can show it. The published JSON Schema is generated from these types, and the shape check walks
//! the same schema: the three cannot disagree.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

mod oauth;
mod route;

pub use self::oauth::{AlgorithmFile, HandoffFile, IntrospectionFile, IssuerFile, LoginFile, OAuthFile, OidcFile};
pub use self::route::{AccessFile, PathFormFile, PerFile, ProtocolFile, RouteClassFile, RouteFile, RouteLimitFile};
use crate::identity::KeyClass;
use crate::span::Spanned;

/// Text with its place.
pub type Text = Spanned<String>;

/// One policy file. A gateway may be given several; their APIs are put together.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tollgate policy")]
pub struct PolicyFile {
    /// Version of this format. The only one is 1.
    pub version: Spanned<u32>,
    /// The APIs that the file describes.
    pub apis: Vec<ApiFile>,
}

/// One protected API.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiFile {
    /// Short name, used in records, metrics and commands.
    pub name: Text,
    /// The hosts at which clients reach the API, without port, such as `api.example.com`.
    pub hosts: Vec<Text>,
    /// The `realm` of `WWW-Authenticate`; the API's name when absent.
    pub realm: Option<Text>,
    /// Credential prefixes.
    pub keys: KeysFile,
    /// The API's authorization server (OAuth 2.0), on a host of its own. Absent: none.
    pub oauth: Option<OAuthFile>,
    /// Other issuers whose tokens are accepted.
    #[serde(default)]
    pub issuers: Vec<IssuerFile>,
    /// The backends.
    pub upstreams: UpstreamsFile,
    /// Every scope of the API with a sentence that says what it allows.
    #[serde(default)]
    pub scopes: BTreeMap<Text, Text>,
    /// Named limits that organizations are on.
    #[serde(default)]
    pub plans: BTreeMap<Text, PlanFile>,
    /// The plan of an organization that names none.
    pub default_plan: Option<Text>,
    /// Key classes that may be used from a browser. Absent: read and public.
    pub browser_keys: Option<Vec<KeyClass>>,
    /// Cross-origin rules. Absent: no origin may read answers.
    pub cors: Option<CorsFile>,
    /// What happens to limits while their store cannot answer. Absent: local_share.
    pub outage: Option<OutageFile>,
    /// Whether missing scopes refuse a request, or are only counted and logged. Absent: enforce.
    pub authorization: Option<ModeFile>,
    /// Path at which a caller sees its own rights and limits, without spending any; `off` for none.
    /// Absent: /.tollgate/self.
    pub inspection: Option<Text>,
    /// Which limit headers are sent. Absent: both.
    pub limit_headers: Option<LimitHeadersFile>,
    /// The routes; what none of them matches is refused.
    pub routes: Vec<RouteFile>,
}

/// Credential prefixes of an API. The prefix decides what a credential is before any look-up.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// Prefix of live keys, such as `ifk_live_`.
    pub live: Text,
    /// Prefix of test keys, such as `ifk_test_`. Absent: the API has no sandbox.
    pub test: Option<Text>,
    /// Whether keys that Tollgate did not mint (no checksum) are looked up. Absent: true.
    pub foreign: Option<bool>,
}

/// One backend per environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamsFile {
    /// Receives requests with live credentials and anonymous requests to public routes.
    pub live: UpstreamFile,
    /// Receives requests with test credentials.
    pub test: Option<UpstreamFile>,
}

/// One backend.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamFile {
    /// `host:port` entries, used in turn. A name is resolved again every `resolve_every`.
    pub addresses: Vec<Text>,
    /// TLS to the backend. Absent: plain HTTP.
    pub tls: Option<UpstreamTlsFile>,
    /// HTTP version to the backend. Absent: h1.
    pub http: Option<HttpVersionFile>,
    /// How often names are resolved again. Absent: 10s.
    pub resolve_every: Option<Text>,
    /// Active health checks. Absent: only failed connections count.
    pub health: Option<HealthFile>,
    /// Longest time to connect. Absent: 2s.
    pub connect_timeout: Option<Text>,
    /// Longest silence while waiting for the backend. Absent: 60s.
    pub timeout: Option<Text>,
    /// How often a request that reached no backend is tried on another. Absent: 1.
    pub retries: Option<Spanned<u32>>,
    /// Host sent to the backend. Absent: the host the client named.
    pub host: Option<Text>,
}

/// TLS to a backend.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTlsFile {
    /// Name that the backend's certificate must carry.
    pub name: Text,
    /// Whether the certificate is checked. Absent: true.
    pub verify: Option<bool>,
}

/// HTTP version towards a backend.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum HttpVersionFile {
    /// HTTP/1.1.
    H1,
    /// HTTP/2, also without TLS; gRPC needs it.
    H2,
    /// Over TLS, what the backend prefers; otherwise HTTP/1.1.
    Auto,
}

/// Active health checks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthFile {
    /// Path that must answer 200. Absent: a connection is enough.
    pub path: Option<Text>,
    /// Time between checks. Absent: 5s.
    pub every: Option<Text>,
}

/// Limits of a plan.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Limit of each key: one rate for all classes, or a rate per class.
    pub per_key: PerKeyFile,
    /// Limits and quotas shared by all keys of the organization, such as `500000/day`.
    #[serde(default)]
    pub per_organization: Vec<Text>,
    /// Limits and quotas of each key beside the first, such as `20000/day`.
    #[serde(default)]
    pub per_key_also: Vec<Text>,
}

/// One rate for all classes, or a rate per class.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum PerKeyFile {
    /// `100/min` for every class.
    Same(Text),
    /// A rate per class.
    ByClass(ByClassFile),
}

impl<'de> Deserialize<'de> for PerKeyFile {
    /// By hand, because serde's untagged enums lose the places of what they hold.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enum Bare {
            Same(String),
            ByClass(ByClassFile),
        }
        impl<'de> Deserialize<'de> for Bare {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct EitherVisitor;
                impl<'de> Visitor<'de> for EitherVisitor {
                    type Value = Bare;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a rate, or a rate per class")
                    }
                    fn visit_str<E>(self, text: &str) -> Result<Bare, E> {
                        Ok(Bare::Same(text.to_owned()))
                    }
                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bare, A::Error> {
                        ByClassFile::deserialize(MapAccessDeserializer::new(map)).map(Bare::ByClass)
                    }
                }
                deserializer.deserialize_any(EitherVisitor)
            }
        }
        let Spanned { value, span } = Spanned::<Bare>::deserialize(deserializer)?;
        Ok(match value {
            Bare::Same(value) => PerKeyFile::Same(Spanned { value, span }),
            Bare::ByClass(rates) => PerKeyFile::ByClass(rates),
        })
    }
}

/// A rate per key class. Every class that an organization has keys of needs one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByClassFile {
    /// Read keys, and routes of class read.
    pub read: Text,
    /// Write keys, and routes of class write.
    pub write: Text,
    /// Admin keys. Absent: as write.
    pub admin: Option<Text>,
    /// Public keys. Absent: as read.
    pub public: Option<Text>,
}

/// Cross-origin rules (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsFile {
    /// Origins that may read answers, such as `https://app.example`, or `*` for all.
    pub origins: Vec<Text>,
    /// Request fields that scripts may send. Absent: authorization, content-type.
    pub headers: Option<Vec<Text>>,
    /// Response fields that scripts may read, beside the limit headers and the request id.
    #[serde(default)]
    pub expose: Vec<Text>,
    /// How long a browser may remember the answer. Absent: 10m.
    pub max_age: Option<Text>,
}

/// What happens to limits while their store cannot answer.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OutageFile {
    /// Each gateway admits its share: the limit divided by the known gateways.
    LocalShare,
    /// Nothing that needs the store is admitted: 503.
    Closed,
    /// Everything is admitted and marked.
    Open,
}

/// Whether missing scopes refuse.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ModeFile {
    /// A request without the scopes is refused.
    Enforce,
    /// It is forwarded, counted and logged: for trying a policy on real traffic.
    Shadow,
}

/// Which limit headers are sent.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LimitHeadersFile {
    /// `X-RateLimit-*`.
    X,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    Ietf,
    /// Both.
    Both,
}

/// The JSON Schema of a policy file, for editors and for `tollgate schema`.
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.into_generator().into_root_schema_for::<PolicyFile>().to_value()
}
