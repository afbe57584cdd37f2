//! Selection of the query parameters that are part of the key.
//!
//! Owns: the rules for inclusion. Names are compared as `semantics::query` decodes them; parameters enter the
//! key as they were sent.
//! Never touches: framing (`canonical`), secret parameters (`semantics::redaction`).

use crate::policy::QueryRule;
use crate::semantics::query::names;

/// The parameters of `query` that `rule` includes, in order.
pub(super) fn included<'q>(
    query: Option<&'q str>,
    rule: &QueryRule,
) -> impl Iterator<Item = &'q str> {
    let params = query.into_iter().flat_map(|query| query.split('&'));
    params.filter(move |param| is_included(param, rule))
}

/// The parameters that `rule` excludes.
pub(super) fn excluded<'q>(
    query: Option<&'q str>,
    rule: &QueryRule,
) -> impl Iterator<Item = &'q str> {
    let query = query.filter(|_| *rule != QueryRule::All);
    let params = query.into_iter().flat_map(|query| query.split('&'));
    params.filter(move |param| !is_included(param, rule))
}

fn is_included(param: &str, rule: &QueryRule) -> bool {
    match rule {
        QueryRule::All => true,
        // Included if any of its names is wanted, excluded only if all are ignored: a parameter that an
        // origin could read is never missing from the key.
        QueryRule::Include(wanted) => names(param).any(|name| wanted.iter().any(|w| *w == name)),
        QueryRule::Exclude(ignored) => !names(param).all(|name| ignored.iter().any(|i| *i == name)),
    }
}
