//! A raw query taken apart, as some origin could read it.
//!
//! Owns: names and values of a parameter. Names are compared decoded and `;` is taken for a second
//! separator, so that neither an odd spelling nor an origin that splits elsewhere smuggles a parameter
//! past a rule. Never touches: the meaning of a name.

use std::borrow::Cow;

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

/// A name or value as its sender meant it (`application/x-www-form-urlencoded`).
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
