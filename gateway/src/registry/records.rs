//! Short-lived records of the authorization server: what is under way, who is logged in, what was
//! agreed to.

use serde::{Deserialize, Serialize};

/// An authorization request under way: from `/oauth/authorize` to the redirect back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Its id, 128 bits.
    pub id: String,
    /// Name of the API.
    pub api: String,
    /// The application.
    pub app: String,
    /// Its redirect URI, byte for byte.
    pub redirect_uri: String,
    /// What it asks for.
    pub scopes: Vec<String>,
    /// `state`, decoded.
    pub state: Option<String>,
    /// PKCE challenge.
    pub challenge: String,
    /// `prompt=consent`.
    pub must_consent: bool,
    /// `prompt=login`: sessions from before this do not count.
    pub must_login: bool,
    /// Hash of the cookie of the browser that began it.
    #[serde(with = "crate::base::digest::hex")]
    pub browser: crate::base::digest::Digest,
    /// When it began, Unix milliseconds.
    pub created_ms: u64,
    /// When it is over.
    pub expires_ms: u64,
    /// Who has logged in for it.
    pub user: Option<String>,
    /// What another system said of who has logged in.
    pub handed: Option<Handed>,
    /// What another system's page has granted already.
    pub granted: Option<Vec<String>>,
    /// Nonce and verifier of a login at an OpenID Provider.
    pub upstream: Option<(String, String)>,
}

/// What another system said over the management API, to be picked up once by the browser that is
/// sent back with the verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Who has logged in; `None` when the login was rejected.
    pub user: Option<String>,
    /// Hash of the verifier.
    #[serde(with = "crate::base::digest::hex")]
    pub verifier: crate::base::digest::Digest,
}

/// A browser in which a user has logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Where the login counts: the API, and who knows its users.
    pub realm: String,
    /// The user.
    pub user: String,
    /// When they logged in, Unix milliseconds.
    pub created_ms: u64,
    /// When it is over, unless it is used.
    pub expires_ms: u64,
}

/// What a user has agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentRecord {
    /// Scopes.
    pub scopes: Vec<String>,
    /// For which organization.
    pub organization: String,
    /// When, Unix milliseconds.
    pub agreed_ms: u64,
}
