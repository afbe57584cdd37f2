//! A human-readable description of a key, for `check --explain`.
//!
//! Owns: the text of each part. Credentials and secret parameters are named, their values are never shown.
//! Never touches: the bytes of a key (`canonical`).

use crate::key::{KeyBuilder, Scope};
use crate::policy::{Policy, ScopeRule};
use crate::semantics::redaction::HIDDEN;
use crate::semantics::request::{ListenerKind, ProxyRequest};

/// The visible form of each part of the key, in the key's order.
pub(super) fn parts(builder: &KeyBuilder, request: &ProxyRequest, policy: &Policy) -> Vec<(String, String)> {
    let target = &request.target;
    let listener = match request.listener {
        ListenerKind::Loopback => "loopback",
        ListenerKind::Reachable => "reachable by other hosts",
    };
    let mut parts = vec![
        ("scheme".to_owned(), target.scheme().as_str().to_owned()),
        ("host".to_owned(), target.host().to_owned()),
        ("port".to_owned(), target.port().to_string()),
        ("path".to_owned(), builder.redactor.path(target.path()).into_owned()),
        ("query".to_owned(), query_shown(builder, request, policy)),
        ("listener".to_owned(), listener.to_owned()),
    ];
    let mut separating_fields: Vec<&str> =
        builder.separating_fields(request, policy).into_iter().map(|(name, _)| name.as_str()).collect();
    separating_fields.dedup();
    if !separating_fields.is_empty() {
        parts.push(("separators".to_owned(), separating_fields.join(", ")));
    }
    let scope = builder.scope(request, &policy.scope);
    if matches!(scope, Scope::Anonymous | Scope::Credential(_)) {
        let excluded = policy.key.query.excluded(request.target.query());
        let secret = excluded.filter(|param| builder.redactor.is_secret_param(param));
        let shown: Vec<_> = secret.map(|param| builder.redactor.param(param)).collect();
        if !shown.is_empty() {
            parts.push(("credentials".to_owned(), format!("{}, regardless of key.query", shown.join("&"))));
        }
    }
    for name in &policy.key.headers {
        let values = request.headers.get_all(name).iter();
        let shown: Vec<_> = if builder.is_credential(name) {
            values.map(|_| HIDDEN.into()).collect()
        } else {
            let text = |value| {
                let hidden = builder.contains_secret(value);
                if hidden { HIDDEN.into() } else { String::from_utf8_lossy(value.as_bytes()) }
            };
            values.map(text).collect()
        };
        let shown = if shown.is_empty() { "(absent)".to_owned() } else { shown.join(", ") };
        parts.push((format!("field {name}"), shown));
    }
    parts.push(("scope".to_owned(), scope_shown(builder, request, policy)));
    parts
}

fn query_shown(builder: &KeyBuilder, request: &ProxyRequest, policy: &Policy) -> String {
    let counted = policy.key.query.included(request.target.query());
    let shown: Vec<_> = counted.map(|param| builder.redactor.param(param)).collect();
    if shown.is_empty() { "(none)".to_owned() } else { shown.join("&") }
}

fn scope_shown(builder: &KeyBuilder, request: &ProxyRequest, policy: &Policy) -> String {
    let scope = builder.scope(request, &policy.scope);
    let names = match (scope, &policy.scope) {
        (Scope::Shared | Scope::Anonymous, _) => return scope.token().to_owned(),
        (Scope::Named(_), ScopeRule::Header(name)) => vec![name],
        (Scope::Named(_) | Scope::Credential(_), _) => builder.credentials(&request.headers),
    };
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    format!("{} by {}", scope.token(), names.join(", "))
}
