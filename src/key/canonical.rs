//! The canonical form of a key: its parts in order, each with its length, so that different lists of parts
//! never have the same bytes.
//!
//! Owns: the order and framing of parts. A change of either changes every stored key: increment [`FORMAT`]
//! with it. Never touches: which parts count (`policy`, `field_kinds`).

use xxhash_rust::xxh3::{Xxh3, xxh3_128, xxh3_128_with_seed};

use crate::key::field_kinds::{self, FieldLine};
use crate::key::{CacheKey, KeyBuilder, Purpose, Scope};
use crate::policy::{KeyPolicy, Policy, QueryRule};
use crate::semantics::redaction;
use crate::semantics::request::{ListenerKind, ProxyRequest};
use crate::semantics::target::{Scheme, Target, path_equivalence};

/// The version of the format; the first byte of each key.
pub(super) const FORMAT: u8 = 3;

/// The first byte of keys for partial responses.
pub(super) const PARTIAL_FORMAT: u8 = FORMAT | 0x80;

/// The first byte of keys for responses to `HEAD`.
pub(super) const HEAD_FORMAT: u8 = FORMAT | 0x40;

/// The bytes before each member of a list, and after the last.
pub(super) const PLAIN: u8 = 1;
pub(super) const MASKED: u8 = 2;
pub(super) const NAMED: u8 = 3;
pub(super) const END: u8 = 0;

/// Builds `target | listener | separating fields | [excluded secrets] | fields | scope`.
pub(super) fn key(builder: &KeyBuilder, request: &ProxyRequest, policy: &Policy) -> CacheKey {
    let (scope, separating_fields) = field_kinds::scope_and_separating_fields(builder, request, policy);
    let target = &request.target;
    let mut bytes = Vec::with_capacity(96 + target.host().len() + target.path_and_query().len());
    put_target(&mut bytes, builder, target, &policy.key.query);
    let target_id = id_of(&bytes, &policy.key.query);
    // Loopback listeners may reach other destinations than listeners open to other hosts.
    bytes.push(match request.listener {
        ListenerKind::Loopback => 0,
        ListenerKind::Reachable => 1,
    });
    put_separating_fields(&mut bytes, builder, &separating_fields);
    put_excluded_secrets(&mut bytes, builder, request, policy, scope);
    bytes.push(END);
    put_fields(&mut bytes, builder, request, &policy.key);
    put_scope(&mut bytes, scope);
    CacheKey { id: xxh3_128(&bytes), target_id, canonical: bytes.into(), scope }
}

/// A key for other responses than complete ones: the same parts after another first byte.
pub(super) fn with_format(complete: &CacheKey, format: u8) -> CacheKey {
    let mut bytes = complete.canonical.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = format;
    }
    CacheKey { id: xxh3_128(&bytes), canonical: bytes.into(), ..*complete }
}

/// The hash of the target alone, with the query parameters that `rule` includes.
pub(super) fn target_id(builder: &KeyBuilder, target: &Target, rule: &QueryRule) -> u128 {
    let mut bytes = Vec::with_capacity(64 + target.host().len() + target.path_and_query().len());
    put_target(&mut bytes, builder, target, rule);
    id_of(&bytes, rule)
}

/// The hash of the target and its query rule: `/items?id=7` under a rule that excludes `id` is another target
/// than `/items` under one that includes it.
fn id_of(target: &[u8], rule: &QueryRule) -> u128 {
    if *rule == QueryRule::All {
        return xxh3_128(target);
    }
    let (kind, names) = kind_and_names(rule);
    let mut seed = Xxh3::with_seed(kind);
    for name in names {
        seed.update(name.as_bytes());
        seed.update(&[0]);
    }
    xxh3_128_with_seed(target, seed.digest())
}

fn kind_and_names(rule: &QueryRule) -> (u64, &[String]) {
    match rule {
        QueryRule::All => (0, &[]),
        QueryRule::Include(names) => (1, names),
        QueryRule::Exclude(names) => (2, names),
        QueryRule::Sorted(rule) => {
            let (kind, names) = kind_and_names(rule);
            (kind | 4, names)
        }
    }
}

/// The encoded length of a part, the same on every machine.
pub(super) fn length(part: &[u8]) -> [u8; 8] {
    u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes()
}

fn put_target(bytes: &mut Vec<u8>, builder: &KeyBuilder, target: &Target, rule: &QueryRule) {
    bytes.push(FORMAT);
    bytes.push(match target.scheme() {
        Scheme::Http => 0,
        Scheme::Https => 1,
    });
    bytes.extend_from_slice(&target.port().to_le_bytes());
    put(bytes, target.host().as_bytes());
    put_path(bytes, builder, &path_equivalence::normalize(target.path()));
    put_query(bytes, builder, target.query().map(path_equivalence::normalize).as_deref(), rule);
}

/// Writes the parts of a path in order; secret ones are hashed. Different paths never have the same list,
/// because which parts are secret depends on the path alone.
fn put_path(bytes: &mut Vec<u8>, builder: &KeyBuilder, path: &str) {
    let mut at = 0;
    for secret in builder.redactor.secrets_of_path(path) {
        bytes.push(PLAIN);
        put(bytes, path.get(at..secret.start).unwrap_or_default().as_bytes());
        at = secret.end;
        bytes.push(MASKED);
        let secret = path.get(secret).unwrap_or_default();
        bytes.extend_from_slice(&builder.hmac(Purpose::Path, [secret.as_bytes()]));
    }
    bytes.push(PLAIN);
    put(bytes, path.get(at..).unwrap_or_default().as_bytes());
    bytes.push(END);
}

/// Writes the included parameters. A secret one is written as its visible start and the hash of the whole.
fn put_query(bytes: &mut Vec<u8>, builder: &KeyBuilder, query: Option<&str>, rule: &QueryRule) {
    for param in rule.included(query) {
        if builder.redactor.is_secret_param(param) {
            bytes.push(NAMED);
            put(bytes, redaction::shown_start(param).as_bytes());
            bytes.extend_from_slice(&builder.hmac(Purpose::Query, [param.as_bytes()]));
        } else {
            bytes.push(PLAIN);
            put(bytes, param.as_bytes());
        }
    }
    bytes.push(END);
}

/// Writes one HMAC of all separating fields; their values stay hidden.
fn put_separating_fields(bytes: &mut Vec<u8>, builder: &KeyBuilder, fields: &[FieldLine<'_>]) {
    if !fields.is_empty() {
        let parts = fields.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        bytes.push(MASKED);
        bytes.extend_from_slice(&builder.hmac(Purpose::Separators, parts));
    }
}

/// Writes the secret parameters that the query rule excludes. Like credential fields, they count unless the
/// scope is shared or the app has named its user.
fn put_excluded_secrets(
    bytes: &mut Vec<u8>,
    builder: &KeyBuilder,
    request: &ProxyRequest,
    policy: &Policy,
    scope: Scope,
) {
    if matches!(scope, Scope::Shared | Scope::Named(_)) {
        return;
    }
    let mut excluded = policy
        .key
        .query
        .excluded(request.target.query())
        .filter(|param| builder.redactor.is_secret_param(param))
        .peekable();
    if excluded.peek().is_some() {
        bytes.push(MASKED);
        bytes.extend_from_slice(&builder.hmac(Purpose::Query, excluded.map(str::as_bytes)));
    }
}

fn put_fields(bytes: &mut Vec<u8>, builder: &KeyBuilder, request: &ProxyRequest, rule: &KeyPolicy) {
    for name in &rule.headers {
        put(bytes, name.as_str().as_bytes());
        for value in request.headers.get_all(name) {
            if builder.is_credential(name) || builder.contains_secret(value) {
                bytes.push(MASKED);
                let parts = [name.as_str().as_bytes(), value.as_bytes()];
                bytes.extend_from_slice(&builder.hmac(Purpose::Value, parts));
            } else {
                bytes.push(PLAIN);
                put(bytes, value.as_bytes());
            }
        }
        bytes.push(END);
    }
}

fn put_scope(bytes: &mut Vec<u8>, scope: Scope) {
    match scope {
        Scope::Shared => bytes.push(0),
        Scope::Anonymous => bytes.push(1),
        Scope::Credential(hmac) => {
            bytes.push(2);
            bytes.extend_from_slice(&hmac);
        }
        Scope::Named(hmac) => {
            bytes.push(3);
            bytes.extend_from_slice(&hmac);
        }
    }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&length(part));
    bytes.extend_from_slice(part);
}
