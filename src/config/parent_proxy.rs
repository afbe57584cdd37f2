//! `proxy`: the proxy through which larder itself reaches origins, its parent.
//!
//! Owns: the syntax of a proxy's URL, its credentials (never printed), and which calls use which parent.
//! Never touches: connections (`upstream::connect::parent`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;

use crate::config::bypass::NoProxyEntry;
use crate::config::diagnostics::ValueError;
use crate::semantics::target::Scheme;

/// The protocol that a parent proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParentProtocol {
    /// HTTP: absolute-form requests, and `CONNECT`.
    Http,
    /// The same over TLS.
    Https,
    /// SOCKS 5 (RFC 1928); larder looks names up.
    Socks5,
    /// SOCKS 5; the proxy looks names up.
    Socks5h,
}

impl ParentProtocol {
    const ALL: [(&'static str, Self, u16); 4] = [
        ("http", Self::Http, 80),
        ("https", Self::Https, 443),
        ("socks5", Self::Socks5, 1080),
        ("socks5h", Self::Socks5h, 1080),
    ];

    fn scheme(self) -> &'static str {
        Self::ALL.iter().find(|(_, own, _)| *own == self).map_or("", |(scheme, ..)| *scheme)
    }

    /// Whether requests for `http://` origins are sent to the proxy itself, in absolute form.
    pub fn accepts_absolute_form(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// A proxy through which larder calls origins. It is printed without its user and password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ParentProxy {
    /// The protocol.
    pub protocol: ParentProtocol,
    /// The host in its URL form: lower-case, IPv6 in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// User and password.
    credential: Option<(String, String)>,
}

const WANTED: &str = "a proxy such as `http://proxy.example:3128`, or `off`";

impl ParentProxy {
    /// Parses a URL, as in `HTTPS_PROXY`: without a scheme it is `http://`.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        let known = ParentProtocol::ALL.iter().find(|(name, ..)| *name == scheme);
        let Some((_, protocol, default_port)) = known else {
            let fix = "use http://, https://, socks5:// or socks5h://";
            return Err(ValueError::new(WANTED, "has a scheme that larder does not speak", fix));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (credential, address) = match authority.rsplit_once('@') {
            Some((credential, address)) => (Some(credential), address),
            None => (None, authority),
        };
        let (host, port) = split_address(address).ok_or_else(|| ValueError::is_not(WANTED))?;
        let credential = credential.map(parse_credential).transpose()?;
        let port = port.unwrap_or(*default_port);
        Ok(Self { protocol: *protocol, host, port, credential })
    }

    /// User and password, for SOCKS.
    pub fn reveal(&self) -> Option<(&str, &str)> {
        self.credential.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The value of `Proxy-Authorization` (RFC 7617). The header value is marked as sensitive.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (user, password) = self.reveal()?;
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The host as an address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

/// `user:password`, percent-encoded as in every URL (RFC 3986 §3.2.1).
fn parse_credential(text: &str) -> Result<(String, String), ValueError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part: &str| {
        let decoded = percent_decode_str(part).decode_utf8().ok()?.into_owned();
        // A colon would end the user's name (RFC 7617 §2); SOCKS allows 255 bytes (RFC 1929 §2).
        (decoded.len() <= 255 && !decoded.contains(char::is_control)).then_some(decoded)
    };
    let error = || {
        let fix = "percent-encode the user and the password: `@` is `%40`, `:` is `%3A`, `/` is `%2F`";
        ValueError::new(WANTED, "has a user or password that is not valid in a URL", fix)
    };
    let user = decode(user).filter(|user| !user.contains(':')).ok_or_else(error)?;
    Ok((user, decode(password).ok_or_else(error)?))
}

/// `host`, `host:port` or `[v6]:port`.
fn split_address(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(())).transpose();
    let host = host.to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(known);
    let is_valid = bare.map_or(is_name, |v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    is_valid.then_some((host, port.ok()?))
}

/// Prints the URL with `***` in place of user and password.
impl fmt::Display for ParentProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = if self.credential.is_some() { "***@" } else { "" };
        write!(f, "{}://{mask}{}:{}", self.protocol.scheme(), self.host, self.port)
    }
}

impl fmt::Debug for ParentProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParentProxy({self})")
    }
}

/// `upstreams.*.proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamProxy {
    /// Its calls are made without a parent proxy.
    Off,
    /// Its calls are made through this one, whatever `NO_PROXY` lists.
    Through(Arc<ParentProxy>),
}

/// A parent proxy and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedParent {
    /// The proxy.
    pub proxy: Arc<ParentProxy>,
    /// `proxy`, or the name of an environment variable.
    pub setting: &'static str,
}

/// The parent proxies of calls whose upstream has no `proxy` of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParentProxies {
    /// For `http://` origins.
    pub http: Option<NamedParent>,
    /// For `https://` origins and tunnels.
    pub https: Option<NamedParent>,
    /// The entries of `NO_PROXY`.
    pub bypass: Vec<NoProxyEntry>,
}

impl ParentProxies {
    /// The parent for a call to `host` (in its URL form) at `port`. As for most clients, `localhost` and
    /// loopback addresses need no proxy.
    pub fn for_call(&self, scheme: Scheme, host: &str, port: u16) -> Option<&Arc<ParentProxy>> {
        let named = match scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let host = host.trim_end_matches('.');
        let bypassed = is_this_host(host) || self.bypass.iter().any(|entry| entry.bypasses(host, port));
        (!bypassed).then_some(&named.proxy)
    }

    /// A sentence for the output at start and for `check`; `None` if there is no parent.
    pub fn describe(&self) -> Option<String> {
        let one = |parent: &NamedParent, what: &str| format!("{}{what} ({})", parent.proxy, parent.setting);
        let parents = match (&self.http, &self.https) {
            (None, None) => return None,
            (Some(http), Some(https)) if http.proxy == https.proxy => {
                let same = http.setting == https.setting;
                let settings = [http.setting, https.setting];
                let settings = settings.get(usize::from(same)..).unwrap_or_default().join(", ");
                format!("{} ({settings})", http.proxy)
            }
            (Some(http), Some(https)) => one(http, " for http") + ", " + &one(https, " for https"),
            (Some(http), None) => one(http, " for http only"),
            (None, Some(https)) => one(https, " for https only"),
        };
        let mut direct = self.bypass.iter().map(|entry| entry.text.as_str());
        let shown = direct.by_ref().take(SHOWN_BYPASSES).collect::<Vec<_>>().join(", ");
        Some(match (shown.as_str(), direct.count()) {
            ("", _) => parents,
            (shown, 0) => format!("{parents}, except for {shown}"),
            (shown, more) => format!("{parents}, except for {shown} and {more} more"),
        })
    }
}

/// How many entries of `NO_PROXY` are shown.
const SHOWN_BYPASSES: usize = 4;

/// Whether the host is `localhost` or a loopback address.
pub(crate) fn is_this_host(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_name = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    is_name || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_proxy_url_is_read() {
        for (text, shown) in [
            ("http://corp:3128", "http://corp:3128"),
            ("corp:3128", "http://corp:3128"),
            ("HTTP://Corp.Example/", "http://corp.example:80"),
            ("https://corp", "https://corp:443"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            ("socks5h://[::1]:9050", "socks5h://[::1]:9050"),
            ("http://user:p%40ss@corp:3128", "http://***@corp:3128"),
            ("http://user@corp:3128", "http://***@corp:3128"),
        ] {
            assert_eq!(ParentProxy::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in
            ["", "ftp://corp", "http://", "http://corp:0", "http://co rp", "http://corp:x", "http://a/b"]
        {
            assert!(ParentProxy::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_is_decoded_and_never_printed() {
        let proxy = ParentProxy::parse("http://user:p%40ss%3A@corp:3128").unwrap();
        assert_eq!(proxy.reveal(), Some(("user", "p@ss:")));
        assert_eq!(proxy.authorization().unwrap(), "Basic dXNlcjpwQHNzOg==");
        let printed = format!("{proxy} {proxy:?} {:?}", proxy.authorization());
        assert!(
            !printed.contains("p@ss") && !printed.contains("dXNl") && !printed.contains("user"),
            "{printed}"
        );
    }

    #[test]
    fn an_exempt_host_has_no_parent() {
        let proxy = Arc::new(ParentProxy::parse("corp:3128").unwrap());
        let named = |setting| Some(NamedParent { proxy: Arc::clone(&proxy), setting });
        let bypass = crate::config::bypass::entries("near.example,10.0.0.0/8").collect();
        let all = ParentProxies { http: named("HTTP_PROXY"), https: named("HTTPS_PROXY"), bypass };
        for (host, through) in [
            ("api.example", true),
            ("near.example", false),
            ("near.example.", false),
            ("a.near.example", false),
            ("10.1.2.3", false),
            ("localhost", false),
            ("127.0.0.1", false),
            ("[::1]", false),
        ] {
            assert_eq!(all.for_call(Scheme::Https, host, 443).is_some(), through, "{host}");
        }
        let shown = "http://corp:3128 (HTTP_PROXY, HTTPS_PROXY), except for near.example, 10.0.0.0/8";
        assert_eq!(all.describe().as_deref(), Some(shown));
    }
}
