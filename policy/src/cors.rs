//! Cross-origin rules as data (the Fetch standard's CORS protocol).

use std::time::Duration;

use crate::identity::Origin;

/// Which origins may read answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// These.
    These(Box<[Origin]>),
}

/// Cross-origin rules of an API. Credentials in the CORS sense (cookies) are never allowed: a
/// Bearer key is an ordinary request field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may read answers.
    pub origins: Origins,
    /// Value of `Access-Control-Allow-Methods`.
    pub allow_methods: Box<str>,
    /// Value of `Access-Control-Allow-Headers`.
    pub allow_headers: Box<str>,
    /// Value of `Access-Control-Expose-Headers`.
    pub expose_headers: Box<str>,
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

impl Cors {
    /// Value of `Access-Control-Allow-Origin` for a request's `Origin`, if it may read the answer.
    pub fn allow_origin<'a>(&'a self, origin: &str) -> Option<&'a str> {
        match &self.origins {
            Origins::Any => Some("*"),
            Origins::These(list) => list.iter().find(|o| o.matches(origin)).map(Origin::as_str),
        }
    }
}
