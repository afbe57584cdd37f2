//! Comma-separated field values (RFC 9110 §5.6.1), over one or several field lines.
//!
//! Owns: splitting into members; a comma inside a quoted string does not end a member.
//! Never touches: the meaning of a member.

use http::HeaderValue;

/// The members of a list field over all its lines, trimmed and without empty ones.
pub fn members<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    lines.into_iter().flat_map(|line| split(line.as_bytes())).filter(|member| !member.is_empty())
}

/// The members of one line, trimmed, including empty ones.
pub fn split(line: &[u8]) -> Members<'_> {
    Members { rest: Some(line) }
}

/// The iterator that [`split`] returns.
#[derive(Debug, Clone)]
pub struct Members<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let end = member_end(rest);
        // The byte at `end` is the comma. Without a comma the line ends here.
        self.rest = rest.get(end + 1..);
        Some(rest.get(..end).unwrap_or(rest).trim_ascii())
    }
}

/// The index of the first comma outside a quoted string (RFC 9110 §5.6.4), or the length. An unterminated
/// quoted string extends to the end, so no text in it counts as a directive.
fn member_end(text: &[u8]) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::{any, proptest};

    use crate::semantics::field_list::{members, split};

    fn listed(lines: &[&'static str]) -> Vec<String> {
        let lines: Vec<_> = lines.iter().map(|line| HeaderValue::from_static(line)).collect();
        members(&lines).map(|m| String::from_utf8(m.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_member_ends_at_a_comma_outside_quotes() {
        for (lines, expected) in [
            (vec![], vec![]),
            (vec!["a"], vec!["a"]),
            (vec![" a ,\tb , "], vec!["a", "b"]),
            (vec!["a", "b, c"], vec!["a", "b", "c"]),
            (vec![",, a,,"], vec!["a"]),
            (vec![r#"x="a, b", y"#], vec![r#"x="a, b""#, "y"]),
            (vec![r#"x="a\", b", y"#], vec![r#"x="a\", b""#, "y"]),
            (vec![r#"x="open, y"#, "z"], vec![r#"x="open, y"#, "z"]),
        ] {
            assert_eq!(listed(&lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_split_into_trimmed_members(line in any::<Vec<u8>>()) {
            let parts: Vec<_> = split(&line).collect();
            assert!(!parts.is_empty());
            assert!(parts.iter().map(|part| part.len() + 1).sum::<usize>() <= line.len() + 1);
            assert!(parts.iter().all(|part| part.trim_ascii() == *part));
        }
    }
}
