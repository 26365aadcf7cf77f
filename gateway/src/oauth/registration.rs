//! Registering applications: one set of rules, for the command line and the management API.

use policy::credential::Secret;
use policy::{Api, Policy, Scope};
use serde::Deserialize;

use super::app::{AppKind, AppRecord, REDIRECT_URIS_MAX, check_name, check_redirect_uri};
use super::registry::Registry;
use super::secret::new_client_secret;
use crate::base::digest::Peppers;
use crate::base::random::{NoRandomness, base62};
use crate::store::StoreError;

/// Characters of a client id after its prefix.
const ID_CHARS: usize = 14;

/// A new application.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// Name that users see.
    pub name: String,
    /// Organization that it belongs to.
    pub organization: String,
    /// Redirect URIs, exactly as the application uses them.
    pub redirect_uris: Vec<String>,
    /// Scopes that it may ask for.
    pub scopes: Vec<String>,
    /// API; may be left out when one API alone has an authorization server.
    pub api: Option<String>,
    /// Whether it runs on a server and can keep a secret.
    #[serde(default)]
    pub confidential: bool,
}

/// Why an application was not registered or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// What was asked for cannot be; the text says what would be right.
    #[error("{0}")]
    Refused(String),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Randomness.
    #[error("{0}")]
    Randomness(#[from] NoRandomness),
}

fn refused<T>(words: impl Into<String>) -> Result<T, RegistrationError> {
    Err(RegistrationError::Refused(words.into()))
}

/// The API that an application is for.
fn api_of<'p>(policy: &'p Policy, named: Option<&str>) -> Result<&'p Api, RegistrationError> {
    let with_server: Vec<&Api> = policy.apis.iter().filter(|api| api.oauth.is_some()).collect();
    let names = || with_server.iter().map(|api| &*api.name).collect::<Vec<_>>().join(", ");
    match (named, with_server.as_slice()) {
        (_, []) => {
            refused("no API of the policy has an authorization server; add `oauth: { issuer: https://auth.… }` to one")
        }
        (Some(name), list) => match list.iter().find(|api| *api.name == *name) {
            Some(api) => Ok(api),
            None => {
                refused(format!("`{}` has no authorization server; choose one of: {}", name.escape_debug(), names()))
            }
        },
        (None, [only]) => Ok(only),
        (None, _) => refused(format!("say for which API: {}", names())),
    }
}

/// Looks at redirect URIs that are to be registered.
pub fn check_redirect_uris(list: &[String]) -> Result<(), RegistrationError> {
    if list.is_empty() || list.len() > REDIRECT_URIS_MAX {
        return refused(format!("an application has 1 to {REDIRECT_URIS_MAX} redirect URIs"));
    }
    list.iter().try_for_each(|uri| check_redirect_uri(uri)).map_err(RegistrationError::Refused)
}

/// Looks at scopes that an application may ask for: declared by its API, each once, in order.
pub fn check_scopes(api: &Api, names: &[String]) -> Result<Vec<String>, RegistrationError> {
    let mut scopes = Vec::new();
    for name in names {
        let scope = Scope::parse(name).map_err(RegistrationError::Refused)?;
        if !api.scopes.iter().any(|(known, _)| *known == scope) {
            let near = policy::problem::nearest(name, api.scopes.iter().map(|(scope, _)| scope.as_str()));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return refused(format!("the API {} has no scope `{scope}`{hint}", api.name));
        }
        scopes.push(scope.as_str().to_owned());
    }
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return refused("an application needs at least one scope");
    }
    Ok(scopes)
}

/// Registers an application; returns its secret, if it has one. It is not seen again.
pub async fn register(
    registry: &Registry,
    peppers: &Peppers,
    policy: &Policy,
    new: &NewApp,
    (actor, now_ms): (String, u64),
) -> Result<(AppRecord, Option<String>), RegistrationError> {
    let api = api_of(policy, new.api.as_deref())?;
    check_name(&new.name).map_err(RegistrationError::Refused)?;
    check_redirect_uris(&new.redirect_uris)?;
    let scopes = check_scopes(api, &new.scopes)?;
    if registry.store().organization(&new.organization).await?.is_none() {
        return refused(format!("there is no organization {}", new.organization.escape_debug()));
    }
    let mut app = AppRecord {
        id: format!("cf_{}", base62(ID_CHARS)?),
        api: api.name.to_string(),
        organization: new.organization.clone(),
        name: new.name.clone(),
        redirect_uris: new.redirect_uris.clone(),
        scopes,
        kind: if new.confidential { AppKind::Confidential } else { AppKind::Public },
        secrets: Vec::new(),
        created_by: actor,
        created_ms: now_ms,
        redirects_changed_ms: 0,
        disabled_ms: None,
    };
    let secret = new.confidential.then(new_client_secret).transpose()?;
    if let Some(secret) = &secret {
        app.add_secret(peppers.current.digest(Secret::new(secret)), 0);
    }
    registry.insert_app(&app).await?;
    Ok((app, secret))
}
