//! The public items of the library as a list that a change must renew: `docs/public-api.txt`.
//!
//! Items are found in the text of the sources. The lint `unreachable_pub` guarantees that each `pub` item can be
//! reached. Not listed: implementations of traits, derives, the generics of `impl` blocks.
#![expect(clippy::string_slice, reason = "text is cut at ASCII signs, where a character begins")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::sources::{Source, code, sources_below};

#[path = "support/sources.rs"]
mod sources;

/// An item: its text up to its block or its semicolon, and its block.
struct Item<'t> {
    head: String,
    block: Option<&'t str>,
}

/// The items of a text without comments and literals.
fn items(text: &str) -> Vec<Item<'_>> {
    let (mut found, mut start, mut at, mut open) = (Vec::new(), 0, 0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        let end = match c {
            ';' if open == 0 => at + 1,
            '{' if open == 0 => at + block_length(&text[at..]),
            _ => {
                open = open + usize::from("([".contains(c)) - usize::from(")]".contains(c));
                at += c.len_utf8();
                continue;
            }
        };
        let block = (c == '{').then(|| &text[at + 1..end - 1]);
        found.push(Item { head: normalized(&text[start..at]), block });
        (start, at) = (end, end);
    }
    found
}

/// The length of the block at the start of `text`, with its braces.
fn block_length(text: &str) -> usize {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return at + 1,
            '}' => open -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The members of a block that commas separate.
fn members(block: &str) -> Vec<String> {
    let (mut found, mut start, mut open, mut last) = (Vec::new(), 0, 0_usize, ' ');
    for (at, c) in block.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => open += 1,
            ')' | ']' | '}' => open -= 1,
            '>' if last != '-' && last != '=' => open -= 1,
            ',' if open == 0 => {
                found.push(normalized(&block[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        last = c;
    }
    found.push(normalized(&block[start..]));
    found.retain(|member| !member.is_empty());
    found
}

/// The text without attributes, in one line, without the commas and spaces that line breaks cause.
fn normalized(text: &str) -> String {
    let mut text = text.trim_start();
    while text.starts_with('#') {
        text = text.find(']').map_or("", |end| text[end + 1..].trim_start());
    }
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (from, to) in [("( ", "("), (", )", ")"), (" )", ")"), ("< ", "<"), (", >", ">"), (", }", " }")] {
        line = line.replace(from, to);
    }
    line
}

/// The public items of a file or a block, one a line.
fn public_items(text: &str, prefix: &str, lines: &mut Vec<String>) {
    for Item { head, block } in items(text) {
        let block = block.unwrap_or_default();
        if let Some(name) = implementing_type(&head) {
            public_items(block, &format!("{name}::"), lines);
        }
        let Some(item) = head.strip_prefix("pub ") else { continue };
        let inside = match item.split(' ').next() {
            Some("enum" | "use") => members(block).join(", "),
            Some("struct") => fields(block),
            Some("trait") => {
                let heads = items(block).into_iter().map(|item| item.head);
                heads.filter(|head| !head.is_empty()).collect::<Vec<_>>().join("; ")
            }
            _ => String::new(),
        };
        let inside = if inside.is_empty() { inside } else { format!(" {{ {inside} }}") };
        // The value of a constant is not listed.
        let is_value = item.starts_with("const ") && !item.starts_with("const fn");
        let end = if is_value { item.find(" = ") } else { None }.unwrap_or(item.len());
        let item = &item[..end];
        lines.push(format!("{prefix}{item}{inside}").replace(":: {", "::{"));
    }
}

/// The name of the type of an `impl` block; `None` for implementations of traits and other items.
fn implementing_type(head: &str) -> Option<&str> {
    let name = head.strip_prefix("impl").filter(|_| !head.contains(" for "))?;
    let name = name.strip_prefix('<').map_or(Some(name), |generics| Some(generics.split_once("> ")?.1));
    name?.trim_start().split(['<', ' ']).next()
}

/// The public fields of a struct.
fn fields(block: &str) -> String {
    let fields = members(block);
    let public: Vec<_> = fields.iter().filter_map(|field| field.strip_prefix("pub ")).collect();
    public.join(", ")
}

/// The list: the items of each file below the path of its module.
fn list(sources: &[Source]) -> String {
    let mut text = String::from(HEAD);
    for source in sources {
        let code = code(&source.text);
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let mut lines = Vec::new();
        public_items(code, "", &mut lines);
        if !lines.is_empty() {
            text.extend(["\n", &source.path.replace('/', "::"), "\n"]);
            text.extend(lines.iter().map(|line| format!("    {line}\n")));
        }
    }
    text
}

const HEAD: &str = "\
The public items of the library, by module. A difference is a change of the interface: intended, it goes into the
changelog. The list is renewed by: cargo test --test public_api -- --ignored
";

fn found() -> String {
    let mut sources = Vec::new();
    sources_below(&root().join("src"), "", &mut sources);
    let is_library =
        |source: &Source| source.path != "main" && !source.path.split('/').any(|part| part == "tests");
    sources.retain(is_library);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    list(&sources)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn page() -> PathBuf {
    root().join("docs/public-api.txt")
}

#[test]
fn the_public_items_are_those_of_the_list() {
    let (found, listed) = (found(), fs::read_to_string(page()).unwrap_or_default());
    let missing = |one: &str, other: &str, sign: char| {
        let other: Vec<_> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{sign} {}", line.trim())).collect::<Vec<_>>()
    };
    let differences = [missing(&listed, &found, '-'), missing(&found, &listed, '+')].concat();
    assert!(
        found == listed,
        "the public items differ from docs/public-api.txt; if that is intended, renew the list by \
         `cargo test --test public_api -- --ignored`\n{}",
        differences.join("\n")
    );
}

#[test]
#[ignore = "writes docs/public-api.txt"]
fn renew_the_list() {
    fs::write(page(), found()).expect("the list can be written");
}

#[test]
fn items_are_listed_with_their_public_parts_alone() {
    let text = "\
/// A doc.
#[derive(Debug)]
pub struct Range<'a> { pub first: HashMap<u8, &'a str>, last: u64 }
pub(crate) fn hidden() {}
impl<'a, T: Into<u8>> Range<'a> {
    pub const fn new(
        first: u64,
    ) -> [u8; 2] { if first > 1 { [0; 2] } else { todo!() } }
    fn private(&self) {}
}
impl Display for Range<'_> { fn fmt(&self) {} }
pub enum Kind { #[default] One, Two { at: u8 }, Three(u8, u8) }
pub trait Sink: Send { const N: usize; fn put(&mut self, part: &[u8]) -> bool { true } }
pub const NAMES: [&str; 2] = [\"{\", \"pub fn\"];
pub use crate::a::{B, C};
#[cfg(test)]
mod tests {
    pub fn of_a_test() {}
}
";
    let expected = "
range
    struct Range<'a> { first: HashMap<u8, &'a str> }
    Range::const fn new(first: u64) -> [u8; 2]
    enum Kind { One, Two { at: u8 }, Three(u8, u8) }
    trait Sink: Send { const N: usize; fn put(&mut self, part: &[u8]) -> bool }
    const NAMES: [&str; 2]
    use crate::a::{ B, C }
";
    assert_eq!(list(&[Source::new("range.rs", text)]), format!("{HEAD}{expected}"));
}
