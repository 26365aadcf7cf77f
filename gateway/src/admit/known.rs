//! What is known of a request while it is decided.

use std::net::IpAddr;
use std::sync::Arc;

use policy::limit::Payer;
use policy::route::RouteClass;
use policy::{Identity, Organization, Target};

use super::answers::AnswerContext;
use crate::base::clock::Moment;
use crate::base::random::RequestId;
use crate::identify::{Caller, Found};
use crate::limit::{Certainty, Standing};
use crate::snapshot::Snapshot;

/// What became known of a request on its way, for the answer's fields and the record. Filled step
/// by step, so that a denial carries what was known when it was made.
pub struct Known {
    /// Index of the API.
    pub api: Option<u32>,
    /// The caller.
    pub caller: Option<(Caller, Arc<Organization>)>,
    /// How the caller was found.
    pub found: Option<Found>,
    /// Index of the route, for a caller who may know it.
    pub route: Option<u32>,
    /// The limit to show.
    pub standing: Option<(Arc<str>, Standing)>,
    /// Canonical path, and the query behind it: the one text that outlives the head.
    target: String,
    path_len: usize,
    /// The caller's address.
    pub address: IpAddr,
    /// When the request began: the instant by which it is judged.
    pub now: Moment,
    /// How its tokens were counted, when some were taken.
    pub certainty: Option<Certainty>,
    /// `Origin`.
    pub origin: Option<Box<str>>,
    /// Scopes were missing and only shadowed.
    pub shadowed: bool,
    /// The request's id: the client's, or one of ours.
    pub request_id: RequestId,
    /// Whether it is a gRPC call, which is refused in a form of its own.
    pub is_grpc: bool,
    /// Whose key it was that exists and does not work: for the record alone.
    pub refused: Option<RefusedKey>,
}

/// A key that was refused because of its state.
#[derive(Clone, Debug)]
pub struct RefusedKey {
    /// Its id.
    pub id: Box<str>,
    /// Its organization's.
    pub organization: Box<str>,
}

impl Known {
    /// A request that begins now, from an address; nothing else is known.
    pub fn at(now: Moment, address: IpAddr) -> Self {
        Known {
            api: None,
            caller: None,
            found: None,
            route: None,
            standing: None,
            target: String::new(),
            path_len: 0,
            address,
            now,
            certainty: None,
            origin: None,
            shadowed: false,
            request_id: RequestId::NONE,
            is_grpc: false,
            refused: None,
        }
    }

    /// What follows the first `?`; empty when there is nothing.
    pub fn query(&self) -> &str {
        self.target.get(self.path_len + 1..).unwrap_or_default()
    }

    /// Canonical path; empty when the target was refused.
    pub fn path(&self) -> &str {
        self.target.get(..self.path_len).unwrap_or_default()
    }

    /// What the upstream is asked for: byte for byte what was matched, and the query.
    pub fn path_and_query(&self) -> &str {
        &self.target
    }

    pub(super) fn keep_target(&mut self, target: &Target<'_>) {
        let (path, query) = (target.path.as_str(), target.query);
        self.target = String::with_capacity(path.len() + query.map_or(0, |q| q.len() + 1));
        self.target.push_str(path);
        self.path_len = path.len();
        if let Some(query) = query {
            self.target.push('?');
            self.target.push_str(query);
        }
    }

    /// What an answer says of the request, `since_ms` after the decision.
    pub fn answer_context<'a>(&'a self, snapshot: &'a Snapshot, since_ms: u64) -> AnswerContext<'a> {
        let api = self.api.and_then(|index| snapshot.policy.apis.get(index as usize));
        let route = api.zip(self.route).and_then(|(api, index)| api.routes.get(index as usize));
        let identity = self.identity();
        let charges = api.zip(identity.organization()).and_then(|(api, organization)| {
            let (plan, own) = (api.plan(organization), route.map_or(&[][..], |route| &route.limits));
            let payer = Payer::of(identity, route.map_or(RouteClass::Read, |route| route.class))?;
            (plan.limits() + own.len() > 1).then(|| plan.charges(own, 1, payer, organization))
        });
        AnswerContext {
            charges,
            request_id: self.request_id.as_str(),
            api,
            origin: self.origin.as_deref(),
            standing: self.standing.as_ref().map(|(name, standing)| (&**name, *standing)),
            since_ms,
        }
    }

    /// The caller as an identity.
    pub fn identity(&self) -> Identity<'_> {
        match &self.caller {
            Some((Caller::Key(key), organization)) => Identity::Key(&key.facts, organization),
            Some((Caller::Token(token, _), organization)) => Identity::Token(&token.facts, organization),
            None => Identity::Anonymous,
        }
    }
}
