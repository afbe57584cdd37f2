//! Access control by `admin.allow` and `admin.token_file`.
//!
//! Owns: which clients may connect, which may use any host name for this larder, and which are
//! operators (ADM-02). Never touches: the requested paths.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Admin;
use crate::config::token::{LONGEST, Token};

/// The access rules of the admin listener. Client addresses are canonical: `::ffff:127.0.0.1` is loopback.
pub(super) struct AdminAcl {
    /// Whether other hosts can reach the listener.
    reachable: bool,
    allow: Vec<IpNet>,
    /// Digest of the token: the comparison of two digests takes the same time for every guess.
    token: Option<[u8; 32]>,
}

/// Whether a request comes from an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authorization {
    /// The request comes from an operator.
    Yes,
    /// A token is needed, and the request has none, a different one, or several.
    NeedsToken,
    /// No token is configured, so only clients on this host are operators.
    NeedsLocalClient,
}

impl AdminAcl {
    pub(super) fn new(admin: &Admin) -> Self {
        let token = admin.token.as_ref().map(Token::reveal).map(|token| digest(token.as_bytes()));
        Self { reachable: admin.is_reachable(), allow: admin.allow.clone(), token }
    }

    /// Whether `client` may connect. Clients on this host always may: its probes and commands are there.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.allow.is_empty() || self.allows(client)
    }

    /// Whether `client` may use any host name for this larder. See [`crate::admin::auth`].
    pub(super) fn accepts_any_host_name_from(&self, client: IpAddr) -> bool {
        self.reachable && !client.is_loopback() && self.allows(client)
    }

    /// Whether a request with these fields comes from an operator.
    pub(super) fn authorize(&self, client: IpAddr, fields: &HeaderMap) -> Authorization {
        let Some(token) = &self.token else {
            return if client.is_loopback() { Authorization::Yes } else { Authorization::NeedsLocalClient };
        };
        let given = bearer_token(fields).map(digest);
        // Exactly one comparison, of all bytes, for every request.
        let same: bool = given.unwrap_or_default().ct_eq(token).into();
        if given.is_some() && same { Authorization::Yes } else { Authorization::NeedsToken }
    }

    fn allows(&self, client: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&client))
    }
}

/// The bearer token of the only `Authorization` (RFC 6750 §2.1). A value that is longer than any token
/// is ignored without further work.
fn bearer_token(fields: &HeaderMap) -> Option<&[u8]> {
    let mut all = fields.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(SCHEME.len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(SCHEME) && token.len() <= LONGEST).then_some(token)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

const SCHEME: &[u8] = b"bearer ";

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn acl_for(listen: &str, allow: &[&str], token: Option<&str>) -> AdminAcl {
        AdminAcl::new(&Admin {
            listen: listen.parse().unwrap(),
            token: token.map(|token| Token::parse(token.as_bytes()).unwrap()),
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fields(values: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(AUTHORIZATION, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn allow_limits_other_hosts_and_never_this_one() {
        let acl = acl_for("0.0.0.0:1", &["10.0.0.0/8"], Some(TOKEN));
        assert!(acl.admits(ip("10.1.2.3")) && acl.admits(ip("127.0.0.1")));
        assert!(!acl.admits(ip("192.0.2.1")));
        assert!(acl_for("0.0.0.0:1", &[], Some(TOKEN)).admits(ip("192.0.2.1")));
    }

    #[test]
    fn only_allowed_clients_from_other_hosts_may_use_any_name() {
        let acl = acl_for("0.0.0.0:1", &["10.0.0.0/8", "127.0.0.0/8"], Some(TOKEN));
        assert!(acl.accepts_any_host_name_from(ip("10.1.2.3")));
        assert!(
            !acl.accepts_any_host_name_from(ip("127.0.0.1")),
            "DNS rebinding can reach a browser on this host"
        );
        assert!(!acl.accepts_any_host_name_from(ip("192.0.2.1")));
        let loopback = acl_for("127.0.0.1:1", &["10.0.0.0/8"], None);
        assert!(!loopback.accepts_any_host_name_from(ip("10.1.2.3")));
    }

    #[test]
    fn adm_02_only_the_one_right_token_makes_an_operator() {
        let acl = acl_for("127.0.0.1:1", &[], Some(TOKEN));
        let authorize = |values: &[&str]| acl.authorize(ip("127.0.0.1"), &fields(values));
        for right in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER   0123456789abcdef"] {
            assert_eq!(authorize(&[right]), Authorization::Yes, "{right}");
        }
        let long = format!("Bearer {}", "x".repeat(300_000));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Bearer 0123456789abcdef, Bearer 0123456789abcdef",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer0123456789abcdef",
            long.as_str(),
        ] {
            assert_eq!(authorize(&[wrong]), Authorization::NeedsToken, "{wrong:.40}");
        }
        assert_eq!(authorize(&[]), Authorization::NeedsToken);
        let right = "Bearer 0123456789abcdef";
        assert_eq!(authorize(&[right, right]), Authorization::NeedsToken, "several tokens are refused");
    }

    #[test]
    fn without_a_token_only_this_host_operates() {
        let acl = acl_for("0.0.0.0:1", &["10.0.0.0/8"], None);
        let none = HeaderMap::new();
        assert_eq!(acl.authorize(ip("127.0.0.1"), &none), Authorization::Yes);
        assert_eq!(acl.authorize(ip("::1"), &none), Authorization::Yes);
        assert_eq!(acl.authorize(ip("10.1.2.3"), &none), Authorization::NeedsLocalClient);
    }
}
