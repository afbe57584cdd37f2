//! Mounts: requests that clients send to larder itself, below an upstream's path, instead of through
//! a proxy.
//!
//! Owns: which path leads to which origin, and that no web page gets there by a name of its own.
//! Never touches: what is asked there.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::account::problem::Problem;
use crate::config::{Mount, Upstream};
use crate::semantics::asked::Listener;
use crate::semantics::target::{Target, authority};

const NOT_LARDERS: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "ask a mount on this host by larder's address or as localhost",
    "http_request_denied",
);

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

    /// What a request in origin form means; `None`: it is below no mount. A listener that only this
    /// host reaches is also reached by the pages in its browsers: they may not bring a `Host` that
    /// somebody else's DNS answers with 127.0.0.1.
    pub fn find(
        &self,
        path_and_query: &str,
        host: Option<&HeaderValue>,
        listener: Listener,
    ) -> Option<Result<Target, Problem>> {
        let (mount, rest) = self.mounts.iter().find_map(|mount| {
            let rest = path_and_query.strip_prefix(&*mount.path)?;
            (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((mount, rest))
        })?;
        if listener == Listener::Loopback && !host.is_some_and(names_this_host) {
            return Some(Err(NOT_LARDERS));
        }
        let base = Target::with_authority(mount.scheme, &mount.host, rest).ok()?;
        let port = mount.port.unwrap_or_else(|| mount.scheme.default_port());
        Some(Ok(base.with_origin(mount.scheme, base.host(), port)))
    }
}

fn names_this_host(host: &HeaderValue) -> bool {
    let Some((host, _)) = host.to_str().ok().and_then(|host| authority::split(host).ok()) else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::target::Scheme;

    fn mounts() -> Mounts {
        let mount = |path: &str, host: &str| Mount {
            path: path.into(),
            scheme: Scheme::Https,
            host: host.into(),
            port: None,
        };
        let mut mounts = vec![mount("/a", "a.example"), mount("/a/b", "b.example")];
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Mounts { mounts }
    }

    fn found(path: &str, host: &str, listener: Listener) -> Option<String> {
        let host = HeaderValue::from_str(host).unwrap();
        let found = mounts().find(path, Some(&host), listener)?;
        Some(found.map_or_else(|problem| problem.class.to_owned(), |target| target.to_string()))
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
        for host in ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example:8080", "a@b", ""] {
            assert_eq!(
                found("/a", host, Listener::Loopback).as_deref(),
                Some("misdirected"),
                "{host}"
            );
        }
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"] {
            let target = found("/a", host, Listener::Loopback);
            assert_eq!(target.as_deref(), Some("https://a.example/"), "{host}");
        }
        // Other hosts name it as they like: `access` says who they are.
        let target = found("/a", "larder:8080", Listener::Reachable);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
    }
}
