//! The pattern of a route: host, method, path, fields and query parameters of a request.
//!
//! Owns: matching of one pattern, and when one pattern covers another.
//! Never touches: the order of routes (`table`), policies.

pub mod host;
pub mod path;

use std::fmt;

use http::{HeaderName, Method};

pub use crate::route::pattern::host::HostPattern;
pub use crate::route::pattern::path::PathPattern;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::{Target, path_equivalence};

/// The requests of a route. All parts must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The hosts.
    pub host: HostPattern,
    /// The methods; `GET` also matches `HEAD` (RFC 9110 §9.3.2: the same response without its body).
    pub methods: Vec<Method>,
    /// The paths, matched as they were sent.
    pub path: PathPattern,
    /// Required request fields.
    pub headers: Vec<FieldMatch>,
    /// Required query parameters.
    pub query: Vec<QueryMatch>,
}

/// A required request field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMatch {
    /// Its name.
    pub name: HeaderName,
    /// The value that one of its lines must have.
    pub value: ValueMatch,
}

/// A required query parameter. Both sides are compared decoded, so that a different encoding of a parameter
/// matches too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, decoded.
    pub name: String,
    /// The value that one of its occurrences must have.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Any value.
    Present,
    /// Exactly this value.
    Is(String),
}

impl Pattern {
    /// Whether `request` matches.
    pub fn matches(&self, request: &ProxyRequest) -> bool {
        self.matches_at(request, &path_equivalence::normalize(request.target.path()))
    }

    /// The same with the normalized path of the target, computed once for many patterns.
    pub(crate) fn matches_at(&self, request: &ProxyRequest, path: &str) -> bool {
        let target = &request.target;
        self.path.matches_normal(path)
            && self.has_method(&request.method)
            && self.host.matches(target.host(), target.port())
            && self.headers.iter().all(|field| field.matches(request))
            && self.query.iter().all(|param| param.matches(target.query()))
    }

    /// Whether it can match a `GET` for `target`, given the right fields and parameters.
    pub fn reaches(&self, target: &Target) -> bool {
        self.has_method(&Method::GET)
            && self.host.matches(target.host(), target.port())
            && self.path.matches(target.path())
    }

    /// Whether `self` matches every request that `other` matches. `false` may be wrong, `true` never is: it
    /// means that a later route never matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.host.covers(&other.host)
            && other.methods.iter().all(|method| self.has_method(method))
            && self.path.covers(&other.path)
            && self.headers.iter().all(|field| {
                other.headers.iter().any(|o| field.name == o.name && field.value.covers(&o.value))
            })
            && self
                .query
                .iter()
                .all(|param| other.query.iter().any(|o| param.name == o.name && param.value.covers(&o.value)))
    }

    fn has_method(&self, method: &Method) -> bool {
        self.methods.iter().any(|ours| ours == method || (*ours == Method::GET && *method == Method::HEAD))
    }
}

/// `GET api.example/users/{id} [x-version: 2] [?full]`
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.methods.iter().enumerate() {
            write!(f, "{}{method}", if at == 0 { "" } else { "," })?;
        }
        write!(f, " {}{}", self.host, self.path)?;
        for field in &self.headers {
            match &field.value {
                ValueMatch::Present => write!(f, " [{}]", field.name)?,
                ValueMatch::Is(value) => write!(f, " [{}: {value}]", field.name)?,
            }
        }
        for param in &self.query {
            match &param.value {
                ValueMatch::Present => write!(f, " [?{}]", param.name)?,
                ValueMatch::Is(value) => write!(f, " [?{}={value}]", param.name)?,
            }
        }
        Ok(())
    }
}

impl FieldMatch {
    fn matches(&self, request: &ProxyRequest) -> bool {
        let mut lines = request.headers.get_all(&self.name).iter();
        match &self.value {
            ValueMatch::Present => lines.next().is_some(),
            ValueMatch::Is(value) => lines.any(|line| line.as_bytes() == value.as_bytes()),
        }
    }
}

impl QueryMatch {
    fn matches(&self, query: Option<&str>) -> bool {
        query.is_some_and(|query| query.split('&').any(|param| self.is(param)))
    }

    fn is(&self, param: &str) -> bool {
        let (name, value) = param.split_once('=').unwrap_or((param, ""));
        decodes_to(name, &self.name)
            && match &self.value {
                ValueMatch::Present => true,
                ValueMatch::Is(wanted) => decodes_to(value, wanted),
            }
    }
}

impl ValueMatch {
    fn covers(&self, other: &Self) -> bool {
        *self == Self::Present || self == other
    }
}

/// Whether `encoded`, percent-encoded as in a query, decodes to `decoded`.
fn decodes_to(encoded: &str, decoded: &str) -> bool {
    let with_spaces = encoded.bytes().map(|byte| if byte == b'+' { b' ' } else { byte });
    if !encoded.contains('%') {
        return with_spaces.eq(decoded.bytes());
    }
    let with_spaces: Vec<u8> = with_spaces.collect();
    percent_encoding::percent_decode(&with_spaces).eq(decoded.bytes())
}

#[cfg(test)]
mod tests;
