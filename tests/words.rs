//! The language as a test: identifiers that are private words, and sentences without a plain subject.
//! A violation is reported as `file:line: what`. `docs/glossary.md` has the words to use instead.
//!
//! Limits: the test knows words, not meaning. A sentence that passes can still be unclear.
#![expect(clippy::string_slice, reason = "text is cut at ASCII signs, where a character begins")]

use std::fs;
use std::path::Path;

use crate::sources::{Source, code, comments, literals, sources_below};

#[path = "support/sources.rs"]
mod sources;

/// Parts of identifiers (between underscores, or a whole `CamelCase` word) that are private words, each
/// with a standard term.
const PRIVATE: &[(&str, &str)] = &[
    ("asked", "request, requested_at"),
    ("asker", "client"),
    ("asks", "requests"),
    ("said", "metadata, response"),
    ("says", "contains, specifies"),
    ("told", "select, notify"),
    ("tells", "notifies"),
    ("heard", "received"),
    ("unheard", "no_response"),
    ("knock", "call"),
    ("estate", "runtime"),
    ("lobby", "accept_context"),
    ("conduct", "upstream_policy"),
    ("traffics", "registry"),
    ("slip", "handle"),
    ("nobody", "none"),
    ("somebody", "any"),
    ("whoever", "client"),
    ("whom", "client"),
    ("foresee", "announce_wait"),
    ("pace", "rate_limit"),
    ("paced", "rate_limited"),
    ("flights", "in_flight"),
    ("apart", "separate"),
    ("verdict", "outcome"),
    ("station", "queue_kind"),
    ("ticket", "permit"),
    ("lent", "evicted"),
    ("spare", "try_acquire"),
    ("spared", "avoided"),
    ("hold_down", "cooldown"),
    ("max_hold", "max_cooldown"),
    ("invalid_requests", "ban_guard"),
    ("stand_in", "stale_if_error"),
];

/// Words that open no sentence of a comment, a document or a message: they hide its subject.
const OPENINGS: &[&str] =
    &["Who", "Whoever", "Whom", "Whose", "What", "Whatever", "Nobody", "Somebody", "Someone"];

/// Words that are no subject anywhere.
const SUBJECTS: &[&str] = &["nobody", "somebody", "someone", "whoever", "anybody", "everybody"];

/// The longest name of a function, tests included.
const LONGEST_NAME: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources, with paths below the root. This file has the words themselves.
fn all_sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for directory in ["src", "tests", "examples", "benches"] {
        sources_below(&root().join(directory), &format!("{directory}/"), &mut sources);
    }
    sources.retain(|source| source.path != "tests/words");
    sources
}

/// The documents: the pages for users and developers, and the reference configuration.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in ["", "docs", "docs/decisions", "docs/presets"] {
        for entry in fs::read_dir(root().join(directory)).expect("the directory is there") {
            let path = entry.expect("the directory can be listed").path();
            let is_page = path.extension().is_some_and(|end| end == "md" || end == "yaml");
            // The glossary quotes the old words.
            if is_page && !path.ends_with("docs/glossary.md") {
                let name = path.strip_prefix(root()).expect("it is below the root");
                let text = fs::read_to_string(&path).expect("pages are text");
                found.push((name.display().to_string(), text));
            }
        }
    }
    found
}

/// The private word in an identifier, and the terms to use instead.
fn private_word(identifier: &str) -> Option<&'static (&'static str, &'static str)> {
    let lower = snake_case(identifier);
    let padded = format!("_{lower}_");
    PRIVATE.iter().find(|(word, _)| padded.contains(&format!("_{word}_")))
}

fn snake_case(identifier: &str) -> String {
    let mut out = String::new();
    for c in identifier.chars() {
        if c.is_uppercase() && !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// Private words in the code, and function names that are too long.
fn names(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in code(&source.text).lines().enumerate() {
        let place = format!("{}.rs:{}", source.path, index + 1);
        for identifier in identifiers(line) {
            if let Some((word, instead)) = private_word(identifier) {
                found.push(format!("{place}: `{identifier}`: `{word}` is a private word: {instead}"));
            }
        }
        let name = line.trim_start().split("fn ").nth(1).and_then(|rest| identifiers(rest).next());
        if let Some(name) = name.filter(|name| name.len() > LONGEST_NAME) {
            found.push(format!("{place}: `{name}` has more than {LONGEST_NAME} characters"));
        }
    }
    found
}

/// Sentences of a block of text without a plain subject, with the line they begin in.
fn sentences(block: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut begins = true;
    let mut is_code = false;
    for (number, line) in block {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        let line = without_code(line);
        if is_code || line.trim().is_empty() {
            begins = true;
            continue;
        }
        for piece in pieces(&line, begins) {
            let first = piece.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
            if OPENINGS.contains(&first) && !is_question(piece) {
                found.push((*number, format!("a sentence opens with `{first}`")));
            }
        }
        for word in line.split(|c: char| !c.is_alphabetic()) {
            if SUBJECTS.contains(&word.to_lowercase().as_str()) {
                found.push((*number, format!("`{word}` is no subject")));
            }
        }
        begins = line.trim_end().ends_with(['.', '!', '?', ':']);
    }
    found
}

/// A line without what is in backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("x")
}

/// The sentences that begin in a line; `first`: whether one begins with the line.
fn pieces(line: &str, first: bool) -> Vec<&str> {
    let marks: &[char] = &['#', '>', '-', '*', '|', ' ', '"', '('];
    let is_item = line.trim_start().starts_with(['#', '>', '-', '*', '|']);
    let mut starts: Vec<usize> = Vec::new();
    if first || is_item {
        starts.push(0);
    }
    for end in [". ", "! ", "? ", ": ", "| "] {
        starts.extend(line.match_indices(end).map(|(at, _)| at + end.len()));
    }
    let mut pieces: Vec<&str> = starts.iter().map(|at| line[*at..].trim_start_matches(marks)).collect();
    // A table cell at the start of a line is found twice.
    pieces.sort_unstable_by_key(|piece| piece.len());
    pieces.dedup_by_key(|piece| piece.len());
    pieces
}

/// Whether the sentence that `piece` begins with is a question.
fn is_question(piece: &str) -> bool {
    piece.find(['.', '?', '!']).is_some_and(|end| piece[end..].starts_with('?'))
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} findings\n{}", found.len(), found.join("\n"));
}

#[test]
fn identifiers_are_standard_terms_and_function_names_are_short() {
    let sources = all_sources();
    assert!(sources.len() > 200, "only {} files were found", sources.len());
    report(&sources.iter().flat_map(names).collect::<Vec<_>>());
}

#[test]
fn comments_name_their_subject() {
    let mut found = Vec::new();
    for source in all_sources() {
        for block in comments(&source.text) {
            for (line, what) in sentences(&block) {
                found.push(format!("{}.rs:{line}: {what}", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn messages_name_their_subject() {
    let mut found = Vec::new();
    for source in all_sources().iter().filter(|source| source.path.starts_with("src/")) {
        for (line, text) in literals(&source.text) {
            for (_, what) in sentences(&[(line, text)]) {
                found.push(format!("{}.rs:{line}: {what}", source.path));
            }
        }
    }
    report(&found);
}

#[test]
fn documents_name_their_subject() {
    let pages = documents();
    assert!(pages.len() > 40, "only {} pages were found", pages.len());
    let mut found = Vec::new();
    for (name, text) in pages {
        let is_yaml = Path::new(&name).extension().is_some_and(|end| end == "yaml");
        let comment = |line| if is_yaml { after_hash(line) } else { line };
        let block: Vec<_> =
            text.lines().enumerate().map(|(index, line)| (index + 1, comment(line))).collect();
        let block_findings = sentences(&block);
        found.extend(block_findings.iter().map(|(line, what)| format!("{name}:{line}: {what}")));
    }
    report(&found);
}

/// The comment of a line of YAML.
fn after_hash(line: &str) -> &str {
    line.split_once('#').map_or("", |(_, comment)| comment.trim_start())
}

#[test]
fn a_private_word_is_found_in_any_identifier() {
    let found = |identifier| private_word(identifier).map(|(word, _)| *word);
    assert_eq!(found("asked"), Some("asked"));
    assert_eq!(found("asked_as"), Some("asked"));
    assert_eq!(found("AskedAgain"), Some("asked"));
    assert_eq!(found("max_hold"), Some("max_hold"));
    assert_eq!(found("masked"), None);
    assert_eq!(found("in_flight"), None);
    assert_eq!(found("threshold_down"), None);
}

#[test]
fn a_sentence_without_a_plain_subject_is_found() {
    for (text, count) in [
        ("Who waits gets it.", 1),
        ("The client waits. What it gets is stale.", 1),
        ("| Whoever waits | is refused |", 2),
        ("It is nobody's fault.", 1),
        ("What limits retries? The retry budget.", 0),
        ("The client that waits receives it: whose it is matters not.", 0),
        ("`Who` is a word.", 0),
        ("Clients wait.", 0),
    ] {
        assert_eq!(sentences(&[(1, text)]).len(), count, "{text}");
    }
    assert_eq!(sentences(&[(1, "The entry"), (2, "What is not a start.")]).len(), 0);
}
