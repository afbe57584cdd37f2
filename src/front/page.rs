//! Web pages that ask a mount: a browser on this host, or on one that may use larder, runs what any
//! site wrote, and larder would spend its own credential for it.
//!
//! Owns: who may ask by what a browser says of a page (Fetch Metadata, `Origin`) and by the `Host` it
//! was led here by. Never touches: which mount is meant.

use std::net::IpAddr;

use http::header::{ORIGIN, REFERER};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::account::problem::Problem;
use crate::semantics::target::authority;

/// A page of another site.
pub const FOREIGN_PAGE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "a page of another site may not use this mount: mount.allow_origins names those that may",
    "http_request_denied",
);

/// What a request below a mount says of where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Its fields without `Host`.
    pub fields: &'a HeaderMap,
    /// Its `Host`.
    pub host: Option<&'a HeaderValue>,
}

impl Asking<'_> {
    /// Whether `Host` is an address, `localhost` or one of `allowed`: no name that somebody's DNS
    /// answers with the address of this host (DNS rebinding).
    pub fn names_this_host(&self, allowed: &[Box<str>]) -> bool {
        let Some(host) = self.host.and_then(|host| host.to_str().ok()) else { return false };
        let Ok((host, _port)) = authority::split(host) else { return false };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || address.parse::<IpAddr>().is_ok_and(|address| !address.is_unspecified())
            || allowed.iter().any(|allowed| **allowed == *host)
    }

    /// Whether a browser says that another site's page asks, which is none of `allowed`. Programs that
    /// are no browsers say nothing of the kind.
    pub fn is_foreign_page(&self, allowed: &[Box<str>]) -> bool {
        let mut origins = self.fields.get_all(ORIGIN).iter();
        let (origin, more) = (origins.next(), origins.next().is_some());
        let named = |origin: &HeaderValue| {
            allowed.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
        };
        if more {
            return true;
        }
        if origin.is_some_and(named) {
            return false;
        }
        let site = self.fields.get_all("sec-fetch-site").iter();
        let other_site =
            site.map(HeaderValue::as_bytes).any(|site| !matches!(site, b"none" | b"same-origin"));
        // A browser says neither to an address that it does not trust to be this host's (0.0.0.0,
        // 192.168.0.1): there the page's own address is what is left.
        let page = origin.or_else(|| self.fields.get(REFERER));
        other_site || page.is_some_and(|page| !self.is_own(page))
    }

    /// Whether a page that larder itself has shown is meant: its origin is this `Host`.
    fn is_own(&self, page: &HeaderValue) -> bool {
        let (Some(host), Ok(page)) = (self.host, page.to_str()) else { return false };
        let rest = page.strip_prefix("http://").or_else(|| page.strip_prefix("https://"));
        let authority = rest.and_then(|rest| rest.split('/').next());
        authority.is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(fields: &[(&'static str, &str)], allowed: &[&str]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let host = HeaderValue::from_static("127.0.0.1:8080");
        let allowed: Vec<Box<str>> = allowed.iter().map(|&one| one.into()).collect();
        Asking { fields: &map, host: Some(&host) }.is_foreign_page(&allowed)
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
            (&[("origin", "null")], true),
            (&[("referer", "https://evil.example/x")], true),
            (&[("referer", "http://127.0.0.1:8080/x")], false),
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
        // Without an Origin nobody knows which site it is.
        assert!(foreign(&[("sec-fetch-site", "cross-site")], &named));
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
            ("evil.example", false),
            ("127.0.0.1.nip.io", false),
            ("localhost.evil.example:8080", false),
            ("a@b", false),
            ("", false),
        ] {
            let host = HeaderValue::from_str(host).unwrap();
            let asking = Asking { fields: &HeaderMap::new(), host: Some(&host) };
            assert_eq!(
                asking.names_this_host(&["host.docker.internal".into()]),
                is_this,
                "{host:?}"
            );
        }
    }
}
