//! The file as a tree: what the YAML says, every key and value with its place.
//!
//! Owns: YAML, its bounds and its errors. A tree is built by hand because a typed reading stops at
//! the first problem.
//! Never touches: what keys mean.

mod raw;

use std::collections::HashSet;
use std::fmt::Write;

use serde_saphyr::{Error, Location};

use crate::config::diagnostics::{Problem, SourceLocation};

/// No configuration is longer; a longer one is a mistake or an attack.
pub const LONGEST: usize = 1024 * 1024;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub place: SourceLocation,
    /// What.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as text, whatever YAML would take it for: `30`, `"30"`, `true`, `5m`.
    Scalar(String, ScalarKind),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file; each key once.
    Map(Vec<Entry>),
}

/// What YAML takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// Text: `5m`, `"30"`.
    Text,
    /// A number or a boolean: `30`, `true`.
    Typed,
}

/// One entry of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: SourceLocation,
    /// Its value.
    pub value: Node,
}

/// Reads `text` as YAML. A syntax error or a repeated key ends the reading, so it stands alone.
pub fn parse(text: &str) -> Result<Node, Problem> {
    if text.len() > LONGEST {
        let what = "the file is longer than 1 MiB";
        return Err(of_the_file(
            what,
            "split it over several larders, or look for what made it so",
        ));
    }
    let tree = raw::read(text).map_err(|error| explain(&error))?;
    match repeated(&tree) {
        Some(entry) => Err(second(entry.place, Some(&entry.key))),
        None => Ok(tree),
    }
}

/// The parser compares keys with their types; here `404` and `"404"` are one key.
fn repeated(node: &Node) -> Option<&Entry> {
    match &node.value {
        Value::Null | Value::Scalar(..) => None,
        Value::List(items) => items.iter().find_map(repeated),
        Value::Map(entries) => {
            let mut seen = HashSet::new();
            let again = entries.iter().find(|entry| !seen.insert(entry.key.as_str()));
            again.or_else(|| entries.iter().find_map(|entry| repeated(&entry.value)))
        }
    }
}

fn second(place: SourceLocation, key: Option<&str>) -> Problem {
    let key = key.map(|key| format!(" `{key}`")).unwrap_or_default();
    let what = format!("the key{key} stands here for the second time");
    Problem { place, path: String::new(), what, fix: "keep one of the two".to_owned() }
}

fn of_the_file(what: &str, fix: &str) -> Problem {
    Problem {
        place: SourceLocation::default(),
        path: String::new(),
        what: what.to_owned(),
        fix: fix.to_owned(),
    }
}

fn place(location: Location) -> SourceLocation {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let width = usize::try_from(location.span().len()).unwrap_or(1);
    SourceLocation { line: number(location.line()), column: number(location.column()), width }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum belongs to another crate and grows")]
fn explain(error: &Error) -> Problem {
    let place = error.location().map(place).unwrap_or_default();
    let (what, fix) = match error.without_snippet() {
        Error::DuplicateMappingKey { key, .. } => return second(place, key.as_deref()),
        Error::MultipleDocuments { .. } => (
            "a second YAML document stands here".to_owned(),
            "remove the `---` before it: one file is one document",
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => too_big(),
        Error::AliasError { error, .. } if matches!(**error, Error::Budget { .. }) => too_big(),
        Error::UnknownAnchor { .. } => (
            "this alias has no anchor before it".to_owned(),
            "quote the text if it shall begin with `*`: \"*.example\"",
        ),
        Error::NullIntoString { .. } => {
            ("this key is empty".to_owned(), "write a name before the colon")
        }
        other => syntax(other),
    };
    Problem { place, path: String::new(), what, fix: fix.to_owned() }
}

fn too_big() -> (String, &'static str) {
    let what = "the file is nested deeper or holds more than any configuration does";
    (what.to_owned(), "larder reads 20,000 values, 32 levels and 100 aliases at most")
}

fn syntax(error: &Error) -> (String, &'static str) {
    let text = error.to_string();
    if text.contains("recursion limit") {
        return too_big();
    }
    // The place is told apart; the parser repeats it at the end of its message.
    let said = text.rsplit_once(" at line ").map_or(text.as_str(), |(said, _)| said);
    let mut what = String::from("this is not YAML");
    if !said.is_empty() && said.len() < 200 {
        write!(what, ": {said}").expect("a String takes what is written to it");
    }
    if text.contains("flow mapping") {
        return (what, "quote what has braces in it: \"/api/{version}/users\"");
    }
    (what, "check the indentation, the colons and the quotes here and just above")
}

#[cfg(test)]
mod tests;
