//! `tollgate keys list`: many keys at a glance.

use clap::{Args, ValueEnum};

use super::super::listing::Listing;
use super::super::{Context, Failure, print};
use super::issue::ClassArg;
use super::view;
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::store::KeyRecord;

/// Which keys, and how much of them.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Of this organization only.
    #[arg(long)]
    org: Option<String>,
    /// Of this API only.
    #[arg(long)]
    api: Option<String>,
    /// Of this class only.
    #[arg(long, value_enum)]
    class: Option<ClassArg>,
    /// In this state only.
    #[arg(long, value_enum)]
    state: Option<StateArg>,
    /// All columns, in more than 80 characters.
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    listing: Listing,
}

/// State, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    /// Works.
    Active,
    /// Was rotated and still works.
    Replaced,
    /// Stopped until it is resumed.
    Suspended,
    /// Ended for good.
    Revoked,
    /// Its time is over.
    Expired,
    /// Was seen where it should not be, in whatever state it is.
    Exposed,
}

impl StateArg {
    fn fits(self, key: &KeyRecord, now_ms: u64) -> bool {
        let word = match self {
            StateArg::Exposed => return key.exposure().is_some(),
            StateArg::Active => "active",
            StateArg::Replaced => "replaced",
            StateArg::Suspended => "suspended",
            StateArg::Revoked => "revoked",
            StateArg::Expired => "expired",
        };
        key.state(now_ms) == word
    }
}

/// Width of the narrow table, in characters.
const WIDTH: usize = 80;
/// Names are cut to what the other columns leave them, and not below this.
const NAME_CHARS_MIN: usize = 8;

impl List {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let now_ms = System.now_ms();
        let List { org, api, class, state, wide, listing } = self;
        let is_wanted = |key: &KeyRecord| {
            api.as_ref().is_none_or(|api| *api == key.api)
                && class.is_none_or(|class| class.class() == key.class)
                && state.is_none_or(|state| state.fits(key, now_ms))
        };
        let keys = listing.read(async |page| context.store.keys(org.as_deref(), &page).await, is_wanted).await?;
        if context.json {
            return print::json(&keys.iter().map(view).collect::<Vec<_>>());
        }
        // What still works and was seen where it should not be is what matters most.
        let state = |key: &KeyRecord| match (key.state(now_ms), key.exposure()) {
            ("active" | "replaced", Some(_)) => "EXPOSED",
            (state, _) => state,
        };
        if wide {
            let rows = keys.iter().map(|key| {
                let used = key.last_use.as_ref().map_or_else(|| "never".into(), |used| rfc3339(used.ms));
                let (class, environment) = (key.class.as_str(), key.environment.as_str());
                let texts = [&key.id, &key.api, &key.organization, &key.name, class, environment, &key.display];
                texts.into_iter().map(str::to_owned).chain([state(key).to_owned(), used]).collect()
            });
            return print::table(&["ID", "API", "ORG", "NAME", "CLASS", "ENV", "KEY", "STATE", "LAST USED"], rows);
        }
        let cells = |key: &KeyRecord| {
            let used = key.last_use.as_ref().map_or_else(|| "never".into(), |used| days_ago(used.ms, now_ms));
            [key.id.clone(), key.class.as_str().to_owned(), key.display.clone(), state(key).to_owned(), used]
        };
        let head = ["ID", "CLASS", "KEY", "STATE", "USED"];
        let rows: Vec<[String; 5]> = keys.iter().map(cells).collect();
        let others: usize = print::widths(&head, &rows).into_iter().map(|width| width + 2).sum();
        let left = WIDTH.saturating_sub(others).max(NAME_CHARS_MIN);
        let rows = rows
            .into_iter()
            .zip(&keys)
            .map(|([id, class, shown, state, used], key)| vec![id, short(&key.name, left), class, shown, state, used]);
        print::table(&["ID", "NAME", "CLASS", "KEY", "STATE", "USED"], rows)
    }
}

/// How long ago, in days; `keys show` has the minute.
fn days_ago(then_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 86_400_000 {
        0 => "today".to_owned(),
        days => format!("{days}d ago"),
    }
}

fn short(name: &str, chars_max: usize) -> String {
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    name.chars().take(chars_max - 1).chain(['…']).collect()
}
