//! Organizations: what one must satisfy, and every change of one.

use policy::{Policy, Scopes};

use super::change::{By, ChangeError, Code, refused, with};
use crate::store::{Keys, OrganizationChange, OrganizationRecord};

/// A new organization.
#[derive(Clone, Debug)]
pub struct NewOrganization {
    /// Id: 1 to 64 letters, digits, `-` and `_`.
    pub id: String,
    /// Name for people; the id when absent.
    pub name: Option<String>,
    /// Plan, as the policy names it; empty for each API's default plan.
    pub plan: String,
    /// What its keys may do at most, with commas or spaces between.
    pub permissions: String,
}

/// What changes of an organization; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new name.
    pub name: Option<String>,
    /// A new plan.
    pub plan: Option<String>,
    /// New permissions, all of them.
    pub permissions: Option<String>,
}

/// Makes sure that an organization is there.
pub async fn find(store: &dyn Keys, id: &str) -> Result<OrganizationRecord, ChangeError> {
    match store.organization(id).await? {
        Some(organization) => Ok(organization),
        None => refused(
            Code::UnknownOrganization,
            format!("there is no organization {}; create it with `tollgate orgs create`", id.escape_debug()),
        ),
    }
}

/// Makes an organization.
pub async fn create(
    store: &dyn Keys,
    policy: &Policy,
    new: NewOrganization,
    by: &By,
) -> Result<OrganizationRecord, ChangeError> {
    check_id(&new.id)?;
    check_plan(policy, &new.plan)?;
    let organization = OrganizationRecord {
        permissions: declared_scopes(policy, &new.permissions)?,
        name: new.name.unwrap_or_else(|| new.id.clone()),
        id: new.id,
        plan: new.plan,
        created_ms: by.now_ms,
        changed_ms: 0,
    };
    store.insert_organization(&organization).await?;
    by.tell("created the organization", &organization.id);
    Ok(organization)
}

/// Changes an organization; takes effect on every gateway at once.
pub async fn update(
    store: &dyn Keys,
    policy: &Policy,
    (id, update): (&str, Update),
    by: &By,
) -> Result<OrganizationRecord, ChangeError> {
    if let Some(plan) = &update.plan {
        check_plan(policy, plan)?;
    }
    let permissions = update.permissions.map(|text| declared_scopes(policy, &text)).transpose()?;
    let change = OrganizationChange { name: update.name, plan: update.plan, permissions, now_ms: by.now_ms };
    let (changed, _) = store.change_organization(id, change).await?;
    by.tell("changed the organization", id);
    Ok(changed)
}

/// Whether text can be an id: it goes into fields that upstreams read.
fn check_id(id: &str) -> Result<(), ChangeError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if (1..=64).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    let words = format!("`{}` cannot be an id; use 1 to 64 letters, digits, `-` and `_`", id.escape_debug());
    refused(Code::InvalidId, words)
}

fn check_plan(policy: &Policy, plan: &str) -> Result<(), ChangeError> {
    if plan.is_empty() || policy.apis.iter().any(|api| api.plans.contains_key(plan)) {
        return Ok(());
    }
    refused(Code::UnknownPlan, format!("no API of the policy has a plan `{}`", plan.escape_debug()))
}

/// Reads scopes, and makes sure that some API declares each.
pub(super) fn declared_scopes(policy: &Policy, text: &str) -> Result<Vec<String>, ChangeError> {
    let scopes = Scopes::parse(text).map_err(with(Code::UnknownScope))?;
    let declared = || policy.apis.iter().flat_map(|api| api.scopes.iter().map(|(scope, _)| scope));
    for scope in scopes.iter() {
        if !declared().any(|known| known == scope) {
            let near = policy::problem::nearest(scope.as_str(), declared().map(|s| s.as_str()));
            let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return refused(Code::UnknownScope, format!("no API of the policy declares the scope `{scope}`{hint}"));
        }
    }
    Ok(scopes.iter().map(|s| s.as_str().to_owned()).collect())
}
