//! The meaning of each access path: the URL of its requests, the source of the responses, and the
//! `Cache-Status` that they must have.

use crate::zoo::cases::{Case, Expect, Version};
use crate::zoo::compare::Source;

/// The protocol to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginProtocol {
    /// HTTP/1.1 in the clear.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

impl OriginProtocol {
    /// The HTTP version of the requests to the origin.
    pub fn version(self) -> Version {
        match self {
            Self::Plain | Self::Tls => Version::H1,
            Self::H2 => Version::H2,
        }
    }

    /// The HTTP versions of larder's clients.
    pub fn clients(self) -> &'static [Version] {
        match self {
            Self::Plain => &[Version::H1],
            Self::Tls | Self::H2 => &[Version::H1, Version::H2],
        }
    }
}

/// The path of a request through larder, with the state of the store at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessPath {
    Miss,
    Hit,
    Restarted,
    Revalidated,
    HitAgain,
    RestartedAgain,
    /// No route matches.
    Passed,
}

impl AccessPath {
    /// The path and query of a case. The route matches URLs with `kept` in the query; the rest of the query
    /// makes separate URLs.
    pub fn path(self, case: &Case, version: Version) -> String {
        if self == Self::Passed {
            format!("{}?passed={version:?}", case.path)
        } else {
            format!("{}?kept={version:?}-{}", case.path, case.url_of)
        }
    }

    /// The source of the response.
    pub fn source(self, case: &Case) -> Source {
        let is_first = self == Self::Miss && case.url_of == case.name;
        if self == Self::Passed || is_first { Source::Origin } else { Source::Either }
    }

    /// Whether a case runs on this access path. A large case, or one that its origin takes seconds to cut
    /// (lighttpd: two), runs only on some; a response that is never stored would repeat the same path.
    pub fn includes(self, case: &Case, is_first_version: bool) -> bool {
        let is_cut = case.expect == Expect::Cut;
        let is_short = matches!(self, Self::Miss | Self::Hit | Self::Passed);
        let is_heavy = case.is_heavy() || is_cut;
        !is_heavy || (is_short && is_first_version) || (is_cut && self == Self::Passed)
    }

    /// The contradiction between `Cache-Status` and the access path, if there is one. `if_unchanged` is the
    /// origin's status for a client that already has the response.
    pub fn contradiction(self, case: &Case, if_unchanged: Option<u16>, cache_status: &str) -> Option<String> {
        let is_right = match (self, case.expect) {
            (Self::Passed, _) | (_, Expect::Cut) => !cache_status.contains("; hit"),
            (_, Expect::Same | Expect::NotModified) => true,
            (Self::Miss, Expect::Stored) => cache_status.contains("fwd=") && cache_status.contains("stored"),
            (Self::Revalidated, Expect::Stored) => {
                let status = format!("fwd-status={}", if_unchanged.unwrap_or(200));
                cache_status.contains("fwd=stale") && cache_status.contains(&status)
            }
            (_, Expect::Stored) => cache_status.contains("; hit"),
        };
        (!is_right).then(|| format!("Cache-Status is {cache_status:?}"))
    }
}
