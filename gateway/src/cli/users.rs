//! `tollgate users`: people, their organizations and passwords.

use std::io::Read as _;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::listing::Listing;
use super::{Context, Failure, print};
use crate::base::clock::rfc3339;
use crate::base::random::base62;
use crate::registry::user::{Membership, PASSWORD_BYTES_MAX, Role, UserRecord};
use crate::registry::users::{self, NewUser};
use crate::registry::views;

/// Characters of a password that we make.
const MADE_PASSWORD_CHARS: usize = 20;

/// Users.
#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Add a user; shows a password, once, unless one is given.
    Add(Add),
    /// List users.
    List(Listing),
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

/// A password, typed or made.
fn password(from_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    if !from_stdin {
        return Ok(Zeroizing::new(base62(MADE_PASSWORD_CHARS)?));
    }
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(PASSWORD_BYTES_MAX as u64 + 2).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

impl Users {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let registry = &context.registry();
        let by = &context.by().await?;
        let find = async |user: String| users::find(registry, &user).await;
        let changed = match self {
            Users::Add(add) => return add.run(context).await,
            Users::List(listing) => return list(context, listing).await,
            Users::SetPassword(new) => {
                let (user, password) = (find(new.user).await?, password(new.password_stdin)?);
                let user = users::set_password(registry, &user, &password, by).await?;
                return show(context, &user, (!new.password_stdin).then_some(&password));
            }
            Users::Show { user } => find(user).await?,
            Users::Join(join) => users::join(registry, &find(join.user).await?, (&join.org, join.role), by).await?,
            Users::Leave { user, org } => users::leave(registry, &find(user).await?, &org, by).await?,
            Users::Disable { user } => users::disable(registry, &find(user).await?, by).await?,
            Users::Enable { user } => users::enable(registry, &find(user).await?, by).await?,
        };
        show(context, &changed, None)
    }
}

impl Add {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let member = |organization| Membership { organization, role: self.role };
        let memberships = self.org.into_iter().map(member).collect();
        let new = NewUser { email: self.email, name: self.name, memberships };
        let password = password(self.password_stdin)?;
        let user = users::add(&context.registry(), new, &password, &context.by().await?).await?;
        show(context, &user, (!self.password_stdin).then_some(&password))
    }
}

/// Makes a user with a password of ours, and gives that: for the demo.
pub(super) async fn add_for_demo(context: &Context, new: NewUser) -> Result<Zeroizing<String>, Failure> {
    let password = password(false)?;
    users::add(&context.registry(), new, &password, &context.by().await?).await?;
    Ok(password)
}

fn organizations(user: &UserRecord) -> String {
    user.memberships.iter().map(|m| m.organization.as_str()).collect::<Vec<_>>().join(" ")
}

async fn list(context: &Context, listing: Listing) -> Result<(), Failure> {
    let registry = context.registry();
    let mut users = listing.read(async |page| registry.users(&page).await, |_| true).await?;
    users.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
    if context.json {
        return print::json(&users.iter().map(views::user).collect::<Vec<_>>());
    }
    let rows = users.into_iter().map(|user| {
        let (organizations, state) = (organizations(&user), user.state());
        vec![user.id, user.email, user.name, organizations, state.into()]
    });
    print::table(&["ID", "E-MAIL", "NAME", "ORGS", "STATE"], rows)
}

fn show(context: &Context, user: &UserRecord, made: Option<&Zeroizing<String>>) -> Result<(), Failure> {
    if context.json {
        let mut value = views::user(user);
        if let (Some(map), Some(made)) = (value.as_object_mut(), made) {
            map.insert("password".into(), made.as_str().into());
        }
        return print::json(&value);
    }
    print::fields(&[
        ("id", user.id.clone()),
        ("e-mail", user.email.clone()),
        ("name", user.name.clone()),
        ("organizations", organizations(user)),
        ("state", user.state().into()),
        ("created", rfc3339(user.created_ms)),
    ])?;
    match made {
        Some(made) => print::line(&format!("\npassword, shown this once: {}", made.as_str())),
        None => Ok(()),
    }
}
