//! The project's Rust sources, for the tests that read them (`layers`, `words`, `public_api`).
//!
//! Owns: reading the files, and telling code, comments and literals apart. Never touches: the rules.
#![allow(dead_code, reason = "each of the tests uses a part")]

use std::fs;
use std::path::Path;

/// A source file: its path below its root without `.rs`, and its text.
pub(crate) struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let path = path.strip_suffix(".rs").unwrap_or(path).to_owned();
        Self { path, text: text.to_owned() }
    }

    /// The first-level module of the file.
    pub(crate) fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether the file is the module `place` or below it.
    pub(crate) fn is_within(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Collects all `.rs` files below `directory`, with `prefix` before their paths.
pub(crate) fn sources_below(directory: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(directory).expect("the sources are there");
    for entry in entries {
        let entry = entry.expect("the sources can be listed");
        let name = entry.file_name().into_string().expect("names are Unicode");
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            sources_below(&entry.path(), &format!("{path}/"), sources);
        } else if entry.path().extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(entry.path()).expect("sources are text");
            sources.push(Source::new(&path, &text));
        }
    }
}

/// The kinds of text in a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The text in pieces of one kind. A piece of code is one character.
fn pieces(text: &str) -> impl Iterator<Item = (Kind, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let next = rest.chars().next()?;
        let (kind, length) = match (comment_at(rest), literal_at(rest)) {
            (0, 0) => (Kind::Code, next.len_utf8()),
            (0, length) => (Kind::Literal, length),
            (length, _) => (Kind::Comment, length),
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some((kind, piece))
    })
}

/// The text with comments and literals blanked; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (kind, piece) in pieces(text) {
        if kind == Kind::Code {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
    }
    out
}

/// The comments of a text: blocks of lines that follow each other, each line with its number.
pub(crate) fn comments(text: &str) -> Vec<Vec<(usize, &str)>> {
    let mut blocks: Vec<Vec<(usize, &str)>> = Vec::new();
    let mut number = 1;
    let mut is_whole_line = true;
    for (kind, piece) in pieces(text) {
        if kind == Kind::Comment {
            let comment = piece.trim_start_matches(['/', '!', '*']).trim();
            let last = blocks
                .last_mut()
                .filter(|block| is_whole_line && block.last().is_some_and(|(line, _)| line + 1 == number));
            match last {
                Some(block) => block.push((number, comment)),
                None => blocks.push(vec![(number, comment)]),
            }
        }
        number += piece.matches('\n').count();
        is_whole_line = piece.ends_with('\n') || (is_whole_line && piece.trim().is_empty());
    }
    blocks
}

/// The string literals of a text, each with the number of its first line.
pub(crate) fn literals(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut number = 1;
    for (kind, piece) in pieces(text) {
        if kind == Kind::Literal {
            found.push((number, piece.trim_start_matches(['r', '#']).trim_matches(['"', '#'])));
        }
        number += piece.matches('\n').count();
    }
    found
}

/// The length of the comment at the start of `rest`, or 0.
fn comment_at(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    0
}

/// The length of the literal at the start of `rest`, or 0.
fn literal_at(rest: &str) -> usize {
    let hashes = rest.strip_prefix('r').map_or(0, |r| r.len() - r.trim_start_matches('#').len());
    if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let open = hashes + 2;
        return rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // 'a' and '\n' are literals, 'a is a lifetime.
    let mut chars = rest.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => quoted(rest, '\''),
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
