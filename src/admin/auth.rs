//! Admission of admin requests, with protection against DNS rebinding and cross-site request forgery.
//!
//! Owns: the order of the checks that every request passes before its body is read: the client's address, the
//! host name, the operator, the origin of the web page. Never touches: the requested operation.
//!
//! *Host name* (ADM-03). In a DNS rebinding attack a web page's host name resolves to the address of
//! this larder, so the page can read whatever a browser beside larder may read. An IP address cannot be
//! rebound, as it needs no DNS lookup. So on a loopback listener a request must name this machine by
//! address or as `localhost`. If other hosts can reach the listener, legitimate clients use names of
//! their network (Prometheus scrapes `larder:9901`), so clients in `admin.allow` may use any name. A
//! rebound page in such a network could read only metrics, health and a certificate; all other paths
//! need the token, which no page has.
//!
//! *Web page*. Without a token every process of this host may operate larder, including its browsers. A
//! page can make a browser send a form or a simple request to any host, but neither can be `application/json`
//! without a preflight, and preflights are refused. If a request has an `Origin`, it must be this listener.

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

/// The paths that every admitted client may read. All others are for operators.
pub(super) const OPEN: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/ca.pem", "/proxy.pac"];

/// Passes a request on if all checks succeed.
pub(super) async fn check(
    State(state): State<AppState>,
    ConnectInfo(AdminConnectInfo { address, slot }): ConnectInfo<AdminConnectInfo>,
    request: Request,
    next: Next,
) -> Response {
    let client = address.ip().to_canonical();
    let Err(problem) = authorize(&state.acl, client, &request) else {
        return handle(slot, request, next).await;
    };
    state.telemetry.refused(&RejectEvent { class: problem.class, client: Some(address) });
    let mut response = response::refuse(problem);
    if problem.status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §11.6.1: a 401 contains a challenge.
        let challenge = HeaderValue::from_static("Bearer realm=\"larder\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// A connection can be evicted while the body of its request arrives, but not while the request is handled.
async fn handle(slot: SlotIndex, request: Request, next: Next) -> Response {
    let request = match v1::read_body(request).await {
        Ok(request) => request,
        Err(problem) => return response::refuse(problem),
    };
    let _guard = slot.begin_request();
    next.run(request).await
}

fn authorize(acl: &AdminAcl, client: IpAddr, request: &Request) -> Result<(), &'static Problem> {
    let (uri, fields) = (request.uri(), request.headers());
    if !acl.admits(client) {
        return Err(&CLIENT_DENIED);
    }
    if !acl.accepts_any_host_name_from(client) && !names_own_host(uri, fields) {
        return Err(&MISDIRECTED);
    }
    if OPEN.contains(&uri.path()) {
        return Ok(());
    }
    match acl.authorize(client, fields) {
        Authorization::Yes => {}
        Authorization::NeedsToken => return Err(&TOKEN_REQUIRED),
        Authorization::NeedsLocalClient => return Err(&LOCAL_ONLY),
    }
    if is_cross_origin(fields) {
        return Err(&FOREIGN_PAGE);
    }
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if is_read || is_json(fields) { Ok(()) } else { Err(&NOT_JSON) }
}

/// Browsers send the origin of a page's request (RFC 6454 §7) in all but the simplest cases, which
/// cannot be JSON.
fn is_cross_origin(fields: &HeaderMap) -> bool {
    let mut origins = fields.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return false };
    let host = fields.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let own = origin.as_bytes().strip_prefix(b"http://");
    origins.next().is_some() || !own.is_some_and(|named| named.eq_ignore_ascii_case(host))
}

fn is_json(fields: &HeaderMap) -> bool {
    let mut types = fields.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

// Checks both the target and `Host`, as other software may use either of them.
fn names_own_host(uri: &Uri, headers: &HeaderMap) -> bool {
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
    "request the admin listener by its address or as localhost; other names are only for clients of \
     other hosts that are in admin.allow",
    "http_request_denied",
);

const TOKEN_REQUIRED: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "token_required",
    "send the token of admin.token_file, once: `Authorization: Bearer TOKEN`",
    "http_request_denied",
);

const LOCAL_ONLY: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "admin_not_from_here",
    "without admin.token_file this larder can only be operated from its own host",
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
    "send `Content-Type: application/json`, even with an empty body: web pages of other origins cannot",
    "http_request_error",
);

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::config::Admin;
    use crate::config::token::Token;

    fn is_own(uri: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        names_own_host(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn addresses_and_localhost_name_this_host_with_any_port() {
        for host in
            ["127.0.0.1", "127.0.0.1:9901", "10.1.2.3:80", "[::1]", "[::1]:9901", "localhost", "LocalHost:1"]
        {
            assert!(is_own("/metrics", &[host]), "{host}");
        }
    }

    #[test]
    fn adm_03_a_name_that_needs_dns_is_not_this_host() {
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
            assert!(!is_own("/metrics", &[host]), "{host}");
        }
    }

    #[test]
    fn no_host_and_two_hosts_are_refused() {
        assert!(!is_own("/metrics", &[]));
        assert!(!is_own("/metrics", &["localhost", "localhost"]));
    }

    #[test]
    fn the_target_must_name_this_host_too() {
        assert!(!is_own("http://evil.example/metrics", &["localhost"]));
        assert!(is_own("http://127.0.0.1:9901/metrics", &["localhost"]));
    }

    /// The error class of `GET path` from `client` on a listener for other hosts; `None`: admitted.
    fn error_class(client: &str, host: &str, path: &str, token: bool) -> Option<&'static str> {
        let acl = AdminAcl::new(&Admin {
            listen: "0.0.0.0:9901".parse().unwrap(),
            token: token.then(|| Token::parse(b"0123456789abcdef").unwrap()),
            allow: vec!["10.0.0.0/8".parse().unwrap()],
        });
        let request = Request::get(path).header(HOST, host).body(Body::empty()).unwrap();
        let result = authorize(&acl, client.parse().unwrap(), &request);
        result.err().map(|problem| problem.class)
    }

    #[test]
    fn an_allowed_scraper_may_use_the_host_name_of_its_network() {
        for token in [false, true] {
            for path in OPEN {
                assert_eq!(error_class("10.1.2.3", "larder:9901", path, token), None, "{path}");
            }
        }
    }

    #[test]
    fn a_host_that_is_not_allowed_is_denied_under_every_name() {
        for path in OPEN.into_iter().chain(["/v1/mode", "/nothing"]) {
            for host in ["larder:9901", "10.0.0.1:9901", "localhost"] {
                let class = error_class("192.0.2.1", host, path, true);
                assert_eq!(class, Some("admin_client_denied"), "{path}");
            }
        }
    }

    #[test]
    fn adm_03_a_page_in_this_hosts_own_browser_is_not_a_scraper() {
        for path in OPEN {
            let class = error_class("127.0.0.1", "larder:9901", path, true);
            assert_eq!(class, Some("misdirected"), "{path}");
            assert_eq!(error_class("::1", "[::1]:9901", path, true), None, "{path}");
        }
    }

    #[test]
    fn an_allowed_host_operates_with_the_token_only() {
        let class = |token| error_class("10.1.2.3", "larder:9901", "/v1/mode", token);
        assert_eq!(class(true), Some("token_required"));
        assert_eq!(class(false), Some("admin_not_from_here"));
    }
}
