//! The file as a tree: the YAML content, every key and value with its source location.
//!
//! Owns: YAML parsing, its limits and its errors. The tree is untyped because typed deserialization stops at
//! the first problem. Never touches: the meaning of keys.

mod raw;

use std::collections::HashSet;
use std::fmt::Write;

use serde_saphyr::{Error, Location};

use crate::config::diagnostics::{Problem, SourceLocation};

/// The longest accepted file in bytes; a longer one is a mistake or an attack.
pub const LONGEST: usize = 1024 * 1024;

/// A value and its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The location.
    pub place: SourceLocation,
    /// The value.
    pub value: Value,
}

/// The value of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as text, with its YAML type: `30`, `"30"`, `true`, `5m`.
    Scalar(String, ScalarKind),
    /// A list.
    List(Vec<Node>),
    /// A map in file order; its keys are unique.
    Map(Vec<Entry>),
}

/// The YAML type of a scalar.
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
    /// The location of the key.
    pub place: SourceLocation,
    /// Its value.
    pub value: Node,
}

/// Parses `text` as YAML. A syntax error or a duplicate key ends parsing and is the only problem.
pub fn parse(text: &str) -> Result<Node, Problem> {
    if text.len() > LONGEST {
        let what = "the file is longer than 1 MiB";
        let fix = "split it over several larder instances, or check why it is so long";
        return Err(Problem::of_file(what, fix));
    }
    let tree = raw::read(text).map_err(|error| explain(&error))?;
    match duplicate_key(&tree) {
        Some(entry) => Err(duplicate(entry.place, Some(&entry.key))),
        None => Ok(tree),
    }
}

/// The first duplicate key. The parser compares keys with their types; here `404` and `"404"` are equal.
fn duplicate_key(node: &Node) -> Option<&Entry> {
    match &node.value {
        Value::Null | Value::Scalar(..) => None,
        Value::List(items) => items.iter().find_map(duplicate_key),
        Value::Map(entries) => {
            let mut seen = HashSet::new();
            let again = entries.iter().find(|entry| !seen.insert(entry.key.as_str()));
            again.or_else(|| entries.iter().find_map(|entry| duplicate_key(&entry.value)))
        }
    }
}

fn duplicate(place: SourceLocation, key: Option<&str>) -> Problem {
    let key = key.map(|key| format!(" `{key}`")).unwrap_or_default();
    let what = format!("the key{key} is defined a second time");
    Problem { place, path: String::new(), what, fix: "keep one of the two".to_owned() }
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
        Error::DuplicateMappingKey { key, .. } => return duplicate(place, key.as_deref()),
        Error::MultipleDocuments { .. } => (
            "a second YAML document begins here".to_owned(),
            "remove the `---` before it: one file is one document",
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => too_big(),
        Error::AliasError { error, .. } if matches!(**error, Error::Budget { .. }) => too_big(),
        Error::UnknownAnchor { .. } => (
            "this alias has no anchor before it".to_owned(),
            "quote text that begins with `*`: \"*.example\"",
        ),
        Error::NullIntoString { .. } => ("this key is empty".to_owned(), "write a name before the colon"),
        other => syntax(other),
    };
    Problem { place, path: String::new(), what, fix: fix.to_owned() }
}

fn too_big() -> (String, &'static str) {
    let what = "the file is nested too deeply or has too many values";
    (what.to_owned(), "larder reads 20,000 values, 32 levels and 100 aliases at most")
}

fn syntax(error: &Error) -> (String, &'static str) {
    let text = error.to_string();
    if text.contains("recursion limit") {
        return too_big();
    }
    // The location is reported separately; the parser appends it to its message.
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let mut what = String::from("this is not YAML");
    if !message.is_empty() && message.len() < 200 {
        write!(what, ": {message}").expect("writing to a String never fails");
    }
    if text.contains("flow mapping") {
        return (what, "quote text that has braces: \"/api/{version}/users\"");
    }
    (what, "check the indentation, the colons and the quotes here and just above")
}

#[cfg(test)]
mod tests;
