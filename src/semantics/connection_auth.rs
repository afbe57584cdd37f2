//! Authentication schemes that authenticate a connection and not a request: NTLM, Negotiate and similar
//! (RFC 4559 §6).
//!
//! Owns: detection of such schemes in messages. Never touches: connections (`upstream::connect::pinned`).

use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use xxhash_rust::xxh3::Xxh3;

/// The field by which an intermediary announces that it binds a client's connection to one connection to the
/// origin (RFC 4559 §6).
pub const PROXY_SUPPORT: HeaderName = HeaderName::from_static("proxy-support");

/// Its only value.
pub const SUPPORTED: HeaderValue = HeaderValue::from_static("Session-Based-Authentication");

/// Schemes whose credentials authenticate a whole connection. Only Negotiate (RFC 4559) is registered.
const CONNECTION_SCHEMES: [&str; 7] =
    ["Negotiate", "NTLM", "Kerberos", "CredSSP", "Nego2", "PKU2U", "LiveSSP"];

/// Schemes whose credentials authenticate only their request: the registered ones, and those of widely used
/// APIs.
const REQUEST_SCHEMES: [&str; 45] = [
    "acs3-hmac-sha256",
    "api-key",
    "apikey",
    "aws",
    "aws4-ecdsa-p256-sha256",
    "aws4-hmac-sha256",
    "basic",
    "bearer",
    "bot",
    "client-id",
    "concealed",
    "deepl-auth-key",
    "digest",
    "discogs",
    "dpop",
    "geniekey",
    "gnap",
    "goog4-rsa-sha256",
    "googlelogin",
    "hawk",
    "hmac",
    "hmac-sha256",
    "hoba",
    "jwt",
    "key",
    "klaviyo-api-key",
    "mac",
    "mutual",
    "oauth",
    "privatetoken",
    "scram-sha-1",
    "scram-sha-256",
    "sdk-hmac-sha256",
    "sharedaccesssignature",
    "sharedkey",
    "sharedkeylite",
    "signature",
    "snowflake",
    "splunk",
    "sso-key",
    "ssws",
    "tc3-hmac-sha256",
    "token",
    "vapid",
    "zoho-oauthtoken",
];

/// Whether a request has credentials of a connection-based scheme.
pub fn is_in_request(headers: &HeaderMap) -> bool {
    request_scheme(headers).is_some()
}

/// The connection-based scheme that a request uses. The bare scheme name also is the challenge that starts
/// such an authentication.
pub fn request_scheme(headers: &HeaderMap) -> Option<&'static str> {
    headers.get_all(AUTHORIZATION).iter().find_map(|value| find_scheme(value.as_bytes(), &CONNECTION_SCHEMES))
}

/// A hash of the request's credentials if larder does not know their scheme. The origin may authenticate the
/// whole connection with them, so calls with other credentials must not use that connection. `None` if the
/// request has no credentials, or all of them use known schemes.
pub fn unknown_scheme_hash(headers: &HeaderMap) -> Option<u64> {
    let credentials = || headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let known = |value: &[u8]| find_scheme(value, &REQUEST_SCHEMES).is_some();
    if credentials().all(known) {
        return None;
    }
    let mut hash = Xxh3::new();
    credentials().for_each(|value| hash.update(value));
    Some(hash.digest())
}

/// Whether a response requests or continues an authentication of the connection.
pub fn is_in_response(headers: &HeaderMap) -> bool {
    let challenges = [WWW_AUTHENTICATE, PROXY_AUTHENTICATE];
    let mut lines = challenges.iter().flat_map(|name| headers.get_all(name));
    // A comma inside quotes separates nothing. Treating it as a separator only costs one connection.
    lines.any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_connection_scheme))
}

/// Whether a challenge or credentials begin with one of the schemes, in any letter case.
fn is_connection_scheme(text: &[u8]) -> bool {
    find_scheme(text, &CONNECTION_SCHEMES).is_some()
}

fn find_scheme(text: &[u8], schemes: &[&'static str]) -> Option<&'static str> {
    let mut parts = text.trim_ascii().split(u8::is_ascii_whitespace);
    let scheme = parts.next().unwrap_or_default();
    let is = |known: &&&str| scheme.eq_ignore_ascii_case(known.as_bytes());
    schemes.iter().find(is).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn connection_auth_is_detected_by_its_scheme() {
        for (value, is) in [
            ("NTLM TlRMTVNTUAAB", true),
            ("ntlm", true),
            ("Negotiate YII", true),
            ("  Negotiate\tYII", true),
            ("Kerberos x", true),
            ("CredSSP x", true),
            ("Basic TlRMTTo=", false),
            ("Bearer NTLM", false),
            ("NTLMv2 x", false),
            ("", false),
        ] {
            assert_eq!(is_in_request(&headers(AUTHORIZATION, value)), is, "{value:?}");
        }
        assert!(!is_in_request(&HeaderMap::new()));
    }

    #[test]
    fn credentials_of_unknown_schemes_have_distinct_hashes() {
        let hash = |value| unknown_scheme_hash(&headers(AUTHORIZATION, value));
        for value in ["Bearer x", "basic eDp5", "AWS4-HMAC-SHA256 Credential=a, Signature=b", "token x"] {
            assert_eq!(hash(value), None, "{value}");
        }
        assert_eq!(unknown_scheme_hash(&HeaderMap::new()), None);
        assert!(hash("Zork alice").is_some() && hash("Zork alice") != hash("Zork bob"));
        assert!(hash("c0ffee").is_some(), "a token without a scheme");
    }

    #[test]
    fn a_challenge_is_found_among_others() {
        for (value, is) in [
            ("NTLM", true),
            ("Negotiate", true),
            ("Basic realm=\"a, b\", NTLM", true),
            ("Bearer, Negotiate oRQ=", true),
            ("Basic realm=\"NTLM\"", false),
            ("Digest realm=x, qop=auth", false),
        ] {
            assert_eq!(is_in_response(&headers(WWW_AUTHENTICATE, value)), is, "{value:?}");
            assert_eq!(is_in_response(&headers(PROXY_AUTHENTICATE, value)), is, "{value:?}");
        }
        let mut lines = headers(WWW_AUTHENTICATE, "Basic realm=x");
        assert!(!is_in_response(&lines));
        lines.append(WWW_AUTHENTICATE, HeaderValue::from_static("NTLM"));
        assert!(is_in_response(&lines));
    }
}
