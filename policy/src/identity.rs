//! Who asks: keys, organizations and the scopes between them, as the policy sees them.
//!
//! These are facts handed in by whoever looked the credential up. Nothing here holds a secret.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Rate;

/// What a key is for; the order is only that of the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyClass {
    /// Fetches; may be used in a front end where the API allows it.
    Read,
    /// Changes things; for servers.
    Write,
    /// Everything its organization may do; for servers.
    Admin,
    /// The SDK's limited key: only routes that allow it, only from its origins.
    Public,
}

impl KeyClass {
    /// All classes.
    pub const ALL: [KeyClass; 4] = [KeyClass::Read, KeyClass::Write, KeyClass::Admin, KeyClass::Public];

    /// The class's name in policies, commands and records.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyClass::Read => "read",
            KeyClass::Write => "write",
            KeyClass::Admin => "admin",
            KeyClass::Public => "public",
        }
    }
}

/// Which of an API's two worlds a credential opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Production data.
    Live,
    /// The sandbox.
    Test,
}

impl Environment {
    /// The environment's name in policies, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Environment::Live => "live",
            Environment::Test => "test",
        }
    }
}

/// A permission name such as `packs:read`: 1 to 64 characters of an RFC 6749 scope-token,
/// without comma (our header joins scopes with spaces, operators join them with commas).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Parses a scope name.
    pub fn parse(s: &str) -> Result<Self, String> {
        let fits = |b: u8| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x5b | 0x5d..=0x7e);
        if s.is_empty() || s.len() > 64 || !s.bytes().all(fits) {
            return Err(format!(
                "`{}` is not a scope name; use 1 to 64 printable characters without space, comma, quote or backslash, such as `packs:read`",
                s.escape_debug()
            ));
        }
        Ok(Scope(Arc::from(s)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sorted set of scopes. Small: at most [`Scopes::MAX`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Scopes(Box<[Scope]>);

impl Scopes {
    /// Most scopes a key or an organization can have.
    pub const MAX: usize = 64;

    /// Sorts and deduplicates.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Result<Self, String> {
        let mut list: Vec<Scope> = scopes.into_iter().collect();
        list.sort();
        list.dedup();
        if list.len() > Self::MAX {
            return Err(format!("{} scopes are too many; at most {}", list.len(), Self::MAX));
        }
        Ok(Scopes(list.into()))
    }

    /// Parses names separated by spaces or commas.
    pub fn parse(s: &str) -> Result<Self, String> {
        let names = s.split([' ', ',']).filter(|n| !n.is_empty());
        Self::new(names.map(Scope::parse).collect::<Result<Vec<_>, _>>()?)
    }

    /// Whether the set holds the scope.
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.binary_search(scope).is_ok()
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Scope> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

/// A web origin, `https://app.example` or `http://localhost:3000`: what a browser puts into
/// `Origin` (RFC 6454 section 6.2). Compared byte for byte after lower-casing here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Box<str>);

impl Origin {
    /// Parses an origin; paths, wildcards, user info and a trailing slash are refused.
    pub fn parse(s: &str) -> Result<Self, String> {
        let explain = || {
            format!(
                "`{}` is not an origin; write scheme and host (and port), such as `https://app.example`",
                s.escape_debug()
            )
        };
        let rest = s.strip_prefix("https://").or_else(|| s.strip_prefix("http://")).ok_or_else(explain)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']' | b'_');
        if rest.is_empty() || s.len() > 255 || !rest.bytes().all(fits) {
            return Err(explain());
        }
        Ok(Origin(s.to_ascii_lowercase().into()))
    }

    /// The origin as a browser writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request's `Origin` value names this origin.
    pub fn matches(&self, header: &str) -> bool {
        self.0.eq_ignore_ascii_case(header)
    }
}

/// The tenant, as far as a decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id, `[A-Za-z0-9_-]{1,64}`.
    pub id: Box<str>,
    /// Name of the plan it is on; empty for the API's default plan.
    pub plan: Box<str>,
    /// What its keys may do at most.
    pub permissions: Scopes,
    /// Stable number of its limit buckets.
    pub subject: u128,
    /// When it was last changed, Unix milliseconds: which plan it is on, and so its limits.
    pub changed_ms: u64,
}

/// Why a key that exists does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// Its time, or the grace after a rotation, is over.
    Expired,
    /// Ended for good.
    Revoked,
    /// Stopped until it is resumed.
    Suspended,
}

/// Where a key may be used from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Address ranges; empty for all.
    pub networks: Vec<IpNet>,
    /// Origins; empty for all. Where there are some, a request must name one of them.
    pub origins: Vec<Origin>,
}

/// A key, as far as a decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id, `[A-Za-z0-9_-]{1,64}`.
    pub id: Box<str>,
    /// Name of the API it belongs to.
    pub api: Arc<str>,
    /// What it is for.
    pub class: KeyClass,
    /// Which world it opens.
    pub environment: Environment,
    /// What it may do, before the organization's permissions are taken into account.
    pub scopes: Arc<Scopes>,
    /// First instant at which it no longer works, Unix milliseconds.
    pub not_after_ms: Option<u64>,
    /// Revoked or suspended, if it is.
    pub fault: Option<KeyFault>,
    /// Where it may be used from; `None` for anywhere. Boxed, because few keys have it and a cache
    /// holds a million of them.
    pub places: Option<Box<Places>>,
    /// Limit of its own; wins over its plan.
    pub limit_override: Option<Rate>,
    /// Stable number of its limit buckets.
    pub subject: u128,
}

impl Key {
    /// Whether the key works at that instant, or why not.
    pub fn live_at(&self, now_ms: u64) -> Result<(), KeyFault> {
        match (self.fault, self.not_after_ms) {
            (Some(fault), _) => Err(fault),
            (None, Some(end)) if now_ms >= end => Err(KeyFault::Expired),
            (None, Some(_) | None) => Ok(()),
        }
    }
}

/// An access token (RFC 9068), as far as a decision needs it: verified, and its grant alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id, the claim `jti`.
    pub id: Box<str>,
    /// Id of the user's consent that it came from; empty for a token of another issuer.
    pub grant: Box<str>,
    /// The user who granted it: an id of ours, `[A-Za-z0-9_-]{1,64}`.
    pub user: Box<str>,
    /// The application that holds it.
    pub client: Box<str>,
    /// Name of the API it is for.
    pub api: Arc<str>,
    /// What it may do, before the organization's permissions are taken into account.
    pub scopes: Arc<Scopes>,
    /// Stable number of the limit buckets of user and application: all their tokens share them.
    pub subject: u128,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// Nobody we know: no credential was presented.
    Anonymous,
    /// A working key and its organization.
    Key(&'a Key, &'a Organization),
    /// A working token and the organization for which its user granted it.
    Token(&'a Token, &'a Organization),
}

impl<'a> Identity<'a> {
    /// The organization whose plan and permissions apply.
    pub fn organization(&self) -> Option<&'a Organization> {
        match self {
            Identity::Anonymous => None,
            Identity::Key(_, organization) | Identity::Token(_, organization) => Some(organization),
        }
    }

    /// Whether the caller may use a scope now: the key's scopes within the organization's
    /// permissions; an admin key has all permissions of its organization.
    pub fn has(&self, scope: &Scope) -> bool {
        match self {
            Identity::Anonymous => false,
            Identity::Key(key, organization) => {
                organization.permissions.contains(scope) && (key.class == KeyClass::Admin || key.scopes.contains(scope))
            }
            Identity::Token(token, organization) => {
                organization.permissions.contains(scope) && token.scopes.contains(scope)
            }
        }
    }

    /// The scopes in force, in order.
    pub fn effective_scopes(&self) -> impl Iterator<Item = &Scope> {
        let permissions = self.organization().map(|organization| &organization.permissions);
        permissions.into_iter().flat_map(Scopes::iter).filter(|scope| self.has(scope))
    }

    /// The environment that the caller opens; live for tokens, and for anonymous callers of public routes.
    pub fn environment(&self) -> Environment {
        match self {
            Identity::Anonymous | Identity::Token(..) => Environment::Live,
            Identity::Key(key, _) => key.environment,
        }
    }
}
