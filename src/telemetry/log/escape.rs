//! Escapes a text for one line of a log that is read in a terminal.
//!
//! Owns: the set of characters that are escaped (ADM-06), and the length limit of a text.
//! Never touches: secrets.

use std::fmt::Write;

/// Appends `text` with every dangerous character escaped as `\u…`, in at most `capacity` bytes. An excess
/// part is replaced by `…`. The result is valid inside a JSON string.
pub(super) fn push(out: &mut String, text: &str, capacity: usize) {
    let start = out.len();
    // Leaves capacity for the longest escape and for the ellipsis.
    let limit = capacity.saturating_sub(MAX_ESCAPE_BYTES + ELLIPSIS.len());
    for c in text.chars() {
        if out.len() - start > limit {
            out.push_str(ELLIPSIS);
            return;
        }
        push_char(out, c);
    }
}

/// Splits the text at a character boundary after at most `max_bytes` bytes.
pub(super) fn split_at_limit(text: &str, max_bytes: usize) -> (&str, &str) {
    let mut end = text.len().min(max_bytes);
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
            // All of them are below U+10000, so four digits suffice, as JSON requires.
            let written = write!(out, "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
        c => out.push(c),
    }
}

/// Control characters control the terminal, separators forge a line, direction marks change how a line is
/// displayed.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || c == '\u{feff}'
}

const ELLIPSIS: &str = "…";
const MAX_ESCAPE_BYTES: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str, capacity: usize) -> String {
        let mut out = String::new();
        push(&mut out, text, capacity);
        out
    }

    #[test]
    fn control_characters_line_ends_and_direction_marks_are_escaped() {
        assert_eq!(escaped("\u{1b}[2J", 99), "\\u001b[2J");
        assert_eq!(escaped("a\r\nb\u{2028}c\u{202e}d\u{9b}", 99), "a\\r\\nb\\u2028c\\u202ed\\u009b");
        assert_eq!(escaped("grüße ✓", 99), "grüße ✓");
    }

    proptest! {
        #[test]
        fn escaped_text_fits_the_limit_and_is_a_json_string(text in any::<String>(), capacity in 16usize..200) {
            let out = escaped(&text, capacity);
            prop_assert!(out.len() <= capacity, "{} bytes of {capacity}", out.len());
            let read: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
            let is_complete = read == text;
            prop_assert!(is_complete || read.ends_with(ELLIPSIS));
        }
    }
}
