//! What a route matches: host, method, path, fields and query parameters of a request.
//!
//! Owns: how one pattern matches, and when one pattern leaves nothing for another.
//! Never touches: the order of routes (`table`), what a route does.

pub mod host;
pub mod path;

use std::fmt;

use http::{HeaderName, Method};

pub use crate::route::pattern::host::HostPattern;
pub use crate::route::pattern::path::PathPattern;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::{Target, path_equivalence};

/// Which requests a route is for. All parts must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Which hosts.
    pub host: HostPattern,
    /// Which methods; `GET` also means `HEAD` (RFC 9110 §9.3.2: the same answer without its body).
    pub methods: Vec<Method>,
    /// Which paths, matched as they were sent.
    pub path: PathPattern,
    /// Fields that must be there.
    pub headers: Vec<FieldMatch>,
    /// Query parameters that must be there.
    pub query: Vec<QueryMatch>,
}

/// A field that a request must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMatch {
    /// Its name.
    pub name: HeaderName,
    /// What one of its lines must be.
    pub value: ValueMatch,
}

/// A query parameter that a request must carry. Both sides are compared decoded, so that no other
/// spelling of a parameter slips past its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, decoded.
    pub name: String,
    /// What one of its values must be.
    pub value: ValueMatch,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Anything.
    Present,
    /// Exactly this.
    Is(String),
}

impl Pattern {
    /// Whether `asked` is one of the requests.
    pub fn matches(&self, asked: &ProxyRequest) -> bool {
        self.matches_at(asked, &path_equivalence::normal(asked.target.path()))
    }

    /// The same, with the target's path taken out once for many patterns, in its normal spelling.
    pub(crate) fn matches_at(&self, asked: &ProxyRequest, path: &str) -> bool {
        let target = &asked.target;
        self.path.matches_normal(path)
            && self.has_method(&asked.method)
            && self.host.matches(target.host(), target.port())
            && self.headers.iter().all(|field| field.matches(asked))
            && self.query.iter().all(|param| param.matches(target.query()))
    }

    /// Whether it may match a `GET` for `target`, given the right fields and parameters.
    pub fn reaches(&self, target: &Target) -> bool {
        self.has_method(&Method::GET)
            && self.host.matches(target.host(), target.port())
            && self.path.matches(target.path())
    }

    /// Whether every request that `other` matches is matched by `self` too. A `false` may be wrong,
    /// a `true` may not: it says that a later route can never be reached.
    pub fn covers(&self, other: &Self) -> bool {
        self.host.covers(&other.host)
            && other.methods.iter().all(|method| self.has_method(method))
            && self.path.covers(&other.path)
            && self.headers.iter().all(|field| {
                other.headers.iter().any(|o| field.name == o.name && field.value.covers(&o.value))
            })
            && self.query.iter().all(|param| {
                other.query.iter().any(|o| param.name == o.name && param.value.covers(&o.value))
            })
    }

    fn has_method(&self, method: &Method) -> bool {
        self.methods
            .iter()
            .any(|ours| ours == method || (*ours == Method::GET && *method == Method::HEAD))
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
    fn matches(&self, asked: &ProxyRequest) -> bool {
        let mut lines = asked.headers.get_all(&self.name).iter();
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
        spells(name, &self.name)
            && match &self.value {
                ValueMatch::Present => true,
                ValueMatch::Is(wanted) => spells(value, wanted),
            }
    }
}

impl ValueMatch {
    fn covers(&self, other: &Self) -> bool {
        *self == Self::Present || self == other
    }
}

/// Whether `written`, percent-encoded as in a query, means `meant`.
fn spells(written: &str, meant: &str) -> bool {
    let spaced = written.bytes().map(|byte| if byte == b'+' { b' ' } else { byte });
    if !written.contains('%') {
        return spaced.eq(meant.bytes());
    }
    let spaced: Vec<u8> = spaced.collect();
    percent_encoding::percent_decode(&spaced).eq(meant.bytes())
}

#[cfg(test)]
mod tests;
