//! Settings of the request audit, as written.

use std::path::Path;

use policy::Problem;
use policy::file::Text;
use policy::span::Spanned;
use schemars::JsonSchema;
use serde::Deserialize;

use super::take;
use crate::audit::settings::{Addresses, Settings, WhenFull};

/// Days for which records are kept, when nothing is said.
const DAYS: u32 = 30;
/// Longest time for which they can be kept, days: ten years.
const DAYS_MAX: u32 = 3_660;
/// Most bytes of them, when nothing is said.
const BYTES: u64 = 5 << 30;
/// Least room that makes sense.
const BYTES_MIN: u64 = 10 << 20;

/// What is kept of requests: which key made each, and how it ended.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditFile {
    /// Whether requests are kept. Absent: true.
    pub requests: Option<bool>,
    /// Folder for them. Absent: `audit` in `state`.
    pub folder: Option<Text>,
    /// Days for which they are kept. Absent: 30.
    pub days: Option<Spanned<u32>>,
    /// Most bytes of them; the oldest go first. Absent: 5GiB.
    pub size: Option<Text>,
    /// What happens when they cannot be written. Absent: drop.
    pub when_full: Option<WhenFullFile>,
    /// How much of a caller's address is kept, here and in the access log. Absent: full.
    pub addresses: Option<AddressesFile>,
}

/// What happens when records cannot be written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenFullFile {
    /// Requests are served, and what is lost is counted and on record as a gap.
    Drop,
    /// Requests are refused with a 503.
    Refuse,
}

/// How much of an address is kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AddressesFile {
    /// All of it.
    Full,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Network,
    /// Nothing.
    None,
}

pub(super) fn settings(file: &AuditFile, (state, folder): (&Path, &Path), problems: &mut Vec<Problem>) -> Settings {
    let days = file.days.as_ref().map_or(DAYS, |days| {
        if !(1..=DAYS_MAX).contains(&**days) {
            problems.push(Problem::at(days.span, format!("`days` is 1 to {DAYS_MAX}")));
        }
        **days
    });
    let size = |text: &Text| {
        take(text, problems, |size| match policy::units::size(size)? {
            bytes @ BYTES_MIN.. => Ok(bytes),
            _ => Err(format!("`{size}` is too little to keep records in; the least is 10MiB")),
        })
    };
    Settings {
        is_on: file.requests.unwrap_or(true),
        folder: file.folder.as_ref().map_or_else(|| state.join("audit"), |text| folder.join(text.as_str())),
        days,
        bytes: file.size.as_ref().and_then(size).unwrap_or(BYTES),
        when_full: match file.when_full {
            Some(WhenFullFile::Refuse) => WhenFull::Refuse,
            Some(WhenFullFile::Drop) | None => WhenFull::Drop,
        },
        addresses: match file.addresses {
            Some(AddressesFile::None) => Addresses::None,
            Some(AddressesFile::Network) => Addresses::Network,
            Some(AddressesFile::Full) | None => Addresses::Full,
        },
    }
}
