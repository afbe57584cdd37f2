//! `upstreams`: configured groups of origins.
//!
//! Owns: names and hosts of upstreams, their timeouts. Never touches: connections.

mod cost;
mod credential;
mod dialect;
mod mount;
mod rate_limit;
mod response_rules;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::keyword::keyword;
use crate::config::reader::{Reader, Section, Spanned, values};
use crate::config::resolve::destinations::{host_pattern, warn_trailing_dots};
use crate::config::resolve::{proxy, timeouts, unreachable};
use crate::config::{Destinations, Upstream, UpstreamHost};
use crate::policy::timeouts::Timeouts;
use crate::policy::upstream::UpstreamPolicy;
use crate::semantics::target::Scheme;

/// `upstreams`, in the order of the file.
pub(super) fn read(
    top: &mut Section<'_>,
    (destinations, listen): (&Destinations, &[SocketAddr]),
    patience: Duration,
    reader: &mut Reader<'_>,
) -> Vec<Arc<Upstream>> {
    let Some(section) = top.section(reader, "upstreams") else { return Vec::new() };
    let mut all: Vec<Arc<Upstream>> = Vec::new();
    for entry in section.entries() {
        let path = section.key_path(&entry.key);
        // An upstream with an invalid name is read, too, for its other problems.
        let _invalid = reader.name(entry, &path, label);
        let Some(mut one) = reader.section(&entry.value, &path) else { continue };
        let hosts = hosts(&mut one, &all, destinations, reader);
        let mut mount = mount::read(&mut one, &hosts, &all, reader);
        let usual = Timeouts { patience, ..Timeouts::default() };
        let timeouts = usual.with(&timeouts::read(&mut one, reader));
        let tls = tls::read(&mut one, &hosts, reader);
        let proxy = proxy::parse(&mut one, listen, reader);
        let credential = credential::read(&mut one, &hosts, reader);
        if let Some(mount) = &mut mount {
            mount.has_credential = credential.is_some();
        }
        let via = one.scalar_or(reader, "via", on_or_off, true);
        let policy = upstream_policy(&mut one, reader);
        one.finish(reader);
        let name = entry.key.as_str().into();
        let one = Upstream { name, hosts, mount, timeouts, tls, proxy, credential, via, policy };
        all.push(Arc::new(one));
    }
    all
}

/// Parses `on` or `off`, which editors may write as booleans.
fn on_or_off(text: &str) -> Result<bool, ValueError> {
    keyword("`on` or `off`", &[("on", true), ("off", false), ("true", true), ("false", false)])(text)
}

/// The policy of an upstream, in the order of the reference file.
fn upstream_policy(one: &mut Section<'_>, reader: &mut Reader<'_>) -> UpstreamPolicy {
    let mut rules = response_rules::read(one, reader);
    let (rate_limit, dialect) = rate_limit::rate_limit(one, reader);
    rules.dialect = dialect;
    UpstreamPolicy {
        rules,
        rate_limit,
        ban_guard: rate_limit::ban_guard(one, reader),
        breaker: rate_limit::breaker(one, reader),
        cost: cost::read(one, reader),
    }
}

/// Parses a name that is used as a label in metrics and logs.
pub(super) fn label(text: &str) -> Result<Arc<str>, ValueError> {
    let wanted = "a name";
    if text == "none" {
        let what = "is reserved: it is the label of requests without a route or upstream";
        return Err(ValueError::new(wanted, what, "choose another name"));
    }
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if text.is_empty() || text.len() > 64 || !plain {
        let fix = "use up to 64 letters, digits, `-`, `_` and `.`";
        return Err(ValueError::new(wanted, "cannot be a label in metrics", fix));
    }
    Ok(text.into())
}

fn hosts(
    one: &mut Section<'_>,
    earlier: &[Arc<Upstream>],
    destinations: &Destinations,
    reader: &mut Reader<'_>,
) -> Vec<UpstreamHost> {
    let known = reader.problems.len();
    let hosts = one.scalars(reader, "hosts", host).unwrap_or_default();
    warn_trailing_dots(one, "hosts", reader);
    if hosts.is_empty() && reader.problems.len() == known {
        let fix = "add `hosts: [api.example]`";
        reader.problem(one.place, &one.key_path("hosts"), "names no host: it would never be used", fix);
    }
    for Spanned { value, place, path } in &hosts {
        let other = earlier.iter().find(|up| up.hosts.iter().any(|h| h.host == value.host));
        if let Some(other) = other {
            let what = format!("already belongs to upstream `{}`", other.name);
            reader.problem(*place, path, what, "name each host in one upstream only");
        }
    }
    for at in &hosts {
        let UpstreamHost { host, scheme, port } = &at.value;
        let port = port.or(host.port()).or(scheme.map(Scheme::default_port));
        if let Some(reason) = unreachable::for_host(destinations, host, port) {
            reader.warn(at, WarningKind::Unreachable, reason);
        }
    }
    values(hosts)
}

/// Parses `api.example`, `*.example`, or `https://api.example[:port]`.
fn host(text: &str) -> Result<UpstreamHost, ValueError> {
    let wanted = "a host such as `api.example`, `*.example` or `https://api.example`";
    if text.starts_with("http://") {
        let fix = "write the host alone, or with `https://` to upgrade its requests";
        return Err(ValueError::new(wanted, "would send requests in the clear", fix));
    }
    let Some(host) = text.strip_prefix("https://") else {
        return Ok(UpstreamHost { host: host_pattern(text)?, scheme: None, port: None });
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    let port = host_pattern(host)?.port();
    // The port is the one to connect to; requests are matched by host name, regardless of their port.
    let name = port.and_then(|port| host.strip_suffix(&format!(":{port}"))).unwrap_or(host);
    Ok(UpstreamHost { host: host_pattern(name)?, scheme: Some(Scheme::Https), port })
}
