//! Sign-ins that count for a connection and not for a request: NTLM, Negotiate and their kin
//! (RFC 4559 §6).
//!
//! Owns: which messages belong to one. Never touches: connections (`upstream::pinned`).

use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use xxhash_rust::xxh3::Xxh3;

/// The field by which an intermediary says that a client's connection stays with one connection to the
/// origin (RFC 4559 §6).
pub const PROXY_SUPPORT: HeaderName = HeaderName::from_static("proxy-support");

/// Its one value.
pub const SUPPORTED: HeaderValue = HeaderValue::from_static("Session-Based-Authentication");

/// Schemes whose credentials make a whole connection the user's. Registered are Negotiate alone (RFC 4559)
/// and none of the others.
const SCHEMES: [&str; 7] =
    ["Negotiate", "NTLM", "Kerberos", "CredSSP", "Nego2", "PKU2U", "LiveSSP"];

/// Schemes whose credentials count for their request alone: those that are registered, and those of widely
/// used APIs.
const OF_A_REQUEST: [&str; 45] = [
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

/// Whether a request takes part in such a sign-in.
pub fn is_sent(headers: &HeaderMap) -> bool {
    scheme_sent(headers).is_some()
}

/// The scheme of such a sign-in that a request takes part in. By itself it is the challenge that a sign-in begins
/// with.
pub fn scheme_sent(headers: &HeaderMap) -> Option<&'static str> {
    headers.get_all(AUTHORIZATION).iter().find_map(|value| one_of(value.as_bytes(), &SCHEMES))
}

/// What stands for the credentials of a request by a scheme that larder does not know: an origin may take the
/// connection they came on for their user's, so that no other calls may use it. `None`: there are none.
pub fn of_an_unknown_scheme(headers: &HeaderMap) -> Option<u64> {
    let given = || headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let known = |value: &[u8]| one_of(value, &OF_A_REQUEST).is_some();
    if given().all(known) {
        return None;
    }
    let mut hash = Xxh3::new();
    given().for_each(|value| hash.update(value));
    Some(hash.digest())
}

/// Whether an answer asks for such a sign-in, or goes on with one.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let asked = [WWW_AUTHENTICATE, PROXY_AUTHENTICATE];
    let mut lines = asked.iter().flat_map(|name| headers.get_all(name));
    // A comma inside quotes begins nothing; taking it for a beginning costs a connection, no more.
    lines.any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_of_a_connection))
}

/// Whether a challenge or credentials begin with one of the schemes, whatever its letter case.
fn is_of_a_connection(text: &[u8]) -> bool {
    one_of(text, &SCHEMES).is_some()
}

fn one_of(text: &[u8], schemes: &[&'static str]) -> Option<&'static str> {
    let mut words = text.trim_ascii().split(u8::is_ascii_whitespace);
    let scheme = words.next().unwrap_or_default();
    let is = |known: &&&str| scheme.eq_ignore_ascii_case(known.as_bytes());
    schemes.iter().find(is).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_sign_in_is_told_by_its_scheme() {
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
            assert_eq!(is_sent(&one(AUTHORIZATION, value)), is, "{value:?}");
        }
        assert!(!is_sent(&HeaderMap::new()));
    }

    #[test]
    fn credentials_of_unknown_schemes_are_kept_apart() {
        let of = |value| of_an_unknown_scheme(&one(AUTHORIZATION, value));
        for value in
            ["Bearer x", "basic eDp5", "AWS4-HMAC-SHA256 Credential=a, Signature=b", "token x"]
        {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(of_an_unknown_scheme(&HeaderMap::new()), None);
        assert!(of("Zork alice").is_some() && of("Zork alice") != of("Zork bob"));
        assert!(of("c0ffee").is_some(), "a token without a scheme");
    }

    #[test]
    fn a_challenge_may_stand_among_others() {
        for (value, is) in [
            ("NTLM", true),
            ("Negotiate", true),
            ("Basic realm=\"a, b\", NTLM", true),
            ("Bearer, Negotiate oRQ=", true),
            ("Basic realm=\"NTLM\"", false),
            ("Digest realm=x, qop=auth", false),
        ] {
            assert_eq!(is_asked_for(&one(WWW_AUTHENTICATE, value)), is, "{value:?}");
            assert_eq!(is_asked_for(&one(PROXY_AUTHENTICATE, value)), is, "{value:?}");
        }
        let mut lines = one(WWW_AUTHENTICATE, "Basic realm=x");
        assert!(!is_asked_for(&lines));
        lines.append(WWW_AUTHENTICATE, HeaderValue::from_static("NTLM"));
        assert!(is_asked_for(&lines));
    }
}
