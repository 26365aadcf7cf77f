//! Applications: what one must satisfy, and every change of one.

use std::time::Duration;

use policy::credential::Secret;
use policy::{Api, Policy, Scope};
use serde::Deserialize;

use super::access::Registry;
use super::app::{AppKind, AppRecord, REDIRECT_URIS_MAX, check_name, check_redirect_uri};
use super::change::{By, ChangeError, Code, refused, with};
use super::secret::new_client_secret;
use crate::base::digest::Peppers;
use crate::base::random::base62;
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

/// The API that an application is for.
fn api_of<'p>(policy: &'p Policy, named: Option<&str>) -> Result<&'p Api, ChangeError> {
    let with_server: Vec<&Api> = policy.apis.iter().filter(|api| api.oauth.is_some()).collect();
    let names = || with_server.iter().map(|api| &*api.name).collect::<Vec<_>>().join(", ");
    match (named, with_server.as_slice()) {
        (_, []) => {
            let words =
                "no API of the policy has an authorization server; add `oauth: { issuer: https://auth.… }` to one";
            refused(Code::UnknownApi, words)
        }
        (Some(name), list) => match list.iter().find(|api| *api.name == *name) {
            Some(api) => Ok(api),
            None => refused(
                Code::UnknownApi,
                format!("`{}` has no authorization server; choose one of: {}", name.escape_debug(), names()),
            ),
        },
        (None, [only]) => Ok(only),
        (None, _) => refused(Code::UnknownApi, format!("say for which API: {}", names())),
    }
}

/// Looks at redirect URIs that are to be registered.
fn check_redirect_uris(list: &[String]) -> Result<(), ChangeError> {
    if list.is_empty() || list.len() > REDIRECT_URIS_MAX {
        return refused(Code::InvalidRedirectUri, format!("an application has 1 to {REDIRECT_URIS_MAX} redirect URIs"));
    }
    list.iter().try_for_each(|uri| check_redirect_uri(uri)).map_err(with(Code::InvalidRedirectUri))
}

/// Looks at scopes that an application may ask for: declared by its API, each once, in order.
fn check_scopes(api: &Api, names: &[String]) -> Result<Vec<String>, ChangeError> {
    let mut scopes = Vec::new();
    for name in names {
        let scope = Scope::parse(name).map_err(with(Code::UnknownScope))?;
        if !api.scopes.iter().any(|(known, _)| *known == scope) {
            let near = policy::problem::nearest(name, api.scopes.iter().map(|(scope, _)| scope.as_str()));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return refused(Code::UnknownScope, format!("the API {} has no scope `{scope}`{hint}", api.name));
        }
        scopes.push(scope.as_str().to_owned());
    }
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return refused(Code::WrongScopes, "an application needs at least one scope");
    }
    Ok(scopes)
}

/// Registers an application; returns its secret, if it has one. It is not seen again.
pub async fn register(
    registry: &Registry,
    peppers: &Peppers,
    policy: &Policy,
    new: &NewApp,
    by: &By,
) -> Result<(AppRecord, Option<String>), ChangeError> {
    let api = api_of(policy, new.api.as_deref())?;
    check_name(&new.name).map_err(with(Code::InvalidName))?;
    check_redirect_uris(&new.redirect_uris)?;
    let scopes = check_scopes(api, &new.scopes)?;
    if registry.store().organization(&new.organization).await?.is_none() {
        let words = format!("there is no organization {}", new.organization.escape_debug());
        return refused(Code::UnknownOrganization, words);
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
        created_by: by.actor.as_str().to_owned(),
        created_ms: by.now_ms,
        redirects_changed_ms: 0,
        disabled_ms: None,
    };
    let secret = new.confidential.then(new_client_secret).transpose()?;
    if let Some(secret) = &secret {
        app.add_secret(peppers.current.digest(Secret::new(secret)), 0);
    }
    registry.insert_app(&app).await?;
    by.tell("registered the application", &app.id);
    Ok((app, secret))
}

/// The application with a client id.
pub async fn find(registry: &Registry, id: &str) -> Result<AppRecord, ChangeError> {
    match registry.app(id).await? {
        Some(app) => Ok(app),
        None => unknown(id),
    }
}

fn unknown<T>(id: &str) -> Result<T, ChangeError> {
    refused(Code::UnknownApplication, format!("there is no application {}", id.escape_debug()))
}

/// Switches an application off: its tokens stop working on every gateway.
pub async fn disable(registry: &Registry, id: &str, by: &By) -> Result<AppRecord, ChangeError> {
    change(registry, id, (by, "switched off the application"), |app| {
        app.disabled_ms.get_or_insert(by.now_ms);
    })
    .await
}

/// Switches an application on again.
pub async fn enable(registry: &Registry, id: &str, by: &By) -> Result<AppRecord, ChangeError> {
    change(registry, id, (by, "switched on the application"), |app| app.disabled_ms = None).await
}

/// Gives a confidential application a new secret, which is not seen again. The old one works for an
/// overlap more.
pub async fn rotate_secret(
    registry: &Registry,
    peppers: &Peppers,
    (id, overlap): (&str, Duration),
    by: &By,
) -> Result<(AppRecord, String), ChangeError> {
    match find(registry, id).await?.kind {
        AppKind::Public => return refused(Code::HasNoSecret, format!("{id} is public and has no secret")),
        AppKind::Confidential => {}
    }
    let secret = new_client_secret()?;
    let digest = peppers.current.digest(Secret::new(&secret));
    let end_ms = by.now_ms.saturating_add(u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
    let told = (by, "gave a new secret to the application");
    let app = change(registry, id, told, |app| app.add_secret(digest, end_ms)).await?;
    Ok((app, secret))
}

async fn change(
    registry: &Registry,
    id: &str,
    (by, what): (&By, &str),
    mut step: impl FnMut(&mut AppRecord) + Send,
) -> Result<AppRecord, ChangeError> {
    let step = |app: &mut AppRecord| {
        step(app);
        Ok(())
    };
    match registry.change_app(id, step).await {
        Ok(changed) => {
            by.tell(what, id);
            Ok(changed.record)
        }
        Err(StoreError::NotFound(_)) => unknown(id),
        Err(other) => Err(other.into()),
    }
}

/// What changes of an application; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new name.
    pub name: Option<String>,
    /// New redirect URIs, all of them: consents from before are not remembered.
    pub redirect_uris: Option<Vec<String>>,
    /// New scopes, all of them.
    pub scopes: Option<Vec<String>>,
}

/// Changes an application. The policy is asked for only where scopes change: a redirect URI can be
/// withdrawn whatever state the policy file is in.
pub async fn update<E: From<ChangeError>>(
    registry: &Registry,
    policy: impl FnOnce() -> Result<Policy, E>,
    (id, update): (&str, &Update),
    by: &By,
) -> Result<AppRecord, E> {
    check_update(update)?;
    let scopes = match &update.scopes {
        Some(names) => Some(scopes_of(registry, &policy()?, id, names).await?),
        None => None,
    };
    let apply = |app: &mut AppRecord| {
        if let Some(name) = &update.name {
            app.name.clone_from(name);
        }
        if let Some(scopes) = &scopes {
            app.scopes.clone_from(scopes);
        }
        if let Some(uris) = update.redirect_uris.as_ref().filter(|uris| app.redirect_uris != **uris) {
            app.redirect_uris.clone_from(uris);
            app.redirects_changed_ms = by.now_ms;
        }
    };
    Ok(change(registry, id, (by, "changed the application"), apply).await?)
}

fn check_update(update: &Update) -> Result<(), ChangeError> {
    if let Some(name) = &update.name {
        check_name(name).map_err(with(Code::InvalidName))?;
    }
    update.redirect_uris.as_deref().map_or(Ok(()), check_redirect_uris)
}

/// New scopes of an application, as its API declares them.
async fn scopes_of(
    registry: &Registry,
    policy: &Policy,
    id: &str,
    names: &[String],
) -> Result<Vec<String>, ChangeError> {
    let app = find(registry, id).await?;
    match policy.api(&app.api) {
        Some(api) => check_scopes(api, names),
        None => refused(Code::UnknownApi, format!("the API {} is not in the policy any more", app.api)),
    }
}
