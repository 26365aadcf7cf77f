//! Output of commands: aligned tables for people, JSON for programs.

use std::io::Write as _;

use super::Failure;
use crate::base::clock::dated;

/// Prints a value as indented JSON, its instants in one format.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let value = dated(serde_json::to_value(value).map_err(std::io::Error::from)?);
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Prints rows under their headings, columns aligned.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let mut out = std::io::stdout().lock();
    if rows.is_empty() {
        writeln!(out, "none")?;
        return Ok(());
    }
    let widths = widths(head, &rows);
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    writeln!(out, "{}", line(&mut head.iter().copied()))?;
    for row in &rows {
        writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
    }
    Ok(())
}

/// How wide each column of a table is, in characters.
pub(super) fn widths<R: AsRef<[String]>>(head: &[&str], rows: &[R]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|text| text.len())).max().unwrap_or(0)
    };
    (0..head.len()).map(width).collect()
}

/// Prints one record, field by field.
pub(super) fn fields(rows: &[(&str, String)]) -> Result<(), Failure> {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for (name, value) in rows {
        let value = if value.is_empty() { "-" } else { value };
        writeln!(out, "{name:width$}  {value}")?;
    }
    Ok(())
}

/// Prints one line.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Whether a stream shows colours: a terminal does, unless `NO_COLOR` is set (no-color.org).
#[expect(clippy::disallowed_methods, reason = "the environment is an input of the command line")]
pub(super) fn has_colour(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
