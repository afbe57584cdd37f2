//! Fields that belong to one connection (RFC 9110 §7.6.1).
//!
//! Owns: the fields that larder does not forward, in both directions; the fields that `Connection` must not
//! nominate. Never touches: framing, which the parsers own; `Host`, which the frontend replaces.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::semantics::field_list;

/// The fields that are hop-by-hop even if `Connection` does not nominate them.
pub const HOP_BY_HOP: [HeaderName; 10] = [
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

/// The intermediaries of a request, like `Via`, for loops alone (RFC 8586).
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Removes the fields that a client or an origin sends only to larder.
pub fn strip(headers: &mut HeaderMap) {
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

/// Removes fields that must not be trailers (RFC 9110 §6.5.1): those for message framing, routing,
/// authentication and caching. After the body such a field comes too late to be trusted.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    let forbidden: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_be_nominated(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// Whether the message requests a protocol switch (RFC 9110 §7.8). An offer of cleartext HTTP/2 (`h2c`) does
/// not count: a recipient may ignore it, RFC 9113 §3.1 has deprecated it, and Java's client sends it with
/// every request, whose responses should still be stored.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = field_list::members(headers.get_all(UPGRADE));
    protocols.any(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
        && field_list::members(headers.get_all(CONNECTION))
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the sender accepts trailer fields (RFC 9110 §10.1.4).
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    field_list::members(headers.get_all(TE)).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// `Connection` must not nominate end-to-end fields. Otherwise a sender could change the framing, the
/// authority, the credentials or the caching of the messages that larder forwards (CVE-2022-45059).
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
                | "cdn-loop"
                | "cache-status"
        );
    !end_to_end
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{any, proptest};

    use crate::semantics::hop_by_hop::{HOP_BY_HOP, is_upgrade, strip, strip_trailers};
    use crate::semantics::test_headers::header_map;

    /// RFC 9110 §6.5.1.
    #[test]
    fn fields_that_must_not_be_trailers_are_removed() {
        let mut trailers = header_map(&[
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
        assert_eq!(left, ["grpc-status"], "fields that Connection nominates are removed too");
    }

    fn stripped(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = header_map(fields);
        strip(&mut headers);
        headers.keys().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_are_removed() {
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
    fn connection_cannot_nominate_end_to_end_fields() {
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
        assert!(is_upgrade(&header_map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])));
        assert!(!is_upgrade(&header_map(&[("connection", "upgrade")])));
        assert!(!is_upgrade(&header_map(&[("upgrade", "websocket")])));
    }

    #[test]
    fn an_offer_of_cleartext_http_2_is_not_an_upgrade() {
        // Java's HttpClient offers it with every request that is not TLS.
        let upgrades =
            |protocols| is_upgrade(&header_map(&[("connection", "upgrade"), ("upgrade", protocols)]));
        assert!(!upgrades("h2c"));
        assert!(!upgrades("H2C, h2c"));
        assert!(!upgrades(""));
        assert!(upgrades("h2c, websocket"));
        let fields =
            [("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "AAEAAEAA"), ("upgrade", "h2c")];
        assert_eq!(stripped(&fields), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_hop_by_hop_field_remains_with_any_connection_field(value in any::<Vec<u8>>()) {
            let mut headers: HeaderMap = HOP_BY_HOP
                .iter()
                .map(|name| (name.clone(), HeaderValue::from_static("x")))
                .collect();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append("connection", value);
            }
            strip(&mut headers);
            assert!(headers.keys().all(|name| !HOP_BY_HOP.contains(name)));
        }
    }
}
