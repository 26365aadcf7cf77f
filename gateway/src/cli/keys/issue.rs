//! Making keys: new ones, imported ones, and successors.

use std::io::Read as _;

use clap::{Args, ValueEnum};
use policy::credential::Secret;
use policy::identity::{Environment, KeyClass};
use zeroize::Zeroizing;

use super::super::{Context, Failure, print};
use super::{Wait, view};
use crate::base::clock::rfc3339;
use crate::registry::keys::{Imported, NewKey, Rotated};
use crate::store::KeyRecord;

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

impl Rights {
    fn new_key(&self) -> NewKey {
        NewKey {
            organization: self.org.clone(),
            api: self.api.clone(),
            name: self.name.clone(),
            class: self.class.class(),
            environment: match self.env {
                EnvArg::Live => Environment::Live,
                EnvArg::Test => Environment::Test,
            },
            scopes: self.scopes.clone(),
            expires: self.expires.clone(),
            addresses: self.allow_address.clone(),
            origins: self.allow_origin.clone(),
            limit: self.limit.clone(),
        }
    }
}

/// Creates a key and returns its record and secret: for the demo, which shows them in its own way.
pub(in crate::cli) async fn create(
    context: &Context,
    rights: &Rights,
) -> Result<(KeyRecord, Zeroizing<String>), Failure> {
    Ok(context.keys().create(&context.policy()?, &rights.new_key()).await?)
}

fn show_secret(context: &Context, record: &KeyRecord, secret: &str, more: &[(&str, String)]) -> Result<(), Failure> {
    if context.json {
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
    pub(in crate::cli) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (record, secret) = create(context, &self.rights).await?;
        show_secret(context, &record, &secret, &[])
    }
}

/// Longest key read from standard input.
const INPUT_BYTES_MAX: u64 = 4_096;

impl Import {
    pub(in crate::cli) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut text = Zeroizing::new(String::new());
        let imported = match &self.digest {
            Some(hex) => Imported::Digest(hex),
            None => {
                std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
                Imported::Secret(Secret::new(text.trim()))
            }
        };
        let record = context.keys().import(&context.policy()?, &self.rights.new_key(), imported).await?;
        if context.json { print::json(&view(&record)) } else { print::line(&format!("imported as {}", record.id)) }
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
    pub(in crate::cli) async fn run(self, context: &Context) -> Result<(), Failure> {
        let overlap_ms = overlap(&self.overlap)?;
        let Rotated { new, secret, old, position } =
            context.keys().rotate(&context.policy()?, &self.id, overlap_ms).await?;
        let used = match &old.last_use {
            Some(seen) => format!("{} on {} from {}", rfc3339(seen.ms), seen.route, seen.address),
            None => "never".to_owned(),
        };
        let until = old.not_after_ms.map(rfc3339).unwrap_or_default();
        let more = [("replaces", old.id), ("old key works until", until), ("old key last used", used)];
        show_secret(context, &new, &secret, &more)?;
        self.wait.run(context, &position).await?;
        Ok(())
    }
}
