//! Query parameters as key parts: which count and which are secret.
//!
//! Owns: how a raw query is taken apart. Names are compared decoded and `;` is taken for a second
//! separator, so that neither an odd spelling nor an origin that splits elsewhere smuggles a
//! parameter past a rule; what enters a key stays as it was sent.
//! Never touches: framing (`canonical`).

use std::borrow::Cow;

use crate::policy::QueryRule;

/// The parameters of `query` that `rule` counts, in their order.
pub(super) fn counted<'q>(
    query: Option<&'q str>,
    rule: &QueryRule,
) -> impl Iterator<Item = &'q str> {
    let params = query.into_iter().flat_map(|query| query.split('&'));
    params.filter(move |param| counts(param, rule))
}

/// Whether a name in `param` is one of `secrets` (lower-case).
pub(super) fn is_secret(param: &str, secrets: &[String]) -> bool {
    names(param).any(|name| is_secret_name(&name, secrets))
}

/// Whether `name`, decoded, is one of `secrets`, in whatever case.
pub(super) fn is_secret_name(name: &str, secrets: &[String]) -> bool {
    secrets.iter().any(|secret| secret.eq_ignore_ascii_case(name))
}

/// The names in one parameter: one, or several where a `;` stands inside.
pub(super) fn names(param: &str) -> impl Iterator<Item = Cow<'_, str>> {
    param.split(';').map(|piece| decoded(piece.split_once('=').map_or(piece, |(name, _)| name)))
}

fn counts(param: &str, rule: &QueryRule) -> bool {
    match rule {
        QueryRule::All => true,
        // Kept when anything in it is wanted, left out only when nothing else is in it: what an
        // origin could read is never missing from the key.
        QueryRule::Include(wanted) => names(param).any(|name| wanted.iter().any(|w| *w == name)),
        QueryRule::Exclude(ignored) => !names(param).all(|name| ignored.iter().any(|i| *i == name)),
    }
}

fn decoded(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name);
    }
    let spaced = name.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
