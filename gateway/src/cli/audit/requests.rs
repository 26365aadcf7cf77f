//! `tollgate audit requests`.

use std::collections::HashMap;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::format::{Format, print};
use crate::audit::block::Text;
use crate::audit::files::Files;
use crate::audit::reader::{Filter, Hit, Page, Position, search};
use crate::base::clock::{Clock as _, System, parse_instant};
use crate::cli::{Failure, with_store};
use crate::config::Config;

/// Time between two looks of `--follow`.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// How far back `--follow` looks each time: a record is written at most so long after its request.
const FOLLOW_BACK_MS: u64 = 15_000;
/// Most records of one look.
const FOLLOW_MAX: usize = 100_000;
const DAY_MS: u64 = 86_400_000;

/// Which requests.
#[derive(Debug, Args)]
pub(in crate::cli) struct Requests {
    /// Made with this key: its id, or `-` for the key itself on standard input.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Of this organization.
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Made by this application.
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// On behalf of this user.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// With a token of this grant.
    #[arg(long, value_name = "ID")]
    grant: Option<String>,
    /// To this API.
    #[arg(long, value_name = "NAME")]
    api: Option<String>,
    /// To this route.
    #[arg(long, value_name = "ID")]
    route: Option<String>,
    /// With this method.
    #[arg(long)]
    method: Option<String>,
    /// Answered so: `429`, `4xx` or `500-503`.
    #[arg(long, value_parser = status)]
    status: Option<RangeInclusive<u16>>,
    /// Which ended so: `forwarded`, or the code of the refusal.
    #[arg(long)]
    outcome: Option<String>,
    /// From this address, or range of addresses.
    #[arg(long, value_parser = network)]
    address: Option<IpNet>,
    /// Whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// With this id (`X-Request-Id` of the answer).
    #[arg(long, value_name = "REQUEST_ID")]
    id: Option<String>,
    /// Which ended since then: `15m`, `7d`, `2027-01-31` or `2027-01-31T12:00:00Z`.
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<u64>,
    /// Which ended before then.
    #[arg(long, value_parser = since, value_name = "TIME")]
    until: Option<u64>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier list ended; it says so itself when there is more.
    #[arg(long, value_name = "CURSOR")]
    after: Option<Position>,
    /// How they are printed. Absent: a table, or JSON with --json.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print what comes, about a second after it happened, until interrupted.
    #[arg(long, conflicts_with_all = ["after", "until", "id"])]
    follow: bool,
}

fn status(text: &str) -> Result<RangeInclusive<u16>, String> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()).filter(|class| *class < 10);
    let range = match (class, text.split_once('-')) {
        (Some(class), _) => Some(class * 100..=class * 100 + 99),
        (None, Some((from, to))) => from.parse().ok().zip(to.parse().ok()).map(|(from, to)| from..=to),
        (None, None) => text.parse().ok().map(|status| status..=status),
    };
    range.ok_or_else(|| format!("`{text}` is no status; write `429`, `4xx` or `500-503`"))
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
        format!("`{text}` is no address and no range of addresses, such as `203.0.113.7` or `203.0.113.0/24`")
    })
}

/// An instant, or how long ago it was, in Unix milliseconds.
pub(in crate::cli) fn since(text: &str) -> Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).map(|days| days.saturating_mul(DAY_MS));
    let ago = days.or_else(|| policy::units::duration(text).ok().and_then(|ago| u64::try_from(ago.as_millis()).ok()));
    match ago {
        Some(ago) => Ok(System.now_ms().saturating_sub(ago)),
        None => parse_instant(text)
            .map_err(|_| format!("`{text}` is not a time; write `15m`, `7d`, `2027-01-31` or `2027-01-31T12:00:00Z`")),
    }
}

impl Requests {
    pub(super) fn run(self, config: &Config, path: &Path, json: bool) -> Result<(), Failure> {
        if !config.audit.is_on {
            writeln!(std::io::stderr(), "note: the settings say `audit: {{ requests: false }}`: nothing new is kept")?;
        }
        let key = match self.key.as_deref() {
            Some("-") => Some(key_from_stdin(path)?),
            Some(id) => Some(id.to_owned()),
            None => None,
        };
        let texts = [
            (Text::Key, key),
            (Text::Organization, self.org.clone()),
            (Text::Client, self.app.clone()),
            (Text::User, self.user.clone()),
            (Text::Grant, self.grant.clone()),
            (Text::Api, self.api.clone()),
            (Text::Route, self.route.clone()),
            (Text::Method, self.method.clone()),
            (Text::Outcome, self.outcome.clone()),
        ];
        let filter = Filter {
            texts: texts.into_iter().filter_map(|(column, text)| Some((column, text?))).collect(),
            status: self.status.clone(),
            network: self.address,
            path: self.path.clone(),
            request_id: self.id.clone(),
            since_ms: self.since.unwrap_or_default(),
            until_ms: self.until,
        };
        let format = self.format.unwrap_or(if json { Format::Json } else { Format::Table });
        let files = Files::new(&config.audit.folder);
        if self.follow {
            return follow(&files, filter, format);
        }
        let page = search(&files, &filter, self.after.as_ref(), self.limit as usize)?;
        show(&page.hits, format, true)?;
        tell(&page)?;
        if let (true, Some(last)) = (page.has_more, page.hits.last()) {
            writeln!(std::io::stderr(), "there is more: go on with --after {}", last.position)?;
        }
        Ok(())
    }
}

fn show(hits: &[Hit], format: Format, is_first: bool) -> Result<(), Failure> {
    let lines: Vec<_> = hits.iter().map(Hit::line).collect();
    print(&lines, format, is_first)
}

fn tell(page: &Page) -> Result<(), Failure> {
    for fault in &page.faults {
        writeln!(std::io::stderr(), "warning: {fault}")?;
    }
    Ok(())
}

/// Prints what comes, each record once. A lane's records come in their order; those of different lanes may come up to
/// a second apart.
fn follow(files: &Files, mut filter: Filter, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return Err(Failure::Refused("what has no end is no JSON array; use --format ndjson".to_owned()));
    }
    let mut seen: HashMap<(String, u32), u64> = HashMap::new();
    let start_ms = if filter.since_ms == 0 { System.now_ms() } else { filter.since_ms };
    let (mut newest_ms, mut is_first) = (start_ms, true);
    loop {
        filter.since_ms = newest_ms.saturating_sub(FOLLOW_BACK_MS).max(start_ms);
        let page = search(files, &filter, None, FOLLOW_MAX)?;
        newest_ms = page.hits.first().map_or(newest_ms, |hit| hit.position.ended_ms.max(newest_ms));
        let mut new: Vec<Hit> = page.hits.into_iter().filter(|hit| is_new(&seen, &hit.position)).collect();
        new.reverse();
        for Position { boot, lane, seq, .. } in new.iter().map(|hit| &hit.position) {
            let last = seen.entry((boot.clone(), *lane)).or_default();
            *last = (*last).max(*seq);
        }
        if !new.is_empty() {
            show(&new, format, std::mem::take(&mut is_first))?;
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn is_new(seen: &HashMap<(String, u32), u64>, position: &Position) -> bool {
    seen.get(&(position.boot.clone(), position.lane)).is_none_or(|last| position.seq > *last)
}

/// The id of the key on standard input.
fn key_from_stdin(path: &Path) -> Result<String, Failure> {
    let mut id = None;
    with_store(path, false, async |context| {
        id = context.key_on_stdin().await?.map(|key| key.id);
        Ok(())
    })?;
    id.ok_or_else(|| Failure::Refused("what stands on standard input is no key of this store".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_a_class_or_a_range() {
        assert_eq!((status("429"), status("4xx"), status("500-503")), (Ok(429..=429), Ok(400..=499), Ok(500..=503)));
        for wrong in ["", "abc", "44xx", "-5", "1-x", "99999"] {
            assert!(status(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_an_instant_or_how_long_ago() {
        let now_ms = System.now_ms();
        assert!(since("7d").unwrap().abs_diff(now_ms - 7 * DAY_MS) < 60_000);
        assert!(since("15m").unwrap().abs_diff(now_ms - 900_000) < 60_000);
        assert_eq!(since("2026-09-21T14:13:20Z"), Ok(1_790_000_000_000));
        assert!(since("yesterday").is_err());
    }
}
