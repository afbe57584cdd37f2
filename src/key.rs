//! Cache keys: from a request and a policy to the key and the scope of its response.
//!
//! Owns: which fields are credentials, the framing of key parts, scopes. Credentials and secret query values
//! enter a key only as HMACs. Never touches: stored responses, configuration files.

mod canonical;
mod credential;
pub mod decode;
mod explain;
mod field_kinds;
mod ignored_fields;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;
use xxhash_rust::xxh3::Xxh3;

use crate::policy::{Policy, QueryRule};
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::semantics::vary::{VARIANT_SECRET_LEN, VariantId, VariantSecret, VaryFields};

/// The users that share a stored response (configuration: `scope`). Part of every key, so every lookup
/// specifies a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All clients share one response, by the operator's consent.
    Shared,
    /// A request without credentials on a per-credential route: the rules of a shared cache.
    Anonymous,
    /// The user with these credentials (their HMAC): the rules of a private cache.
    Credential([u8; 16]),
    /// The user that the app named (HMAC of the name): the rules of a private cache.
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

    /// The kind of cache whose rules apply to this scope (RFC 9111 §1).
    pub fn cache_kind(self) -> CacheKind {
        if self.is_private() { CacheKind::Private } else { CacheKind::Shared }
    }

    /// The token for logs and `check`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Anonymous => "anonymous",
            Self::Credential(_) => "credential",
            Self::Named(_) => "named",
        }
    }
}

/// The primary cache key: an id for lookups, and the canonical form that is compared on every match.
#[derive(Clone)]
pub struct CacheKey {
    id: u128,
    target_id: u128,
    canonical: Arc<[u8]>,
    scope: Scope,
}

impl CacheKey {
    /// The hash of the canonical form. Two keys with the same id are not always equal: compare the keys.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// A hash of the target under the query rule of the key's policy ([`KeyBuilder::target_id`]). It is the same in all scopes
    /// and for all listeners, so that an unsafe method can invalidate all responses of its target (RFC 9111
    /// §4.4).
    pub fn target_id(&self) -> u128 {
        self.target_id
    }

    /// All parts, length-framed. Contains no credential and no secret of the URL.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The approximate size in memory, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.canonical.len()
    }

    /// A hash of target and scope: the same for requests that differ only in request fields.
    pub fn target_and_scope_id(&self) -> u128 {
        let (kind, id) = match self.scope {
            Scope::Shared => (0, [0; 16]),
            Scope::Anonymous => (1, [0; 16]),
            Scope::Credential(id) => (2, id),
            Scope::Named(id) => (3, id),
        };
        let mut hash = Xxh3::new();
        hash.update(&self.target_id.to_be_bytes());
        hash.update(&[kind]);
        hash.update(&id);
        hash.digest128()
    }

    /// The scope of the response.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The key for partial responses (RFC 9111 §3.4) of this key. It differs from the key of the complete
    /// response, so that a lookup of that never finds a partial one. The target is the same, so that an
    /// invalidation applies to both.
    #[must_use]
    pub fn for_partial(&self) -> Self {
        canonical::with_format(self, canonical::PARTIAL_FORMAT)
    }

    /// Whether it is a [key for partial responses](Self::for_partial).
    pub fn is_for_partial(&self) -> bool {
        self.canonical.first() == Some(&canonical::PARTIAL_FORMAT)
    }

    /// The key for the responses to `HEAD` of this key. They have no body, so that a lookup for `GET` must never
    /// find one. The target is the same.
    #[must_use]
    pub fn for_head(&self) -> Self {
        canonical::with_format(self, canonical::HEAD_FORMAT)
    }

    /// Whether it is a [key for responses to `HEAD`](Self::for_head).
    pub fn is_for_head(&self) -> bool {
        self.canonical.first() == Some(&canonical::HEAD_FORMAT)
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

/// Prints only the id and the kind of scope: the canonical form contains hosts, paths and user data.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({:032x}, {})", self.id, self.scope.token())
    }
}

/// Whether a field is a credential by its name, without configuration.
pub fn is_credential_by_name(name: &HeaderName) -> bool {
    credential::is_built_in(name)
}

/// Whether a field can make an origin respond for another resource than the requested one.
pub fn rewrites_the_target(name: &HeaderName) -> bool {
    ignored_fields::rewrites_the_target(name)
}

/// Builds cache keys: the secret of the HMACs, and the rules for secrets in requests.
///
/// ```
/// # use http::{HeaderValue, header::AUTHORIZATION};
/// use larder::key::{KeyBuilder, Scope};
/// use larder::policy::Policy;
/// use larder::semantics::{redaction::Redactor, request::ProxyRequest, target::Target};
///
/// let builder = KeyBuilder::new([7; 32], &[], Redactor::default());
/// let key = |credential: &'static str| {
///     let target = Target::absolute("http://api.example/me").unwrap();
///     let mut request = ProxyRequest::get(target);
///     request.headers.insert(AUTHORIZATION, HeaderValue::from_static(credential));
///     builder.key(&request, &Policy::origin())
/// };
/// assert_eq!(key("Bearer a"), key("Bearer a"));
/// assert_ne!(key("Bearer a"), key("Bearer b"), "each user has responses of its own");
/// assert!(matches!(key("Bearer a").scope(), Scope::Credential(_)));
/// ```
#[derive(Clone)]
pub struct KeyBuilder {
    mac: Hmac<Sha256>,
    variants: VariantSecret,
    credential_headers: Vec<HeaderName>,
    redactor: Redactor,
}

impl KeyBuilder {
    /// A builder with this HMAC secret. `credential_headers` are further credentials; `redactor` specifies
    /// which parts of a URL are secret.
    #[expect(clippy::missing_panics_doc, reason = "an HMAC takes a key of any length")]
    pub fn new(secret: [u8; 32], credential_headers: &[HeaderName], redactor: Redactor) -> Self {
        let mac = Hmac::new_from_slice(&secret).expect("an HMAC takes a key of any length");
        let variants = VariantSecret::new(expanded(&mac));
        Self { mac, variants, credential_headers: credential_headers.to_vec(), redactor }
    }

    /// The redactor, which specifies the secret parts of a URL.
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

    /// The key of `request` under `policy`. The method is not part of it: HEAD uses the response of GET.
    pub fn key(&self, request: &ProxyRequest, policy: &Policy) -> CacheKey {
        canonical::key(self, request, policy)
    }

    /// The id that the keys of all responses of `target` have in common, in all scopes, if their policy has
    /// the query rule `rule`. Query parameters that the rule excludes do not change the id. The ids of
    /// different rules always differ.
    pub fn target_id(&self, target: &Target, rule: &QueryRule) -> u128 {
        canonical::target_id(self, target, rule)
    }

    /// The HMAC of a credential's value; `None` if the field is not a credential.
    pub fn mask(&self, name: &HeaderName, value: &[u8]) -> Option<[u8; 16]> {
        self.is_credential(name).then(|| self.hmac(Purpose::Value, [name.as_str().as_bytes(), value]))
    }

    /// The variant that `request` selects among those by `fields` (`Vary`).
    pub fn variant(&self, fields: &VaryFields, request: &HeaderMap) -> VariantId {
        fields.variant(request, &self.variants, &|name, value| self.mask(name, value))
    }

    /// Whether a field value contains a secret, such as a URL with a token.
    fn contains_secret(&self, value: &http::HeaderValue) -> bool {
        self.redactor.has_secret(&String::from_utf8_lossy(value.as_bytes()))
    }

    /// The identity of the API user that sends `request`: the HMAC of all its credentials, including
    /// credentials in query parameters; zero: no credentials. Used for rate limits that an origin applies per
    /// user. If the request has an API key or `Authorization`, only those count: session cookies and tokens
    /// may change with every call and do not change the identity.
    pub fn api_user(&self, request: &ProxyRequest) -> u128 {
        let lasting = field_kinds::lasting(self, &request.headers);
        if let Scope::Credential(fields) = self.scope_of(lasting) {
            return u128::from_be_bytes(fields);
        }
        let params = QueryRule::All.included(request.target.query());
        let secret: Vec<_> = params.filter(|param| self.redactor.is_credential_param(param)).collect();
        match (self.scope_of(field_kinds::credentials(self, &request.headers)), secret.as_slice()) {
            (Scope::Credential(fields), []) => u128::from_be_bytes(fields),
            (Scope::Credential(fields), params) => self.user_id_of(&fields, params),
            (_, []) => 0,
            (_, params) => self.user_id_of(&[], params),
        }
    }

    /// The identity of the client that sends `request`: the HMAC of every field by which an API could tell users
    /// apart, and of those that the policy names for the key. Without a credential in a field, or with a secret in the URL, the whole target counts too. Other
    /// than for [`KeyBuilder::api_user`], two requests of one user may differ.
    pub fn client(&self, request: &ProxyRequest, policy: &Policy) -> u128 {
        let fields = field_kinds::distinguishing(self, &request.headers, policy);
        let target = &request.target;
        let mut params = QueryRule::All.included(target.query());
        let has_credential = !field_kinds::lasting(self, &request.headers).is_empty();
        let counts = !has_credential
            || params.any(|param| self.redactor.is_secret_param(param))
            || !self.redactor.secrets_of_path(target.path()).is_empty();
        let target = counts.then_some(target.path_and_query().as_bytes());
        let fields = fields.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        u128::from_be_bytes(self.hmac(Purpose::Client, fields.chain(target)))
    }

    fn user_id_of(&self, fields: &[u8], params: &[&str]) -> u128 {
        let parts = std::iter::once(fields).chain(params.iter().map(|param| param.as_bytes()));
        u128::from_be_bytes(self.hmac(Purpose::ApiUser, parts))
    }

    /// The parts of the key of `request`. Secrets are named, their values are never shown.
    pub fn explain(&self, request: &ProxyRequest, policy: &Policy) -> Vec<(String, String)> {
        explain::parts(self, request, policy)
    }

    /// HMAC-SHA256 over length-framed parts, truncated to 128 bits. The purpose separates the HMACs: that of
    /// a user name never equals that of a credential.
    fn hmac<'a>(&self, purpose: Purpose, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
        hmac(&self.mac, purpose, parts)
    }
}

fn hmac<'a>(mac: &Hmac<Sha256>, purpose: Purpose, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut mac = mac.clone();
    mac.update(&[purpose as u8]);
    for part in parts {
        mac.update(&canonical::length(part));
        mac.update(part);
    }
    let bytes: [u8; 32] = mac.finalize().into_bytes().into();
    let mut truncated = [0; 16];
    truncated.copy_from_slice(bytes.split_at(16).0);
    truncated
}

/// Derives the secret for variants, of the required length.
fn expanded(mac: &Hmac<Sha256>) -> [u8; VARIANT_SECRET_LEN] {
    let mut bytes = [0; VARIANT_SECRET_LEN];
    for (piece, n) in bytes.chunks_mut(16).zip(0_u8..) {
        piece.copy_from_slice(&hmac(mac, Purpose::Variants, [&[n][..]]));
    }
    bytes
}

/// Prints no secret: neither the HMAC key nor anything derived from it.
impl fmt::Debug for KeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder")
            .field("credential_headers", &self.credential_headers)
            .field("redactor", &self.redactor)
            .finish_non_exhaustive()
    }
}

/// The purpose of an HMAC.
#[derive(Clone, Copy)]
enum Purpose {
    Credentials = 1,
    Name = 2,
    Value = 3,
    Query = 4,
    ApiUser = 5,
    Separators = 6,
    Path = 7,
    Variants = 8,
    Client = 9,
}

#[cfg(test)]
mod tests;
