//! The part of a policy file that is about tokens.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Text;

/// The authorization server of an API. This gateway is it, at the issuer's host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuthFile {
    /// Issuer identifier (RFC 8414 section 2), such as `https://auth.example.com`: scheme and host,
    /// without slash at the end. Clients compare it byte for byte.
    pub issuer: Text,
    /// What people see as the name of the product. Absent: the realm.
    pub name: Option<Text>,
    /// The `aud` of tokens: the API as a resource (RFC 8707). Absent: `https://` and the first host.
    pub audience: Option<Text>,
    /// Where people are sent who have lost their way. Absent: nowhere.
    pub home: Option<Text>,
    /// Who knows the users. Absent: builtin.
    pub login: Option<LoginFile>,
}

/// Who knows the users.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoginFile {
    /// Tollgate: `tollgate users add`.
    Builtin,
    /// The company's own application logs its users in and sends them back.
    Handoff(HandoffFile),
    /// An OpenID Provider.
    Oidc(OidcFile),
}

/// A login page of the company's own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandoffFile {
    /// The page; `login_request=<id>` is added to its query.
    pub url: Text,
    /// Public keys (JWK) of logins that come back as a signed JWT. Absent: only the management API
    /// accepts logins.
    #[serde(default)]
    pub keys: Vec<Text>,
    /// Whether the company's page asks for consent too, and says what was granted. Absent: false.
    pub consent: Option<bool>,
}

/// An OpenID Provider that knows the users.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcFile {
    /// Its issuer identifier; its metadata is read from there.
    pub issuer: Text,
    /// Our client id at it.
    pub client_id: Text,
    /// File with our client secret.
    pub client_secret_file: Text,
    /// Organization that its users join. Absent: they are added with `tollgate users`.
    pub organization: Option<Text>,
}

/// Another issuer whose tokens are accepted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerFile {
    /// The `iss` of its tokens, compared byte for byte.
    pub issuer: Text,
    /// The `aud` that its tokens must have. Absent: `https://` and the first host.
    pub audience: Option<Text>,
    /// Where its public keys are (RFC 7517); for tokens that are JWTs.
    pub jwks: Option<Text>,
    /// Algorithms of its keys. Absent: RS256.
    pub algorithms: Option<Vec<AlgorithmFile>>,
    /// Where its tokens are asked about (RFC 7662); for tokens that say nothing by themselves.
    pub introspection: Option<IntrospectionFile>,
    /// How its opaque tokens begin. Absent: whatever is no JWT and has no other prefix.
    pub prefix: Option<Text>,
    /// The claim with the scopes, a text or a list. Absent: scope.
    pub scope_claim: Option<Text>,
    /// What its tokens may do at most.
    pub scopes: Vec<Text>,
    /// The plan of its users. Absent: the default plan.
    pub plan: Option<Text>,
    /// A claim that says the plan.
    pub plan_claim: Option<Text>,
    /// What values of that claim mean. Values that are not here mean `plan`.
    #[serde(default)]
    pub plans: BTreeMap<Text, Text>,
}

/// How an issuer is asked about a token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionFile {
    /// The introspection endpoint.
    pub endpoint: Text,
    /// Our client id at it.
    pub client_id: Text,
    /// File with our client secret.
    pub client_secret_file: Text,
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum AlgorithmFile {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}
