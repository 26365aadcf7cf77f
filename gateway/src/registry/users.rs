//! Users and their memberships: what one must satisfy, and every change of one.

use super::access::Registry;
use super::change::{By, ChangeError, Code, refused, with};
use super::organizations;
use super::user::{MEMBERSHIPS_MAX, Membership, Role, UserRecord, email, hash};
use crate::base::random::base62;
use crate::store::StoreError;

/// Characters of an id after its prefix.
const ID_CHARS: usize = 16;
/// How ids of users begin who log in here.
const OURS: &str = "usr_";

/// A new user.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// E-mail address, by which the user logs in.
    pub email: String,
    /// Name for people; may be empty.
    pub name: String,
    /// Organizations, and the role in each.
    pub memberships: Vec<Membership>,
}

/// The user with an id or an e-mail address.
pub async fn find(registry: &Registry, user: &str) -> Result<UserRecord, ChangeError> {
    let found = match email(user) {
        Ok(address) => registry.user_by_email(&address).await?,
        Err(_) => registry.user(user).await?,
    };
    match found {
        Some(user) => Ok(user),
        None => refused(Code::UnknownUser, format!("there is no user {}", user.escape_debug())),
    }
}

/// Makes a user who logs in with this password.
pub async fn add(registry: &Registry, new: NewUser, password: &str, by: &By) -> Result<UserRecord, ChangeError> {
    for membership in &new.memberships {
        organizations::find(&**registry.store(), &membership.organization).await?;
    }
    let user = UserRecord {
        id: format!("{OURS}{}", base62(ID_CHARS)?),
        email: email(&new.email).map_err(with(Code::InvalidEmail))?,
        name: new.name,
        password: Some(hashed(password)?),
        memberships: new.memberships,
        created_ms: by.now_ms,
        sessions_from_ms: 0,
        disabled_ms: None,
    };
    match registry.insert_user(&user).await {
        Err(StoreError::Exists(_)) => refused(Code::AlreadyThere, format!("{} is already a user", user.email)),
        Err(other) => Err(other.into()),
        Ok(()) => {
            by.tell("added the user", &user.id);
            Ok(user)
        }
    }
}

/// Gives a user a new password; all sessions end.
pub async fn set_password(
    registry: &Registry,
    user: &UserRecord,
    password: &str,
    by: &By,
) -> Result<UserRecord, ChangeError> {
    if !user.id.starts_with(OURS) {
        let words = format!("{} logs in elsewhere and has no password here", user.id);
        return refused(Code::LogsInElsewhere, words);
    }
    let hash = hashed(password)?;
    let set = |user: &mut UserRecord| {
        user.password = Some(hash.clone());
        user.sessions_from_ms = by.now_ms;
        Ok(())
    };
    change(registry, user, (by, "gave a new password to the user"), set).await
}

/// Makes a user a member of an organization, or gives another role there.
pub async fn join(
    registry: &Registry,
    user: &UserRecord,
    (organization, role): (&str, Role),
    by: &By,
) -> Result<UserRecord, ChangeError> {
    organizations::find(&**registry.store(), organization).await?;
    change(registry, user, (by, &format!("made a member of {organization}:")), |user| {
        user.memberships.retain(|m| m.organization != organization);
        if user.memberships.len() >= MEMBERSHIPS_MAX {
            return Err(StoreError::Refused(format!("a user has at most {MEMBERSHIPS_MAX} organizations")));
        }
        user.memberships.push(Membership { organization: organization.to_owned(), role });
        Ok(())
    })
    .await
}

/// Ends a membership; what the user granted for the organization ends with it.
pub async fn leave(
    registry: &Registry,
    user: &UserRecord,
    organization: &str,
    by: &By,
) -> Result<UserRecord, ChangeError> {
    change(registry, user, (by, &format!("ended the membership in {organization} of")), |user| {
        user.memberships.retain(|m| m.organization != organization);
        Ok(())
    })
    .await
}

/// Switches a user off: sessions and tokens stop working on every gateway.
pub async fn disable(registry: &Registry, user: &UserRecord, by: &By) -> Result<UserRecord, ChangeError> {
    change(registry, user, (by, "switched off the user"), |user| {
        user.disabled_ms.get_or_insert(by.now_ms);
        user.sessions_from_ms = by.now_ms;
        Ok(())
    })
    .await
}

/// Switches a user on again.
pub async fn enable(registry: &Registry, user: &UserRecord, by: &By) -> Result<UserRecord, ChangeError> {
    change(registry, user, (by, "switched on the user"), |user| {
        user.disabled_ms = None;
        Ok(())
    })
    .await
}

async fn change(
    registry: &Registry,
    user: &UserRecord,
    (by, what): (&By, &str),
    step: impl FnMut(&mut UserRecord) -> Result<(), StoreError> + Send,
) -> Result<UserRecord, ChangeError> {
    let changed = registry.change_user(&user.id, step).await?.record;
    by.tell(what, &changed.id);
    Ok(changed)
}

fn hashed(password: &str) -> Result<String, ChangeError> {
    hash(password).map_err(|fault| ChangeError::Refused(Code::InvalidPassword, fault.to_string()))
}
