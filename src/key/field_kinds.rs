//! Classification of request fields for the key: credentials, which determine the scope, and fields that separate
//! requests.
//!
//! Owns: the single pass over the fields for every lookup. Never touches: names (`credential`,
//! `ignored_fields`), the framing of a key (`canonical`).

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::key::{KeyBuilder, Purpose, Scope, credential, ignored_fields};
use crate::policy::{Policy, ScopeRule};
use crate::semantics::request::ProxyRequest;

/// One field line.
pub(super) type FieldLine<'a> = (&'a HeaderName, &'a HeaderValue);

/// The kind of a field.
enum FieldKind {
    /// It does not change the response.
    Harmless,
    /// It identifies or authenticates the user.
    Credential,
    /// Any other field.
    Other,
}

impl KeyBuilder {
    /// The scope of the response to `request`.
    pub fn scope(&self, request: &ProxyRequest, rule: &ScopeRule) -> Scope {
        match rule {
            ScopeRule::Shared => Scope::Shared,
            ScopeRule::Credential => self.scope_of(credentials(self, &request.headers)),
            ScopeRule::Header(name) => self
                .scope_of_name(&request.headers, name)
                .unwrap_or_else(|| self.scope_of(credentials(self, &request.headers))),
        }
    }

    /// The fields of `request` that are part of its key under `policy`, besides target, scope and the fields
    /// that the route names: all that are not known to be harmless; in a shared scope only those by which an
    /// origin may select another resource. Sorted by name.
    pub fn separating_fields<'a>(&self, request: &'a ProxyRequest, policy: &Policy) -> Vec<FieldLine<'a>> {
        scope_and_separating_fields(self, request, policy).1
    }

    /// The scope for these credentials.
    pub(super) fn scope_of(&self, fields: Vec<FieldLine<'_>>) -> Scope {
        if fields.is_empty() {
            return Scope::Anonymous;
        }
        let fields = sorted(fields);
        let parts = fields.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        Scope::Credential(self.hmac(Purpose::Credentials, parts))
    }

    /// `None` if the app named no user: an empty name would put all such requests into one scope.
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
        } else if credential::has_credential_name(name) {
            FieldKind::Credential
        } else {
            FieldKind::Other
        }
    }
}

/// [`KeyBuilder::scope`] and [`KeyBuilder::separating_fields`] in one pass.
pub(super) fn scope_and_separating_fields<'a>(
    builder: &KeyBuilder,
    request: &'a ProxyRequest,
    policy: &Policy,
) -> (Scope, Vec<FieldLine<'a>>) {
    let user_field = match &policy.scope {
        ScopeRule::Shared => {
            let counts = |name: &HeaderName| {
                ignored_fields::rewrites_the_target(name) && !policy.key.ignored.contains(name)
            };
            let fields = request.headers.iter().filter(|(name, _)| counts(name)).collect();
            return (Scope::Shared, sorted(fields));
        }
        ScopeRule::Credential => None,
        ScopeRule::Header(name) => Some(name),
    };
    let (mut credentials, mut others) = (Vec::new(), Vec::new());
    for field @ (name, _) in &request.headers {
        match builder.kind(name) {
            FieldKind::Harmless => {}
            FieldKind::Credential => credentials.push(field),
            FieldKind::Other if Some(name) == user_field || policy.key.ignored.contains(name) => {}
            FieldKind::Other => others.push(field),
        }
    }
    let named = user_field.and_then(|name| builder.scope_of_name(&request.headers, name));
    (named.unwrap_or_else(|| builder.scope_of(credentials)), sorted(others))
}

/// The credentials among `headers`.
pub(super) fn credentials<'a>(builder: &KeyBuilder, headers: &'a HeaderMap) -> Vec<FieldLine<'a>> {
    headers.iter().filter(|(name, _)| builder.is_credential(name)).collect()
}

/// All fields that are not known to be harmless, and those that `policy` names for the key, sorted by name.
pub(super) fn distinguishing<'a>(
    builder: &KeyBuilder,
    headers: &'a HeaderMap,
    policy: &Policy,
) -> Vec<FieldLine<'a>> {
    let counts = |name: &HeaderName| {
        !matches!(builder.kind(name), FieldKind::Harmless) || policy.key.headers.contains(name)
    };
    sorted(headers.iter().filter(|(name, _)| counts(name)).collect())
}

/// The credentials that stay the same while a user uses an API: `Authorization`, API keys, and those that the
/// operator names.
pub(super) fn lasting<'a>(builder: &KeyBuilder, headers: &'a HeaderMap) -> Vec<FieldLine<'a>> {
    let is_lasting = |name: &HeaderName| {
        *name == AUTHORIZATION
            || builder.credential_headers.contains(name)
            || name.as_str().ends_with("api-key")
            || name.as_str().ends_with("apikey")
    };
    headers.iter().filter(|(name, _)| is_lasting(name)).collect()
}

/// Sorts by name. The sort is stable: the lines of one field keep their order, the order of fields does not
/// matter.
fn sorted(mut fields: Vec<FieldLine<'_>>) -> Vec<FieldLine<'_>> {
    fields.sort_by_key(|(name, _)| name.as_str());
    fields
}
