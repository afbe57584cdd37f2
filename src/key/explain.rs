//! A key in words, for `check --explain`.
//!
//! Owns: what is shown of each part. Credentials and secret parameters are named, never shown.
//! Never touches: the bytes of a key (`canonical`).

use crate::key::{KeyBuilder, Scope, query};
use crate::policy::{Policy, ScopeRule};
use crate::semantics::redaction::HIDDEN;
use crate::semantics::request::{ListenerKind, ProxyRequest};

/// Each part of the key and what of it may be shown, in the key's order.
pub(super) fn parts(
    ring: &KeyBuilder,
    asked: &ProxyRequest,
    policy: &Policy,
) -> Vec<(String, String)> {
    let target = &asked.target;
    let listener = match asked.listener {
        ListenerKind::Loopback => "loopback",
        ListenerKind::Reachable => "reachable by other hosts",
    };
    let mut parts = vec![
        ("scheme".to_owned(), target.scheme().as_str().to_owned()),
        ("host".to_owned(), target.host().to_owned()),
        ("port".to_owned(), target.port().to_string()),
        ("path".to_owned(), ring.redactor.path(target.path()).into_owned()),
        ("query".to_owned(), query_shown(ring, asked, policy)),
        ("listener".to_owned(), listener.to_owned()),
    ];
    let mut separators: Vec<&str> =
        ring.separators(asked, policy).into_iter().map(|(name, _)| name.as_str()).collect();
    separators.dedup();
    if !separators.is_empty() {
        parts.push(("apart by".to_owned(), separators.join(", ")));
    }
    let scope = ring.scope(asked, &policy.scope);
    if matches!(scope, Scope::Anonymous | Scope::Credential(_)) {
        let left_out = query::left_out(asked.target.query(), &policy.key.query);
        let secret = left_out.filter(|param| ring.redactor.is_secret_param(param));
        let shown: Vec<_> = secret.map(|param| ring.redactor.param(param)).collect();
        if !shown.is_empty() {
            parts.push((
                "credentials".to_owned(),
                format!("{}, whatever key.query says", shown.join("&")),
            ));
        }
    }
    for name in &policy.key.headers {
        let values = asked.headers.get_all(name).iter();
        let shown: Vec<_> = if ring.is_credential(name) {
            values.map(|_| HIDDEN.into()).collect()
        } else {
            let text = |value| {
                let hidden = ring.holds_secret(value);
                if hidden { HIDDEN.into() } else { String::from_utf8_lossy(value.as_bytes()) }
            };
            values.map(text).collect()
        };
        let shown = if shown.is_empty() { "(absent)".to_owned() } else { shown.join(", ") };
        parts.push((format!("field {name}"), shown));
    }
    parts.push(("scope".to_owned(), scope_shown(ring, asked, policy)));
    parts
}

fn query_shown(ring: &KeyBuilder, asked: &ProxyRequest, policy: &Policy) -> String {
    let counted = query::counted(asked.target.query(), &policy.key.query);
    let shown: Vec<_> = counted.map(|param| ring.redactor.param(param)).collect();
    if shown.is_empty() { "(none)".to_owned() } else { shown.join("&") }
}

fn scope_shown(ring: &KeyBuilder, asked: &ProxyRequest, policy: &Policy) -> String {
    let scope = ring.scope(asked, &policy.scope);
    let who = match (scope, &policy.scope) {
        (Scope::Shared | Scope::Anonymous, _) => return scope.token().to_owned(),
        (Scope::Named(_), ScopeRule::Header(name)) => vec![name],
        (Scope::Named(_) | Scope::Credential(_), _) => ring.credentials(&asked.headers),
    };
    let who: Vec<_> = who.iter().map(|name| name.as_str()).collect();
    format!("{} by {}", scope.token(), who.join(", "))
}
