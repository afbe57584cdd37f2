//! Who may ask: nobody whose browser was talked into it, and for what steers larder only operators.
//!
//! Owns: the order of the checks that every request passes before anything of it is read: the
//! client's address, the name it uses, the operator, the page it comes from.
//! Never touches: what is asked for.
//!
//! *The name* (ADM-03). A page whose name somebody's DNS answers with this larder's address reads
//! what a browser next to larder may read. An address is no such name: no DNS was asked for it. So on a
//! loopback listener a request must name this machine by address or as `localhost`. Where other hosts
//! can reach the listener, honest ones know it by names of their network (Prometheus scrapes
//! `larder:9901`): clients in `admin.allow` may use any. What a rebound page in such a network could
//! read is metrics, health and a certificate; all else asks for the token, which no page has.
//!
//! *The page*. Without a token every process of this host may operate larder, its browsers too. A page
//! can make a browser send a form or a simple request anywhere, but neither can be
//! `application/json` without asking first, and asking is refused. What names its origin must name
//! this listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;

use crate::admin::acl::{AdminAcl, Authorization};
use crate::admin::connection_slots::SlotIndex;
use crate::admin::listener::AdminConnectInfo;
use crate::admin::{AppState, response, v1};
use crate::telemetry::RejectEvent;
use crate::telemetry::problem::Problem;

/// What everybody who may connect may read. Everything else is for operators.
pub(super) const OPEN: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/ca.pem", "/proxy.pac"];

/// Passes a request on if nothing speaks against it.
pub(super) async fn check(
    State(desk): State<AppState>,
    ConnectInfo(AdminConnectInfo { address, seat }): ConnectInfo<AdminConnectInfo>,
    request: Request,
    next: Next,
) -> Response {
    let client = address.ip().to_canonical();
    let Err(problem) = may_ask(&desk.access, client, &request) else {
        return handled(seat, request, next).await;
    };
    desk.account.refused(&RejectEvent { class: problem.class, client: Some(address) });
    let mut response = response::refuse(problem);
    if problem.status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §11.6.1: a 401 says how to ask.
        let how = HeaderValue::from_static("Bearer realm=\"larder\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, how);
    }
    response
}

/// While its body comes in, a request's connection still makes room for others; from then on for none.
async fn handled(seat: SlotIndex, request: Request, next: Next) -> Response {
    let request = match v1::gathered(request).await {
        Ok(request) => request,
        Err(problem) => return response::refuse(problem),
    };
    let _handling = seat.handle();
    next.run(request).await
}

fn may_ask(access: &AdminAcl, client: IpAddr, request: &Request) -> Result<(), &'static Problem> {
    let (uri, fields) = (request.uri(), request.headers());
    if !access.admits(client) {
        return Err(&CLIENT_DENIED);
    }
    if !access.trusts_names_of(client) && !is_ours(uri, fields) {
        return Err(&MISDIRECTED);
    }
    if OPEN.contains(&uri.path()) {
        return Ok(());
    }
    match access.operator(client, fields) {
        Authorization::Yes => {}
        Authorization::NeedsToken => return Err(&TOKEN_REQUIRED),
        Authorization::NeedsThisHost => return Err(&NOT_FROM_HERE),
    }
    if comes_from_a_foreign_page(fields) {
        return Err(&FOREIGN_PAGE);
    }
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if reads || is_json(fields) { Ok(()) } else { Err(&NOT_JSON) }
}

/// Browsers name the origin of a page's request (RFC 6454 §7) in all but the simplest cases, which
/// cannot be JSON.
fn comes_from_a_foreign_page(fields: &HeaderMap) -> bool {
    let mut origins = fields.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return false };
    let host = fields.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let ours = origin.as_bytes().strip_prefix(b"http://");
    origins.next().is_some() || !ours.is_some_and(|named| named.eq_ignore_ascii_case(host))
}

fn is_json(fields: &HeaderMap) -> bool {
    let mut types = fields.get_all(CONTENT_TYPE).iter();
    let (Some(one), None) = (types.next(), types.next()) else { return false };
    let essence = one.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
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

const CLIENT_DENIED: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "admin_client_denied",
    "this client's address is not in admin.allow",
    "http_request_denied",
);

const MISDIRECTED: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "ask the admin listener by its address or as localhost; other names are for clients of other \
     hosts that admin.allow names",
    "http_request_denied",
);

const TOKEN_REQUIRED: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "token_required",
    "send the token of admin.token_file, once: `Authorization: Bearer TOKEN`",
    "http_request_denied",
);

const NOT_FROM_HERE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "admin_not_from_here",
    "without admin.token_file this larder is operated from its own host only",
    "http_request_denied",
);

const FOREIGN_PAGE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "foreign_page",
    "the request comes from a web page of another origin",
    "http_request_denied",
);

const NOT_JSON: Problem = Problem::new(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "not_json",
    "send `Content-Type: application/json`, with an empty body too: no web page of others can",
    "http_request_error",
);

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::config::Admin;
    use crate::config::token::Token;

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

    /// The class of what speaks against `GET path` from `client`, on a listener for other hosts.
    fn against(client: &str, host: &str, path: &str, token: bool) -> Option<&'static str> {
        let access = AdminAcl::new(&Admin {
            listen: "0.0.0.0:9901".parse().unwrap(),
            token: token.then(|| Token::parse(b"0123456789abcdef").unwrap()),
            allow: vec!["10.0.0.0/8".parse().unwrap()],
        });
        let request = Request::get(path).header(HOST, host).body(Body::empty()).unwrap();
        let said = may_ask(&access, client.parse().unwrap(), &request);
        said.err().map(|problem| problem.class)
    }

    #[test]
    fn a_scraper_that_is_allowed_may_use_the_name_of_its_network() {
        for token in [false, true] {
            for path in OPEN {
                assert_eq!(against("10.1.2.3", "larder:9901", path, token), None, "{path}");
            }
        }
    }

    #[test]
    fn a_host_that_is_not_allowed_gets_nothing_by_any_name() {
        for path in OPEN.into_iter().chain(["/v1/mode", "/nothing"]) {
            for host in ["larder:9901", "10.0.0.1:9901", "localhost"] {
                let said = against("192.0.2.1", host, path, true);
                assert_eq!(said, Some("admin_client_denied"), "{path}");
            }
        }
    }

    #[test]
    fn adm_03_a_page_in_this_hosts_own_browser_is_not_a_scraper() {
        for path in OPEN {
            let said = against("127.0.0.1", "larder:9901", path, true);
            assert_eq!(said, Some("misdirected"), "{path}");
            assert_eq!(against("::1", "[::1]:9901", path, true), None, "{path}");
        }
    }

    #[test]
    fn an_allowed_host_operates_with_the_token_only() {
        let said = |token| against("10.1.2.3", "larder:9901", "/v1/mode", token);
        assert_eq!(said(true), Some("token_required"));
        assert_eq!(said(false), Some("admin_not_from_here"));
    }
}
