//! The changes of grants that a person may make.

use super::access::{Changed, Registry};
use super::change::{By, ChangeError, Code, refused};
use super::grant::{Cause, GrantRecord};
use crate::store::Position;

/// The grant with an id.
pub async fn find(registry: &Registry, id: &str) -> Result<GrantRecord, ChangeError> {
    match registry.grant(id).await? {
        Some(grant) => Ok(grant),
        None => unknown(id),
    }
}

/// Ends a grant: its tokens stop working on every gateway. Gives the grant as it is now, and where the
/// change is announced: whoever has followed the changes up to there knows.
pub async fn revoke(registry: &Registry, id: &str, by: &By) -> Result<(GrantRecord, Position), ChangeError> {
    let end = |grant: &mut GrantRecord| grant.kill(Cause::Operator, by.now_ms);
    let Some(Changed { record, position, .. }) = registry.change_grant(id, end).await? else { return unknown(id) };
    by.tell("revoked the grant", id);
    let position = match position {
        Some(position) => position,
        // It was over already, and that was announced when it ended.
        None => registry.store().position().await?,
    };
    Ok((record, position))
}

fn unknown<T>(id: &str) -> Result<T, ChangeError> {
    refused(Code::UnknownGrant, format!("there is no grant {}", id.escape_debug()))
}
