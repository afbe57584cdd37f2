//! A raw query taken apart, as some origin could read it.
//!
//! Owns: names and values of a parameter. Names are compared decoded and `;` is taken for a second
//! separator, so that neither an odd spelling nor an origin that splits elsewhere smuggles a parameter
//! past a rule. Never touches: the meaning of a name.

use std::borrow::Cow;

use crate::semantics::byte_search::{has_byte, kinds, table};

/// The names in one parameter (what stands between two `&`), decoded: one, or several where a `;`
/// stands inside.
pub fn names(param: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pieces(param).map(|(name, _)| name)
}

/// Each name in one parameter, decoded, with its value as sent; `None`: no `=`.
pub fn pieces(param: &str) -> impl Iterator<Item = (Cow<'_, str>, Option<&str>)> {
    param.split(';').map(|piece| match piece.split_once('=') {
        Some((name, value)) => (decoded(name), Some(value)),
        None => (decoded(piece), None),
    })
}

/// All but those of names and plain values.
static SIGNS: [u8; 256] =
    table(&[(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,~=", 0)], 1);

/// Name and value of a parameter in which no sign means anything but the first `=`: nothing in it is encoded,
/// nests or separates. Most are so. `None`: this one may be read in more ways.
pub fn simple(param: &str) -> Option<(&str, &str)> {
    if kinds(param, &SIGNS) != 0 {
        return None;
    }
    let (name, value) = param.split_once('=').unwrap_or((param, ""));
    (!has_byte(value, |byte| byte == b'=')).then_some((name, value))
}

/// A name or value as its sender meant it (`application/x-www-form-urlencoded`).
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
