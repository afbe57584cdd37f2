//! Parsing of a raw query in all the ways that origins may parse it.
//!
//! Owns: names and values of a parameter. Names are compared decoded, and `;` counts as a second separator,
//! so neither an unusual encoding nor an origin with other separators lets a parameter bypass a rule.
//! Never touches: the meaning of a name.

use std::borrow::Cow;

use crate::semantics::byte_search::{byte_classes, has_byte, table};

/// The decoded names in one parameter (the text between two `&`). A parameter that contains `;` has several
/// names.
pub fn names(param: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pieces(param).map(|(name, _)| name)
}

/// Each decoded name in one parameter with its raw value. The value is `None` if there is no `=`.
pub fn pieces(param: &str) -> impl Iterator<Item = (Cow<'_, str>, Option<&str>)> {
    param.split(';').map(|piece| match piece.split_once('=') {
        Some((name, value)) => (decoded(name), Some(value)),
        None => (decoded(piece), None),
    })
}

/// Marks all bytes except those of names and plain values.
static SPECIAL: [u8; 256] =
    table(&[(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,~=", 0)], 1);

/// Name and value of a parameter that has no special character but one `=`: nothing in it is encoded or
/// nested, and there is no further separator. Most parameters are simple. `None` if the parameter needs a
/// full parse.
pub fn simple(param: &str) -> Option<(&str, &str)> {
    if byte_classes(param, &SPECIAL) != 0 {
        return None;
    }
    let (name, value) = param.split_once('=').unwrap_or((param, ""));
    (!has_byte(value, |byte| byte == b'=')).then_some((name, value))
}

/// The name of a parameter for sorting. Names that an origin may read as one have the same: in another case,
/// as members of one list (`a[]`, `a[x]`), or with other punctuation (PHP reads `a.b` as `a_b`).
pub fn order_name(param: &str) -> String {
    let (name, _) = param.split_once('=').unwrap_or((param, ""));
    let name = decoded(name).to_lowercase();
    let name = name.trim_start().split('[').next().unwrap_or_default();
    name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// Decodes a name or value (`application/x-www-form-urlencoded`).
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
