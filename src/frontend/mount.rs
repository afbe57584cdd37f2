//! Mounts: requests that clients send directly to larder, below an upstream's path, instead of through
//! a proxy.
//!
//! Owns: the mapping of paths to origins. Never touches: the requests to these origins; the distinction
//! of web pages and programs (`web_page`).

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::config::{Mount, Upstream};
use crate::frontend::web_page::{self, FOREIGN_PAGE, FetchMetadata, WebPage};
use crate::semantics::mount_location::MountPoint;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::{Scheme, Target};
use crate::telemetry::problem::Problem;
use crate::upstream::connect::egress_policy;

const MISDIRECTED: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "send requests for a mount to larder's address, to localhost, or to one of mount.allow_hosts",
    "http_request_denied",
);

/// The target of a request, and the page of another site that sends it, if such a page is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// The target.
    pub target: Target,
    /// The page's origin.
    pub page: Option<HeaderValue>,
    /// Whether a browser sends the request, and through a mount.
    pub in_browser: bool,
    /// The mount, if the request is below one.
    pub mount: Option<Arc<MountPoint>>,
}

impl From<Target> for ResolvedTarget {
    fn from(target: Target) -> Self {
        Self { target, page: None, in_browser: false, mount: None }
    }
}

/// The mounts of all upstreams.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// Sorted by path length, the longest first.
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Collects the mounts of `upstreams`.
    pub fn new(upstreams: &[Arc<Upstream>]) -> Self {
        let mut mounts: Vec<_> = upstreams.iter().filter_map(|one| one.mount.clone()).collect();
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Self { mounts }
    }

    /// Resolves a request in origin form; `None`: its path is below no mount. The pages in a host's
    /// browsers can reach all that the host can reach. Therefore they may not send a `Host` that a
    /// foreign DNS server resolves to larder's address (RFC 9110 §7.4), and a page of another site is
    /// served only if the configuration names it.
    pub fn find(
        &self,
        path_and_query: &str,
        metadata: FetchMetadata<'_>,
        listener: ListenerKind,
        is_local: impl FnOnce() -> bool,
    ) -> Option<Result<ResolvedTarget, Problem>> {
        let (mount, rest) = self.below(path_and_query)?;
        let is_on_this_host = || listener == ListenerKind::Loopback || is_local();
        let in_browser = metadata.is_from_browser();
        let is_ours = if in_browser || is_on_this_host() {
            metadata.is_addressed_to_this_host(&mount.allow_hosts)
        } else {
            // A program on another host, or a page that makes its browser look like a program.
            !mount.has_credential || metadata.is_addressed_by_local_name(&mount.allow_hosts)
        };
        if !is_ours {
            return Some(Err(MISDIRECTED));
        }
        let page =
            match metadata.page(&mount.allow_origins, mount.has_credential, metadata.own_origin().as_deref())
            {
                WebPage::None => None,
                WebPage::Allowed(origin) => Some(origin),
                WebPage::Foreign => return Some(Err(FOREIGN_PAGE)),
            };
        let target = target_below(mount, rest)?;
        let (path, is_bare) = (mount.path.clone(), !rest.starts_with('/'));
        let mount = Some(Arc::new(MountPoint { path, target: target.clone(), is_bare }));
        Some(Ok(ResolvedTarget { target, page, in_browser, mount }))
    }

    /// The URL that a URL below a mount maps to, as a request for it would be forwarded. The URL must
    /// address a larder with these listeners: by its address, as localhost or by a name in
    /// `allow_hosts`. `None`: the URL does not refer to a mount.
    pub fn resolve_url(&self, url: &Target, listeners: &[SocketAddr]) -> Option<Target> {
        // larder accepts TLS only inside tunnels.
        if url.scheme() != Scheme::Http {
            return None;
        }
        let (mount, rest) = self.below(url.path_and_query())?;
        let (host, port) = (url.host(), url.port());
        let here = || listeners.iter().any(|own| own.port() == port);
        let is_own = match web_page::address(host) {
            Some(address) => egress_policy::reaches_listener(listeners, address, port),
            None => web_page::is_localhost(host) && here(),
        };
        let is_own = is_own || mount.allow_hosts.iter().any(|allowed| **allowed == *host);
        if is_own { target_below(mount, rest) } else { None }
    }

    /// The mount that a path is below, and the rest of the path.
    fn below<'p>(&self, path_and_query: &'p str) -> Option<(&Mount, &'p str)> {
        self.mounts.iter().find_map(|mount| {
            let rest = path_and_query.strip_prefix(&*mount.path)?;
            (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((mount, rest))
        })
    }
}

/// The URL that a mount maps this path and query to.
fn target_below(mount: &Mount, rest: &str) -> Option<Target> {
    let base = Target::with_authority(mount.scheme, &mount.host, rest).ok()?;
    let port = mount.port.unwrap_or_else(|| mount.scheme.default_port());
    Some(base.with_origin(mount.scheme, base.host(), port))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn mounts() -> Mounts {
        let mount = |path: &str, host: &str| Mount {
            path: path.into(),
            scheme: Scheme::Https,
            host: host.into(),
            port: None,
            allow_hosts: vec![],
            allow_origins: vec![],
            has_credential: false,
        };
        let mut mounts = vec![mount("/a", "a.example"), mount("/a/b", "b.example")];
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Mounts { mounts }
    }

    fn found(path: &str, host: &str, listener: ListenerKind) -> Option<String> {
        let host = HeaderValue::from_str(host).unwrap();
        let metadata = FetchMetadata { fields: &HeaderMap::new(), host: Some(&host) };
        let found = mounts().find(path, metadata, listener, || false)?;
        Some(found.map_or_else(
            |problem| problem.class.to_owned(),
            |resolved_target| resolved_target.target.to_string(),
        ))
    }

    #[test]
    fn the_longest_matching_mount_is_used() {
        for (path, target) in [
            ("/a", Some("https://a.example/")),
            ("/a/", Some("https://a.example/")),
            ("/a?x=1", Some("https://a.example/?x=1")),
            ("/a/c/d?x=1", Some("https://a.example/c/d?x=1")),
            ("/a/b/c", Some("https://b.example/c")),
            ("/a/bc", Some("https://a.example/bc")),
            // The rest of the path cannot name another origin.
            ("/a//evil.example/x", Some("https://a.example//evil.example/x")),
            ("/a/../b", Some("https://a.example/../b")),
            ("/ab", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(found(path, "127.0.0.1:8080", ListenerKind::Loopback).as_deref(), target, "{path}");
        }
    }

    #[test]
    fn a_mount_url_resolves_to_its_upstream_url() {
        let mut mounts = mounts();
        mounts.mounts[1].allow_hosts = vec!["larder.internal".into()];
        let listeners = ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:8081".parse().unwrap()];
        for (url, expected) in [
            ("http://127.0.0.1:8080/a/c?x=1", Some("https://a.example/c?x=1")),
            ("http://localhost:8080/a", Some("https://a.example/")),
            ("http://w.localhost:8081/a/b/c", Some("https://b.example/c")),
            ("http://127.0.0.1:8081/a/c", Some("https://a.example/c")),
            ("http://larder.internal/a/c", Some("https://a.example/c")),
            ("http://larder.internal:18080/a/c", Some("https://a.example/c")),
            // This mount does not allow the name.
            ("http://larder.internal/a/b/c", None),
            // Below no mount, or with another scheme, port or host.
            ("http://127.0.0.1:8080/c", None),
            ("http://127.0.0.1:8080/ab", None),
            ("https://127.0.0.1:8080/a/c", None),
            ("http://localhost/a/c", None),
            ("http://127.0.0.1:9901/a/c", None),
            ("http://127.0.0.2:8080/a/c", None),
            ("http://192.0.2.1:8081/a/c", None),
            ("http://other.example:8080/a/c", None),
        ] {
            let found = mounts.resolve_url(&Target::absolute(url).unwrap(), &listeners);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_page_cannot_reach_a_local_mount_by_its_own_host_name() {
        assert_eq!(found("/a", "evil.example", ListenerKind::Loopback).as_deref(), Some("misdirected"));
        let target = found("/a", "localhost", ListenerKind::Loopback);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // Other hosts may use any name: `access` controls which clients may connect.
        let target = found("/a", "larder:8080", ListenerKind::Reachable);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // A page in a browser on this host also reaches the other listeners.
        let (fields, host) = (HeaderMap::new(), HeaderValue::from_static("evil.example"));
        let metadata = FetchMetadata { fields: &fields, host: Some(&host) };
        let found = mounts().find("/a", metadata, ListenerKind::Reachable, || true);
        assert!(found.unwrap().is_err());
    }

    #[test]
    fn a_remote_browser_cannot_reach_a_mount_by_its_own_host_name() {
        let mut mounts = mounts();
        mounts.mounts[0].allow_hosts = vec!["larder.internal".into()];
        let refused = |guarded: bool, host: &str, field: (&'static str, &'static str)| {
            let mut mounts = mounts.clone();
            mounts.mounts[0].has_credential = guarded;
            let mut fields = HeaderMap::new();
            fields.insert(field.0, HeaderValue::from_static(field.1));
            let host = HeaderValue::from_str(host).unwrap();
            let metadata = FetchMetadata { fields: &fields, host: Some(&host) };
            let found = mounts.find("/a/b", metadata, ListenerKind::Reachable, || false).unwrap();
            found.is_err_and(|problem| problem.class == MISDIRECTED.class)
        };
        let node = ("user-agent", "node");
        for field in [
            ("user-agent", "Mozilla/5.0 (X11) Firefox/140.0"),
            ("origin", "http://evil.example:8080"),
            ("referer", "http://evil.example:8080/page"),
            ("sec-fetch-site", "same-origin"),
        ] {
            for (host, is_refused) in [
                ("evil.example:8080", true),
                ("larder:8080", true),
                ("192.0.2.7:8080", false),
                ("larder.internal:8080", false),
            ] {
                assert_eq!(refused(false, host, field), is_refused, "{host} {field:?}");
                assert_eq!(refused(true, host, field), is_refused, "{host} {field:?}");
            }
        }
        // A program may use any name, but where a credential is at stake only one that no internet host has.
        assert!(!refused(false, "larder.team.example:8080", node));
        assert!(refused(true, "larder.team.example:8080", node));
        assert!(!refused(true, "larder:8080", node));
        assert!(!refused(true, "larder.internal:8080", node));
    }
}
