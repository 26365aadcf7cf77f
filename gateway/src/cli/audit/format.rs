//! How records are printed: a table, JSON, a line of JSON each, or CSV.

use std::io::Write as _;

use serde_json::Value;

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

/// The columns of CSV, in the order of the access log.
const COLUMNS: [&str; 25] = [
    "time",
    "request_id",
    "api",
    "route",
    "environment",
    "method",
    "path",
    "protocol",
    "address",
    "key",
    "grant",
    "client",
    "user",
    "organization",
    "outcome",
    "shadowed",
    "limits",
    "status",
    "bytes_in",
    "bytes_out",
    "found",
    "decision_us",
    "upstream_us",
    "total_us",
    "upstream",
];

fn csv(lines: &[Line<'_>], has_head: bool) -> Result<(), Failure> {
    let mut out = csv::Writer::from_writer(std::io::stdout().lock());
    if has_head && !lines.is_empty() {
        out.write_record(COLUMNS).map_err(std::io::Error::from)?;
    }
    for line in lines {
        let line = serde_json::to_value(line).map_err(std::io::Error::from)?;
        let cells = COLUMNS.map(|column| line.get(column).map(cell).unwrap_or_default());
        out.write_record(cells).map_err(std::io::Error::from)?;
    }
    Ok(out.flush()?)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
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
