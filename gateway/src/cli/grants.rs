//! `tollgate grants`: what users have let applications do.

use clap::{Args, Subcommand};
use policy::{Organization, Token};

use super::keys::Wait;
use super::listing::Listing;
use super::{Context, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::identify::subject;
use crate::registry::access::{GrantsOf, newest_first};
use crate::registry::grant::GrantRecord;
use crate::registry::{grants, views};
use crate::store::scopes;

/// Grants.
#[derive(Debug, Subcommand)]
pub(super) enum Grants {
    /// List grants of a user or of an application, newest first.
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show a grant.
    Show {
        /// Its id.
        id: String,
    },
    /// End grants: their tokens stop working, on every gateway.
    Revoke {
        /// Ids.
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Whose grants.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Of {
    /// Of this user: id or e-mail address.
    #[arg(long)]
    user: Option<String>,
    /// Of this application.
    #[arg(long)]
    app: Option<String>,
}

/// A token of a grant as the proxy would see it, for `explain`.
pub(super) async fn token_of(context: &Context, id: &str) -> Result<(Token, Organization), Failure> {
    let grant = grants::find(&context.registry(), id).await?;
    let told = crate::identify::GrantFacts::now(id, &*context.store).await?;
    let gone = || Failure::Refused(format!("the user, application or organization of the grant {id} is gone"));
    let (facts, organization) = told.ok_or_else(gone)?;
    if let Some(fault) = facts.fault {
        let code = crate::admit::denial::Denial::DeadCredential(fault).code();
        return Err(Failure::Refused(format!("tokens of the grant {id} do not work; the answer would be 401 {code}")));
    }
    let token = Token {
        id: "".into(),
        grant: grant.id.as_str().into(),
        user: grant.user.as_str().into(),
        client: grant.app.as_str().into(),
        api: grant.api.as_str().into(),
        scopes: std::sync::Arc::new(scopes(&grant.scopes)?),
        subject: subject(&grant.user, &grant.app),
    };
    Ok((token, organization))
}

impl Grants {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Grants::List { of, listing } => of.list(context, listing).await,
            Grants::Show { id } => show(context, &grants::find(&context.registry(), &id).await?).await,
            Grants::Revoke { ids, wait } => {
                for id in ids {
                    revoke(context, &id, &wait).await?;
                }
                Ok(())
            }
        }
    }
}

async fn revoke(context: &Context, id: &str, wait: &Wait) -> Result<(), Failure> {
    let now_ms = System.now_ms();
    let (grant, position) = grants::revoke(&context.registry(), id, &context.by().await?).await?;
    let waited = wait.run(context, &position).await?;
    if context.json {
        return print::json(&serde_json::json!({ "id": id, "state": grant.state(now_ms), "wait": waited }));
    }
    print::line(&match waited {
        Some(w) => format!("{id} is revoked; {w}"),
        None => format!("{id} is revoked"),
    })
}

impl Of {
    async fn list(&self, context: &Context, listing: Listing) -> Result<(), Failure> {
        let registry = context.registry();
        let user = match &self.user {
            Some(user) => Some(crate::registry::users::find(&context.registry(), user).await?.id),
            None => None,
        };
        let of = match (&user, &self.app) {
            (Some(user), _) => GrantsOf::User(user),
            (None, Some(app)) => GrantsOf::App(app),
            (None, None) => return Err(Failure::Refused("name a user or an application".into())),
        };
        let is_wanted = |grant: &GrantRecord| self.app.as_ref().is_none_or(|app| *app == grant.app);
        let now_ms = System.now_ms();
        let mut grants = listing.read(async |page| registry.grants(of, &page).await, is_wanted).await?;
        newest_first(&mut grants);
        if context.json {
            return print::json(&grants.iter().map(|grant| views::grant(grant, now_ms)).collect::<Vec<_>>());
        }
        let rows = grants.into_iter().map(|grant| {
            let (state, scopes, created) = (grant.state(now_ms), grant.scopes.join(" "), rfc3339(grant.created_ms));
            vec![grant.id, grant.app, grant.user, grant.organization, scopes, created, state.into()]
        });
        print::table(&["ID", "APP", "USER", "ORG", "SCOPES", "CREATED", "STATE"], rows)
    }
}

async fn show(context: &Context, grant: &GrantRecord) -> Result<(), Failure> {
    let now_ms = System.now_ms();
    let used = context.registry().grant_use(&grant.id).await?;
    if context.json {
        let mut value = views::grant(grant, now_ms);
        if let Some(map) = value.as_object_mut() {
            map.insert("last_used_ms".into(), used.into());
        }
        return print::json(&value);
    }
    let ended = grant.dead.map(|(ms, cause)| format!("{} by {}", rfc3339(ms), cause.as_str()));
    print::fields(&[
        ("id", grant.id.clone()),
        ("state", grant.state(now_ms).into()),
        ("api", grant.api.clone()),
        ("application", grant.app.clone()),
        ("user", grant.user.clone()),
        ("organization", grant.organization.clone()),
        ("scopes", grant.scopes.join(" ")),
        ("created", rfc3339(grant.created_ms)),
        ("expires", rfc3339(grant.expires_ms)),
        ("refreshed", grant.refresh.as_ref().map(|r| format!("{} times", r.generation)).unwrap_or_default()),
        ("last used", used.map_or_else(|| "never".into(), rfc3339)),
        ("ended", ended.unwrap_or_default()),
    ])
}
