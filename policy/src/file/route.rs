//! Routes as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ModeFile, OutageFile, Text};
use crate::path::Form;
use crate::span::Spanned;

/// One route: which requests, and what they need.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteFile {
    /// Short name, used in records and metrics; unique in the API.
    pub id: Text,
    /// Methods, such as `[GET, POST]`. GET covers HEAD.
    pub methods: Vec<Text>,
    /// Path patterns: `/v2/packs`, `/v2/packs/*` (one segment), `/v2/packs/**` (the rest).
    pub paths: Vec<Text>,
    /// Who may call it. There is no default.
    pub access: AccessFile,
    /// Whether public keys may call it. Absent: false.
    pub public_keys: Option<bool>,
    /// Limit class for credentials that have no class of their own. Absent: read for GET, else write.
    pub class: Option<RouteClassFile>,
    /// Tokens that a request takes from each of its limits. Absent: 1.
    pub cost: Option<Spanned<u32>>,
    /// Limits of this route alone, beside those of the plan.
    #[serde(default)]
    pub limits: Vec<RouteLimitFile>,
    /// Largest request body. Absent: 10MiB.
    pub body_max: Option<Text>,
    /// Longest silence while waiting for the backend. Absent: that of the upstream.
    pub timeout: Option<Text>,
    /// Protocols beside plain requests and answers.
    #[serde(default)]
    pub allow: Vec<ProtocolFile>,
    /// Whether WebSockets, event streams and gRPC calls under way end when their credential does.
    /// Absent: true.
    pub ends_with_credential: Option<bool>,
    /// Forms of paths that are taken beside the ordinary ones, because the backend is known to read
    /// them as this gateway does. Absent: none.
    #[serde(default)]
    pub paths_may: Vec<PathFormFile>,
    /// Overrides the API's.
    pub outage: Option<OutageFile>,
    /// Overrides the API's.
    pub authorization: Option<ModeFile>,
}

/// Who may call a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessFile {
    /// Anyone, with or without a credential.
    Public,
    /// Any valid credential of the API.
    Authenticated,
    /// A valid credential with all of these scopes.
    Scopes(Vec<Text>),
}

/// Limit class of a route.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RouteClassFile {
    /// Counts against the plan's read limit.
    Read,
    /// Counts against the plan's write limit.
    Write,
}

/// A limit of one route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLimitFile {
    /// Such as `10/min`.
    pub rate: Text,
    /// Whose requests are counted together. Absent: key.
    pub per: Option<PerFile>,
}

/// Whose requests a limit counts together.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PerFile {
    /// Those of one key.
    Key,
    /// Those of one organization.
    Organization,
}

/// A protocol that a route must allow before it passes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolFile {
    /// WebSocket (RFC 6455).
    Websocket,
    /// Server-sent events: answers that never end.
    Sse,
    /// gRPC over HTTP/2.
    Grpc,
}

/// A form of a path that some backends take for syntax.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PathFormFile {
    /// `;` or `%3B`, after which some backends cut a segment off.
    Semicolon,
    /// `%23`.
    Hash,
    /// `%3F`.
    QuestionMark,
    /// `%2E` outside dot segments.
    EscapedDot,
    /// Text outside ASCII that is not in the normal form NFC, or has compatibility characters.
    OtherUnicode,
}

impl PathFormFile {
    /// As it is written in a policy.
    pub fn of(form: Form) -> Self {
        match form {
            Form::Semicolon => PathFormFile::Semicolon,
            Form::Hash => PathFormFile::Hash,
            Form::QuestionMark => PathFormFile::QuestionMark,
            Form::EscapedDot => PathFormFile::EscapedDot,
            Form::OtherUnicode => PathFormFile::OtherUnicode,
        }
    }

    /// As it is found in a path.
    pub fn form(self) -> Form {
        match self {
            PathFormFile::Semicolon => Form::Semicolon,
            PathFormFile::Hash => Form::Hash,
            PathFormFile::QuestionMark => Form::QuestionMark,
            PathFormFile::EscapedDot => Form::EscapedDot,
            PathFormFile::OtherUnicode => Form::OtherUnicode,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            PathFormFile::Semicolon => "semicolon",
            PathFormFile::Hash => "hash",
            PathFormFile::QuestionMark => "question_mark",
            PathFormFile::EscapedDot => "escaped_dot",
            PathFormFile::OtherUnicode => "other_unicode",
        }
    }
}
