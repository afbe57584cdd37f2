//! Mounts: requests that clients send to larder itself, below an upstream's path, instead of through
//! a proxy.
//!
//! Owns: which path leads to which origin. Never touches: what is asked there; what tells a web page
//! from a program (`page`).

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::config::{Mount, Upstream};
use crate::frontend::web_page::{self, FOREIGN_PAGE, FetchMetadata, WebPage};
use crate::semantics::request::ListenerKind;
use crate::semantics::target::{Scheme, Target};
use crate::telemetry::problem::Problem;
use crate::upstream::egress_policy;

const NOT_LARDERS: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "ask a mount by larder's address, as localhost, or by one of mount.allow_hosts",
    "http_request_denied",
);

/// What a request is aimed at, and which page of another site asks, if one does that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountTarget {
    /// The target.
    pub target: Target,
    /// The page's origin.
    pub page: Option<HeaderValue>,
    /// A browser asks below a mount.
    pub in_browser: bool,
}

impl From<Target> for MountTarget {
    fn from(target: Target) -> Self {
        Self { target, page: None, in_browser: false }
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

    /// What a request in origin form means; `None`: it is below no mount. What a host reaches is also
    /// reached by the pages in its browsers: they may not bring a `Host` that somebody else's DNS
    /// answers with larder's address (RFC 9110 §7.4), and no page of another site may ask at all unless it
    /// is named.
    pub fn find(
        &self,
        path_and_query: &str,
        asking: FetchMetadata<'_>,
        listener: ListenerKind,
        is_local: impl FnOnce() -> bool,
    ) -> Option<Result<MountTarget, Problem>> {
        let (mount, rest) = self.below(path_and_query)?;
        let is_near = || listener == ListenerKind::Loopback || is_local();
        let in_browser = asking.shows_a_browser();
        let is_ours = if in_browser || is_near() {
            asking.names_this_host(&mount.allow_hosts)
        } else {
            // A program of another host, or a page that makes its browser look like one.
            !mount.guarded || asking.names_a_neighbour(&mount.allow_hosts)
        };
        if !is_ours {
            return Some(Err(NOT_LARDERS));
        }
        let page = match asking.page(
            &mount.allow_origins,
            mount.guarded,
            asking.own_origin().as_deref(),
        ) {
            WebPage::None => None,
            WebPage::Named(origin) => Some(origin),
            WebPage::Foreign => return Some(Err(FOREIGN_PAGE)),
        };
        Some(Ok(MountTarget { target: led(mount, rest)?, page, in_browser }))
    }

    /// The URL that a URL below a mount stands for, as a request for it would be sent on: one of a larder
    /// with these listeners, called by its address, as localhost or by a name in `allow_hosts`. `None`: it
    /// stands for itself.
    pub fn stands_for(&self, url: &Target, listeners: &[SocketAddr]) -> Option<Target> {
        // TLS is spoken with larder inside tunnels alone.
        if url.scheme() != Scheme::Http {
            return None;
        }
        let (mount, rest) = self.below(url.path_and_query())?;
        let (host, port) = (url.host(), url.port());
        let here = || listeners.iter().any(|own| own.port() == port);
        let is_own = match web_page::address(host) {
            Some(address) => egress_policy::is_one_of(listeners, address, port),
            None => web_page::is_localhost(host) && here(),
        };
        let is_own = is_own || mount.allow_hosts.iter().any(|allowed| **allowed == *host);
        if is_own { led(mount, rest) } else { None }
    }

    /// The mount that a path is below, and what follows it.
    fn below<'p>(&self, path_and_query: &'p str) -> Option<(&Mount, &'p str)> {
        self.mounts.iter().find_map(|mount| {
            let rest = path_and_query.strip_prefix(&*mount.path)?;
            (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((mount, rest))
        })
    }
}

/// Where a mount leads with this path and query behind it.
fn led(mount: &Mount, rest: &str) -> Option<Target> {
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
            guarded: false,
        };
        let mut mounts = vec![mount("/a", "a.example"), mount("/a/b", "b.example")];
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Mounts { mounts }
    }

    fn found(path: &str, host: &str, listener: ListenerKind) -> Option<String> {
        let host = HeaderValue::from_str(host).unwrap();
        let asking = FetchMetadata { fields: &HeaderMap::new(), host: Some(&host) };
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
                found(path, "127.0.0.1:8080", ListenerKind::Loopback).as_deref(),
                target,
                "{path}"
            );
        }
    }

    #[test]
    fn a_url_of_larders_own_below_a_mount_stands_for_where_that_leads() {
        let mut mounts = mounts();
        mounts.mounts[1].allow_hosts = vec!["larder.internal".into()];
        let listeners = ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:8081".parse().unwrap()];
        for (url, stands_for) in [
            ("http://127.0.0.1:8080/a/c?x=1", Some("https://a.example/c?x=1")),
            ("http://localhost:8080/a", Some("https://a.example/")),
            ("http://w.localhost:8081/a/b/c", Some("https://b.example/c")),
            ("http://127.0.0.1:8081/a/c", Some("https://a.example/c")),
            ("http://larder.internal/a/c", Some("https://a.example/c")),
            ("http://larder.internal:18080/a/c", Some("https://a.example/c")),
            // This mount does not allow the name.
            ("http://larder.internal/a/b/c", None),
            // Below no mount, of another scheme, another port, another host.
            ("http://127.0.0.1:8080/c", None),
            ("http://127.0.0.1:8080/ab", None),
            ("https://127.0.0.1:8080/a/c", None),
            ("http://localhost/a/c", None),
            ("http://127.0.0.1:9901/a/c", None),
            ("http://127.0.0.2:8080/a/c", None),
            ("http://192.0.2.1:8081/a/c", None),
            ("http://other.example:8080/a/c", None),
        ] {
            let found = mounts.stands_for(&Target::absolute(url).unwrap(), &listeners);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), stands_for, "{url}");
        }
    }

    #[test]
    fn no_page_reaches_a_mount_of_this_host_by_a_name_of_its_own() {
        assert_eq!(
            found("/a", "evil.example", ListenerKind::Loopback).as_deref(),
            Some("misdirected")
        );
        let target = found("/a", "localhost", ListenerKind::Loopback);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // Other hosts name it as they like: `access` says who they are.
        let target = found("/a", "larder:8080", ListenerKind::Reachable);
        assert_eq!(target.as_deref(), Some("https://a.example/"));
        // A page in a browser on this host finds the other listeners too.
        let (fields, host) = (HeaderMap::new(), HeaderValue::from_static("evil.example"));
        let asking = FetchMetadata { fields: &fields, host: Some(&host) };
        let found = mounts().find("/a", asking, ListenerKind::Reachable, || true);
        assert!(found.unwrap().is_err());
    }

    #[test]
    fn no_browser_of_another_host_reaches_a_mount_by_a_name_of_its_own() {
        let mut mounts = mounts();
        mounts.mounts[0].allow_hosts = vec!["larder.internal".into()];
        let refused = |guarded: bool, host: &str, said: (&'static str, &'static str)| {
            let mut mounts = mounts.clone();
            mounts.mounts[0].guarded = guarded;
            let mut fields = HeaderMap::new();
            fields.insert(said.0, HeaderValue::from_static(said.1));
            let host = HeaderValue::from_str(host).unwrap();
            let asking = FetchMetadata { fields: &fields, host: Some(&host) };
            let found = mounts.find("/a/b", asking, ListenerKind::Reachable, || false).unwrap();
            found.is_err_and(|problem| problem.class == NOT_LARDERS.class)
        };
        let node = ("user-agent", "node");
        for said in [
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
                assert_eq!(refused(false, host, said), is_refused, "{host} {said:?}");
                assert_eq!(refused(true, host, said), is_refused, "{host} {said:?}");
            }
        }
        // A program's own names, but that where a credential is at stake nobody on the internet has one.
        assert!(!refused(false, "larder.team.example:8080", node));
        assert!(refused(true, "larder.team.example:8080", node));
        assert!(!refused(true, "larder:8080", node));
        assert!(!refused(true, "larder.internal:8080", node));
    }
}
