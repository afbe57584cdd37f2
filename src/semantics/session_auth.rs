//! Sign-ins that count for a connection and not for a request: NTLM, Negotiate and their kin
//! (RFC 4559 §6).
//!
//! Owns: which messages belong to one. Never touches: connections (`upstream::pinned`).

use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

/// The field by which an intermediary says that a client's connection stays with one connection to the
/// origin (RFC 4559 §6).
pub const PROXY_SUPPORT: HeaderName = HeaderName::from_static("proxy-support");

/// Its one value.
pub const SUPPORTED: HeaderValue = HeaderValue::from_static("Session-Based-Authentication");

/// Schemes whose credentials make a whole connection the user's. Registered are Negotiate alone (RFC 4559)
/// and none of the others.
const SCHEMES: [&str; 4] = ["negotiate", "ntlm", "kerberos", "credssp"];

/// Whether a request takes part in such a sign-in.
pub fn is_sent(headers: &HeaderMap) -> bool {
    let given = headers.get_all(AUTHORIZATION).iter();
    given.map(HeaderValue::as_bytes).any(is_of_a_connection)
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
    let mut words = text.trim_ascii().split(u8::is_ascii_whitespace);
    let scheme = words.next().unwrap_or_default();
    SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
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
