//! Makes a text safe to write into one line of a log that people read in a terminal.
//!
//! Owns: which characters never reach the log as they are (ADM-06), and the bound on a text.
//! Never touches: secrets.

use std::fmt::Write;

/// Appends `text` with every dangerous character written as `\u…`, up to `room` bytes. What does not
/// fit is replaced by `…`. The result can stand inside a JSON string.
pub(super) fn push(out: &mut String, text: &str, room: usize) {
    let start = out.len();
    // Room for the longest escape and the mark that something is missing.
    let limit = room.saturating_sub(LONGEST + MORE.len());
    for c in text.chars() {
        if out.len() - start > limit {
            out.push_str(MORE);
            return;
        }
        push_char(out, c);
    }
}

/// The text up to about `longest` bytes, and what is beyond.
pub(super) fn start_of(text: &str, longest: usize) -> (&str, &str) {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end)
}

fn push_char(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if is_dangerous(c) => {
            // All of them are below U+10000: four digits, as JSON wants it.
            let written = write!(out, "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok(), "a String takes everything");
        }
        c => out.push(c),
    }
}

/// Controls drive the terminal, separators forge a line, marks of direction make a line read as
/// another one.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || c == '\u{feff}'
}

const MORE: &str = "…";
const LONGEST: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str, room: usize) -> String {
        let mut out = String::new();
        push(&mut out, text, room);
        out
    }

    #[test]
    fn neither_escapes_nor_line_ends_nor_direction_marks_get_through() {
        assert_eq!(escaped("\u{1b}[2J", 99), "\\u001b[2J");
        assert_eq!(
            escaped("a\r\nb\u{2028}c\u{202e}d\u{9b}", 99),
            "a\\r\\nb\\u2028c\\u202ed\\u009b"
        );
        assert_eq!(escaped("grüße ✓", 99), "grüße ✓");
    }

    proptest! {
        #[test]
        fn what_is_escaped_fits_and_is_a_json_string(text in any::<String>(), room in 16usize..200) {
            let out = escaped(&text, room);
            prop_assert!(out.len() <= room, "{} bytes of {room}", out.len());
            let read: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
            let whole = read == text;
            prop_assert!(whole || read.ends_with(MORE));
        }
    }
}
