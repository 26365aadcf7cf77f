//! `tollgate audit verify`.

use clap::Args;

use crate::audit::files::Files;
use crate::audit::verify::{BootReport, BootState, Missing, Report, verify};
use crate::base::clock::rfc3339;
use crate::cli::{Failure, print};
use crate::config::Config;

/// What is looked at.
#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    /// Only this day (UTC), such as `2027-01-31`. Absent: all days that are kept.
    #[arg(long, value_parser = day)]
    day: Option<String>,
}

fn day(text: &str) -> Result<String, String> {
    let day = text.parse::<jiff::civil::Date>().map(|day| day.to_string());
    day.map_err(|_| format!("`{text}` is no day; write it like `2027-01-31`"))
}

impl Verify {
    pub(super) fn run(self, config: &Config, json: bool) -> Result<(), Failure> {
        let report = verify(&Files::new(&config.audit.folder), self.day.as_deref())?;
        if json {
            print::json(&report)?;
        } else {
            show(&report)?;
        }
        if report.holds() {
            return Ok(());
        }
        Err(Failure::Refused("records are missing that nothing accounts for, or cannot be read".to_owned()))
    }
}

fn show(report: &Report) -> Result<(), Failure> {
    let rows = report.boots.iter().map(|boot| {
        vec![
            boot.boot.clone(),
            rfc3339(boot.began_ms),
            state(boot).to_owned(),
            boot.records.to_string(),
            boot.counted.map_or_else(|| "-".to_owned(), |counted| counted.to_string()),
            said(boot),
        ]
    });
    print::table(&["BOOT", "BEGAN", "STATE", "RECORDS", "COUNTED", "COMPLETE"], rows)?;
    for boot in &report.boots {
        for Missing { lane, first_seq, last_seq, reason } in &boot.missing {
            let last = last_seq.map_or_else(|| "an unknown number".to_owned(), |last| last.to_string());
            print::line(&format!("{} lane {lane}: {first_seq} to {last} missing: {}", boot.boot, words(reason)))?;
        }
    }
    report.faults.iter().try_for_each(|fault| print::line(&format!("cannot be read: {fault}")))
}

fn state(boot: &BootReport) -> &'static str {
    match boot.state {
        BootState::Running => "running",
        BootState::Ended => "ended",
        BootState::EndedUncleanly => "ended uncleanly",
    }
}

fn said(boot: &BootReport) -> String {
    match (boot.missing.as_slice(), boot.counted, boot.accounted) {
        ([], Some(counted), Some(accounted)) if counted != accounted => {
            format!("no: {accounted} of {counted} are accounted for")
        }
        ([], ..) if boot.state == BootState::EndedUncleanly => "but for about its last second".to_owned(),
        ([], ..) => "yes".to_owned(),
        (missing, ..) if missing.iter().all(|missing| missing.reason == "unclean_end") => {
            "but for about its last second".to_owned()
        }
        (..) => "no".to_owned(),
    }
}

/// Why records are missing, in words.
fn words(reason: &str) -> &str {
    match reason {
        "lane_full" => "more requests came than could be taken",
        "disk" => "they could not be written in time",
        "unclean_end" => "the gateway was killed, or its machine went down",
        "damaged" => "their block was changed on disk",
        "unaccounted" => "nothing says why",
        other => other,
    }
}
