//! Who may ask: nobody whose browser was talked into it.
//!
//! Owns: the check of the authority against DNS rebinding (ADM-03): a name that somebody else's DNS
//! answers with 127.0.0.1 is not larder's. An address is: no DNS was asked for it.
//! Never touches: what is asked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;

use crate::account::problem::Problem;
use crate::admin::refuse;

/// Passes a request on if it names this machine by address or as `localhost`, else answers 421.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if !is_ours(request.uri(), request.headers()) {
        return refuse(&MISDIRECTED);
    }
    next.run(request).await
}

// Both the target and `Host` are looked at: whichever of the two another reader would believe.
fn is_ours(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(names_this_machine)
        && uri.authority().is_none_or(|authority| names_this_machine(authority.as_str()))
}

fn names_this_machine(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let named = host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok();
    named && is_port(port)
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok()
}

const MISDIRECTED: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "ask the admin listener by its address or as localhost",
    "http_request_denied",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(uri: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        is_ours(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn addresses_and_localhost_are_ours_with_any_port() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9901",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9901",
            "localhost",
            "LocalHost:1",
        ] {
            assert!(ours("/metrics", &[host]), "{host}");
        }
    }

    #[test]
    fn adm_03_a_name_that_some_dns_answers_is_not_ours() {
        for host in [
            "evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "",
            "::1",
            "a@localhost",
            "127.0.0.1.",
            "[::1].evil.example",
            "2130706433",
            "127.1",
            "[::1]x:1",
            "localhost:x",
            "[::1",
        ] {
            assert!(!ours("/metrics", &[host]), "{host}");
        }
    }

    #[test]
    fn no_host_and_two_hosts_are_refused() {
        assert!(!ours("/metrics", &[]));
        assert!(!ours("/metrics", &["localhost", "localhost"]));
    }

    #[test]
    fn the_target_must_be_ours_too() {
        assert!(!ours("http://evil.example/metrics", &["localhost"]));
        assert!(ours("http://127.0.0.1:9901/metrics", &["localhost"]));
    }
}
