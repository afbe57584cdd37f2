//! Request × policy → the key it is stored under and whose answer it is.
//!
//! Owns: what counts as a credential, the framing of key parts, scopes. Credentials and secret
//! query values enter a key only as HMACs.
//! Never touches: stored responses, configuration files.

mod canonical;
mod credential;
pub mod decode;
mod explain;
mod field_kinds;
mod ignored_fields;
mod query;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;
use xxhash_rust::xxh3::Xxh3;

use crate::policy::{Policy, QueryRule};
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::semantics::vary::{VARIANT_SECRET, VariantId, VariantSecret, VaryFields};

/// Whose answer it is (product: `scope`). Part of every key, so an answer cannot be looked up
/// without saying whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One answer for all, by the operator's consent.
    Shared,
    /// A request without any credential in a per-credential route: the rules of a shared cache.
    Anonymous,
    /// The holder of these credentials (their HMAC): the rules of a private cache.
    Credential([u8; 16]),
    /// The user the app named (HMAC of the name): the rules of a private cache.
    Named([u8; 16]),
}

impl Scope {
    /// Whether larder is a private cache (RFC 9111 §1) for this scope.
    pub fn is_private(self) -> bool {
        match self {
            Self::Shared | Self::Anonymous => false,
            Self::Credential(_) | Self::Named(_) => true,
        }
    }

    /// Whose rules a cache of this scope follows (RFC 9111 §1).
    pub fn cache_kind(self) -> CacheKind {
        if self.is_private() { CacheKind::Private } else { CacheKind::Shared }
    }

    /// The word for logs and `check`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Anonymous => "anonymous",
            Self::Credential(_) => "credential",
            Self::Named(_) => "named",
        }
    }
}

/// The primary key: an id for look-ups and the canonical form that is compared on every match.
#[derive(Clone)]
pub struct CacheKey {
    id: u128,
    target_id: u128,
    canonical: Arc<[u8]>,
    scope: Scope,
}

impl CacheKey {
    /// The hash of the canonical form. Two keys with one id need not be equal: compare them.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// What [`KeyBuilder::target_id`] says of the target under the key's query rule: one id over all
    /// scopes and listeners, so that an unsafe method can reach every answer of its target
    /// (RFC 9111 §4.4).
    pub fn target_id(&self) -> u128 {
        self.target_id
    }

    /// All parts, length-framed. Holds no credential and no secret of the URL.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.canonical.len()
    }

    /// A hash of target and scope: the same for requests that fields alone tell apart.
    pub fn without_separators(&self) -> u128 {
        let (kind, who) = match self.scope {
            Scope::Shared => (0, [0; 16]),
            Scope::Anonymous => (1, [0; 16]),
            Scope::Credential(who) => (2, who),
            Scope::Named(who) => (3, who),
        };
        let mut hash = Xxh3::new();
        hash.update(&self.target_id.to_be_bytes());
        hash.update(&[kind]);
        hash.update(&who);
        hash.digest128()
    }

    /// Whose answer it is.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The key under which parts of this answer are kept (RFC 9111 §3.4): another key, so that a
    /// look-up for the whole never finds one; the same target, so that what makes the one unusable
    /// makes the other so.
    #[must_use]
    pub fn of_parts(&self) -> Self {
        canonical::of_parts(self)
    }

    /// Whether it is a [key of parts](Self::of_parts).
    pub fn is_of_parts(&self) -> bool {
        self.canonical.first() == Some(&canonical::PARTS)
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.canonical == other.canonical
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.id);
    }
}

/// Only the id and the kind of scope: a canonical form holds hosts, paths and user data.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({:032x}, {})", self.id, self.scope.token())
    }
}

/// Whether a field is a credential by its name alone, whatever the configuration adds.
pub fn is_credential_by_name(name: &HeaderName) -> bool {
    credential::is_built_in(name)
}

/// Whether a field may make an origin answer for another resource than the one that was asked for.
pub fn rewrites_the_target(name: &HeaderName) -> bool {
    ignored_fields::rewrites_the_target(name)
}

/// What makes keys: the secret of the HMACs and what counts as secret.
#[derive(Clone)]
pub struct KeyBuilder {
    mac: Hmac<Sha256>,
    variants: VariantSecret,
    credential_headers: Vec<HeaderName>,
    redactor: Redactor,
}

impl KeyBuilder {
    /// A keyring whose HMACs nobody else can make. `credential_headers` are further credentials;
    /// `redactor` tells which parts of a URL are secret.
    #[expect(clippy::missing_panics_doc, reason = "an HMAC takes a key of any length")]
    pub fn new(secret: [u8; 32], credential_headers: &[HeaderName], redactor: Redactor) -> Self {
        let mac = Hmac::new_from_slice(&secret).expect("an HMAC takes a key of any length");
        let variants = VariantSecret::new(expanded(&mac));
        Self { mac, variants, credential_headers: credential_headers.to_vec(), redactor }
    }

    /// The redactor: which parts of a URL are secret.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Whether a field of this name is a credential.
    pub fn is_credential(&self, name: &HeaderName) -> bool {
        self.credential_headers.contains(name) || credential::is_built_in(name)
    }

    /// The names of the credentials among `headers`, sorted, each once.
    pub fn credentials<'a>(&self, headers: &'a HeaderMap) -> Vec<&'a HeaderName> {
        let mut names: Vec<_> = headers.keys().filter(|name| self.is_credential(name)).collect();
        names.sort_unstable_by_key(|name| name.as_str());
        names
    }

    /// The key of `asked` under `policy`. The method is no part of it: HEAD shares GET's answer.
    pub fn key(&self, asked: &ProxyRequest, policy: &Policy) -> CacheKey {
        canonical::key(self, asked, policy)
    }

    /// The id that the keys of all answers of `target` share whose policy counts its query by
    /// `rule`, in whatever scope. What the rule leaves out tells no two answers apart, so it tells no
    /// two ids of this rule apart either; those of two rules always are.
    pub fn target_id(&self, target: &Target, rule: &QueryRule) -> u128 {
        canonical::target_id(self, target, rule)
    }

    /// The HMAC that stands for a credential's value; `None` when the field is no credential.
    pub fn mask(&self, name: &HeaderName, value: &[u8]) -> Option<[u8; 16]> {
        self.is_credential(name)
            .then(|| self.hmac(Purpose::Value, [name.as_str().as_bytes(), value]))
    }

    /// Which of the variants that `fields` choose `request` asks for.
    pub fn variant(&self, fields: &VaryFields, request: &HeaderMap) -> VariantId {
        fields.variant(request, &self.variants, &|name, value| self.mask(name, value))
    }

    /// Whether a field's value holds a secret, such as a URL with a token in it.
    fn holds_secret(&self, value: &http::HeaderValue) -> bool {
        self.redactor.has_secret(&String::from_utf8_lossy(value.as_bytes()))
    }

    /// Who asks, as an origin sees it: the HMAC of all credentials of `asked`, query parameters that are
    /// some among them; zero: nobody in particular. For limits that an origin keeps for each of its users: where
    /// one shows an API key or `Authorization`, cookies and tokens of a session beside it, which may change with
    /// every call, make nobody else of it.
    pub fn asker(&self, asked: &ProxyRequest) -> u128 {
        let lasting = field_kinds::lasting(self, &asked.headers);
        if let Scope::Credential(fields) = self.scope_of(lasting) {
            return u128::from_be_bytes(fields);
        }
        let params = query::counted(asked.target.query(), &QueryRule::All);
        let secret: Vec<_> =
            params.filter(|param| self.redactor.is_credential_param(param)).collect();
        match (self.scope_of(field_kinds::credentials(self, &asked.headers)), secret.as_slice()) {
            (Scope::Credential(fields), []) => u128::from_be_bytes(fields),
            (Scope::Credential(fields), params) => self.asker_with(&fields, params),
            (_, []) => 0,
            (_, params) => self.asker_with(&[], params),
        }
    }

    fn asker_with(&self, fields: &[u8], params: &[&str]) -> u128 {
        let parts = std::iter::once(fields).chain(params.iter().map(|param| param.as_bytes()));
        u128::from_be_bytes(self.hmac(Purpose::Asker, parts))
    }

    /// What the key of `asked` is made of, part by part. Secrets are named, never shown.
    pub fn explain(&self, asked: &ProxyRequest, policy: &Policy) -> Vec<(String, String)> {
        explain::parts(self, asked, policy)
    }

    /// HMAC-SHA256 over length-framed parts, cut to 128 bits. The purpose keeps a user's name from
    /// ever equalling somebody's credential.
    fn hmac<'a>(&self, purpose: Purpose, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
        hmac(&self.mac, purpose, parts)
    }
}

fn hmac<'a>(
    mac: &Hmac<Sha256>,
    purpose: Purpose,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> [u8; 16] {
    let mut mac = mac.clone();
    mac.update(&[purpose as u8]);
    for part in parts {
        mac.update(&canonical::length(part));
        mac.update(part);
    }
    let bytes: [u8; 32] = mac.finalize().into_bytes().into();
    let mut half = [0; 16];
    half.copy_from_slice(bytes.split_at(16).0);
    half
}

/// The secret of variants: as many bytes as it takes, from one secret.
fn expanded(mac: &Hmac<Sha256>) -> [u8; VARIANT_SECRET] {
    let mut bytes = [0; VARIANT_SECRET];
    for (piece, n) in bytes.chunks_mut(16).zip(0_u8..) {
        piece.copy_from_slice(&hmac(mac, Purpose::Variants, [&[n][..]]));
    }
    bytes
}

/// Prints no secret: neither the key of the HMACs nor anything made with it.
impl fmt::Debug for KeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("credential_headers", &self.credential_headers)
            .field("redactor", &self.redactor)
            .finish_non_exhaustive()
    }
}

/// What an HMAC is for.
#[derive(Clone, Copy)]
enum Purpose {
    Credentials = 1,
    Name = 2,
    Value = 3,
    Query = 4,
    Asker = 5,
    Separators = 6,
    Path = 7,
    Variants = 8,
}

#[cfg(test)]
mod tests;
