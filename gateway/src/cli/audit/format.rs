//! How records are printed: a table, JSON, a line of JSON each, or CSV.

use std::io::Write as _;

use crate::audit::Line;
use crate::base::clock::rfc3339;
use crate::cli::{Failure, print};

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// One JSON array.
    Json,
    /// A JSON object on each line.
    Ndjson,
    /// CSV with a head; cells that a spreadsheet would take for a formula begin with `'`.
    Csv,
}

/// What the head of a table says.
const HEAD: [&str; 10] =
    ["TIME", "STATUS", "METHOD", "PATH", "ROUTE", "OUTCOME", "CALLER", "ORGANIZATION", "ADDRESS", "ID"];

/// Prints records; `is_first` says if a head belongs before them.
pub(super) fn print(lines: &[Line<'_>], format: Format, is_first: bool) -> Result<(), Failure> {
    match format {
        Format::Table if is_first => print::table(&HEAD, lines.iter().map(cells_of_table)),
        Format::Table => lines.iter().try_for_each(|line| print::line(&cells_of_table(line).join("  "))),
        Format::Json => print::json(&lines),
        Format::Ndjson => {
            let mut out = std::io::stdout().lock();
            for line in lines {
                serde_json::to_writer(&mut out, line).map_err(std::io::Error::from)?;
                writeln!(out)?;
            }
            Ok(())
        }
        Format::Csv => csv(lines, is_first),
    }
}

fn cells_of_table(line: &Line<'_>) -> Vec<String> {
    let record = &line.record;
    let caller = [record.key, record.client].into_iter().find(|name| !name.is_empty()).unwrap_or("-");
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    vec![
        rfc3339(record.began_ms),
        record.status.to_string(),
        or_dash(record.method),
        or_dash(record.path),
        or_dash(record.route),
        record.labels.outcome.to_owned(),
        caller.to_owned(),
        or_dash(record.organization),
        record.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        line.request_id(),
    ]
}

/// What a record says, by name, in the order of the access log.
fn cells(line: &Line<'_>) -> [(&'static str, String); 25] {
    let (record, labels) = (&line.record, &line.record.labels);
    [
        ("time", rfc3339(record.began_ms)),
        ("request_id", line.request_id()),
        ("api", record.api.to_owned()),
        ("route", record.route.to_owned()),
        ("environment", labels.environment.to_owned()),
        ("method", record.method.to_owned()),
        ("path", record.path.to_owned()),
        ("protocol", labels.protocol.to_owned()),
        ("address", record.address.map(|address| address.to_string()).unwrap_or_default()),
        ("key", record.key.to_owned()),
        ("grant", record.grant.to_owned()),
        ("client", record.client.to_owned()),
        ("user", record.user.to_owned()),
        ("organization", record.organization.to_owned()),
        ("outcome", labels.outcome.to_owned()),
        ("shadowed", record.shadowed.to_string()),
        ("limits", labels.limits.to_owned()),
        ("status", record.status.to_string()),
        ("bytes_in", record.bytes_in.to_string()),
        ("bytes_out", record.bytes_out.to_string()),
        ("found", labels.found.to_owned()),
        ("decision_us", record.decision_us.to_string()),
        ("upstream_us", record.upstream_us.to_string()),
        ("total_us", record.total_us.to_string()),
        ("upstream", record.upstream.map(|address| address.to_string()).unwrap_or_default()),
    ]
}

fn csv(lines: &[Line<'_>], has_head: bool) -> Result<(), Failure> {
    let mut out = csv::Writer::from_writer(std::io::stdout().lock());
    let mut is_first = has_head;
    for line in lines {
        let cells = cells(line);
        if std::mem::take(&mut is_first) {
            out.write_record(cells.iter().map(|(name, _)| *name)).map_err(std::io::Error::from)?;
        }
        out.write_record(cells.iter().map(|(_, cell)| harmless(cell))).map_err(std::io::Error::from)?;
    }
    Ok(out.flush()?)
}

/// A cell that no spreadsheet takes for a formula.
fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for cell in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(harmless(cell), format!("'{cell}"));
        }
        assert_eq!(harmless("/items"), "/items");
    }
}
