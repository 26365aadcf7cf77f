//! What a caller may know of itself: class, scopes, expiry, and where all its limits stand.
//!
//! Answered at a path of the policy, to whoever presents a working key. It spends nothing, reveals
//! nothing of other callers, and costs Redis at most a few questions a second for each key.

use policy::limit::Charge;
use policy::route::Api;
use policy::{Identity, Key, Organization};
use serde::Serialize;

use crate::clock::{Moment, rfc3339};
use crate::limit::{Limiter, Standing};

/// Most limits shown; a policy with more routes that have limits of their own shows the first ones.
pub const LIMITS_MAX: usize = 32;

/// One limit of a caller.
#[derive(Debug, Serialize)]
pub struct LimitSeen {
    /// Its name.
    pub name: String,
    /// The route it belongs to; absent for those of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Tokens in a window.
    pub limit: u32,
    /// Tokens left.
    pub remaining: u32,
    /// Length of the window, seconds.
    pub window_s: u64,
    /// End of the window, Unix seconds.
    pub reset: u64,
}

/// A caller, as it may know itself.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The API.
    pub api: String,
    /// Id of the key; never the key.
    pub key: String,
    /// The organization.
    pub organization: String,
    /// Its plan; empty for the default plan.
    pub plan: String,
    /// Class of the key.
    pub class: &'static str,
    /// Environment that it opens.
    pub environment: &'static str,
    /// Scopes in force now.
    pub scopes: Vec<String>,
    /// When the key ends, RFC 3339; `null` when it does not.
    pub expires: Option<String>,
    /// All its limits.
    pub limits: Vec<LimitSeen>,
}

/// The buckets of a caller: those of its plan, then those of routes with limits of their own.
pub fn buckets<'p>(api: &'p Api, key: &Key, organization: &Organization) -> Vec<(Option<&'p str>, Charge<'p>)> {
    let plan = api.plan(organization);
    let own = plan.charges(&[], 1, key, organization);
    let mut list: Vec<_> = own.iter().map(|charge| (None, *charge)).collect();
    let shared = list.len();
    for route in api.routes.iter().filter(|route| !route.limits.is_empty()) {
        let charges = plan.charges(&route.limits, 1, key, organization);
        let extra: Vec<_> = charges.iter().skip(shared).map(|charge| (Some(&*route.id), *charge)).collect();
        list.extend(extra);
    }
    list.truncate(LIMITS_MAX);
    list
}

/// A limit as it stands.
pub fn seen(route: Option<&str>, charge: &Charge<'_>, standing: &Standing) -> LimitSeen {
    LimitSeen {
        name: charge.name.to_string(),
        route: route.map(str::to_owned),
        limit: standing.limit,
        remaining: standing.remaining,
        window_s: standing.window.seconds(),
        reset: standing.window.reset(),
    }
}

/// Looks at a caller.
pub async fn inspect(
    limiter: &dyn Limiter,
    api: &Api,
    (key, organization): (&Key, &Organization),
    version: u64,
    now: Moment,
) -> Inspection {
    let buckets = buckets(api, key, organization);
    let charges: Vec<Charge<'_>> = buckets.iter().map(|(_, charge)| *charge).collect();
    let standings = limiter.inspect(&charges, Some(version), now).await;
    let limits = buckets.iter().zip(&standings).map(|((route, charge), standing)| seen(*route, charge, standing));
    Inspection {
        api: api.name.to_string(),
        key: key.id.to_string(),
        organization: organization.id.to_string(),
        plan: organization.plan.to_string(),
        class: key.class.as_str(),
        environment: key.environment.as_str(),
        scopes: Identity::Key(key, organization).effective_scopes().map(ToString::to_string).collect(),
        expires: key.not_after_ms.map(rfc3339),
        limits: limits.collect(),
    }
}
