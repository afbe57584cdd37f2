//! What the fields of a request are to its key: whose answer it is, and what else tells it apart.
//!
//! Owns: the one pass over them that every look-up makes. Never touches: names (`credential`, `harmless`), the
//! framing of a key (`canonical`).

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::key::{KeyBuilder, Purpose, Scope, credential, ignored_fields};
use crate::policy::{Policy, ScopeRule};
use crate::semantics::request::ProxyRequest;

/// A field: one line of it.
pub(super) type FieldLine<'a> = (&'a HeaderName, &'a HeaderValue);

/// What a field is.
enum FieldKind {
    /// It tells no two answers apart.
    Harmless,
    /// It names or proves who asks.
    Credential,
    /// A field that is not known to be either.
    Other,
}

impl KeyBuilder {
    /// Whose answer the answer to `asked` is.
    pub fn scope(&self, asked: &ProxyRequest, rule: &ScopeRule) -> Scope {
        match rule {
            ScopeRule::Shared => Scope::Shared,
            ScopeRule::Credential => self.scope_of(credentials(self, &asked.headers)),
            ScopeRule::Header(name) => self
                .scope_of_name(&asked.headers, name)
                .unwrap_or_else(|| self.scope_of(credentials(self, &asked.headers))),
        }
    }

    /// The fields of `asked` that tell its answer apart under `policy` beyond its target, its scope and
    /// what the route counts: all that are not known to be harmless; in a shared scope only those by
    /// which an origin may answer for another resource. Sorted by name.
    pub fn separators<'a>(&self, asked: &'a ProxyRequest, policy: &Policy) -> Vec<FieldLine<'a>> {
        told_apart(self, asked, policy).1
    }

    /// The scope of these credentials.
    pub(super) fn scope_of(&self, found: Vec<FieldLine<'_>>) -> Scope {
        if found.is_empty() {
            return Scope::Anonymous;
        }
        let found = sorted(found);
        let parts =
            found.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        Scope::Credential(self.hmac(Purpose::Credentials, parts))
    }

    /// `None` when the app named nobody: an empty name would put all such requests into one scope.
    fn scope_of_name(&self, headers: &HeaderMap, name: &HeaderName) -> Option<Scope> {
        let values = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let named = values().any(|value| !value.trim_ascii().is_empty());
        named.then(|| Scope::Named(self.hmac(Purpose::Name, values())))
    }

    fn kind(&self, name: &HeaderName) -> FieldKind {
        if *name == AUTHORIZATION || self.credential_headers.contains(name) {
            FieldKind::Credential
        } else if ignored_fields::is_harmless(name) {
            FieldKind::Harmless
        } else if credential::has_telling_name(name) {
            FieldKind::Credential
        } else {
            FieldKind::Other
        }
    }
}

/// [`KeyBuilder::scope`] and [`KeyBuilder::separators`] in one pass.
pub(super) fn told_apart<'a>(
    ring: &KeyBuilder,
    asked: &'a ProxyRequest,
    policy: &Policy,
) -> (Scope, Vec<FieldLine<'a>>) {
    let own = match &policy.scope {
        ScopeRule::Shared => {
            let counts = |name: &HeaderName| {
                ignored_fields::rewrites_the_target(name) && !policy.key.ignored.contains(name)
            };
            let found = asked.headers.iter().filter(|(name, _)| counts(name)).collect();
            return (Scope::Shared, sorted(found));
        }
        ScopeRule::Credential => None,
        ScopeRule::Header(name) => Some(name),
    };
    let (mut credentials, mut others) = (Vec::new(), Vec::new());
    for field @ (name, _) in &asked.headers {
        match ring.kind(name) {
            FieldKind::Harmless => {}
            FieldKind::Credential => credentials.push(field),
            FieldKind::Other if Some(name) == own || policy.key.ignored.contains(name) => {}
            FieldKind::Other => others.push(field),
        }
    }
    let named = own.and_then(|name| ring.scope_of_name(&asked.headers, name));
    (named.unwrap_or_else(|| ring.scope_of(credentials)), sorted(others))
}

/// The credentials among `headers`.
pub(super) fn credentials<'a>(ring: &KeyBuilder, headers: &'a HeaderMap) -> Vec<FieldLine<'a>> {
    headers.iter().filter(|(name, _)| ring.is_credential(name)).collect()
}

/// Those that stay the same for as long as somebody uses an API: `Authorization`, API keys, and what the operator
/// names.
pub(super) fn lasting<'a>(ring: &KeyBuilder, headers: &'a HeaderMap) -> Vec<FieldLine<'a>> {
    let lasts = |name: &HeaderName| {
        *name == AUTHORIZATION
            || ring.credential_headers.contains(name)
            || name.as_str().ends_with("api-key")
            || name.as_str().ends_with("apikey")
    };
    headers.iter().filter(|(name, _)| lasts(name)).collect()
}

/// By name. Stable: the lines of one field keep their order, the order of fields does not matter.
fn sorted(mut fields: Vec<FieldLine<'_>>) -> Vec<FieldLine<'_>> {
    fields.sort_by_key(|(name, _)| name.as_str());
    fields
}
