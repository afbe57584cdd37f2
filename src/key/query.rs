//! Query parameters as key parts: which count.
//!
//! Owns: what a rule leaves out. Names are compared as `semantics::query` reads them; what enters a key
//! stays as it was sent.
//! Never touches: framing (`canonical`), which of them are secret (`semantics::redaction`).

use crate::policy::QueryRule;
use crate::semantics::query::names;

/// The parameters of `query` that `rule` counts, in their order.
pub(super) fn counted<'q>(
    query: Option<&'q str>,
    rule: &QueryRule,
) -> impl Iterator<Item = &'q str> {
    let params = query.into_iter().flat_map(|query| query.split('&'));
    params.filter(move |param| counts(param, rule))
}

/// The others.
pub(super) fn left_out<'q>(
    query: Option<&'q str>,
    rule: &QueryRule,
) -> impl Iterator<Item = &'q str> {
    let query = query.filter(|_| *rule != QueryRule::All);
    let params = query.into_iter().flat_map(|query| query.split('&'));
    params.filter(move |param| !counts(param, rule))
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
