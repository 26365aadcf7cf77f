//! API keys: what a new one must satisfy, and every change of one.

use ipnet::IpNet;
use policy::Policy;
use policy::credential::{KeyForm, Secret, display_prefix, key_form, mint};
use policy::identity::{Environment, KeyClass, Origin};
use policy::units::Rate;
use zeroize::Zeroizing;

use super::change::{By, ChangeError, Code, check_name, is_line, refused, with};
use super::organizations;
use crate::base::clock::parse_instant;
use crate::base::digest::{Digest, Peppers};
use crate::base::random::{NoRandomness, base62, fill};
use crate::store::{Cleared, KeyChange, KeyRecord, Keys, Position};

/// Characters of an id after its prefix.
const ID_CHARS: usize = 16;
/// Most draws of random bytes for one key; one is too few once in many thousand.
const MINT_TRIES_MAX: u32 = 64;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// What a key may do and where it may be used, as it was written.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Organization that it belongs to.
    pub organization: String,
    /// API, as the policy names it; may be left out when the policy has one.
    pub api: Option<String>,
    /// Name for people.
    pub name: String,
    /// What it is for.
    pub class: KeyClass,
    /// Which world it opens.
    pub environment: Environment,
    /// Scopes, with commas or spaces between; none for an admin key.
    pub scopes: String,
    /// Last moment: an RFC 3339 instant, or a date.
    pub expires: Option<String>,
    /// Address ranges that it may be used from.
    pub addresses: Vec<String>,
    /// Origins that it may be used from in a browser.
    pub origins: Vec<String>,
    /// Limit of its own, such as `5000/min`.
    pub limit: Option<String>,
}

/// A key that was made elsewhere.
#[derive(Clone, Copy)]
pub enum Imported<'a> {
    /// The key itself.
    Secret(Secret<'a>),
    /// Its keyed hash under the pepper in use, 64 hexadecimal characters.
    Digest(&'a str),
}

/// A key that took the place of another.
pub struct Rotated {
    /// The new key.
    pub new: KeyRecord,
    /// Its secret. It is not seen again.
    pub secret: Zeroizing<String>,
    /// The old key, which ends with the overlap.
    pub old: KeyRecord,
    /// Where the change of the old one is announced.
    pub position: Position,
}

/// Changes of keys, by one actor at one time.
pub struct KeyChanges<'a> {
    /// Where they are.
    pub store: &'a dyn Keys,
    /// Hashes them.
    pub peppers: &'a Peppers,
    /// Who makes the changes, and when.
    pub by: By,
}

impl KeyChanges<'_> {
    /// Makes a key; gives its secret, which is not seen again.
    pub async fn create(&self, policy: &Policy, new: &NewKey) -> Result<(KeyRecord, Zeroizing<String>), ChangeError> {
        let (mut record, prefix) = self.draft(policy, new).await?;
        let secret = fresh(&prefix)?;
        record.digest = self.peppers.current.digest(Secret::new(&secret));
        record.display = display_prefix(&secret, &prefix);
        self.store.insert_key(&record).await?;
        self.by.tell("created the key", &record.id);
        Ok((record, secret))
    }

    /// Takes over a key that was made elsewhere.
    pub async fn import(
        &self,
        policy: &Policy,
        new: &NewKey,
        imported: Imported<'_>,
    ) -> Result<KeyRecord, ChangeError> {
        let (mut record, prefix) = self.draft(policy, new).await?;
        (record.digest, record.display) = match imported {
            Imported::Digest(hex) => match Digest::from_hex(hex) {
                Some(digest) => (digest, format!("{prefix}…")),
                None => return refused(Code::InvalidDigest, "a digest is 64 hexadecimal characters"),
            },
            Imported::Secret(secret) => match key_form(secret, &prefix) {
                KeyForm::Minted | KeyForm::Foreign => {
                    (self.peppers.current.digest(secret), display_prefix(secret.expose(), &prefix))
                }
                KeyForm::Malformed => {
                    let words = format!(
                        "that cannot be a key of this API and environment: it must start with `{prefix}` and go on with 8 or \
                         more letters, digits, `_` or `-`; 36 letters and digits must end in Tollgate's checksum"
                    );
                    return refused(Code::InvalidKey, words);
                }
            },
        };
        self.store.insert_key(&record).await?;
        self.by.tell("imported the key", &record.id);
        Ok(record)
    }

    /// Replaces a key by one with the same rights; the old one works for `overlap_ms` more.
    pub async fn rotate(&self, policy: &Policy, id: &str, overlap_ms: u64) -> Result<Rotated, ChangeError> {
        let old = self.store.key(id).await?;
        let Some(api) = policy.api(&old.api) else {
            return refused(Code::UnknownApi, format!("the policy has no API `{}` any more", old.api));
        };
        let Some((prefix, _)) = api.prefixes.iter().find(|(_, environment)| *environment == old.environment) else {
            return refused(Code::UnknownEnvironment, "the API has no such environment any more");
        };
        let state = old.state(self.by.now_ms);
        if state != "active" {
            return refused(Code::NotActive, format!("{} is {state}; only an active key can be rotated", old.id));
        }
        let secret = fresh(prefix)?;
        // The successor is there before the old key begins to end: a failure in between leaves a
        // customer with one key too many, never with one too few.
        let new = KeyRecord {
            id: format!("key_{}", base62(ID_CHARS)?),
            display: display_prefix(&secret, prefix),
            digest: self.peppers.current.digest(Secret::new(&secret)),
            created_by: self.by.actor.as_str().to_owned(),
            created_ms: self.by.now_ms,
            last_use: None,
            exposed: None,
            exposure_cleared: None,
            ..old
        };
        self.store.insert_key(&new).await?;
        let change = KeyChange::Replace { by: new.id.clone(), not_after_ms: self.by.now_ms + overlap_ms };
        match self.store.change_key(id, change).await {
            Ok((old, position)) => {
                self.by.tell("rotated the key", id);
                Ok(Rotated { new, secret, old, position })
            }
            Err(error) => {
                // Somebody else rotated it first; two successors would be one too many.
                self.store.change_key(&new.id, KeyChange::Revoke { at_ms: self.by.now_ms }).await?;
                Err(error.into())
            }
        }
    }

    /// Stops a key until it is resumed.
    pub async fn suspend(&self, id: &str) -> Result<(KeyRecord, Position), ChangeError> {
        self.change(id, "suspended the key", KeyChange::Suspend { at_ms: self.by.now_ms }).await
    }

    /// Lets a suspended key work again.
    pub async fn resume(&self, id: &str) -> Result<(KeyRecord, Position), ChangeError> {
        self.change(id, "resumed the key", KeyChange::Resume).await
    }

    /// Ends a key for good.
    pub async fn revoke(&self, id: &str) -> Result<(KeyRecord, Position), ChangeError> {
        self.change(id, "revoked the key", KeyChange::Revoke { at_ms: self.by.now_ms }).await
    }

    async fn change(&self, id: &str, what: &str, change: KeyChange) -> Result<(KeyRecord, Position), ChangeError> {
        let changed = self.store.change_key(id, change).await?;
        self.by.tell(what, id);
        Ok(changed)
    }

    /// Says that what was seen of a key so far matters no more, and why.
    pub async fn clear_exposure(&self, id: &str, reason: String) -> Result<KeyRecord, ChangeError> {
        if !is_line(&reason, REASON_CHARS_MAX) {
            let words = format!("a reason is 1 to {REASON_CHARS_MAX} characters without control characters");
            return refused(Code::InvalidReason, words);
        }
        let Some((up_to_ms, _)) = self.store.key(id).await?.exposure() else {
            let words = format!("{id} is not marked as exposed; see `tollgate keys show {id}`");
            return refused(Code::NotExposed, words);
        };
        let cleared = Cleared { ms: self.by.now_ms, up_to_ms, by: self.by.actor.as_str().to_owned(), reason };
        self.change(id, "cleared the exposure of the key", KeyChange::ClearExposure(cleared)).await?;
        // Read again: what was seen of it is kept beside its record.
        Ok(self.store.key(id).await?)
    }

    /// A record that lacks but secret and digest, and the prefix of its key.
    async fn draft(&self, policy: &Policy, new: &NewKey) -> Result<(KeyRecord, String), ChangeError> {
        let api = match (&new.api, &*policy.apis) {
            (Some(name), _) => match policy.api(name) {
                Some(api) => api,
                None => return refused(Code::UnknownApi, format!("the policy has no API `{}`", name.escape_debug())),
            },
            (None, [only]) => only,
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|api| &*api.name).collect();
                return refused(Code::UnknownApi, format!("name the API with --api: {}", names.join(", ")));
            }
        };
        let Some((prefix, _)) = api.prefixes.iter().find(|(_, environment)| *environment == new.environment) else {
            let words = format!("{} has no {} environment", api.name, new.environment.as_str());
            return refused(Code::UnknownEnvironment, words);
        };
        check_name(&new.name)?;
        let not_after_ms = new.expires.as_deref().map(parse_instant).transpose().map_err(with(Code::InvalidTime))?;
        if not_after_ms.is_some_and(|end| end <= self.by.now_ms) {
            return refused(Code::InvalidTime, "the key would have expired already");
        }
        let origins = new.origins.iter().map(|o| Origin::parse(o).map(|o| o.as_str().to_owned()));
        let limit = new.limit.as_deref().map(|l| l.parse::<Rate>().map(|r| r.to_string())).transpose();
        let record = KeyRecord {
            id: format!("key_{}", base62(ID_CHARS)?),
            api: api.name.to_string(),
            organization: new.organization.clone(),
            name: new.name.clone(),
            class: new.class,
            environment: new.environment,
            scopes: self.scopes(policy, new).await?,
            display: String::new(),
            digest: Digest::from_bytes([0; 32]),
            created_by: self.by.actor.as_str().to_owned(),
            created_ms: self.by.now_ms,
            not_after_ms,
            suspended_ms: None,
            revoked_ms: None,
            replaced_by: None,
            networks: new.addresses.iter().map(|a| network(a)).collect::<Result<_, _>>()?,
            origins: origins.collect::<Result<_, _>>().map_err(with(Code::InvalidOrigin))?,
            limit: limit.map_err(with(Code::InvalidLimit))?,
            last_use: None,
            exposed: None,
            exposure_cleared: None,
        };
        Ok((record, prefix.to_string()))
    }

    /// The scopes of a new key: declared, fit for its class, and its organization's to give.
    async fn scopes(&self, policy: &Policy, new: &NewKey) -> Result<Vec<String>, ChangeError> {
        let scopes = organizations::declared_scopes(policy, &new.scopes)?;
        match (new.class, scopes.is_empty()) {
            (KeyClass::Admin, false) => {
                let words = "an admin key has all scopes of its organization; leave --scopes out";
                return refused(Code::WrongScopes, words);
            }
            (KeyClass::Read | KeyClass::Write | KeyClass::Public, true) => {
                return refused(Code::WrongScopes, "name what the key may do: --scopes packs:read,…");
            }
            (KeyClass::Admin, true) | (KeyClass::Read | KeyClass::Write | KeyClass::Public, false) => {}
        }
        let organization = organizations::find(self.store, &new.organization).await?;
        if let Some(beyond) = scopes.iter().find(|s| !organization.permissions.contains(s)) {
            let words = format!("the organization {} does not have the permission {beyond}", organization.id);
            return refused(Code::NotPermitted, words);
        }
        Ok(scopes)
    }
}

/// A fresh secret for a prefix.
fn fresh(prefix: &str) -> Result<Zeroizing<String>, NoRandomness> {
    for _ in 0..MINT_TRIES_MAX {
        let mut random = Zeroizing::new([0u8; 64]);
        fill(&mut *random)?;
        if let Some(key) = mint(prefix, &*random) {
            return Ok(Zeroizing::new(key));
        }
    }
    Err(NoRandomness)
}

fn network(text: &str) -> Result<IpNet, ChangeError> {
    text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).or_else(|_| {
        let words = format!("`{}` is not an address range, such as 203.0.113.0/24", text.escape_debug());
        refused(Code::InvalidAddress, words)
    })
}
