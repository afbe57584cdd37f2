//! `proxy` and `upstreams.*.proxy`: larder's parent proxies, else those of the environment.
//!
//! Owns: which setting names the parent, and the environment's variables for it. Never touches: connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::bypass;
use crate::config::diagnostics::{SourceLocation, ValueError, WarningKind};
use crate::config::env::Env;
use crate::config::parent_proxy::{NamedParent, ParentProxies, ParentProxy, UpstreamProxy, is_this_host};
use crate::config::reader::{Reader, Section, Spanned};

/// The variables that name the parent for `http://` and for `https://` origins, in the order in which they
/// count, as for curl and Go.
const HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// The variables that name certificate bundles of the caller's clients. A company that inspects TLS sets some
/// of them; larder's own calls pass the same inspection.
const ROOTS: [&str; 11] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
];

/// The parents of all calls: `proxy`, else those of the environment. `listen`: larder's own addresses.
pub(super) fn read(top: &mut Section<'_>, listen: &[SocketAddr], reader: &mut Reader<'_>) -> ParentProxies {
    let bypass = ["no_proxy", "NO_PROXY"].iter().find_map(|name| set(reader.env, name));
    let bypass = bypass.map(|list| bypass::entries(list).collect()).unwrap_or_default();
    match parse(top, listen, reader) {
        Some(UpstreamProxy::Off) => ParentProxies::default(),
        Some(UpstreamProxy::Through(proxy)) => {
            let named = Some(NamedParent { proxy, setting: "proxy" });
            ParentProxies { http: named.clone(), https: named, bypass }
        }
        None => {
            let http = from_environment(&HTTP, listen, reader);
            let https = from_environment(&HTTPS, listen, reader);
            if http.is_none() && https.is_none() {
                return ParentProxies::default();
            }
            ParentProxies { http, https, bypass }
        }
    }
}

/// `proxy` of a section: of the whole file, or of one upstream.
pub(super) fn parse(
    section: &mut Section<'_>,
    listen: &[SocketAddr],
    reader: &mut Reader<'_>,
) -> Option<UpstreamProxy> {
    let path = section.key_path("proxy");
    let mut secret = None;
    let read = section.scalar(reader, "proxy", |text| match text {
        "off" | "none" => Ok(Ok(UpstreamProxy::Off)),
        _ => Ok(ParentProxy::parse(text)
            .map(|proxy| UpstreamProxy::Through(Arc::new(proxy)))
            .inspect_err(|_| secret = Some(text.contains('@')))),
    })?;
    match read.value {
        Err(ValueError { what, fix, .. }) => {
            // The line of the file, which a report prints, may contain the password.
            let hidden = secret.unwrap_or_default();
            let place = if hidden { SourceLocation::default() } else { read.place };
            reader.problem(place, &path, what, fix);
            None
        }
        Ok(UpstreamProxy::Through(proxy)) if is_own(&proxy, listen) => {
            let fix = "name the proxy behind larder, or `off`";
            let place = if proxy.reveal().is_some() { SourceLocation::default() } else { read.place };
            reader.problem(place, &path, "is an address of larder itself", fix);
            None
        }
        Ok(proxy) => Some(proxy),
    }
}

/// The parent that the first of these variables names. One that larder cannot use is a problem, since calls
/// must not bypass a proxy without a word; an address of larder itself, as in a shell that ran `larder env`,
/// is ignored with a note.
fn from_environment(
    names: &[&'static str; 4],
    listen: &[SocketAddr],
    reader: &mut Reader<'_>,
) -> Option<NamedParent> {
    let (name, url) = names.iter().find_map(|name| Some((*name, set(reader.env, name)?)))?;
    let at = Spanned { value: (), place: SourceLocation::default(), path: name.to_owned() };
    match ParentProxy::parse(url) {
        Ok(proxy) if is_own(&proxy, listen) => {
            let text = "names larder itself and is ignored as its parent proxy";
            reader.warn(&at, WarningKind::ParentProxy, text);
            None
        }
        Ok(proxy) => Some(NamedParent { proxy: Arc::new(proxy), setting: name }),
        Err(ValueError { what, .. }) => {
            let what = format!("this environment variable {what}");
            let fix = "name an http://, https://, socks5:// or socks5h:// proxy, unset it, or set `proxy`";
            reader.problem(at.place, &at.path, what, fix);
            None
        }
    }
}

/// The files and directories of the caller's certificate bundles, each once.
pub(super) fn caller_roots(reader: &Reader<'_>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in ROOTS.iter().filter_map(|name| set(reader.env, name)).map(PathBuf::from) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

fn set<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(str::trim).filter(|value| !value.is_empty())
}

/// Whether the proxy is one of larder's own listeners, as far as its URL tells. The addresses that a name
/// resolves to are checked when it is dialled.
fn is_own(proxy: &ParentProxy, listen: &[SocketAddr]) -> bool {
    listen.iter().filter(|own| own.port() == proxy.port).any(|own| match proxy.ip() {
        Some(ip) => own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback()) || ip.is_unspecified(),
        None => is_this_host(&proxy.host) && (own.ip().is_loopback() || own.ip().is_unspecified()),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::env::Env;
    use crate::config::{Config, diagnostics::Report, parse};

    fn read(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, Report> {
        let env: Env = variables.iter().copied().collect();
        parse("proxy.yaml", &format!("version: 1\n{yaml}"), &env)
    }

    fn described(yaml: &str, variables: &[(&str, &str)]) -> Option<String> {
        read(yaml, variables).unwrap_or_else(|e| panic!("{e}")).proxies.describe()
    }

    #[test]
    fn the_callers_proxy_is_the_parent_unless_the_file_names_one() {
        let both = [("HTTP_PROXY", "corp:1"), ("https_proxy", "corp:2"), ("HTTPS_PROXY", "corp:3")];
        for (yaml, variables, expected) in [
            ("", &[][..], None),
            ("", &both, Some("http://corp:1 for http (HTTP_PROXY), http://corp:2 for https (https_proxy)")),
            ("", &[("ALL_PROXY", "socks5h://a:b@s")], Some("socks5h://***@s:1080 (ALL_PROXY)")),
            ("", &[("HTTP_PROXY", "corp:1")], Some("http://corp:1 for http only (HTTP_PROXY)")),
            ("proxy: off\n", &both, None),
            ("proxy: corp:9\n", &both, Some("http://corp:9 (proxy)")),
        ] {
            assert_eq!(described(yaml, variables).as_deref(), expected, "{yaml} {variables:?}");
        }
    }

    #[test]
    fn a_parent_that_is_larder_itself_is_ignored_with_a_note() {
        for url in ["http://127.0.0.1:8080", "localhost:8080", "http://a:b@0.0.0.0:8080"] {
            let config = read("", &[("HTTPS_PROXY", url)]).unwrap();
            assert_eq!(config.proxies.describe(), None, "{url}");
            assert!(config.warnings.iter().any(|note| note.text.contains("itself")), "{url}");
            assert!(read(&format!("proxy: {url}\n"), &[]).is_err(), "{url}");
        }
        assert!(described("", &[("HTTPS_PROXY", "http://127.0.0.1:8081")]).is_some());
    }

    #[test]
    fn an_unusable_proxy_is_a_problem_that_hides_the_password() {
        for (yaml, variables) in [
            ("", &[("HTTPS_PROXY", "ftp://user:hunter2@corp")][..]),
            ("proxy: ftp://user:hunter2@corp\n", &[]),
            ("upstreams: { u: { hosts: [a.test], proxy: 'http://user:hunter2@' } }\n", &[]),
        ] {
            let report = read(yaml, variables).unwrap_err().to_string();
            assert!(report.contains("1 problem") && !report.contains("hunter2"), "{report}");
        }
    }
}
