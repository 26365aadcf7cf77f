//! `tollgate usage`: how much is used, from the day files of this machine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::audit::since;
use super::{Failure, print};
use crate::audit::files::Files;
use crate::audit::usage::{Class, Group, HOUR_MS, Sums};
use crate::audit::usage_file::usage;
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::config::Config;

/// Hours over which is summed when nothing is said.
const HOURS: u64 = 24;
/// Characters of a sparkline at most.
const SPARKS: usize = 24;

/// How much is used.
#[derive(Debug, Args)]
pub(super) struct Usage {
    /// What is summed together.
    #[arg(long, value_enum, default_value = "key")]
    by: By,
    /// Of this organization.
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Of this key.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Of this application.
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// Of this API.
    #[arg(long, value_name = "NAME")]
    api: Option<String>,
    /// On this route.
    #[arg(long, value_name = "ID")]
    route: Option<String>,
    /// Since the hour of this time: `15m`, `7d`, `2027-01-31` or `2027-01-31T12:00:00Z`. Absent: 24 hours ago.
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<u64>,
    /// Before the hour of this time.
    #[arg(long, value_parser = since, value_name = "TIME")]
    until: Option<u64>,
}

/// What is summed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Key,
    App,
    Org,
    Api,
    Route,
    Outcome,
    Hour,
    Day,
}

impl By {
    fn of(self, group: &Group) -> String {
        match self {
            By::Key => group.key.to_string(),
            By::App => group.client.to_string(),
            By::Org => group.organization.to_string(),
            By::Api => group.api.to_string(),
            By::Route => group.route.to_string(),
            By::Outcome => group.class.as_str().to_owned(),
            By::Hour => rfc3339(group.hour * HOUR_MS).chars().take(16).chain(['Z']).collect(),
            By::Day => rfc3339(group.hour * HOUR_MS).chars().take(10).collect(),
        }
    }

    fn is_time(self) -> bool {
        matches!(self, By::Hour | By::Day)
    }
}

/// Sums of one line.
#[derive(Default)]
struct Row {
    all: Sums,
    by_class: BTreeMap<Class, u64>,
    by_hour: BTreeMap<u64, u64>,
}

impl Row {
    fn add(&mut self, group: &Group, sums: &Sums) {
        self.all.add(sums);
        *self.by_class.entry(group.class).or_default() += sums.requests;
        *self.by_hour.entry(group.hour).or_default() += sums.requests;
    }

    fn of_class(&self, class: Class) -> u64 {
        self.by_class.get(&class).copied().unwrap_or_default()
    }

    fn mean_us(&self) -> u64 {
        self.all.total_us.checked_div(self.all.requests).unwrap_or_default()
    }
}

impl Usage {
    pub(super) fn run(self, path: &Path, json: bool) -> Result<(), Failure> {
        let config = Config::read(path)?;
        if !config.audit.is_on {
            writeln!(
                std::io::stderr(),
                "note: the settings say `audit: {{ requests: false }}`: nothing new is counted"
            )?;
        }
        let now_ms = System.now_ms();
        let since_ms = self.since.unwrap_or(now_ms.saturating_sub((HOURS - 1) * HOUR_MS));
        let hours = (since_ms / HOUR_MS, self.until.unwrap_or(now_ms + HOUR_MS).div_ceil(HOUR_MS));
        let found = usage(&Files::new(&config.audit.folder), hours)?;
        for fault in &found.faults {
            writeln!(std::io::stderr(), "warning: {fault}")?;
        }
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for (group, sums) in found.sums.iter().filter(|(group, _)| self.is_wanted(group)) {
            rows.entry(self.by.of(group)).or_default().add(group, sums);
        }
        let mut rows: Vec<(String, Row)> = rows.into_iter().collect();
        if !self.by.is_time() {
            rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.all.requests));
        }
        if json { print_json(&rows) } else { self.print_table(&rows, hours) }
    }

    fn is_wanted(&self, group: &Group) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        fits(&self.org, &group.organization)
            && fits(&self.key, &group.key)
            && fits(&self.app, &group.client)
            && fits(&self.api, &group.api)
            && fits(&self.route, &group.route)
    }

    fn print_table(&self, rows: &[(String, Row)], hours: (u64, u64)) -> Result<(), Failure> {
        let name = self.by.to_possible_value().map(|by| by.get_name().to_uppercase()).unwrap_or_default();
        let mut head = vec![name.as_str(), "REQUESTS", "OK"];
        head.extend([
            "CLIENT ERRORS",
            "DENIED",
            "LIMITED",
            "UPSTREAM ERRORS",
            "UNAVAILABLE",
            "BYTES OUT",
            "MEAN MS",
            "MAX MS",
        ]);
        let has_trend = !self.by.is_time();
        head.extend(has_trend.then_some("TREND"));
        let lines = rows.iter().map(|(name, row)| {
            let millis = |us: u64| format!("{}.{}", us / 1_000, us % 1_000 / 100);
            let name = if name.is_empty() { "-".to_owned() } else { name.clone() };
            let mut line = vec![name, row.all.requests.to_string()];
            line.extend(Class::ALL.map(|class| row.of_class(class).to_string()));
            line.extend([row.all.bytes_out.to_string(), millis(row.mean_us()), millis(row.all.longest_us)]);
            line.extend(has_trend.then(|| sparkline(&row.by_hour, hours)));
            line
        });
        print::table(&head, lines)
    }
}

fn print_json(rows: &[(String, Row)]) -> Result<(), Failure> {
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, row)| {
            let outcomes: BTreeMap<_, _> = Class::ALL.map(|class| (class.as_str(), row.of_class(class))).into();
            let hours: BTreeMap<_, _> = row.by_hour.iter().map(|(hour, n)| (rfc3339(hour * HOUR_MS), n)).collect();
            let Sums { requests, bytes_in, bytes_out, longest_us, .. } = row.all;
            json!({
                "name": name, "requests": requests, "outcomes": outcomes, "bytes_in": bytes_in,
                "bytes_out": bytes_out, "mean_us": row.mean_us(), "longest_us": longest_us, "hours": hours,
            })
        })
        .collect();
    print::json(&rows)
}

/// Requests over the hours, the latest on the right: each character the same number of hours, its height their share
/// of the most.
fn sparkline(by_hour: &BTreeMap<u64, u64>, (since, until): (u64, u64)) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let hours = usize::try_from(until.saturating_sub(since)).unwrap_or(usize::MAX).max(1);
    let each = hours.div_ceil(SPARKS);
    let mut sums = vec![0u64; hours.div_ceil(each)];
    for (hour, requests) in by_hour {
        let at = usize::try_from(hour.saturating_sub(since)).unwrap_or(usize::MAX) / each;
        if let Some(sum) = sums.get_mut(at) {
            *sum += requests;
        }
    }
    let most = sums.iter().copied().max().unwrap_or_default().max(1);
    let bar = |sum: u64| match sum {
        0 => ' ',
        _ => BARS.get(usize::try_from((sum * 7).div_ceil(most)).unwrap_or_default()).copied().unwrap_or('█'),
    };
    sums.into_iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_each_part_of_the_time_by_its_share_of_the_most() {
        let hours: BTreeMap<u64, u64> = [(100, 1), (102, 8), (103, 4)].into();
        assert_eq!(sparkline(&hours, (100, 104)), "▂ █▅");
        assert_eq!(sparkline(&BTreeMap::new(), (0, 3)), "   ");
        assert_eq!(sparkline(&[(0, 5), (47, 5)].into(), (0, 48)).chars().count(), SPARKS);
    }
}
