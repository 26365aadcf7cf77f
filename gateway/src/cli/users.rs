//! `tollgate users`: people, their organizations and passwords.

use std::io::Read as _;

use clap::{Args, Subcommand};

use super::{Desk, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::base::random::base62;
use crate::oauth::user::{MEMBERSHIPS_MAX, Membership, PASSWORD_BYTES_MAX, Role, UserRecord, email, hash};
use crate::store::StoreError;

/// Characters of a password that we make.
const MADE_PASSWORD_CHARS: usize = 20;
/// Characters of an id after its prefix.
const ID_CHARS: usize = 16;

/// Users.
#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Add a user; shows a password, once, unless one is given.
    Add(Add),
    /// List users.
    List,
    /// Show a user.
    Show {
        /// Id or e-mail address.
        user: String,
    },
    /// Give a user a new password; their sessions end.
    SetPassword(SetPassword),
    /// Make a user a member of an organization.
    Join(Join),
    /// End a membership; what the user granted for the organization ends with it.
    Leave {
        /// Id or e-mail address.
        user: String,
        /// The organization.
        #[arg(long)]
        org: String,
    },
    /// Switch a user off: sessions and tokens stop working, on every gateway.
    Disable {
        /// Id or e-mail address.
        user: String,
    },
    /// Switch a user on again.
    Enable {
        /// Id or e-mail address.
        user: String,
    },
}

/// A new user.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// E-mail address.
    email: String,
    /// Name for people.
    #[arg(long, default_value = "")]
    name: String,
    /// Organization; may be repeated.
    #[arg(long, required = true)]
    org: Vec<String>,
    /// Role in these organizations.
    #[arg(long, value_enum, default_value = "member")]
    role: Role,
    /// Read the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

/// A new password.
#[derive(Debug, Args)]
pub(super) struct SetPassword {
    /// Id or e-mail address.
    user: String,
    /// Read the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

/// A new membership.
#[derive(Debug, Args)]
pub(super) struct Join {
    /// Id or e-mail address.
    user: String,
    /// The organization.
    #[arg(long)]
    org: String,
    /// Role.
    #[arg(long, value_enum, default_value = "member")]
    role: Role,
}

/// A password and, where we made it, its text to be shown once.
fn password(from_stdin: bool) -> Result<(String, Option<String>), Failure> {
    let text = if from_stdin {
        let mut text = String::new();
        std::io::stdin().take(PASSWORD_BYTES_MAX as u64 + 2).read_to_string(&mut text)?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        base62(MADE_PASSWORD_CHARS)?
    };
    let hash = hash(&text).map_err(|fault| Failure::Refused(fault.to_string()))?;
    Ok((hash, (!from_stdin).then_some(text)))
}

/// The user with an id or an address.
pub(super) async fn find(desk: &Desk, user: &str) -> Result<UserRecord, Failure> {
    let registry = desk.registry();
    let found = match email(user) {
        Ok(address) => registry.user_by_email(&address).await?,
        Err(_) => registry.user(user).await?,
    };
    found.ok_or_else(|| Failure::Refused(format!("there is no user {}", user.escape_debug())))
}

impl Users {
    pub(super) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        // By the clock that sessions are made by.
        let now_ms = desk.registry().now_ms(System.now_ms()).await?;
        match self {
            Users::Add(add) => add.run(desk).await,
            Users::List => list(desk).await,
            Users::Show { user } => show(desk, &find(desk, &user).await?, None),
            Users::SetPassword(new) => {
                let user = find(desk, &new.user).await?;
                if !user.id.starts_with("usr_") {
                    return Err(Failure::Refused(format!("{} logs in elsewhere and has no password here", user.id)));
                }
                let (hash, made) = password(new.password_stdin)?;
                change(desk, &user, made.as_deref(), |user| {
                    user.password = Some(hash.clone());
                    user.sessions_from_ms = now_ms;
                    Ok(())
                })
                .await
            }
            Users::Join(join) => {
                let user = find(desk, &join.user).await?;
                check_organization(desk, &join.org).await?;
                change(desk, &user, None, |user| {
                    user.memberships.retain(|m| m.organization != join.org);
                    if user.memberships.len() >= MEMBERSHIPS_MAX {
                        return Err(StoreError::Refused(format!("a user has at most {MEMBERSHIPS_MAX} organizations")));
                    }
                    user.memberships.push(Membership { organization: join.org.clone(), role: join.role });
                    Ok(())
                })
                .await
            }
            Users::Leave { user, org } => {
                let user = find(desk, &user).await?;
                change(desk, &user, None, |user| {
                    user.memberships.retain(|m| m.organization != org);
                    Ok(())
                })
                .await
            }
            Users::Disable { user } => {
                let user = find(desk, &user).await?;
                change(desk, &user, None, |user| {
                    user.disabled_ms.get_or_insert(now_ms);
                    user.sessions_from_ms = now_ms;
                    Ok(())
                })
                .await
            }
            Users::Enable { user } => {
                let user = find(desk, &user).await?;
                change(desk, &user, None, |user| {
                    user.disabled_ms = None;
                    Ok(())
                })
                .await
            }
        }
    }
}

async fn check_organization(desk: &Desk, id: &str) -> Result<(), Failure> {
    match desk.store.organization(id).await? {
        Some(_) => Ok(()),
        None => Err(Failure::Refused(format!("there is no organization {}", id.escape_debug()))),
    }
}

/// Makes a user; the password is shown once, when we made it.
pub(super) async fn add(
    desk: &Desk,
    (address, name): (&str, &str),
    memberships: Vec<Membership>,
    from_stdin: bool,
) -> Result<(UserRecord, Option<String>), Failure> {
    for membership in &memberships {
        check_organization(desk, &membership.organization).await?;
    }
    let (hash, made) = password(from_stdin)?;
    let user = UserRecord {
        id: format!("usr_{}", base62(ID_CHARS)?),
        email: email(address).map_err(Failure::Refused)?,
        name: name.to_owned(),
        password: Some(hash),
        memberships,
        created_ms: System.now_ms(),
        sessions_from_ms: 0,
        disabled_ms: None,
    };
    match desk.registry().insert_user(&user).await {
        Err(StoreError::Exists(_)) => Err(Failure::Refused(format!("{} is already a user", user.email))),
        Err(other) => Err(other.into()),
        Ok(()) => Ok((user, made)),
    }
}

impl Add {
    async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let member = |organization| Membership { organization, role: self.role };
        let memberships: Vec<Membership> = self.org.into_iter().map(member).collect();
        let (user, made) = add(desk, (&self.email, &self.name), memberships, self.password_stdin).await?;
        show(desk, &user, made.as_deref())
    }
}

async fn change(
    desk: &Desk,
    user: &UserRecord,
    made: Option<&str>,
    step: impl FnMut(&mut UserRecord) -> Result<(), StoreError> + Send,
) -> Result<(), Failure> {
    let changed = desk.registry().change_user(&user.id, step).await?;
    show(desk, &changed.record, made)
}

fn view(user: &UserRecord) -> serde_json::Value {
    let mut value = serde_json::to_value(user).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("password");
        map.insert("state".into(), state(user).into());
    }
    value
}

fn state(user: &UserRecord) -> &'static str {
    if user.disabled_ms.is_some() { "disabled" } else { "active" }
}

fn organizations(user: &UserRecord) -> String {
    user.memberships.iter().map(|m| m.organization.as_str()).collect::<Vec<_>>().join(" ")
}

async fn list(desk: &Desk) -> Result<(), Failure> {
    let users = desk.registry().users().await?;
    if desk.json {
        return print::json(&users.iter().map(view).collect::<Vec<_>>());
    }
    let rows = users.into_iter().map(|user| {
        let (organizations, state) = (organizations(&user), state(&user));
        vec![user.id, user.email, user.name, organizations, state.into()]
    });
    print::table(&["ID", "E-MAIL", "NAME", "ORGS", "STATE"], rows)
}

fn show(desk: &Desk, user: &UserRecord, made: Option<&str>) -> Result<(), Failure> {
    if desk.json {
        let mut value = view(user);
        if let (Some(map), Some(made)) = (value.as_object_mut(), made) {
            map.insert("password".into(), made.into());
        }
        return print::json(&value);
    }
    print::fields(&[
        ("id", user.id.clone()),
        ("e-mail", user.email.clone()),
        ("name", user.name.clone()),
        ("organizations", organizations(user)),
        ("state", state(user).into()),
        ("created", rfc3339(user.created_ms)),
    ])?;
    match made {
        Some(made) => print::line(&format!("\npassword, shown this once: {made}")),
        None => Ok(()),
    }
}
