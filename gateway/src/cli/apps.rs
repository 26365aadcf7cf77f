//! `tollgate apps`: OAuth applications.

use std::time::Duration;

use clap::{Args, Subcommand};
use policy::credential::Secret;

use super::orgs::known_scopes;
use super::{Desk, Failure, print};
use crate::clock::{Clock as _, System, rfc3339};
use crate::oauth::app::{AppKind, AppRecord, REDIRECT_URIS_MAX, check_name, check_redirect_uri};
use crate::oauth::secret::new_client_secret;
use crate::random::base62;
use crate::store::StoreError;

/// Characters of a client id after its prefix.
const ID_CHARS: usize = 14;

/// Applications.
#[derive(Debug, Subcommand)]
pub(super) enum Apps {
    /// Register an application; shows its client id, and the secret of a confidential one, once.
    Register(Register),
    /// List applications.
    List {
        /// Of this organization only.
        #[arg(long)]
        org: Option<String>,
    },
    /// Show an application.
    Show {
        /// Client id.
        id: String,
    },
    /// Change name, redirect URIs or scopes.
    Update(Update),
    /// Give a confidential application a new secret; the old one works for an overlap.
    RotateSecret {
        /// Client id.
        id: String,
        /// How long the old secret works, such as `7d`.
        #[arg(long, default_value = "7d", value_parser = policy::units::duration)]
        overlap: Duration,
    },
    /// Switch an application off: its tokens stop working, on every gateway.
    Disable {
        /// Client id.
        id: String,
    },
    /// Switch an application on again.
    Enable {
        /// Client id.
        id: String,
    },
}

/// A new application.
#[derive(Debug, Args)]
pub(super) struct Register {
    /// Name that users see.
    #[arg(long)]
    pub(super) name: String,
    /// Organization that it belongs to.
    #[arg(long)]
    pub(super) org: String,
    /// Redirect URI, exactly as the application uses it; may be repeated.
    #[arg(long, required = true)]
    pub(super) redirect_uri: Vec<String>,
    /// Scopes that it may ask for, such as `packs:read,downloads:read`.
    #[arg(long)]
    pub(super) scopes: String,
    /// API; may be left out when one API alone has an authorization server.
    #[arg(long)]
    pub(super) api: Option<String>,
    /// It runs on a server and can keep a secret.
    #[arg(long)]
    pub(super) confidential: bool,
}

/// Changes of an application.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "change")]
pub(super) struct Update {
    /// Client id.
    id: String,
    /// New name.
    #[arg(long, group = "change")]
    name: Option<String>,
    /// New redirect URIs, all of them. Users are asked for consent again.
    #[arg(long, group = "change")]
    redirect_uri: Vec<String>,
    /// New scopes, all of them.
    #[arg(long, group = "change")]
    scopes: Option<String>,
}

/// The API that an application is for.
fn api_of<'p>(policy: &'p policy::Policy, named: Option<&str>) -> Result<&'p policy::Api, Failure> {
    let with_server: Vec<&policy::Api> = policy.apis.iter().filter(|api| api.oauth.is_some()).collect();
    let names = || with_server.iter().map(|api| &*api.name).collect::<Vec<_>>().join(", ");
    match (named, with_server.as_slice()) {
        (_, []) => Err(Failure::Refused(
            "no API of the policy has an authorization server; add `oauth: { issuer: https://auth.… }` to one".into(),
        )),
        (Some(name), list) => list.iter().find(|api| *api.name == *name).copied().ok_or_else(|| {
            Failure::Refused(format!(
                "`{}` has no authorization server; choose one of: {}",
                name.escape_debug(),
                names()
            ))
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::Refused(format!("say for which API with --api: {}", names()))),
    }
}

fn redirect_uris(list: &[String]) -> Result<(), Failure> {
    if list.len() > REDIRECT_URIS_MAX {
        return Err(Failure::Refused(format!("at most {REDIRECT_URIS_MAX} redirect URIs")));
    }
    list.iter().try_for_each(|uri| check_redirect_uri(uri)).map_err(Failure::Refused)
}

/// Registers an application; returns its secret, if it has one.
pub(super) async fn register(
    desk: &Desk,
    policy: &policy::Policy,
    new: &Register,
    actor: String,
) -> Result<(AppRecord, Option<String>), Failure> {
    let api = api_of(policy, new.api.as_deref())?;
    check_name(&new.name).map_err(Failure::Refused)?;
    redirect_uris(&new.redirect_uri)?;
    if desk.store.organization(&new.org).await?.is_none() {
        return Err(Failure::Refused(format!("there is no organization {}", new.org.escape_debug())));
    }
    let scopes = known_scopes(policy, &new.scopes)?;
    let foreign = scopes.iter().find(|name| !api.scopes.iter().any(|(scope, _)| scope.as_str() == name.as_str()));
    if let Some(scope) = foreign {
        return Err(Failure::Refused(format!("the API {} has no scope `{scope}`", api.name)));
    }
    if scopes.is_empty() {
        return Err(Failure::Refused("an application needs at least one scope".into()));
    }
    let mut app = AppRecord {
        id: format!("cf_{}", base62(ID_CHARS)?),
        api: api.name.to_string(),
        organization: new.org.clone(),
        name: new.name.clone(),
        redirect_uris: new.redirect_uri.clone(),
        scopes,
        kind: if new.confidential { AppKind::Confidential } else { AppKind::Public },
        secrets: Vec::new(),
        created_by: actor,
        created_ms: System.now_ms(),
        redirects_changed_ms: 0,
        disabled_ms: None,
    };
    let secret = new.confidential.then(new_client_secret).transpose()?;
    if let Some(secret) = &secret {
        app.add_secret(desk.config.peppers.current.digest(Secret::new(secret)), 0);
    }
    desk.registry().insert_app(&app).await?;
    Ok((app, secret))
}

impl Apps {
    pub(super) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        match self {
            Apps::Register(new) => {
                let (app, secret) = register(desk, &desk.policy()?, &new, Desk::actor()).await?;
                show(desk, &app, secret.as_deref())
            }
            Apps::List { org } => list(desk, org.as_deref()).await,
            Apps::Show { id } => show(desk, &find(desk, &id).await?, None),
            Apps::Update(update) => update.run(desk).await,
            Apps::RotateSecret { id, overlap } => rotate_secret(desk, &id, overlap).await,
            Apps::Disable { id } => {
                let switch_off = |app: &mut AppRecord| {
                    app.disabled_ms.get_or_insert(System.now_ms());
                    Ok(())
                };
                show(desk, &desk.registry().change_app(&id, switch_off).await?.record, None)
            }
            Apps::Enable { id } => {
                let switch_on = |app: &mut AppRecord| {
                    app.disabled_ms = None;
                    Ok(())
                };
                show(desk, &desk.registry().change_app(&id, switch_on).await?.record, None)
            }
        }
    }
}

pub(super) async fn find(desk: &Desk, id: &str) -> Result<AppRecord, Failure> {
    let found = desk.registry().app(id).await?;
    found.ok_or_else(|| Failure::Refused(format!("there is no application {}", id.escape_debug())))
}

async fn rotate_secret(desk: &Desk, id: &str, overlap: Duration) -> Result<(), Failure> {
    let secret = new_client_secret()?;
    let digest = desk.config.peppers.current.digest(Secret::new(&secret));
    let end_ms = System.now_ms() + u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    let add = |app: &mut AppRecord| match app.kind {
        AppKind::Public => Err(StoreError::Refused(format!("{} is public and has no secret", app.id))),
        AppKind::Confidential => {
            app.add_secret(digest, end_ms);
            Ok(())
        }
    };
    show(desk, &desk.registry().change_app(id, add).await?.record, Some(&secret))
}

impl Update {
    async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let policy = desk.policy()?;
        if let Some(name) = &self.name {
            check_name(name).map_err(Failure::Refused)?;
        }
        redirect_uris(&self.redirect_uri)?;
        let scopes = self.scopes.as_deref().map(|text| known_scopes(&policy, text)).transpose()?;
        let apply = |app: &mut AppRecord| {
            if let Some(name) = &self.name {
                app.name.clone_from(name);
            }
            if let Some(scopes) = &scopes {
                app.scopes.clone_from(scopes);
            }
            if !self.redirect_uri.is_empty() && app.redirect_uris != self.redirect_uri {
                app.redirect_uris.clone_from(&self.redirect_uri);
                app.redirects_changed_ms = System.now_ms();
            }
            Ok(())
        };
        show(desk, &desk.registry().change_app(&self.id, apply).await?.record, None)
    }
}

/// An application as JSON, without the hashes of its secrets.
pub(super) fn view(app: &AppRecord) -> serde_json::Value {
    let mut value = serde_json::to_value(app).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("secrets");
        map.insert("state".into(), state(app).into());
    }
    value
}

fn state(app: &AppRecord) -> &'static str {
    if app.disabled_ms.is_some() { "disabled" } else { "active" }
}

async fn list(desk: &Desk, org: Option<&str>) -> Result<(), Failure> {
    let apps = desk.registry().apps(org).await?;
    if desk.json {
        return print::json(&apps.iter().map(view).collect::<Vec<_>>());
    }
    let rows = apps.into_iter().map(|app| {
        let (kind, state, scopes) = (app.kind.as_str(), state(&app), app.scopes.join(" "));
        vec![app.id, app.api, app.organization, app.name, kind.into(), scopes, state.into()]
    });
    print::table(&["CLIENT ID", "API", "ORG", "NAME", "KIND", "SCOPES", "STATE"], rows)
}

fn show(desk: &Desk, app: &AppRecord, secret: Option<&str>) -> Result<(), Failure> {
    if desk.json {
        let mut value = view(app);
        if let (Some(map), Some(secret)) = (value.as_object_mut(), secret) {
            map.insert("client_secret".into(), secret.into());
        }
        return print::json(&value);
    }
    print::fields(&[
        ("client id", app.id.clone()),
        ("name", app.name.clone()),
        ("api", app.api.clone()),
        ("organization", app.organization.clone()),
        ("kind", app.kind.as_str().into()),
        ("redirect URIs", app.redirect_uris.join(" ")),
        ("scopes", app.scopes.join(" ")),
        ("state", state(app).into()),
        ("created", format!("{} by {}", rfc3339(app.created_ms), app.created_by)),
    ])?;
    match secret {
        Some(secret) => print::line(&format!("\nclient secret, shown this once: {secret}")),
        None => Ok(()),
    }
}
