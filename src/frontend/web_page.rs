//! Web pages that ask a mount, or an origin to which larder shows a credential of its own: a browser on this
//! host, or on one that may use larder, runs what any site wrote, and larder would spend that credential
//! for it.
//!
//! Owns: who may ask by what a browser says of a page (Fetch Metadata, `Origin`, `Referer`) and by the `Host`
//! it was led here by. Never touches: which mount is meant; what such a page is told (`proxy::cors`).

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ORIGIN, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::config::Upstream;
use crate::semantics::target::{Target, authority};
use crate::telemetry::problem::Problem;
use crate::upstream::routing::UpstreamTable;

/// A page, of another site or of what a mount leads to.
pub const FOREIGN_PAGE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "a page may not use this mount (Origin, Referer, Sec-Fetch-Site, or a browser's User-Agent without them): mount.allow_origins names those that may; a program names itself otherwise than a browser",
    "http_request_denied",
);

/// A page of another site, through the proxy.
const FOREIGN_SPENDER: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "a page of another site may not have larder's credential shown for it (Origin, Referer, Sec-Fetch-*, a browser's User-Agent without them): credential.allow_origins names those that may",
    "http_request_denied",
);

/// Which pages may have larder show its own credentials for them through the proxy.
#[derive(Debug, Clone)]
pub struct PageCredentialRules(UpstreamTable);

impl PageCredentialRules {
    /// Those that `upstreams` name.
    pub fn new(upstreams: &[Arc<Upstream>]) -> Self {
        Self(UpstreamTable::new(upstreams.to_vec()))
    }

    /// Whether a request with these fields may go to `target`.
    pub fn admit(&self, target: &Target, fields: &HeaderMap) -> Result<(), Problem> {
        let Some(credential) = self.0.credential(target) else { return Ok(()) };
        let own = format!("{}://{}", target.scheme().as_str(), target.authority());
        let asking = FetchMetadata { fields, host: None };
        match asking.page(&credential.allow_origins, true, Some(&own)) {
            WebPage::Foreign => Err(FOREIGN_SPENDER),
            WebPage::None | WebPage::Named(_) => Ok(()),
        }
    }
}

/// What a browser says of the page that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebPage {
    /// Nothing, or that it is one of the origin itself: a program, the address bar.
    None,
    /// It is of another site, and let in: its origin.
    Named(HeaderValue),
    /// It is of another site.
    Foreign,
}

/// What a request below a mount says of where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct FetchMetadata<'a> {
    /// Its fields without `Host`.
    pub fields: &'a HeaderMap,
    /// Its `Host`.
    pub host: Option<&'a HeaderValue>,
}

impl FetchMetadata<'_> {
    /// Whether `Host` is an address, `localhost` or one of `allowed`: no name that somebody's DNS
    /// answers with the address of this host (DNS rebinding).
    pub fn names_this_host(&self, allowed: &[Box<str>]) -> bool {
        // No browser leaves it out.
        self.host.is_none() || self.host().is_some_and(|host| is_name_of_this_host(&host, allowed))
    }

    /// Whether `Host` may also be a name without a dot, as one network's own DNS gives it (`larder` in
    /// Docker Compose): nobody on the internet has one.
    pub fn names_a_neighbour(&self, allowed: &[Box<str>]) -> bool {
        self.names_this_host(allowed)
            || self.host().is_some_and(|host| !host.contains(['.', ':', '[']))
    }

    /// The origin that a browser takes this larder for: a document that a mount has shown is not of it
    /// (`proxy::browser` confines those), so who asks as one of it is the user's own.
    pub fn own_origin(&self) -> Option<String> {
        Some(format!("http://{}", self.host?.to_str().ok()?))
    }

    fn host(&self) -> Option<String> {
        let host = self.host?.to_str().ok()?;
        authority::split(host).ok().map(|(host, _port)| host)
    }

    /// Whether a browser shows: by its name, or by what it says of a page. Node's `fetch` gives itself away
    /// as none.
    pub fn shows_a_browser(&self) -> bool {
        let says = |name| self.fields.contains_key(name);
        self.is_named_as_a_browser()
            || says(ORIGIN)
            || says(REFERER)
            || self.fetch_site(false).is_some()
    }

    fn is_named_as_a_browser(&self) -> bool {
        self.agent().is_some_and(|agent| agent.starts_with(b"Mozilla/"))
    }

    fn agent(&self) -> Option<&[u8]> {
        self.fields.get(USER_AGENT).map(HeaderValue::as_bytes)
    }

    /// The page that asks, as a browser tells of it; `allowed`: the origins that are let in. Programs that
    /// are no browsers say nothing of the kind. `guarded`: a credential is at stake, and a browser that says
    /// nothing at all of a page is not believed. `own`: the origin whose pages may ask themselves.
    pub fn page(&self, allowed: &[Box<str>], guarded: bool, own: Option<&str>) -> WebPage {
        let mut origins = self.fields.get_all(ORIGIN).iter();
        let (origin, more) = (origins.next(), origins.next().is_some());
        if more {
            return WebPage::Foreign;
        }
        // A browser says none for images and links; a page can leave the referrer out, and forge neither.
        let referrer = self.fields.get(REFERER);
        if let Some(named) = named(origin, referrer, allowed) {
            return WebPage::Named(named);
        }
        let foreign = match (self.fetch_site(own.is_some()), origin) {
            (_, Some(origin)) if !is_of(origin, own) => true,
            (Some(own_site), _) => !own_site,
            (None, Some(_)) => false,
            (None, None) => self.is_of_a_foreign_browser(referrer, guarded, own),
        };
        if foreign { WebPage::Foreign } else { WebPage::None }
    }

    /// Whether a browser says of its request that no other site has caused it; `None`: it says nothing.
    /// Node's `fetch` names a mode, and itself; a browser that names one names the site, too.
    /// `has_own`: there may be a page of the same origin.
    fn fetch_site(&self, has_own: bool) -> Option<bool> {
        let mut metadata =
            self.fields.keys().filter(|name| name.as_str().starts_with("sec-fetch-"));
        metadata.next()?;
        let mut sites = self.fields.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes);
        let first = sites.next();
        if first.is_none() && self.agent().is_some() && !self.is_named_as_a_browser() {
            return None;
        }
        let is_harmless = |site| site == b"none" || (has_own && site == b"same-origin");
        let all = first.into_iter().chain(sites);
        Some(first.is_some() && { all }.all(is_harmless))
    }

    /// A browser sends no metadata to an address that it does not trust to be this host's (0.0.0.0,
    /// 192.168.0.1), nor through a proxy to `http://`: there the page's own address is what is left. A
    /// program may send a `Referer` of its own, as APIs ask for.
    fn is_of_a_foreign_browser(
        &self,
        referrer: Option<&HeaderValue>,
        guarded: bool,
        own: Option<&str>,
    ) -> bool {
        self.is_named_as_a_browser() && referrer.map_or(guarded, |page| !is_of(page, own))
    }
}

/// Whether a page is of the origin `own`, by its URL or its origin: scheme, host and port.
fn is_of(page: &HeaderValue, own: Option<&str>) -> bool {
    let (Some(own), Ok(page)) = (own, page.to_str()) else { return false };
    let same = page.get(..own.len()).is_some_and(|start| start.eq_ignore_ascii_case(own));
    let rest = page.get(own.len()..).unwrap_or_default();
    same && (rest.is_empty() || rest.starts_with(['/', '?']))
}

fn is_name_of_this_host(host: &str, allowed: &[Box<str>]) -> bool {
    is_localhost(host)
        || address(host).is_some_and(is_written_plainly)
        || allowed.iter().any(|allowed| **allowed == *host)
}

/// Whether a host is `localhost`, or below it: names that no DNS is asked for.
pub(super) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// The address that a host is written as; `None`: it is a name.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// No address that leads to this host though it does not look so: there browsers say nothing of a page.
fn is_written_plainly(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    !address.is_unspecified() && !mapped
}

/// Which of `allowed` a page is of, by its `Origin`, or its `Referer` where there is no other word.
fn named(
    origin: Option<&HeaderValue>,
    referrer: Option<&HeaderValue>,
    allowed: &[Box<str>],
) -> Option<HeaderValue> {
    let said = origin.or(referrer)?.to_str().ok()?;
    let is = |one: &str| {
        let same = said.get(..one.len()).is_some_and(|start| start.eq_ignore_ascii_case(one));
        let rest = said.get(one.len()..).unwrap_or_default();
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
        let asking = FetchMetadata { fields: &map, host: None };
        let is_foreign = |own| asking.page(&allowed, true, own) == WebPage::Foreign;
        // Who is foreign to an origin is foreign where there is none.
        assert!(is_foreign(None) || !is_foreign(Some(OWN)), "{fields:?}");
        is_foreign(Some(OWN))
    }

    #[test]
    fn what_a_browser_says_of_a_page_of_another_site_is_believed() {
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
            // A program's word for itself; a browser's word for a page.
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
    fn those_that_are_named_may_ask_and_no_others() {
        let named = ["http://localhost:3000"];
        let from =
            |origin| foreign(&[("sec-fetch-site", "cross-site"), ("origin", origin)], &named);
        assert!(!from("http://localhost:3000"));
        for other in ["http://localhost:3001", "https://localhost:3000", "null"] {
            assert!(from(other), "{other}");
        }
        // Without an Origin its referrer says which site it is, or nothing does.
        let cross = ("sec-fetch-site", "cross-site");
        assert!(foreign(&[cross], &named));
        assert!(!foreign(&[cross, ("referer", "http://localhost:3000/x")], &named));
        for other in
            ["http://localhost:30000/", "http://localhost:3000.evil.example/", "https://x/"]
        {
            assert!(foreign(&[cross, ("referer", other)], &named), "{other}");
        }
        // What an Origin says is not what a referrer may say better.
        let both = [("origin", "null"), ("referer", "http://localhost:3000/x")];
        assert!(foreign(&both, &named));
    }

    #[test]
    fn a_host_is_an_address_or_localhost_or_named() {
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
            let asking = FetchMetadata { fields: &HeaderMap::new(), host: Some(&host) };
            assert_eq!(
                asking.names_this_host(&["host.docker.internal".into()]),
                is_this,
                "{host:?}"
            );
        }
    }
}
