//! `tollgate apps`: OAuth applications.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::listing::Listing;
use super::{Context, Failure, print};
use crate::base::clock::rfc3339;
use crate::manage::view;
use crate::registry::app::AppRecord;
use crate::registry::apps::{self, NewApp, register};

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
        #[command(flatten)]
        listing: Listing,
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

impl Apps {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Apps::Register(new) => {
                let (app, secret) = new.run(context).await?;
                show(context, &app, secret.as_deref())
            }
            Apps::List { org, listing } => list(context, org.as_deref(), listing).await,
            Apps::Show { id } => show(context, &apps::find(&context.registry(), &id).await?, None),
            Apps::Update(update) => update.run(context).await,
            Apps::RotateSecret { id, overlap } => rotate_secret(context, &id, overlap).await,
            Apps::Disable { id } => {
                show(context, &apps::disable(&context.registry(), &id, &context.by().await?).await?, None)
            }
            Apps::Enable { id } => {
                show(context, &apps::enable(&context.registry(), &id, &context.by().await?).await?, None)
            }
        }
    }
}

async fn rotate_secret(context: &Context, id: &str, overlap: Duration) -> Result<(), Failure> {
    let by = context.by().await?;
    let (app, secret) = apps::rotate_secret(&context.registry(), &context.config.peppers, (id, overlap), &by).await?;
    show(context, &app, Some(&secret))
}

impl Register {
    pub(super) async fn run(self, context: &Context) -> Result<(AppRecord, Option<String>), Failure> {
        let new = NewApp {
            name: self.name,
            organization: self.org,
            redirect_uris: self.redirect_uri,
            scopes: names(&self.scopes),
            api: self.api,
            confidential: self.confidential,
        };
        let by = context.by().await?;
        Ok(register(&context.registry(), &context.config.peppers, &context.policy()?, &new, &by).await?)
    }
}

fn names(text: &str) -> Vec<String> {
    text.split([' ', ',']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl Update {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let update = apps::Update {
            name: self.name,
            redirect_uris: Some(self.redirect_uri).filter(|uris| !uris.is_empty()),
            scopes: self.scopes.as_deref().map(names),
        };
        let by = context.by().await?;
        let app = apps::update(&context.registry(), || context.policy(), (&self.id, &update), &by).await?;
        show(context, &app, None)
    }
}

async fn list(context: &Context, org: Option<&str>, listing: Listing) -> Result<(), Failure> {
    let registry = context.registry();
    let mut apps = listing.read(async |page| registry.apps(org, &page).await, |_| true).await?;
    apps.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
    if context.json {
        return print::json(&apps.iter().map(|app| view(app, None)).collect::<Vec<_>>());
    }
    let rows = apps.into_iter().map(|app| {
        let (kind, state, scopes) = (app.kind.as_str(), app.state(), app.scopes.join(" "));
        vec![app.id, app.api, app.organization, app.name, kind.into(), scopes, state.into()]
    });
    print::table(&["CLIENT ID", "API", "ORG", "NAME", "KIND", "SCOPES", "STATE"], rows)
}

fn show(context: &Context, app: &AppRecord, secret: Option<&str>) -> Result<(), Failure> {
    if context.json {
        return print::json(&view(app, secret));
    }
    print::fields(&[
        ("client id", app.id.clone()),
        ("name", app.name.clone()),
        ("api", app.api.clone()),
        ("organization", app.organization.clone()),
        ("kind", app.kind.as_str().into()),
        ("redirect URIs", app.redirect_uris.join(" ")),
        ("scopes", app.scopes.join(" ")),
        ("state", app.state().into()),
        ("created", format!("{} by {}", rfc3339(app.created_ms), app.created_by)),
    ])?;
    match secret {
        Some(secret) => print::line(&format!("\nclient secret, shown this once: {secret}")),
        None => Ok(()),
    }
}
