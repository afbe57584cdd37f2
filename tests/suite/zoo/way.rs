//! What is meant by each way: under which URL it asks, who answers, and what `Cache-Status` then says.

use crate::zoo::cases::{Case, Expect, Version};
use crate::zoo::compare::By;

/// How an origin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 in the clear.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

impl Speaks {
    /// The version that the origin is asked in.
    pub fn version(self) -> Version {
        match self {
            Self::Plain | Self::Tls => Version::H1,
            Self::H2 => Version::H2,
        }
    }

    /// The versions of larder's clients.
    pub fn clients(self) -> &'static [Version] {
        match self {
            Self::Plain => &[Version::H1],
            Self::Tls | Self::H2 => &[Version::H1, Version::H2],
        }
    }
}

/// How a request goes through larder, and what is stored by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Miss,
    Hit,
    Restarted,
    Revalidated,
    HitAgain,
    RestartedAgain,
    /// No route matches.
    Passed,
}

impl Way {
    /// Routes match what has `kept` in its query; the rest of the query makes URLs of their own.
    pub fn path(self, case: &Case, version: Version) -> String {
        if self == Self::Passed {
            format!("{}?passed={version:?}", case.path)
        } else {
            format!("{}?kept={version:?}-{}", case.path, case.url_of)
        }
    }

    /// Who answers.
    pub fn by(self, case: &Case) -> By {
        let is_first = self == Self::Miss && case.url_of == case.name;
        if self == Self::Passed || is_first { By::Origin } else { By::Either }
    }

    /// Whether a case goes this way. What is large, or what its origin takes seconds to cut (lighttpd:
    /// two), does not go every way; what is never stored would go the same way again.
    pub fn is_gone(self, case: &Case, is_first_version: bool) -> bool {
        let is_cut = case.expect == Expect::Cut;
        let is_short = matches!(self, Self::Miss | Self::Hit | Self::Passed);
        let is_heavy = case.is_heavy() || is_cut;
        !is_heavy || (is_short && is_first_version) || (is_cut && self == Self::Passed)
    }

    /// How `Cache-Status` contradicts the way, if it does; `if_unchanged` is the origin's status for a
    /// client that has the response already.
    pub fn contradicts(self, case: &Case, if_unchanged: Option<u16>, said: &str) -> Option<String> {
        let is_right = match (self, case.expect) {
            (Self::Passed, _) | (_, Expect::Cut) => !said.contains("; hit"),
            (_, Expect::Same | Expect::NotModified) => true,
            (Self::Miss, Expect::Stored) => said.contains("fwd=") && said.contains("stored"),
            (Self::Revalidated, Expect::Stored) => {
                let status = format!("fwd-status={}", if_unchanged.unwrap_or(200));
                said.contains("fwd=stale") && said.contains(&status)
            }
            (_, Expect::Stored) => said.contains("; hit"),
        };
        (!is_right).then(|| format!("Cache-Status is {said:?}"))
    }
}
