//! `tollgate orgs`: organizations, their plan and permissions.

use clap::{Args, Subcommand};
use policy::Scopes;

use super::{Desk, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::store::{OrganizationChange, OrganizationRecord};

/// Organizations.
#[derive(Debug, Subcommand)]
pub(super) enum Orgs {
    /// Create an organization.
    Create(Create),
    /// List organizations.
    List,
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

/// Whether text can be an id: it goes into fields that upstreams read.
pub(super) fn check_id(id: &str) -> Result<(), Failure> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if (1..=64).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    Err(Failure::Refused(format!("`{}` cannot be an id; use 1 to 64 letters, digits, `-` and `_`", id.escape_debug())))
}

/// Parses scopes and makes sure that some API declares each.
pub(super) fn known_scopes(policy: &policy::Policy, text: &str) -> Result<Vec<String>, Failure> {
    let scopes = Scopes::parse(text).map_err(Failure::Refused)?;
    let declared = || policy.apis.iter().flat_map(|api| api.scopes.iter().map(|(scope, _)| scope));
    for scope in scopes.iter() {
        if !declared().any(|known| known == scope) {
            let near = policy::problem::nearest(scope.as_str(), declared().map(|s| s.as_str()));
            let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return Err(Failure::Refused(format!("no API of the policy declares the scope `{scope}`{hint}")));
        }
    }
    Ok(scopes.iter().map(|s| s.as_str().to_owned()).collect())
}

fn check_plan(policy: &policy::Policy, plan: &str) -> Result<(), Failure> {
    if plan.is_empty() || policy.apis.iter().any(|api| api.plans.contains_key(plan)) {
        return Ok(());
    }
    Err(Failure::Refused(format!("no API of the policy has a plan `{}`", plan.escape_debug())))
}

impl Orgs {
    pub(super) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        match self {
            Orgs::Create(new) => create(desk, new).await,
            Orgs::List => list(desk).await,
            Orgs::Show { id } => match desk.store.organization(&id).await? {
                Some(organization) => show(desk, &organization),
                None => Err(Failure::Refused(format!("there is no organization {id}"))),
            },
            Orgs::Update(update) => change(desk, update).await,
        }
    }
}

async fn create(desk: &Desk, new: Create) -> Result<(), Failure> {
    check_id(&new.id)?;
    let policy = desk.policy()?;
    check_plan(&policy, &new.plan)?;
    let organization = OrganizationRecord {
        permissions: known_scopes(&policy, &new.permissions)?,
        name: new.name.unwrap_or_else(|| new.id.clone()),
        id: new.id,
        plan: new.plan,
        created_ms: System.now_ms(),
        changed_ms: 0,
    };
    desk.store.insert_organization(&organization).await?;
    show(desk, &organization)
}

async fn change(desk: &Desk, update: Update) -> Result<(), Failure> {
    let policy = desk.policy()?;
    if let Some(plan) = &update.plan {
        check_plan(&policy, plan)?;
    }
    let permissions = update.permissions.map(|text| known_scopes(&policy, &text)).transpose()?;
    let change = OrganizationChange { name: update.name, plan: update.plan, permissions, now_ms: System.now_ms() };
    let (organization, _) = desk.store.change_organization(&update.id, change).await?;
    show(desk, &organization)
}

async fn list(desk: &Desk) -> Result<(), Failure> {
    let list = desk.store.organizations().await?;
    if desk.json {
        return print::json(&list);
    }
    let rows = list.into_iter().map(|o| vec![o.id, o.name, plan(&o.plan), o.permissions.join(" ")]);
    print::table(&["ID", "NAME", "PLAN", "PERMISSIONS"], rows)
}

fn plan(name: &str) -> String {
    if name.is_empty() { "(default)".into() } else { name.into() }
}

fn show(desk: &Desk, organization: &OrganizationRecord) -> Result<(), Failure> {
    if desk.json {
        return print::json(organization);
    }
    print::fields(&[
        ("id", organization.id.clone()),
        ("name", organization.name.clone()),
        ("plan", plan(&organization.plan)),
        ("permissions", organization.permissions.join(" ")),
        ("created", rfc3339(organization.created_ms)),
    ])
}
