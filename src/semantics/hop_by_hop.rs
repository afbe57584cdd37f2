//! Fields that belong to one connection (RFC 9110 §7.6.1).
//!
//! Owns: which fields end at larder, in both directions; what `Connection` may not nominate.
//! Never touches: framing, which the parsers own; `Host`, which the front door replaces.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::semantics::field_list;

const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
];

/// Removes what a client says to larder alone.
pub fn strip_request(headers: &mut HeaderMap) {
    strip(headers);
}

/// Removes what an origin says to larder alone.
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
}

/// Removes what has no place behind a body (RFC 9110 §6.5.1): what says how a message is framed, where
/// it goes, who sent it, how it is cached. Such a field could not be believed any more.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    let unfit: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_be_nominated(name)).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
}

/// Whether the message asks to switch protocols (RFC 9110 §7.8). An offer of HTTP/2 in the clear is
/// none: it may be ignored, RFC 9113 §3.1 has given it up, and Java's client makes it with every
/// request, which is no reason not to store the answer.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = field_list::members(headers.get_all(UPGRADE));
    protocols.any(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
        && field_list::members(headers.get_all(CONNECTION))
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the sender reads trailer fields (RFC 9110 §10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    field_list::members(headers.get_all(TE)).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Whether the field is one of a connection, nominated or not.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = field_list::members(headers.get_all(CONNECTION))
            .filter_map(|option| HeaderName::from_bytes(option).ok())
            .filter(may_be_nominated)
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// `Connection` may not nominate fields meant for all recipients. Whoever could would change the
/// framing, the authority, the credentials or the caching of what larder passes on
/// (CVE-2022-45059).
fn may_be_nominated(name: &HeaderName) -> bool {
    let name = name.as_str();
    let end_to_end = name.starts_with("content-")
        || name.starts_with("if-")
        || matches!(
            name,
            "host"
                | "authorization"
                | "cookie"
                | "set-cookie"
                | "www-authenticate"
                | "cache-control"
                | "pragma"
                | "age"
                | "date"
                | "expires"
                | "etag"
                | "last-modified"
                | "vary"
                | "range"
                | "location"
                | "via"
                | "cache-status"
        );
    !end_to_end
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{any, proptest};

    use crate::semantics::hop_by_hop::{
        HOP_BY_HOP, is_hop_by_hop, is_upgrade, strip_request, strip_response, strip_trailers,
    };

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    /// RFC 9110 §6.5.1.
    #[test]
    fn what_could_not_be_believed_behind_a_body_is_no_trailer() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-checksum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "evil.example"),
            ("set-cookie", "a=1"),
            ("authorization", "x"),
            ("www-authenticate", "x"),
            ("cache-control", "max-age=9"),
            ("connection", "x-checksum"),
        ]);
        strip_trailers(&mut trailers);
        let left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["grpc-status"], "what Connection names ends here too");
    }

    fn stripped(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut one = map(fields);
        let mut other = one.clone();
        strip_request(&mut one);
        strip_response(&mut other);
        assert_eq!(one, other);
        one.keys().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn the_connections_own_fields_and_those_it_nominates_end_here() {
        assert_eq!(
            stripped(&[
                ("connection", "close, X-One"),
                ("connection", "x-two,,x-one"),
                ("x-one", "1"),
                ("x-two", "1"),
                ("x-two", "2"),
                ("x-three", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "trailers"),
                ("trailer", "x"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("proxy-authenticate", "Basic"),
                ("proxy-authentication-info", "x"),
                ("proxy-authorization", "Basic x"),
            ]),
            ["x-three"]
        );
    }

    #[test]
    fn connection_nominates_no_end_to_end_field() {
        // PAR-15, CVE-2022-45059.
        let fields = [
            ("host", "h"),
            ("authorization", "a"),
            ("cookie", "a"),
            ("content-length", "1"),
            ("content-encoding", "gzip"),
            ("cache-control", "no-store"),
            ("vary", "x"),
            ("if-none-match", "x"),
        ];
        let nominated = (
            "connection",
            "Host, Authorization, Cookie, Content-Length, \
            Content-Encoding, Cache-Control, Vary, If-None-Match, Transfer-Encoding",
        );
        let mut all = fields.to_vec();
        all.push(nominated);
        all.push(("transfer-encoding", "chunked"));
        let names: Vec<_> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(stripped(&all), names);
    }

    #[test]
    fn an_upgrade_needs_both_fields() {
        assert!(is_upgrade(&map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket")
        ])));
        assert!(!is_upgrade(&map(&[("connection", "upgrade")])));
        assert!(!is_upgrade(&map(&[("upgrade", "websocket")])));
    }

    #[test]
    fn an_upgrade_to_http_2_in_the_clear_is_none() {
        // Java's HttpClient offers it with every request that is not TLS.
        let asks =
            |protocols| is_upgrade(&map(&[("connection", "upgrade"), ("upgrade", protocols)]));
        assert!(!asks("h2c"));
        assert!(!asks("H2C, h2c"));
        assert!(!asks(""));
        assert!(asks("h2c, websocket"));
        let fields = [
            ("connection", "Upgrade, HTTP2-Settings"),
            ("http2-settings", "AAEAAEAA"),
            ("upgrade", "h2c"),
        ];
        assert_eq!(stripped(&fields), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_connection_field_leaves_nothing_hop_by_hop(value in any::<Vec<u8>>()) {
            let mut headers: HeaderMap = HOP_BY_HOP
                .iter()
                .map(|name| (name.clone(), HeaderValue::from_static("x")))
                .collect();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append("connection", value);
            }
            strip_request(&mut headers);
            assert!(headers.keys().all(|name| !is_hop_by_hop(name)));
        }
    }
}
