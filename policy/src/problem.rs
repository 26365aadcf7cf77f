//! What is wrong with a policy, where, and how to mend it.

use std::fmt::{self, Write as _};

use crate::span::Span;

/// One mistake in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What.
    pub message: String,
    /// How to mend it, when there is something to say.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    /// The same problem with a suggestion.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// One policy file as given to the compiler: its name (for people) and its text.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name shown in problems; usually the path as the user typed it.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// Every problem of a policy, sorted by place, with the sources needed to show excerpts.
#[derive(Clone, Debug)]
pub struct Problems {
    /// The problems; never empty.
    pub list: Vec<Problem>,
    /// The files they point into.
    pub sources: Vec<Source>,
    /// What was not accepted: `the policy was`, `the settings were`.
    pub subject: &'static str,
}

/// Longest excerpt line printed, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

/// How parts of a problem stand out (ECMA-48, select graphic rendition); nothing where there is no colour.
#[derive(Clone, Copy)]
struct Paint {
    error: &'static str,
    place: &'static str,
    help: &'static str,
    end: &'static str,
}

impl Paint {
    const PLAIN: Paint = Paint { error: "", place: "", help: "", end: "" };
    const COLOUR: Paint = Paint { error: "\u{1b}[1;31m", place: "\u{1b}[34m", help: "\u{1b}[1;36m", end: "\u{1b}[0m" };
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Paint::PLAIN)
    }
}

impl std::error::Error for Problems {}

impl Problems {
    /// All of them, in colour where that is wanted.
    pub fn shown(&self, is_coloured: bool) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text, if is_coloured { Paint::COLOUR } else { Paint::PLAIN });
        text
    }

    fn write(&self, f: &mut impl fmt::Write, paint: Paint) -> fmt::Result {
        for problem in &self.list {
            self.render(f, problem, paint)?;
        }
        let n = self.list.len();
        let plural = if n == 1 { "" } else { "s" };
        write!(f, "{n} problem{plural}; {} not accepted", self.subject)
    }

    /// One line for a log or a readiness answer: the first problem and how many more there are.
    pub fn summary(&self) -> String {
        let Some(first) = self.list.first() else { return "no problems".to_owned() };
        let name = self.name(first.span);
        let mut line = format!("{name}:{}:{}: {}", first.span.line, first.span.column, first.message);
        if self.list.len() > 1 {
            let _ = write!(line, " (and {} more)", self.list.len() - 1);
        }
        line
    }

    fn name(&self, span: Span) -> &str {
        self.sources.get(span.file as usize).map_or("policy", |s| s.name.as_str())
    }

    fn render(&self, f: &mut impl fmt::Write, problem: &Problem, paint: Paint) -> fmt::Result {
        let Paint { error, place, help: hint, end } = paint;
        let Span { line, column, length, .. } = problem.span;
        writeln!(f, "{error}error:{end} {}", problem.message)?;
        writeln!(f, "  {place}-->{end} {}:{line}:{column}", self.name(problem.span))?;
        let text = self
            .sources
            .get(problem.span.file as usize)
            .and_then(|s| s.text.lines().nth((line as usize).saturating_sub(1)));
        if let Some(text) = text.filter(|text| line > 0 && !text.is_empty()) {
            let gutter = line.to_string().len();
            let shown: String =
                text.chars().take(EXCERPT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
            let before = (column as usize).saturating_sub(1);
            let rest = shown.chars().count().saturating_sub(before);
            let carets = (length as usize).clamp(1, rest.max(1));
            let (carets, indent) = ("^".repeat(carets), " ".repeat(before.min(EXCERPT_CHARS_MAX)));
            writeln!(f, "{place}{:gutter$} |{end}", "")?;
            writeln!(f, "{place}{line} |{end} {shown}")?;
            writeln!(f, "{place}{:gutter$} |{end} {indent}{error}{carets}{end}", "")?;
        }
        if let Some(help) = &problem.help {
            writeln!(f, "  {hint}help:{end} {help}")?;
        }
        writeln!(f)
    }
}

/// The candidate nearest to what was written, when it is near enough to suggest.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|(d, candidate)| *d <= 1 + candidate.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// The candidate that a word in capitals is but for its case or one slip; none when it is one of them.
pub fn slip<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let is_one = candidates.clone().into_iter().any(|candidate| candidate == written);
    let upper = written.to_ascii_uppercase();
    candidates.into_iter().find(|candidate| !is_one && distance(&upper, candidate) <= 1)
}

/// Edit distance with adjacent swaps (optimal string alignment) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |r: &[usize], k: usize| r.get(k).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("rotues", ["routes", "realm", "hosts"]), Some("routes"));
        assert_eq!(nearest("zebra", ["routes", "realm", "hosts"]), None);
    }
}
