//! `tollgate orgs`: organizations, their plan and permissions.

use clap::{Args, Subcommand};

use super::listing::Listing;
use super::{Context, Failure, print};
use crate::base::clock::rfc3339;
use crate::registry::organizations::{self, NewOrganization};
use crate::registry::views;
use crate::store::OrganizationRecord;

/// Organizations.
#[derive(Debug, Subcommand)]
pub(super) enum Orgs {
    /// Create an organization.
    Create(Create),
    /// List organizations.
    List(Listing),
    /// Show one.
    Show {
        /// Its id.
        id: String,
    },
    /// Change name, plan or permissions; takes effect on every gateway at once.
    Update(Update),
}

/// A new organization.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Id, such as `acme`; letters, digits, `-` and `_`.
    id: String,
    /// Name for people; the id when absent.
    #[arg(long)]
    name: Option<String>,
    /// Plan, as the policy names it; each API's default plan when absent.
    #[arg(long, default_value = "")]
    plan: String,
    /// What its keys may do at most, such as `packs:read,packs:write`.
    #[arg(long, value_name = "SCOPES")]
    permissions: String,
}

/// Changes of an organization.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "change")]
pub(super) struct Update {
    /// Its id.
    id: String,
    /// New name.
    #[arg(long, group = "change")]
    name: Option<String>,
    /// New plan.
    #[arg(long, group = "change")]
    plan: Option<String>,
    /// New permissions, all of them.
    #[arg(long, group = "change", value_name = "SCOPES")]
    permissions: Option<String>,
}

impl Orgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Orgs::Create(new) => create(context, new).await,
            Orgs::List(listing) => list(context, listing).await,
            Orgs::Show { id } => show(context, &organizations::find(&*context.store, &id).await?),
            Orgs::Update(update) => change(context, update).await,
        }
    }
}

async fn create(context: &Context, new: Create) -> Result<(), Failure> {
    let Create { id, name, plan, permissions } = new;
    let new = NewOrganization { id, name, plan, permissions };
    let organization = organizations::create(&*context.store, &context.policy()?, new, &context.by().await?).await?;
    show(context, &organization)
}

async fn change(context: &Context, update: Update) -> Result<(), Failure> {
    let Update { id, name, plan, permissions } = update;
    let update = organizations::Update { name, plan, permissions };
    let changed =
        organizations::update(&*context.store, &context.policy()?, (&id, update), &context.by().await?).await?;
    show(context, &changed)
}

async fn list(context: &Context, listing: Listing) -> Result<(), Failure> {
    let list = listing.read(async |page| context.store.organizations(&page).await, |_| true).await?;
    if context.json {
        return print::json(&list.iter().map(views::organization).collect::<Vec<_>>());
    }
    let rows = list.into_iter().map(|o| vec![o.id, o.name, plan(&o.plan), o.permissions.join(" ")]);
    print::table(&["ID", "NAME", "PLAN", "PERMISSIONS"], rows)
}

fn plan(name: &str) -> String {
    if name.is_empty() { "(default)".into() } else { name.into() }
}

fn show(context: &Context, organization: &OrganizationRecord) -> Result<(), Failure> {
    if context.json {
        return print::json(&views::organization(organization));
    }
    print::fields(&[
        ("id", organization.id.clone()),
        ("name", organization.name.clone()),
        ("plan", plan(&organization.plan)),
        ("permissions", organization.permissions.join(" ")),
        ("created", rfc3339(organization.created_ms)),
    ])
}
