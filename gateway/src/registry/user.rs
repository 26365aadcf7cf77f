//! People: who they are, whose members they are, and their passwords.
//!
//! Accounts of other systems live beside ours under ids that say where they are from, so that an
//! outsider's `sub` can never be taken for one of our users.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordVerifier as _, phc::Salt};
use argon2::{Argon2, Params};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::base::random::fill;

/// Shortest password.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Longest password, in bytes: hashing it costs time.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// Most organizations of one user.
pub const MEMBERSHIPS_MAX: usize = 50;

/// What a member may do in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but ending it.
    Admin,
    /// Using it.
    Member,
}

/// A user's place in an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The organization.
    pub organization: String,
    /// Role.
    pub role: Role,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// `usr_…` for ours; `app-…` and `oidc-…` for those of another system.
    pub id: String,
    /// E-mail address, or what the other system calls the user.
    pub email: String,
    /// For people.
    pub name: String,
    /// Password hash (PHC string); `None` where another system logs the user in.
    pub password: Option<String>,
    /// Organizations.
    pub memberships: Vec<Membership>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Sessions from before this are over.
    pub sessions_from_ms: u64,
    /// Since when the user is switched off.
    pub disabled_ms: Option<u64>,
}

impl UserRecord {
    /// One word for people.
    pub fn state(&self) -> &'static str {
        if self.disabled_ms.is_some() { "disabled" } else { "active" }
    }

    /// Whether the user belongs to an organization.
    pub fn is_member(&self, organization: &str) -> bool {
        self.memberships.iter().any(|m| m.organization == organization)
    }
}

/// An e-mail address as it is looked up: trimmed, lower case. Nothing is proven by its form but
/// that it can be shown and typed.
pub fn email(text: &str) -> Result<String, String> {
    let text = text.trim().to_lowercase();
    let fits = text.chars().all(|c| !c.is_control() && !c.is_whitespace()) && text.len() <= 254;
    match text.split_once('@') {
        Some((local, domain)) if fits && !local.is_empty() && domain.contains('.') && !domain.contains('@') => Ok(text),
        Some(_) | None => Err(format!("`{}` is not an e-mail address", text.escape_debug())),
    }
}

/// The id of a user whom another system knows by `sub`.
pub fn foreign_id(system: &str, issuer: &str, sub: &str) -> String {
    let number = policy::limit::stable_number(&["user", issuer, sub]);
    format!("{system}-{number:032x}")
}

/// Makes and checks password hashes, argon2id. Each takes some 20 ms and 19 MiB: at most as many at
/// a time as the machine has cores, on threads that serve no requests.
pub struct Passwords {
    at_once: Arc<Semaphore>,
    waiting: Semaphore,
    /// A hash of nothing that anybody knows, so that an unknown user takes as long as a wrong password.
    decoy: String,
}

/// Why a password could not be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    /// Too short or too long.
    #[error("a password has at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes")]
    Length,
    /// Hashing failed, or too many wait for it.
    #[error("passwords cannot be checked at this moment")]
    Busy,
}

/// Logins that may be checked or wait for a free core.
const WAITING_MAX: usize = 64;

/// Makes a hash.
pub fn hash(password: &str) -> Result<String, PasswordFault> {
    use argon2::password_hash::CustomizedPasswordHasher as _;
    let is_long_enough = password.chars().count() >= PASSWORD_CHARS_MIN && password.len() <= PASSWORD_BYTES_MAX;
    if !is_long_enough {
        return Err(PasswordFault::Length);
    }
    let mut salt = [0u8; 16];
    fill(&mut salt).map_err(|_| PasswordFault::Busy)?;
    let salt = Salt::new(&salt).map_err(|_| PasswordFault::Busy)?;
    let argon2 = Argon2::default();
    let made = argon2.hash_password_customized(password.as_bytes(), &salt, None, None, Params::default());
    made.map(|hash| hash.to_string()).map_err(|_| PasswordFault::Busy)
}

fn verify(hash: &str, password: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

impl Passwords {
    /// For as many cores.
    pub fn new(cores: usize) -> Result<Self, PasswordFault> {
        let mut bytes = [0u8; 32];
        fill(&mut bytes).map_err(|_| PasswordFault::Busy)?;
        let decoy = hash(&blake3::Hash::from_bytes(bytes).to_hex())?;
        Ok(Passwords { at_once: Arc::new(Semaphore::new(cores.max(1))), waiting: Semaphore::new(WAITING_MAX), decoy })
    }

    /// Whether a password is the one of a hash; with no hash, takes as long and says no.
    pub async fn check(&self, hash: Option<&str>, password: &str) -> Result<bool, PasswordFault> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let (known, hash) = (hash.is_some(), hash.unwrap_or(&self.decoy).to_owned());
        let password = zeroize::Zeroizing::new(password.to_owned());
        let _waiting = self.waiting.try_acquire().map_err(|_| PasswordFault::Busy)?;
        let permit = self.at_once.clone().acquire_owned().await.map_err(|_| PasswordFault::Busy)?;
        let checked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: whoever asked may be gone before it is done.
            let _permit = permit;
            verify(&hash, &password)
        });
        let matches = checked.await.map_err(|_| PasswordFault::Busy)?;
        Ok(known && matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other_is() {
        let passwords = Passwords::new(2).unwrap();
        let hash = hash("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(passwords.check(Some(&hash), "correct horse battery").await, Ok(true));
        assert_eq!(passwords.check(Some(&hash), "correct horse batterz").await, Ok(false));
        assert_eq!(passwords.check(None, "correct horse battery").await, Ok(false));
        assert_eq!(passwords.check(Some(&hash), &"x".repeat(10_000)).await, Ok(false));
        assert_eq!(super::hash("short"), Err(PasswordFault::Length));
    }

    #[test]
    fn an_address_has_one_spelling_and_systems_do_not_meet() {
        assert_eq!(email(" Jo@Example.COM ").as_deref(), Ok("jo@example.com"));
        for bad in ["", "jo", "@example.com", "jo@example", "a b@example.com", "a@b@c.d"] {
            assert!(email(bad).is_err(), "{bad}");
        }
        assert_ne!(foreign_id("app", "https://a", "1"), foreign_id("app", "https://b", "1"));
    }
}
