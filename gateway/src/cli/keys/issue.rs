//! Making keys: new ones, imported ones, and successors.

use std::io::Read as _;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use policy::credential::{KeyForm, Secret, display_prefix, key_form, mint};
use policy::identity::{Environment, KeyClass, Origin};
use policy::units::Rate;
use zeroize::Zeroizing;

use super::super::orgs::known_scopes;
use super::super::{Desk, Failure, print};
use super::{Wait, view};
use crate::base::clock::{Clock as _, System, parse_instant, rfc3339};
use crate::base::digest::Digest;
use crate::base::random::{base62, fill};
use crate::store::{KeyChange, KeyRecord};

/// Class, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum ClassArg {
    /// Fetches; may be used in a front end where the API allows it.
    Read,
    /// Changes things; for servers.
    Write,
    /// Everything its organization may do; for servers.
    Admin,
    /// The SDK's limited key.
    Public,
}

impl ClassArg {
    /// As a record has it.
    pub(super) fn class(self) -> KeyClass {
        match self {
            ClassArg::Read => KeyClass::Read,
            ClassArg::Write => KeyClass::Write,
            ClassArg::Admin => KeyClass::Admin,
            ClassArg::Public => KeyClass::Public,
        }
    }
}

/// Environment, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum EnvArg {
    /// Production data.
    Live,
    /// The sandbox.
    Test,
}

/// What a key may do and where it may be used.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct Rights {
    /// Organization that it belongs to.
    #[arg(long)]
    pub(in crate::cli) org: String,
    /// API, as the policy names it; needed when the policy has several.
    #[arg(long)]
    pub(in crate::cli) api: Option<String>,
    /// Name for people, such as "Production CDN Reader".
    #[arg(long)]
    pub(in crate::cli) name: String,
    /// What it is for.
    #[arg(long, value_enum)]
    pub(in crate::cli) class: ClassArg,
    /// Which world it opens.
    #[arg(long, value_enum, default_value = "live")]
    pub(in crate::cli) env: EnvArg,
    /// What it may do, such as `packs:read,downloads:read`. Admin keys have all scopes of their
    /// organization and take none.
    #[arg(long, value_name = "SCOPES", default_value = "")]
    pub(in crate::cli) scopes: String,
    /// Last moment, such as 2027-01-31 or 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) expires: Option<String>,
    /// Address range that it may be used from; may be repeated.
    #[arg(long, value_name = "CIDR")]
    pub(in crate::cli) allow_address: Vec<String>,
    /// Origin that it may be used from in a browser; may be repeated.
    #[arg(long, value_name = "ORIGIN")]
    pub(in crate::cli) allow_origin: Vec<String>,
    /// Limit of its own, such as 5000/min; wins over the plan.
    #[arg(long, value_name = "RATE")]
    pub(in crate::cli) limit: Option<String>,
}

/// A new key.
#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    #[command(flatten)]
    pub(in crate::cli) rights: Rights,
}

/// A key made elsewhere.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "source")]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    rights: Rights,
    /// Read the whole key from standard input.
    #[arg(long, group = "source")]
    stdin: bool,
    /// Keyed BLAKE3 hash of the whole key under this gateway's pepper, 64 hexadecimal characters.
    #[arg(long, group = "source", value_name = "HEX")]
    digest: Option<String>,
}

/// A successor.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    /// Id of the key to replace.
    id: String,
    /// How long the old key still works, such as 7d, 12h or 0s.
    #[arg(long, default_value = "7d")]
    overlap: String,
    #[command(flatten)]
    wait: Wait,
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::Refused(message.into())
}

/// A record and the prefix of its key, ready but for secret and digest.
struct Draft {
    record: KeyRecord,
    prefix: String,
}

async fn draft(desk: &Desk, rights: &Rights) -> Result<Draft, Failure> {
    let policy = desk.policy()?;
    let api = match (&rights.api, &*policy.apis) {
        (Some(name), _) => policy.api(name).ok_or_else(|| refused(format!("the policy has no API `{name}`")))?,
        (None, [only]) => only,
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|a| &*a.name).collect();
            return Err(refused(format!("name the API with --api: {}", names.join(", "))));
        }
    };
    let class = rights.class.class();
    let environment = match rights.env {
        EnvArg::Live => Environment::Live,
        EnvArg::Test => Environment::Test,
    };
    let prefix = api.prefixes.iter().find(|(_, env)| *env == environment);
    let (prefix, _) =
        prefix.ok_or_else(|| refused(format!("{} has no {} environment", api.name, environment.as_str())))?;
    let scopes = scopes(desk, &policy, rights, class).await?;
    let now_ms = System.now_ms();
    let not_after_ms = rights.expires.as_deref().map(parse_instant).transpose().map_err(Failure::Refused)?;
    if not_after_ms.is_some_and(|end| end <= now_ms) {
        return Err(refused("the key would have expired already"));
    }
    let origins = rights.allow_origin.iter().map(|o| Origin::parse(o).map(|o| o.as_str().to_owned()));
    let limit = rights.limit.as_deref().map(|l| l.parse::<Rate>().map(|r| r.to_string())).transpose();
    let record = KeyRecord {
        id: format!("key_{}", base62(16)?),
        api: api.name.to_string(),
        organization: rights.org.clone(),
        name: rights.name.clone(),
        class,
        environment,
        scopes,
        display: String::new(),
        digest: Digest::from_bytes([0; 32]),
        created_by: Desk::actor(),
        created_ms: now_ms,
        not_after_ms,
        suspended_ms: None,
        revoked_ms: None,
        replaced_by: None,
        networks: rights.allow_address.iter().map(|a| network(a)).collect::<Result<_, _>>()?,
        origins: origins.collect::<Result<_, _>>().map_err(Failure::Refused)?,
        limit: limit.map_err(Failure::Refused)?,
        last_use: None,
        exposed: None,
        exposure_cleared: None,
    };
    check_name(&record.name)?;
    Ok(Draft { record, prefix: prefix.to_string() })
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.trim().is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(refused("a name is 1 to 100 characters without control characters"));
    }
    Ok(())
}

fn network(text: &str) -> Result<IpNet, Failure> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| refused(format!("`{}` is not an address range, such as 203.0.113.0/24", text.escape_debug())))
}

async fn scopes(
    desk: &Desk,
    policy: &policy::Policy,
    rights: &Rights,
    class: KeyClass,
) -> Result<Vec<String>, Failure> {
    let scopes = known_scopes(policy, &rights.scopes)?;
    match (class, scopes.is_empty()) {
        (KeyClass::Admin, false) => {
            return Err(refused("an admin key has all scopes of its organization; leave --scopes out"));
        }
        (KeyClass::Read | KeyClass::Write | KeyClass::Public, true) => {
            return Err(refused("name what the key may do: --scopes packs:read,…"));
        }
        (KeyClass::Admin, true) | (KeyClass::Read | KeyClass::Write | KeyClass::Public, false) => {}
    }
    let organization = desk.store.organization(&rights.org).await?;
    let organization = organization.ok_or_else(|| {
        refused(format!("there is no organization {}; create it with `tollgate orgs create`", rights.org))
    })?;
    if let Some(beyond) = scopes.iter().find(|s| !organization.permissions.contains(s)) {
        return Err(refused(format!("the organization {} does not have the permission {beyond}", organization.id)));
    }
    Ok(scopes)
}

/// A fresh secret for a prefix.
pub(in crate::cli) fn fresh(prefix: &str) -> Result<Zeroizing<String>, Failure> {
    loop {
        let mut random = Zeroizing::new([0u8; 64]);
        fill(&mut *random)?;
        if let Some(key) = mint(prefix, &*random) {
            return Ok(Zeroizing::new(key));
        }
    }
}

/// Creates a key and returns its record and secret: for the demo, which shows them in its own way.
pub(in crate::cli) async fn create(desk: &Desk, rights: &Rights) -> Result<(KeyRecord, Zeroizing<String>), Failure> {
    let Draft { mut record, prefix } = draft(desk, rights).await?;
    let secret = fresh(&prefix)?;
    record.digest = desk.config.peppers.current.digest(Secret::new(&secret));
    record.display = display_prefix(&secret, &prefix);
    desk.store.insert_key(&record).await?;
    Ok((record, secret))
}

fn show_secret(desk: &Desk, record: &KeyRecord, secret: &str, more: &[(&str, String)]) -> Result<(), Failure> {
    if desk.json {
        let mut value = view(record);
        if let Some(map) = value.as_object_mut() {
            map.insert("key".into(), secret.into());
            for (name, text) in more {
                map.insert(name.replace(' ', "_"), text.clone().into());
            }
        }
        return print::json(&value);
    }
    let mut rows = vec![
        ("id", record.id.clone()),
        ("name", record.name.clone()),
        ("class", format!("{} ({})", record.class.as_str(), record.environment.as_str())),
        ("scopes", record.scopes.join(" ")),
        ("key", secret.to_owned()),
    ];
    rows.extend(more.iter().map(|(name, text)| (*name, text.clone())));
    print::fields(&rows)?;
    print::line("Store the key now: it is shown only this once.")
}

impl Create {
    pub(in crate::cli) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let (record, secret) = create(desk, &self.rights).await?;
        show_secret(desk, &record, &secret, &[])
    }
}

/// Longest key read from standard input.
const INPUT_BYTES_MAX: u64 = 4_096;

impl Import {
    pub(in crate::cli) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let Draft { mut record, prefix } = draft(desk, &self.rights).await?;
        match &self.digest {
            Some(hex) => {
                record.digest =
                    Digest::from_hex(hex).ok_or_else(|| refused("a digest is 64 hexadecimal characters"))?;
                record.display = format!("{prefix}…");
            }
            None => {
                let mut text = Zeroizing::new(String::new());
                std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
                let secret = Secret::new(text.trim());
                match key_form(secret, &prefix) {
                    KeyForm::Minted | KeyForm::Foreign => {}
                    KeyForm::Malformed => {
                        return Err(refused(format!(
                            "that cannot be a key of this API and environment: it must start with `{prefix}` and go on with 8 or \
                             more letters, digits, `_` or `-`; 36 letters and digits must end in Tollgate's checksum"
                        )));
                    }
                }
                record.digest = desk.config.peppers.current.digest(secret);
                record.display = display_prefix(secret.expose(), &prefix);
            }
        }
        desk.store.insert_key(&record).await?;
        if desk.json { print::json(&view(&record)) } else { print::line(&format!("imported as {}", record.id)) }
    }
}

/// Longest overlap of a rotation, in days.
const OVERLAP_DAYS_MAX: u64 = 365;

/// Parses `7d`, `12h`, `30m`, `0s` into milliseconds.
fn overlap(text: &str) -> Result<u64, Failure> {
    let explain =
        || refused(format!("`{}` is not an overlap; write for example 7d, 12h, 30m or 0s", text.escape_debug()));
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(explain()),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(explain)?;
    if ms > OVERLAP_DAYS_MAX * 86_400_000 {
        return Err(refused(format!("an overlap is at most {OVERLAP_DAYS_MAX} days")));
    }
    Ok(ms)
}

impl Rotate {
    pub(in crate::cli) async fn run(self, desk: &Desk) -> Result<(), Failure> {
        let overlap_ms = overlap(&self.overlap)?;
        let old = desk.store.key(&self.id).await?;
        let policy = desk.policy()?;
        let api =
            policy.api(&old.api).ok_or_else(|| refused(format!("the policy has no API `{}` any more", old.api)))?;
        let prefix = api.prefixes.iter().find(|(_, env)| *env == old.environment).map(|(prefix, _)| prefix.to_string());
        let prefix = prefix.ok_or_else(|| refused("the API has no such environment any more"))?;
        let secret = fresh(&prefix)?;
        let now_ms = System.now_ms();
        if old.state(now_ms) != "active" {
            return Err(refused(format!("{} is {}; only an active key can be rotated", old.id, old.state(now_ms))));
        }
        // The successor is there before the old key begins to end: a failure in between leaves a
        // customer with one key too many, never with one too few.
        let new = KeyRecord {
            id: format!("key_{}", base62(16)?),
            display: display_prefix(&secret, &prefix),
            digest: desk.config.peppers.current.digest(Secret::new(&secret)),
            created_by: Desk::actor(),
            created_ms: now_ms,
            last_use: None,
            exposed: None,
            exposure_cleared: None,
            ..old.clone()
        };
        desk.store.insert_key(&new).await?;
        let not_after_ms = now_ms + overlap_ms;
        let change = KeyChange::Replace { by: new.id.clone(), not_after_ms };
        let (old, position) = match desk.store.change_key(&self.id, change).await {
            Ok(changed) => changed,
            Err(error) => {
                // Somebody else rotated it first; two successors would be one too many.
                desk.store.change_key(&new.id, KeyChange::Revoke { at_ms: now_ms }).await?;
                return Err(error.into());
            }
        };
        let used = match &old.last_use {
            Some(seen) => format!("{} on {} from {}", rfc3339(seen.ms), seen.route, seen.address),
            None => "never".to_owned(),
        };
        let until = rfc3339(old.not_after_ms.unwrap_or(not_after_ms));
        let more = [("replaces", old.id), ("old key works until", until), ("old key last used", used)];
        show_secret(desk, &new, &secret, &more)?;
        self.wait.run(desk, &position).await?;
        Ok(())
    }
}
