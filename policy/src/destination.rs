//! Whose business a request is, by its host and path: an API's, or the gateway's own.

use crate::oauth::{OAuth, RESOURCE_METADATA_PATH};
use crate::policy::Policy;
use crate::route::{Api, Refusal};
use crate::target::{Method, Target};

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'p> {
    /// The authorization server of an API, at its own host. It asks for credentials itself.
    Issuer(&'p Api, &'p OAuth),
    /// A CORS preflight (the Fetch standard): answered from the policy, without a credential.
    Preflight(&'p Api),
    /// What an API says of its authorization servers (RFC 9728); anybody may read it.
    Metadata(&'p Api),
    /// The caller's own rights and limits; whoever is known may see them.
    Inspection(&'p Api),
    /// A route of an API.
    Route(&'p Api),
}

impl<'p> Destination<'p> {
    /// The API that it belongs to.
    pub fn api(self) -> &'p Api {
        match self {
            Destination::Issuer(api, _)
            | Destination::Preflight(api)
            | Destination::Metadata(api)
            | Destination::Inspection(api)
            | Destination::Route(api) => api,
        }
    }
}

impl Policy {
    /// What a request is for; nothing is at a host that no API names.
    pub fn destination(&self, target: &Target<'_>, is_preflight: bool) -> Result<Destination<'_>, Refusal> {
        if let Some((api, oauth)) = self.issuer_at(&target.host) {
            return Ok(Destination::Issuer(api, oauth));
        }
        let api = self.api_at(&target.host).ok_or(Refusal::NoSuchRoute)?;
        let is_read = target.method.is_some_and(Method::is_read);
        Ok(if is_preflight {
            Destination::Preflight(api)
        } else if api.oauth.is_some() && is_read && target.path.as_str() == RESOURCE_METADATA_PATH {
            Destination::Metadata(api)
        } else if api.is_inspection(target) {
            Destination::Inspection(api)
        } else {
            Destination::Route(api)
        })
    }
}
