//! The proof that a request may be forwarded.
//!
//! A [`Permit`] is made from [`Charged`], that from a [`Grant`] whose limits have admitted the request,
//! and that only by `policy::Api::authorize`. Whoever leaves a check out has nothing to forward:
//!
//! ```
//! # use gateway::admit::{Charged, Permit};
//! fn forward(charged: &Charged<'_, '_>) -> Permit {
//!     Permit::of(charged, 0)
//! }
//! ```
//!
//! A grant alone is not enough:
//!
//! ```compile_fail
//! # use gateway::admit::Permit;
//! fn forward(grant: &policy::Grant<'_, '_>) -> Permit {
//!     Permit::of(grant, 0)
//! }
//! ```
//!
//! Nor can somebody say that limits were charged:
//!
//! ```compile_fail
//! # use gateway::admit::{Charged, Permit};
//! fn forward(grant: policy::Grant<'_, '_>) -> Permit {
//!     Permit::of(&Charged { grant }, 0)
//! }
//! ```
//!
//! Nor make a permit of what it consists of:
//!
//! ```compile_fail
//! # use gateway::admit::Permit;
//! fn forward() -> Permit {
//!     Permit { api: 0, route: 0, host: 0 }
//! }
//! ```

use std::sync::Arc;

use policy::Grant;
use policy::route::{Api, Route};

use super::Gate;
use super::denial::Denial;
use crate::base::clock::Moment;
use crate::limit::{Ask, Certainty, Standing, Verdict};
use crate::snapshot::Snapshot;

/// A grant whose limits have admitted the request, or that has none.
pub struct Charged<'p, 'i> {
    grant: Grant<'p, 'i>,
    counted: Option<Counted>,
}

/// How a request was counted.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Name and standing of the limit to show.
    pub(super) shown: (Arc<str>, Standing),
    /// Whether all gateways together have counted it.
    pub(super) certainty: Certainty,
}

impl Charged<'_, '_> {
    /// How it was counted; none where there is no limit.
    pub(super) fn counted(self) -> Option<Counted> {
        self.counted
    }
}

/// Proof that a request may be forwarded, under the snapshot it was made from. Holds no borrow of it.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    api: u32,
    route: u32,
    host: usize,
}

impl Permit {
    /// The permit of a charged grant. `host` is the index of the API's host that was asked.
    pub fn of(charged: &Charged<'_, '_>, host: usize) -> Self {
        Permit { api: charged.grant.api.index, route: charged.grant.route.index, host }
    }

    /// The API and route, from the snapshot that the permit was made under.
    pub fn place<'s>(&self, snapshot: &'s Snapshot) -> Option<(&'s Api, &'s Route)> {
        let api = snapshot.policy.apis.get(self.api as usize)?;
        Some((api, api.routes.get(self.route as usize)?))
    }

    /// The host as matched.
    pub fn host<'s>(&self, api: &'s Api) -> &'s str {
        api.hosts.get(self.host).map_or("", |host| host)
    }
}

impl Gate {
    /// Takes a grant's tokens from all its limits, or none.
    pub(super) async fn charge<'p, 'i>(
        &self,
        grant: Grant<'p, 'i>,
        version: u64,
        now: Moment,
    ) -> Result<Charged<'p, 'i>, Denial> {
        let Some(charges) = grant.charges() else { return Ok(Charged { grant, counted: None }) };
        // A plan that was changed later than the policy is the newer limit.
        let version = grant.identity.organization().map_or(version, |o| version.max(o.changed_ms));
        let ask = Ask { charges: &charges, version, outage: grant.route.outage, now };
        let verdict = match self.shared.limiter.admit_now(&ask) {
            Some(verdict) => verdict,
            None => self.shared.limiter.admit(&ask).await.map_err(|_| Denial::LimitsUnavailable)?,
        };
        let standing = verdict.standing();
        match verdict {
            Verdict::Admitted { certainty, .. } => {
                let shown = (charges.first.name.clone(), standing);
                Ok(Charged { grant, counted: Some(Counted { shown, certainty }) })
            }
            Verdict::Over { index, .. } => {
                let limit = charges.iter().nth(index).map_or(charges.first.name, |charge| charge.name).clone();
                let retry_after_s = standing.window.seconds_left(standing.now_ms);
                Err(Denial::LimitExceeded { limit, standing, retry_after_s })
            }
        }
    }
}
