//! Web pages that send requests to a mount, or to an origin for which larder has a credential. A
//! browser on this host, or on a host that may use larder, runs the code of any site, and larder would
//! use its credential for that code.
//!
//! Owns: which pages may send requests, by the fields of a browser (Fetch Metadata, `Origin`, `Referer`) and
//! by `Host`. Never touches: the choice of the mount; the CORS response fields (`proxy::cors`).

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ORIGIN, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::config::Upstream;
use crate::semantics::target::{Target, authority};
use crate::telemetry::problem::Problem;
use crate::upstream::routing::UpstreamTable;

/// A page of another site, or of content that a mount delivers, uses a mount.
pub const FOREIGN_PAGE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "web pages may not use this mount (detected by Origin, Referer, Sec-Fetch-Site, or a browser's User-Agent without them): list allowed pages in mount.allow_origins; a program must not send a browser's User-Agent",
    "http_request_denied",
);

/// A page of another site uses the proxy for an origin with a credential.
const FOREIGN_CREDENTIAL_USE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "pages of other sites may not use larder's credential (detected by Origin, Referer, Sec-Fetch-*, or a browser's User-Agent without them): list allowed pages in credential.allow_origins",
    "http_request_denied",
);

/// The pages for which larder may use its own credentials through the proxy.
#[derive(Debug, Clone)]
pub struct PageCredentialRules(UpstreamTable);

impl PageCredentialRules {
    /// Takes the rules from `upstreams`.
    pub fn new(upstreams: &[Arc<Upstream>]) -> Self {
        Self(UpstreamTable::new(upstreams.to_vec()))
    }

    /// Checks whether a request with these fields may go to `target`.
    pub fn admit(&self, target: &Target, fields: &HeaderMap) -> Result<(), Problem> {
        let Some(credential) = self.0.credential(target) else { return Ok(()) };
        let own = format!("{}://{}", target.scheme().as_str(), target.authority());
        let metadata = FetchMetadata { fields, host: None };
        match metadata.page(&credential.allow_origins, true, Some(&own)) {
            WebPage::Foreign => Err(FOREIGN_CREDENTIAL_USE),
            WebPage::None | WebPage::Allowed(_) => Ok(()),
        }
    }
}

/// The web page that sends a request, as its browser reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebPage {
    /// No page, or a page of the origin itself: a program, the address bar.
    None,
    /// An allowed page of another site, with its origin.
    Allowed(HeaderValue),
    /// A page of another site.
    Foreign,
}

/// The fields of a request that identify its sender.
#[derive(Debug, Clone, Copy)]
pub struct FetchMetadata<'a> {
    /// All fields except `Host`.
    pub fields: &'a HeaderMap,
    /// `Host`.
    pub host: Option<&'a HeaderValue>,
}

impl FetchMetadata<'_> {
    /// Whether `Host` is an address, `localhost` or one of `allowed`, and not a name that a foreign DNS
    /// server resolves to the address of this host (DNS rebinding).
    pub fn is_addressed_to_this_host(&self, allowed: &[Box<str>]) -> bool {
        // Every browser sends it.
        self.host.is_none() || self.host().is_some_and(|host| is_name_of_this_host(&host, allowed))
    }

    /// Whether `Host` may also be a name without a dot, as the DNS of a private network defines it
    /// (`larder` in Docker Compose): no host on the internet has such a name.
    pub fn is_addressed_by_local_name(&self, allowed: &[Box<str>]) -> bool {
        self.is_addressed_to_this_host(allowed)
            || self.host().is_some_and(|host| !host.contains(['.', ':', '[']))
    }

    /// The origin that a browser assigns to this larder. A document from a mount does not have it
    /// (`proxy::mount_headers` sandboxes those documents), so a page of this origin is the user's own.
    pub fn own_origin(&self) -> Option<String> {
        Some(format!("http://{}", self.host?.to_str().ok()?))
    }

    fn host(&self) -> Option<String> {
        let host = self.host?.to_str().ok()?;
        authority::split(host).ok().map(|(host, _port)| host)
    }

    /// Whether a browser sends the request: by its User-Agent, or by its fields about a page. Node's
    /// `fetch` identifies itself as a program.
    pub fn is_from_browser(&self) -> bool {
        let has = |name| self.fields.contains_key(name);
        self.has_browser_agent() || has(ORIGIN) || has(REFERER) || self.fetch_site(false).is_some()
    }

    fn has_browser_agent(&self) -> bool {
        self.agent().is_some_and(|agent| agent.starts_with(b"Mozilla/"))
    }

    fn agent(&self) -> Option<&[u8]> {
        self.fields.get(USER_AGENT).map(HeaderValue::as_bytes)
    }

    /// The page that sends the request, as its browser reports it. `allowed`: the allowed origins. Programs
    /// that are not browsers send no such fields. `guarded`: a credential is at stake, so a browser that
    /// reports no page at all counts as foreign. `own`: the origin whose pages may send requests to it.
    pub fn page(&self, allowed: &[Box<str>], guarded: bool, own: Option<&str>) -> WebPage {
        let mut origins = self.fields.get_all(ORIGIN).iter();
        let (origin, more) = (origins.next(), origins.next().is_some());
        if more {
            return WebPage::Foreign;
        }
        // A browser sends no `Origin` for images and links. A page can suppress its referrer, but can
        // forge neither.
        let referrer = self.fields.get(REFERER);
        if let Some(page) = allowed_origin(origin, referrer, allowed) {
            return WebPage::Allowed(page);
        }
        let foreign = match (self.fetch_site(own.is_some()), origin) {
            (_, Some(origin)) if !has_origin(origin, own) => true,
            (Some(own_site), _) => !own_site,
            (None, Some(_)) => false,
            (None, None) => self.is_of_a_foreign_browser(referrer, guarded, own),
        };
        if foreign { WebPage::Foreign } else { WebPage::None }
    }

    /// Whether the browser reports that no other site caused the request; `None`: it reports nothing.
    /// Node's `fetch` sends a mode and its own User-Agent; a browser that sends a mode also sends the
    /// site. `has_own`: whether pages of the same origin can exist.
    fn fetch_site(&self, has_own: bool) -> Option<bool> {
        let mut metadata = self.fields.keys().filter(|name| name.as_str().starts_with("sec-fetch-"));
        metadata.next()?;
        let mut sites = self.fields.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes);
        let first = sites.next();
        if first.is_none() && self.agent().is_some() && !self.has_browser_agent() {
            return None;
        }
        let is_own_request = |site| site == b"none" || (has_own && site == b"same-origin");
        let all = first.into_iter().chain(sites);
        Some(first.is_some() && { all }.all(is_own_request))
    }

    /// Whether the page is foreign if there is no metadata. A browser sends none to an address that it
    /// does not trust to be this host's (0.0.0.0, 192.168.0.1), nor through a proxy to `http://`: there
    /// only the referrer remains. A program may send its own `Referer`, as some APIs require.
    fn is_of_a_foreign_browser(
        &self,
        referrer: Option<&HeaderValue>,
        guarded: bool,
        own: Option<&str>,
    ) -> bool {
        self.has_browser_agent() && referrer.map_or(guarded, |page| !has_origin(page, own))
    }
}

/// Whether a page has the origin `own`, by its URL or its origin: scheme, host and port.
fn has_origin(page: &HeaderValue, own: Option<&str>) -> bool {
    let (Some(own), Ok(page)) = (own, page.to_str()) else { return false };
    let same = page.get(..own.len()).is_some_and(|start| start.eq_ignore_ascii_case(own));
    let rest = page.get(own.len()..).unwrap_or_default();
    same && (rest.is_empty() || rest.starts_with(['/', '?']))
}

fn is_name_of_this_host(host: &str, allowed: &[Box<str>]) -> bool {
    is_localhost(host)
        || address(host).is_some_and(is_unambiguous)
        || allowed.iter().any(|allowed| **allowed == *host)
}

/// Whether a host is `localhost`, or below it: names that are not resolved by DNS.
pub(super) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// The address that a host is written as; `None`: it is a name.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether an address visibly is an address of this host: to others that also lead to it, browsers send
/// no metadata.
fn is_unambiguous(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    !address.is_unspecified() && !mapped
}

/// The entry of `allowed` that a page belongs to, by its `Origin`, or by its `Referer` if there is no
/// `Origin`.
fn allowed_origin(
    origin: Option<&HeaderValue>,
    referrer: Option<&HeaderValue>,
    allowed: &[Box<str>],
) -> Option<HeaderValue> {
    let value = origin.or(referrer)?.to_str().ok()?;
    let is = |one: &str| {
        let same = value.get(..one.len()).is_some_and(|start| start.eq_ignore_ascii_case(one));
        let rest = value.get(one.len()..).unwrap_or_default();
        same && (rest.is_empty() || (origin.is_none() && rest.starts_with('/')))
    };
    let one = allowed.iter().find(|one| is(one))?;
    HeaderValue::from_str(one).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

    const OWN: &str = "http://127.0.0.1:8080";

    fn foreign(fields: &[(&'static str, &str)], allowed: &[&str]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let allowed: Vec<Box<str>> = allowed.iter().map(|&one| one.into()).collect();
        let metadata = FetchMetadata { fields: &map, host: None };
        let is_foreign = |own| metadata.page(&allowed, true, own) == WebPage::Foreign;
        // A page that is foreign to an origin is also foreign if there is no such origin.
        assert!(is_foreign(None) || !is_foreign(Some(OWN)), "{fields:?}");
        is_foreign(Some(OWN))
    }

    #[test]
    fn browser_fields_identify_pages_of_other_sites() {
        for (fields, is_foreign) in [
            (&[][..], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8080")], false),
            (&[("origin", "http://127.0.0.1:8080")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "anything")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], true),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "http://127.0.0.1:3000")], true),
            (&[("origin", "http://localhost:8080")], true),
            (&[("origin", "https://127.0.0.1:8080")], true),
            (&[("origin", "http://127.0.0.1:80801")], true),
            (&[("origin", "null")], true),
            // The Referer of a program; the Referer of a browser.
            (&[("referer", "https://evil.example/x")], false),
            (&[("user-agent", BROWSER), ("referer", "https://evil.example/x")], true),
            (&[("user-agent", BROWSER), ("referer", "http://127.0.0.1:8080/x")], false),
            (&[("user-agent", BROWSER)], true),
            (&[("user-agent", BROWSER), ("sec-fetch-site", "none")], false),
            (&[("user-agent", "python-requests/2.32")], false),
            (&[("sec-fetch-site", "same-origin"), ("referer", "https://evil.example/x")], false),
            (&[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], true),
            (&[("sec-fetch-mode", "cors"), ("user-agent", BROWSER)], true),
            // Node's fetch.
            (&[("sec-fetch-mode", "cors"), ("user-agent", "node")], false),
            (&[("origin", "http://127.0.0.1:8080"), ("origin", "https://evil.example")], true),
            (&[("sec-fetch-site", "none"), ("origin", "https://evil.example")], true),
        ] {
            assert_eq!(foreign(fields, &[]), is_foreign, "{fields:?}");
        }
    }

    #[test]
    fn only_allowed_origins_may_send_requests() {
        let allowed = ["http://localhost:3000"];
        let from = |origin| foreign(&[("sec-fetch-site", "cross-site"), ("origin", origin)], &allowed);
        assert!(!from("http://localhost:3000"));
        for other in ["http://localhost:3001", "https://localhost:3000", "null"] {
            assert!(from(other), "{other}");
        }
        // Without an Origin only the referrer identifies the site.
        let cross = ("sec-fetch-site", "cross-site");
        assert!(foreign(&[cross], &allowed));
        assert!(!foreign(&[cross, ("referer", "http://localhost:3000/x")], &allowed));
        for other in ["http://localhost:30000/", "http://localhost:3000.evil.example/", "https://x/"] {
            assert!(foreign(&[cross, ("referer", other)], &allowed), "{other}");
        }
        // A referrer does not override an Origin.
        let both = [("origin", "null"), ("referer", "http://localhost:3000/x")];
        assert!(foreign(&both, &allowed));
    }

    #[test]
    fn host_must_be_an_address_localhost_or_allowed() {
        for (host, is_this) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:1", true),
            ("[::1]:8080", true),
            ("host.docker.internal:8080", true),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("[::ffff:0:0]:8080", false),
            ("[::ffff:7f00:1]:8080", false),
            ("api.localhost:8080", true),
            ("evil.example", false),
            ("127.0.0.1.nip.io", false),
            ("localhost.evil.example:8080", false),
            ("a@b", false),
            ("", false),
        ] {
            let host = HeaderValue::from_str(host).unwrap();
            let metadata = FetchMetadata { fields: &HeaderMap::new(), host: Some(&host) };
            assert_eq!(
                metadata.is_addressed_to_this_host(&["host.docker.internal".into()]),
                is_this,
                "{host:?}"
            );
        }
    }
}
