//! What a caller may know of itself: class, scopes, expiry, and where all its limits stand.
//!
//! Answered at a path of the policy, to whoever presents a working key. It spends nothing, reveals
//! nothing of other callers, and costs Redis at most a few questions a second for each key.

use policy::limit::{Charge, Limit, Payer};
use policy::route::{Api, RouteClass};
use policy::{Identity, Organization};
use serde::Serialize;

use crate::base::clock::{Moment, rfc3339};
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
    /// The class of routes it counts, for a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
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
    /// Id of the key; never the key. Absent for a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The application that holds the token; absent for a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The user who granted the token; absent for a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The organization.
    pub organization: String,
    /// Its plan; empty for the default plan.
    pub plan: String,
    /// Class of the key; absent for a token, whose limits go by the class of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
    /// Environment that it opens.
    pub environment: &'static str,
    /// Scopes in force now.
    pub scopes: Vec<String>,
    /// When the credential ends, RFC 3339; `null` when it does not.
    pub expires: Option<String>,
    /// All its limits.
    pub limits: Vec<LimitSeen>,
}

/// One bucket of a caller.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'p> {
    /// The route it belongs to; `None` for those of the plan.
    pub route: Option<&'p str>,
    /// The class of routes it counts, for a token.
    pub class: Option<&'static str>,
    /// What a request takes from it.
    pub charge: Charge<'p>,
}

/// The buckets of a caller: those of its plan, then those of routes with limits of their own.
/// A token has a first limit for each class of routes.
pub fn buckets<'p>(api: &'p Api, identity: Identity<'_>) -> Vec<Bucket<'p>> {
    let Some(organization) = identity.organization() else { return Vec::new() };
    let plan = api.plan(organization);
    let mut list = Vec::new();
    let charges = |limits: &'p [Limit], class| {
        Payer::of(identity, class).map(|payer| plan.charges(limits, 1, payer, organization))
    };
    let is_token = matches!(identity, Identity::Token(..));
    if let Some(own) = charges(&[], RouteClass::Read) {
        let class = is_token.then_some("read");
        list.push(Bucket { route: None, class, charge: own.first });
        if let Some(write) = charges(&[], RouteClass::Write).filter(|_| is_token) {
            list.push(Bucket { route: None, class: Some("write"), charge: write.first });
        }
        list.extend(own.iter().skip(1).map(|charge| Bucket { route: None, class: None, charge: *charge }));
    }
    for route in api.routes.iter().filter(|route| !route.limits.is_empty()) {
        if let Some(charges) = charges(&route.limits, route.class) {
            let own = charges.iter().skip(plan.limits());
            list.extend(own.map(|charge| Bucket { route: Some(&route.id), class: None, charge: *charge }));
        }
    }
    list.truncate(LIMITS_MAX);
    list
}

/// A limit as it stands.
pub fn seen(bucket: &Bucket<'_>, standing: &Standing) -> LimitSeen {
    LimitSeen {
        name: bucket.charge.name.to_string(),
        route: bucket.route.map(str::to_owned),
        class: bucket.class,
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
    (identity, organization): (Identity<'_>, &Organization),
    ends_ms: Option<u64>,
    version: u64,
    now: Moment,
) -> Inspection {
    let buckets = buckets(api, identity);
    let charges: Vec<Charge<'_>> = buckets.iter().map(|bucket| bucket.charge).collect();
    let standings = limiter.inspect(&charges, Some(version), now).await;
    let limits = buckets.iter().zip(&standings).map(|(bucket, standing)| seen(bucket, standing));
    let (key, token) = match identity {
        Identity::Anonymous => (None, None),
        Identity::Key(key, _) => (Some(key), None),
        Identity::Token(token, _) => (None, Some(token)),
    };
    Inspection {
        api: api.name.to_string(),
        key: key.map(|key| key.id.to_string()),
        client: token.map(|token| token.client.to_string()),
        user: token.map(|token| token.user.to_string()),
        organization: organization.id.to_string(),
        plan: organization.plan.to_string(),
        class: key.map(|key| key.class.as_str()),
        environment: identity.environment().as_str(),
        scopes: identity.effective_scopes().map(ToString::to_string).collect(),
        expires: ends_ms.map(rfc3339),
        limits: limits.collect(),
    }
}
