//! Mounts: requests that clients send to larder itself, below an upstream's path, instead of through
//! a proxy.
//!
//! Owns: which path leads to which origin. Never touches: what is asked there; what tells a web page
//! from a program (`page`).

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::account::problem::Problem;
use crate::config::{Mount, Upstream};
use crate::front::page::{Asking, FOREIGN_PAGE, Page};
use crate::semantics::asked::Listener;
use crate::semantics::target::Target;

const NOT_LARDERS: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "ask a mount on this host by larder's address, as localhost, or by one of mount.allow_hosts",
    "http_request_denied",
);

/// What a request is aimed at, and which page of another site asks, if one does that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    /// The target.
    pub target: Target,
    /// The page's origin.
    pub page: Option<HeaderValue>,
}

impl From<Target> for Meant {
    fn from(target: Target) -> Self {
        Self { target, page: None }
    }
}

/// The mounts of all upstreams.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// The longest path first.
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Those of `upstreams`.
    pub fn new(upstreams: &[Arc<Upstream>]) -> Self {
        let mut mounts: Vec<_> = upstreams.iter().filter_map(|one| one.mount.clone()).collect();
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Self { mounts }
    }

    /// What a request in origin form means; `None`: it is below no mount. What this host reaches is
    /// also reached by the pages in its browsers: they may not bring a `Host` that somebody else's DNS
    /// answers with its address, and no page of another site may ask at all unless it is named.
    pub fn find(
        &self,
        path_and_query: &str,
        asking: Asking<'_>,
        listener: Listener,
        is_local: impl FnOnce() -> bool,
    ) -> Option<Result<Meant, Problem>> {
        let (mount, rest) = self.mounts.iter().find_map(|mount| {
            let rest = path_and_query.strip_prefix(&*mount.path)?;
            (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((mount, rest))
        })?;
        let local = listener == Listener::Loopback || is_local();
        if local && !asking.names_this_host(&mount.allow_hosts) {
            return Some(Err(NOT_LARDERS));
        }
        let page = match asking.page(&mount.allow_origins, mount.guarded) {
            Page::None => None,
            Page::Named(origin) => Some(origin),
            Page::Foreign => return Some(Err(FOREIGN_PAGE)),
        };
        let base = Target::with_authority(mount.scheme, &mount.host, rest).ok()?;
        let port = mount.port.unwrap_or_else(|| mount.scheme.default_port());
        let target = base.with_origin(mount.scheme, base.host(), port);
        Some(Ok(Meant { target, page }))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::semantics::target::Scheme;

    fn mounts() -> Mounts {
        let mount = |path: &str, host: &str| Mount {
            path: path.into(),
            scheme: Scheme::Https,
            host: host.into(),
            port: None,
            allow_hosts: vec![],
            allow_origins: vec![],
            guarded: false,
        };
        let mut mounts = vec![mount("/a", "a.example"), mount("/a/b", "b.example")];
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Mounts { mounts }
    }

    fn found(path: &str, host: &str, listener: Listener) -> Option<String> {
        let host = HeaderValue::from_str(host).unwrap();
        let asking = Asking { fields: &HeaderMap::new(), host: Some(&host) };
        let found = mounts().find(path, asking, listener, || false)?;
        Some(
            found.map_or_else(|problem| problem.class.to_owned(), |meant| meant.target.to_string()),
        )
    }

    #[test]
    fn the_longest_mount_takes_what_is_below_it() {
        for (path, target) in [
            ("/a", Some("https://a.example/")),
            ("/a/", Some("https://a.example/")),
            ("/a?x=1", Some("https://a.example/?x=1")),
            ("/a/c/d?x=1", Some("https://a.example/c/d?x=1")),
            ("/a/b/c", Some("https://b.example/c")),
            ("/a/bc", Some("https://a.example/bc")),
            // No other origin can be named by what follows.
            ("/a//evil.example/x", Some("https://a.example//evil.example/x")),
            ("/a/../b", Some("https://a.example/../b")),
            ("/ab", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(
                found(path, "127.0.0.1:8080", Listener::Loopback).as_deref(),
                target,
                "{path}"
            );
        }
    }

    #[test]
    fn no_page_reaches_a_mount_of_this_host_by_a_name_of_its_own() {
        assert_eq!(found("/a", "evil.example", Listener::Loopback).as_deref(), Some("misdirected"));
        let target = found("/a", "localhost", Listener::Loopback);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // Other hosts name it as they like: `access` says who they are.
        let target = found("/a", "larder:8080", Listener::Reachable);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // A page in a browser on this host finds the other listeners too.
        let (fields, host) = (HeaderMap::new(), HeaderValue::from_static("evil.example"));
        let asking = Asking { fields: &fields, host: Some(&host) };
        let found = mounts().find("/a", asking, Listener::Reachable, || true);
        assert!(found.unwrap().is_err());
    }
}
