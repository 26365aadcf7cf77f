//! The records that stores hold, and the changes that may be made to them.

use policy::identity::{Environment, KeyClass, Origin, Places};
use policy::units::Rate;
use policy::{KeyFault, Scopes};
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::base::digest::Digest;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganizationRecord {
    /// `org_…`, or whatever id the operator chose.
    pub id: String,
    /// For people.
    pub name: String,
    /// Name of its plan; empty for each API's default plan.
    pub plan: String,
    /// What its keys may do at most.
    pub permissions: Vec<String>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was last changed, Unix milliseconds; 0 when it never was.
    #[serde(default)]
    pub changed_ms: u64,
}

impl OrganizationRecord {
    /// As a decision needs it.
    pub fn facts(&self) -> Result<policy::Organization, StoreError> {
        Ok(policy::Organization {
            id: self.id.as_str().into(),
            plan: self.plan.as_str().into(),
            permissions: scopes(&self.permissions)?,
            subject: policy::limit::stable_number(&["organization", &self.id]),
            changed_ms: self.changed_ms,
        })
    }
}

/// When and where a key was last used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// Unix milliseconds, to the minute.
    pub ms: u64,
    /// Route id.
    pub route: String,
    /// Address of the caller.
    pub address: String,
}

/// Where a credential was seen that should not be seen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// Sent over plain HTTP.
    PlainHttp,
    /// A server-only key in a browser's request.
    Browser,
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// `key_…`.
    pub id: String,
    /// Name of the API.
    pub api: String,
    /// Organization it belongs to.
    pub organization: String,
    /// For people.
    pub name: String,
    /// What it is for.
    pub class: KeyClass,
    /// Which world it opens.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Vec<String>,
    /// What may be shown of the secret.
    pub display: String,
    /// Hash of the secret; not shown.
    #[serde(with = "crate::base::digest::hex")]
    pub digest: Digest,
    /// Who made it.
    pub created_by: String,
    /// When, Unix milliseconds.
    pub created_ms: u64,
    /// First instant at which it no longer works.
    pub not_after_ms: Option<u64>,
    /// Since when it is suspended.
    pub suspended_ms: Option<u64>,
    /// Since when it is revoked.
    pub revoked_ms: Option<u64>,
    /// The key that takes its place after a rotation.
    pub replaced_by: Option<String>,
    /// Address ranges it may be used from.
    pub networks: Vec<ipnet::IpNet>,
    /// Origins it may be used from.
    pub origins: Vec<String>,
    /// Its own limit.
    pub limit: Option<String>,
    /// Last use.
    pub last_use: Option<LastUse>,
    /// When and how it was last seen where it should not be.
    pub exposed: Option<(u64, Exposure)>,
    /// When, by whom and why earlier exposures were said to matter no more.
    #[serde(default)]
    pub exposure_cleared: Option<Cleared>,
}

/// Somebody has looked at an exposure and said that it matters no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// When, Unix milliseconds.
    pub ms: u64,
    /// The last exposure that was looked at, by the clock of the gateway that saw it: whoever clears
    /// may have another.
    #[serde(default)]
    pub up_to_ms: u64,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

pub(crate) fn scopes(names: &[String]) -> Result<Scopes, StoreError> {
    names
        .iter()
        .map(|name| policy::Scope::parse(name))
        .collect::<Result<Vec<_>, _>>()
        .and_then(Scopes::new)
        .map_err(StoreError::Corrupt)
}

impl KeyRecord {
    /// As a decision needs it.
    pub fn facts(&self) -> Result<policy::Key, StoreError> {
        let limit = self.limit.as_deref().map(str::parse::<Rate>).transpose().map_err(StoreError::Corrupt)?;
        let origins = self.origins.iter().map(|o| Origin::parse(o)).collect::<Result<Vec<_>, _>>();
        let places = Places { networks: self.networks.clone(), origins: origins.map_err(StoreError::Corrupt)? };
        let is_anywhere = places.networks.is_empty() && places.origins.is_empty();
        Ok(policy::Key {
            id: self.id.as_str().into(),
            api: self.api.as_str().into(),
            class: self.class,
            environment: self.environment,
            scopes: std::sync::Arc::new(scopes(&self.scopes)?),
            not_after_ms: self.not_after_ms,
            fault: self.fault(),
            places: (!is_anywhere).then(|| Box::new(places)),
            limit_override: limit,
            subject: policy::limit::stable_number(&["key", &self.id]),
        })
    }

    /// Revoked or suspended, if it is; revoked wins.
    pub fn fault(&self) -> Option<KeyFault> {
        match (self.revoked_ms, self.suspended_ms) {
            (Some(_), _) => Some(KeyFault::Revoked),
            (None, Some(_)) => Some(KeyFault::Suspended),
            (None, None) => None,
        }
    }

    /// The last exposure, unless it was cleared since.
    pub fn exposure(&self) -> Option<(u64, Exposure)> {
        let up_to_ms = self.exposure_cleared.as_ref().map_or(0, |cleared| cleared.up_to_ms);
        self.exposed.filter(|(ms, _)| *ms > up_to_ms)
    }

    /// One word for people.
    pub fn state(&self, now_ms: u64) -> &'static str {
        match (self.fault(), self.not_after_ms) {
            (Some(KeyFault::Revoked), _) => "revoked",
            (Some(KeyFault::Suspended), _) => "suspended",
            (Some(KeyFault::Expired), _) => "expired",
            (None, Some(end)) if now_ms >= end => "expired",
            (None, Some(_)) if self.replaced_by.is_some() => "replaced",
            (None, _) => "active",
        }
    }
}

/// One change of a key. Each is atomic in every store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Stop it until it is resumed.
    Suspend {
        /// Now.
        at_ms: u64,
    },
    /// Let it work again.
    Resume,
    /// End it for good. Doing it again changes nothing.
    Revoke {
        /// Now.
        at_ms: u64,
    },
    /// Name its successor and let it end at the end of the overlap (or earlier, if it ends earlier).
    Replace {
        /// The successor's id.
        by: String,
        /// End of the overlap.
        not_after_ms: u64,
    },
    /// Say that what was seen of it up to an instant matters no more.
    ClearExposure(Cleared),
}

impl KeyChange {
    /// Applies the change to a record; the same rule for every store.
    pub fn apply(&self, key: &mut KeyRecord) -> Result<(), StoreError> {
        let revoked = key.revoked_ms.is_some();
        match self {
            KeyChange::Revoke { at_ms } => {
                key.revoked_ms.get_or_insert(*at_ms);
            }
            KeyChange::ClearExposure(cleared) => key.exposure_cleared = Some(cleared.clone()),
            KeyChange::Suspend { .. } | KeyChange::Resume | KeyChange::Replace { .. } if revoked => {
                return Err(StoreError::Refused(format!("{} is revoked; that is for good", key.id)));
            }
            KeyChange::Suspend { at_ms } => {
                key.suspended_ms.get_or_insert(*at_ms);
            }
            KeyChange::Resume => key.suspended_ms = None,
            KeyChange::Replace { by, not_after_ms } => {
                if let Some(other) = &key.replaced_by {
                    return Err(StoreError::Refused(format!(
                        "{} was already replaced by {other}; rotate that one",
                        key.id
                    )));
                }
                key.replaced_by = Some(by.clone());
                key.not_after_ms = Some(key.not_after_ms.map_or(*not_after_ms, |end| end.min(*not_after_ms)));
            }
        }
        Ok(())
    }
}

/// One change of an organization.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OrganizationChange {
    /// A new name.
    pub name: Option<String>,
    /// A new plan.
    pub plan: Option<String>,
    /// New permissions, all of them.
    pub permissions: Option<Vec<String>>,
    /// When the change is made, Unix milliseconds.
    pub now_ms: u64,
}

impl OrganizationChange {
    /// Applies the change to a record; the same rule for every store.
    pub fn apply(&self, organization: &mut OrganizationRecord) {
        let OrganizationChange { name, plan, permissions, now_ms } = self;
        organization.changed_ms = organization.changed_ms.max(*now_ms);
        if let Some(name) = name {
            organization.name.clone_from(name);
        }
        if let Some(plan) = plan {
            organization.plan.clone_from(plan);
        }
        if let Some(permissions) = permissions {
            organization.permissions.clone_from(permissions);
        }
    }
}

/// What a gateway saw of a key or grant, to be written behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The key, or the grant.
    pub key: String,
    /// What was seen.
    pub sighting: Sighting,
}

/// One thing seen of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It was used.
    Used(LastUse),
    /// It was seen where it should not be.
    Exposed(u64, Exposure),
    /// A grant was used, at an instant; the note may be dropped at another.
    GrantUsed(u64, u64),
}

impl Usage {
    /// Applies the sighting to a record; older sightings change nothing.
    pub fn apply(&self, key: &mut KeyRecord) {
        match &self.sighting {
            Sighting::Used(seen) => {
                if key.last_use.as_ref().is_none_or(|last| last.ms <= seen.ms) {
                    key.last_use = Some(seen.clone());
                }
            }
            Sighting::Exposed(ms, how) => {
                if key.exposed.is_none_or(|(last, _)| last <= *ms) {
                    key.exposed = Some((*ms, *how));
                }
            }
            Sighting::GrantUsed(..) => {}
        }
    }
}
