//! Everything that is in force at once.

use std::sync::Arc;

use crate::credential::Secret;
use crate::identity::Environment;
use crate::oauth::OAuth;
use crate::route::{Api, Names};
use crate::target::Host;

/// Everything that one set of policy files says. Immutable; replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The APIs.
    pub apis: Box<[Api]>,
    pub(crate) hosts: Names<usize>,
    pub(crate) issuers: Names<usize>,
}

impl Policy {
    /// The API whose authorization server has a host.
    pub fn issuer_at(&self, host: &Host<'_>) -> Option<(&Api, &Arc<OAuth>)> {
        let api = self.apis.get(*self.issuers.get(host.as_str())?)?;
        Some((api, api.oauth.as_ref()?))
    }

    /// The API that a host belongs to.
    pub fn api_at(&self, host: &Host<'_>) -> Option<&Api> {
        self.apis.get(*self.hosts.get(host.as_str())?)
    }

    /// The API with that name.
    pub fn api(&self, name: &str) -> Option<&Api> {
        self.apis.iter().find(|api| &*api.name == name)
    }

    /// The API and environment that a prefix of the text opens, whatever host it came to.
    pub fn api_of_key(&self, secret: Secret<'_>) -> Option<(&Api, &str, Environment)> {
        self.apis.iter().find_map(|api| {
            let (prefix, environment) =
                api.prefixes.iter().find(|(prefix, _)| secret.expose().starts_with(&**prefix))?;
            Some((api, &**prefix, *environment))
        })
    }

    /// What keys of all APIs begin with.
    pub fn key_prefixes(&self) -> impl Iterator<Item = &str> {
        self.apis.iter().flat_map(|api| api.prefixes.iter().map(|(prefix, _)| &**prefix))
    }
}
