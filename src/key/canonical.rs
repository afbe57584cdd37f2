//! The canonical form of a key: its parts one after the other, each with its length, so that no two
//! different lists of parts have the same bytes.
//!
//! Owns: the order and framing of parts. Changing either makes every stored key another: raise
//! [`FORMAT`] with it.
//! Never touches: what counts (`query`, `credential`).

use xxhash_rust::xxh3::{Xxh3, xxh3_128, xxh3_128_with_seed};

use crate::key::field_kinds::{self, FieldLine};
use crate::key::{CacheKey, KeyBuilder, Purpose, Scope, query};
use crate::policy::{KeyPolicy, Policy, QueryRule};
use crate::semantics::redaction;
use crate::semantics::request::{ListenerKind, ProxyRequest};
use crate::semantics::target::{Scheme, Target, path_equivalence};

/// The version of this form; the first byte of each key.
pub(super) const FORMAT: u8 = 3;

/// The first byte of the keys of parts.
pub(super) const PARTS: u8 = FORMAT | 0x80;

/// Before each member of a list, and after the last.
pub(super) const PLAIN: u8 = 1;
pub(super) const MASKED: u8 = 2;
pub(super) const NAMED: u8 = 3;
pub(super) const END: u8 = 0;

/// `target | listener | [query by rule] | separators | fields | scope`
pub(super) fn key(ring: &KeyBuilder, asked: &ProxyRequest, policy: &Policy) -> CacheKey {
    let (scope, separators) = field_kinds::told_apart(ring, asked, policy);
    let target = &asked.target;
    let mut bytes = Vec::with_capacity(96 + target.host().len() + target.path_and_query().len());
    put_target(&mut bytes, ring, target, &policy.key.query);
    let target_id = id_of(&bytes, &policy.key.query);
    // What one kind of listener may reach, the other may not see.
    bytes.push(match asked.listener {
        ListenerKind::Loopback => 0,
        ListenerKind::Reachable => 1,
    });
    put_separators(&mut bytes, ring, &separators);
    put_left_out(&mut bytes, ring, asked, policy, scope);
    bytes.push(END);
    put_fields(&mut bytes, ring, asked, &policy.key);
    put_scope(&mut bytes, scope);
    CacheKey { id: xxh3_128(&bytes), target_id, canonical: bytes.into(), scope }
}

/// The same parts behind another first byte, which no key of a whole has.
pub(super) fn of_parts(whole: &CacheKey) -> CacheKey {
    let mut bytes = whole.canonical.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = PARTS;
    }
    CacheKey { id: xxh3_128(&bytes), canonical: bytes.into(), ..*whole }
}

/// The hash of what a target is by itself, its query counted by `rule`.
pub(super) fn target_id(ring: &KeyBuilder, target: &Target, rule: &QueryRule) -> u128 {
    let mut bytes = Vec::with_capacity(64 + target.host().len() + target.path_and_query().len());
    put_target(&mut bytes, ring, target, rule);
    id_of(&bytes, rule)
}

/// Under another rule it is another target: `/items?id=7` where `id` does not count is not what `/items` is where
/// it does.
fn id_of(target: &[u8], rule: &QueryRule) -> u128 {
    let (kind, names) = match rule {
        QueryRule::All => return xxh3_128(target),
        QueryRule::Include(names) => (1, names),
        QueryRule::Exclude(names) => (2, names),
    };
    let mut seed = Xxh3::with_seed(kind);
    for name in names {
        seed.update(name.as_bytes());
        seed.update(&[0]);
    }
    xxh3_128_with_seed(target, seed.digest())
}

/// A length as it stands before its part: the same on every machine.
pub(super) fn length(part: &[u8]) -> [u8; 8] {
    u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes()
}

fn put_target(bytes: &mut Vec<u8>, ring: &KeyBuilder, target: &Target, rule: &QueryRule) {
    bytes.push(FORMAT);
    bytes.push(match target.scheme() {
        Scheme::Http => 0,
        Scheme::Https => 1,
    });
    bytes.extend_from_slice(&target.port().to_le_bytes());
    put(bytes, target.host().as_bytes());
    put_path(bytes, ring, &path_equivalence::normal(target.path()));
    put_query(bytes, ring, target.query().map(path_equivalence::normal).as_deref(), rule);
}

/// Its parts in their order, secret ones hashed. Two paths have the same list only if they are the same:
/// the path alone decides which parts are secret.
fn put_path(bytes: &mut Vec<u8>, ring: &KeyBuilder, path: &str) {
    let mut at = 0;
    for secret in ring.redactor.secrets_of_path(path) {
        bytes.push(PLAIN);
        put(bytes, path.get(at..secret.start).unwrap_or_default().as_bytes());
        at = secret.end;
        bytes.push(MASKED);
        let secret = path.get(secret).unwrap_or_default();
        bytes.extend_from_slice(&ring.hmac(Purpose::Path, [secret.as_bytes()]));
    }
    bytes.push(PLAIN);
    put(bytes, path.get(at..).unwrap_or_default().as_bytes());
    bytes.push(END);
}

/// Of a secret parameter the hash of all of it, behind what may be shown.
fn put_query(bytes: &mut Vec<u8>, ring: &KeyBuilder, query: Option<&str>, rule: &QueryRule) {
    for param in query::counted(query, rule) {
        if ring.redactor.is_secret_param(param) {
            bytes.push(NAMED);
            put(bytes, redaction::shown_start(param).as_bytes());
            bytes.extend_from_slice(&ring.hmac(Purpose::Query, [param.as_bytes()]));
        } else {
            bytes.push(PLAIN);
            put(bytes, param.as_bytes());
        }
    }
    bytes.push(END);
}

/// One HMAC for all of them: their values are nobody's to see.
fn put_separators(bytes: &mut Vec<u8>, ring: &KeyBuilder, found: &[FieldLine<'_>]) {
    if !found.is_empty() {
        let parts =
            found.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        bytes.push(MASKED);
        bytes.extend_from_slice(&ring.hmac(Purpose::Separators, parts));
    }
}

/// What a rule leaves out of a query tells no answers apart, but for what is secret: as fields that are, it
/// counts unless the operator has said that all share the answers, or the app has named its user.
fn put_left_out(
    bytes: &mut Vec<u8>,
    ring: &KeyBuilder,
    asked: &ProxyRequest,
    policy: &Policy,
    scope: Scope,
) {
    if matches!(scope, Scope::Shared | Scope::Named(_)) {
        return;
    }
    let mut left_out = query::left_out(asked.target.query(), &policy.key.query)
        .filter(|param| ring.redactor.is_secret_param(param))
        .peekable();
    if left_out.peek().is_some() {
        bytes.push(MASKED);
        bytes.extend_from_slice(&ring.hmac(Purpose::Query, left_out.map(str::as_bytes)));
    }
}

fn put_fields(bytes: &mut Vec<u8>, ring: &KeyBuilder, asked: &ProxyRequest, rule: &KeyPolicy) {
    for name in &rule.headers {
        put(bytes, name.as_str().as_bytes());
        for value in asked.headers.get_all(name) {
            if ring.is_credential(name) || ring.holds_secret(value) {
                bytes.push(MASKED);
                let parts = [name.as_str().as_bytes(), value.as_bytes()];
                bytes.extend_from_slice(&ring.hmac(Purpose::Value, parts));
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
