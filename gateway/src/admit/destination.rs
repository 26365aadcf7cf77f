//! Whose business a request is: an API's, or ours.

use policy::oauth::RESOURCE_METADATA_PATH;
use policy::route::Api;
use policy::{Method, Target};

use super::{Admission, Known};
use crate::admit::denial::Denial;
use crate::admit::head::Head;
use crate::snapshot::Snapshot;

/// The API whose business a request is; or how it goes on when it is ours: at the host of an
/// authorization server, a preflight, or what an API says of itself.
pub(super) fn addressed<'s>(
    head: &Head<'_>,
    target: &Target<'_>,
    snapshot: &'s Snapshot,
    known: &mut Known,
) -> Result<Result<&'s Api, Admission>, Denial> {
    if let Some((api, _)) = snapshot.policy.issuer_at(&target.host) {
        known.api = Some(api.index);
        return Ok(Err(Admission::Authorize));
    }
    let api = snapshot.policy.api_at(&target.host).ok_or(Denial::NoSuchRoute)?;
    known.api = Some(api.index);
    if head.is_preflight() {
        return Ok(Err(Admission::Preflight));
    }
    let is_read = target.method.is_some_and(Method::is_read);
    if api.oauth.is_some() && is_read && target.path.as_str() == RESOURCE_METADATA_PATH {
        return Ok(Err(Admission::Describe));
    }
    Ok(Ok(api))
}
