//! Problems and warnings of a configuration: location, reason, fix.
//!
//! Owns: problems, warnings, and the text of a report. Never touches: validation of values.

use std::fmt;
use std::sync::Arc;

/// A location in the file. Lines and columns count from 1; line 0 is the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceLocation {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    /// The number of characters.
    pub width: usize,
}

/// One problem: larder does not start with such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The location in the file.
    pub place: SourceLocation,
    /// The path of the key from the top: `routes[coins].ttl`. Empty for the file as a whole.
    pub path: String,
    /// The problem, and why it matters.
    pub what: String,
    /// A suggested fix.
    pub fix: String,
}

impl Problem {
    /// A problem of the file as a whole.
    pub fn of_file(what: impl Into<String>, fix: impl Into<String>) -> Self {
        let (place, path) = (SourceLocation::default(), String::new());
        Self { place, path, what: what.into(), fix: fix.into() }
    }
}

/// Why a scalar is not a valid value. Never contains the scalar, which may come from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError {
    /// The expected kind of value: "a duration such as 30s".
    pub wanted: &'static str,
    /// The problem, printed after the value: `means 5 months`.
    pub what: String,
    /// A suggested fix. May reveal the value: printed only if the value is in the file itself.
    pub fix: String,
}

impl ValueError {
    /// An error `what` of a value; `wanted` is the expected kind.
    pub fn new(wanted: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { wanted, what: what.into(), fix: fix.into() }
    }

    /// An error without further detail: the value is not of the kind `wanted`.
    pub fn is_not(wanted: &'static str) -> Self {
        Self::new(wanted, format!("is not {wanted}"), format!("write {wanted}"))
    }
}

/// All problems of one file, in file order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    name: String,
    lines: Vec<String>,
    problems: Vec<Problem>,
}

impl Report {
    /// A report on the file `name` with this text.
    pub fn new(name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
        let line = |problem: &Problem| {
            let line = problem.place.line.checked_sub(1).and_then(|at| text.lines().nth(at));
            line.unwrap_or_default().to_owned()
        };
        let lines = problems.iter().map(line).collect();
        Self { name: name.to_owned(), lines, problems }
    }

    /// The problems in file order; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The file's name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Prints each problem with its line and a caret; the last line has their number.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (problem, line) in self.problems.iter().zip(&self.lines) {
            write!(f, "{}", self.name)?;
            if problem.place.line > 0 {
                write!(f, ":{}:{}", problem.place.line, problem.place.column)?;
            }
            if !problem.path.is_empty() {
                write!(f, ": {}", problem.path)?;
            }
            writeln!(f, ": {}", problem.what)?;
            write_excerpt(f, problem, line)?;
        }
        let count = self.problems.len();
        write!(f, "{}: {count} problem{}", self.name, if count == 1 { "" } else { "s" })
    }
}

/// The most characters of a line that are printed, and how many of them before the location.
const SHOWN: usize = 100;
const SHOWN_BEFORE: usize = 40;

fn write_excerpt(f: &mut fmt::Formatter<'_>, problem: &Problem, line: &str) -> fmt::Result {
    if line.trim().is_empty() {
        return writeln!(f, "   |  {}", problem.fix);
    }
    let column = problem.place.column.saturating_sub(1);
    let indent = line.chars().take_while(|c| c.is_whitespace()).count().min(column);
    let start = if column - indent > SHOWN { column - SHOWN_BEFORE } else { indent };
    let shown: String = line.chars().skip(start).take(SHOWN).map(visible).collect();
    let shown = shown.trim_end();
    let before = column - start;
    let width = problem.place.width.min(shown.chars().count().saturating_sub(before)).max(1);
    writeln!(f, "   |  {shown}")?;
    writeln!(f, "   |  {:before$}{:^<width$} {}", "", "", problem.fix)
}

/// Replaces control characters: a terminal would interpret them.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A finding that is no error but that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The name of the file.
    pub name: Arc<str>,
    /// The location in the file.
    pub place: SourceLocation,
    /// The path of the key from the top.
    pub path: String,
    /// The kind of finding.
    pub kind: WarningKind,
    /// The finding, a sentence without its full stop.
    pub text: String,
}

/// The kinds of warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningKind {
    /// A route's `ttl` overrides the origin's own caching fields.
    OverridesOrigin,
    /// A route that never matches because an earlier one matches all its requests.
    Shadowed,
    /// Every host that can connect may use this larder.
    Open,
    /// The certificate authority has no name constraints.
    Unconstrained,
    /// The certificate of an upstream is not verified.
    Insecure,
    /// A call that is not idempotent may be repeated.
    Repeated,
    /// A credential of larder could be sent without TLS.
    CleartextCredential,
    /// A host pattern has a trailing dot, which is ignored.
    TrailingDot,
    /// A limit is valid but unusual, probably a mistake.
    OddLimit,
    /// A destination that no call can ever reach.
    Unreachable,
    /// A variable names a parent proxy that is not used.
    ParentProxy,
}

impl WarningKind {
    /// Whether the configuration uses a key as it is documented, so that nothing has to change. Only `larder
    /// check` prints such a note.
    pub fn is_documented_use(self) -> bool {
        match self {
            Self::OverridesOrigin => true,
            Self::Shadowed
            | Self::Open
            | Self::Unconstrained
            | Self::Insecure
            | Self::Repeated
            | Self::CleartextCredential
            | Self::TrailingDot
            | Self::OddLimit
            | Self::Unreachable
            | Self::ParentProxy => false,
        }
    }

    /// The token for logs and JSON.
    pub fn token(self) -> &'static str {
        match self {
            Self::OverridesOrigin => "origin-set-aside",
            Self::Shadowed => "shadowed-route",
            Self::Open => "open-to-all",
            Self::Unconstrained => "unconstrained-authority",
            Self::Insecure => "insecure-upstream",
            Self::Repeated => "repeated-writes",
            Self::CleartextCredential => "credential-in-the-clear",
            Self::TrailingDot => "trailing-dot",
            Self::OddLimit => "odd-limit",
            Self::Unreachable => "unreachable",
            Self::ParentProxy => "parent-proxy-ignored",
        }
    }
}

/// Prints one line.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.line > 0 {
            write!(f, "{}:{}:{}: ", self.name, self.place.line, self.place.column)?;
        }
        write!(f, "{}: {}", self.path, self.text)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::diagnostics::{Problem, Report, SourceLocation};

    fn problem(line: usize, column: usize, width: usize) -> Problem {
        Problem {
            place: SourceLocation { line, column, width },
            path: "routes[coins].ttl".to_owned(),
            what: "`5M` means 5 months".to_owned(),
            fix: "did you mean `5m`?".to_owned(),
        }
    }

    #[test]
    fn the_caret_is_under_the_value() {
        let report = Report::new("p.yaml", "routes:\n    ttl: 5M\n", vec![problem(2, 10, 2)]);
        let expected = "p.yaml:2:10: routes[coins].ttl: `5M` means 5 months\n   |  ttl: 5M\n   \
                        |       ^^ did you mean `5m`?\np.yaml: 1 problem";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn problems_are_in_file_order() {
        let report = Report::new("p", "a\nb\nc", vec![problem(3, 1, 1), problem(1, 1, 1), problem(2, 1, 1)]);
        let lines: Vec<_> = report.problems().iter().map(|p| p.place.line).collect();
        assert_eq!(lines, [1, 2, 3]);
    }

    #[test]
    fn a_long_line_is_cut_around_the_location_without_control_characters() {
        let line = format!("{}\u{1b}[31m5M{}", "x".repeat(3000), "y".repeat(3000));
        let report = Report::new("p", &line, vec![problem(1, 3006, 2)]).to_string();
        assert!(report.contains("5M"), "{report}");
        assert!(!report.contains('\u{1b}'));
        assert!(report.len() < 600, "{}", report.len());
    }

    #[test]
    fn a_location_beyond_the_text_is_still_reported() {
        let report = Report::new("p", "a", vec![problem(9, 70, 3), problem(1, 50, 7)]);
        assert!(report.to_string().contains("p:9:70: "));
    }
}
