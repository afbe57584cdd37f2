//! A human-readable description of a configuration.
//!
//! Owns: the texts that describe policies and settings; they never contain secrets.
//! Never touches: the place where they are printed.

mod upstream;

use std::net::SocketAddr;

use crate::config::duration::show;
use crate::config::number::show_share;
use crate::config::{Admin, Config, ResolveRule, Store, Upstream, size};
use crate::policy::{
    ClientCacheControl, ErrorMatch, KeyPolicy, Policy, QueryRule, ScopeRule, SetCookiePolicy, StatusMatch,
    Ttl,
};
use crate::semantics::target::Scheme;

pub(crate) use crate::config::describe::upstream::{
    cooldown, deadline, retry, retry_for_method, to_json_object, upstream_policy,
};

/// A policy, line by line: a label and its text.
pub(crate) fn policy(policy: &Policy) -> Vec<(&'static str, String)> {
    let mut lines = vec![("fresh", fresh(policy))];
    lines.push(("stale", stale(policy)));
    lines.push(("retry", retry(&policy.retry)));
    lines.push(("cooldown", cooldown(policy.cooldown)));
    lines.push(("scope", scope(&policy.scope)));
    lines.push(("key", key(&policy.key)));
    lines.push(("coalesce", format!("wait {} for a fetch in flight", show(policy.coalesce_wait))));
    if !policy.targeted_cache_control.is_empty() {
        let first = format!("{} before Cache-Control", list(&policy.targeted_cache_control));
        lines.push(("targeted_cache_control", first));
    }
    let timeouts = upstream::timeouts(&policy.timeouts);
    lines.extend(timeouts.map(|text| ("timeouts", text)));
    if policy.client_cache_control == ClientCacheControl::Ignore {
        let text = "no-cache, no-store, max-age and min-fresh of requests are ignored";
        lines.push(("client_cache_control", text.to_owned()));
    }
    if policy.keep_limit_fields {
        lines.push(("limit fields", "hits carry those of the stored response".to_owned()));
    }
    match policy.set_cookie {
        SetCookiePolicy::Refuse => {}
        SetCookiePolicy::Strip => lines.push(("cookies", "stored without Set-Cookie".to_owned())),
        SetCookiePolicy::Keep => lines.push(("cookies", "stored with Set-Cookie".to_owned())),
    }
    lines
}

/// The clients that may use the listener at `address`.
pub(crate) fn users(config: &Config, address: SocketAddr) -> String {
    let from = match config.access.clients.as_slice() {
        [] if address.ip().to_canonical().is_loopback() => "for this host".to_owned(),
        [] => "for every host".to_owned(),
        nets => format!("for {}", list(nets)),
    };
    let users = config.access.users.as_ref();
    users.map_or_else(|| from.clone(), |users| format!("{from}, {} users", users.0.len()))
}

/// The permissions on the admin listener.
pub(crate) fn admin(admin: &Admin) -> String {
    let read = match admin.allow.as_slice() {
        [] => "health and metrics".to_owned(),
        nets => format!("health and metrics for this host and {}", list(nets)),
    };
    let operate = if admin.token.is_some() { "with the token" } else { "for this host only" };
    format!("{read}; /v1 {operate}")
}

/// Which TLS connections are intercepted.
pub(crate) fn interception(config: &Config) -> String {
    let passthrough = &config.tls.passthrough;
    let mut hosts: Vec<_> = Vec::new();
    for host in
        config.interception_patterns().filter(|host| !passthrough.iter().any(|pattern| pattern.covers(host)))
    {
        if !hosts.contains(&host.to_string()) {
            hosts.push(host.to_string());
        }
    }
    match (hosts.as_slice(), passthrough.as_slice()) {
        ([], _) => "nothing: TLS is tunnelled".to_owned(),
        (hosts, []) => hosts.join(", "),
        (hosts, passthrough) => format!("{}; never {}", hosts.join(", "), list(passthrough)),
    }
}

/// The certificate authority: its file, and the hosts for which it may issue certificates.
pub(crate) fn certificate_authority(config: &Config) -> String {
    let names = match config.tls.ca.constrain.as_slice() {
        [] => "any host".to_owned(),
        constrain => format!("{} and names below", list(constrain)),
    };
    match &config.tls.ca.files {
        Some(files) => format!("{}, for {names}", files.cert.display()),
        None if config.store.disk == 0 => format!("in memory only, for {names}"),
        None => format!("{}, for {names}", config.store.path.join("ca/ca.pem").display()),
    }
}

/// The sizes and the path of the store.
pub(crate) fn store(store: &Store) -> String {
    let disk = match store.disk {
        0 => "nothing on disk".to_owned(),
        bytes => format!("{} on disk in {}", size::show(bytes), store.path.display()),
    };
    let (memory, largest) = (size::show_memory(store.memory), size::show_memory(store.max_object));
    format!("{memory} in memory, {disk}, responses up to {largest}")
}

/// One `resolve` rule.
pub(crate) fn resolve(rule: &ResolveRule) -> String {
    let port = rule.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port} is reached at {}", rule.host, rule.address)
}

/// The hosts of an upstream.
pub(crate) fn upstream(upstream: &Upstream) -> String {
    let hosts = upstream.hosts.iter().map(|host| {
        let scheme = match host.scheme {
            Some(Scheme::Https) => "https://",
            Some(Scheme::Http) => "http://",
            None => "",
        };
        let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}{}{port}", host.host)
    });
    hosts.collect::<Vec<_>>().join(", ")
}

fn fresh(policy: &Policy) -> String {
    let mut text = match policy.ttl {
        Ttl::Origin => "as the origin specifies".to_owned(),
        Ttl::Fallback(ttl) => format!("as the origin specifies, else for {}", show(ttl)),
        Ttl::Clamp { min, max } => {
            format!("as the origin specifies, but from {} to {}", show(min), show(max))
        }
        Ttl::Override(ttl) => format!("for {}, regardless of the origin", show(ttl)),
        Ttl::Forever => "forever, regardless of the origin".to_owned(),
    };
    for (matched, ttl) in &policy.ttl_by_status {
        text = format!("{text}; {} for {}", status(*matched), show(*ttl));
    }
    if policy.ttl_jitter > 0.0 {
        text = format!("{text}; each up to {} less", show_share(policy.ttl_jitter));
    }
    text
}

fn stale(policy: &Policy) -> String {
    let overrides_origin = policy.ttl.overrides_origin();
    let refreshing = policy
        .stale_while_revalidate
        .map(|window| format!("{} more while a new one is fetched", show(window)));
    let on: Vec<_> = policy.stale_if_error.on.iter().map(|on| error(*on)).collect();
    let ends: Vec<_> = policy.stale_if_error.ends_on.iter().map(|on| status(*on)).collect();
    let until = if ends.is_empty() { String::new() } else { format!(", until a {}", ends.join(", ")) };
    let errors = format!("in place of {}{until}", on.join(", "));
    let on_error = match policy.stale_if_error.window {
        _ if on.is_empty() => "never in place of an error".to_owned(),
        Some(window) => format!("{} {errors}", show(window)),
        None if overrides_origin => format!("24h {errors}"),
        None => format!("{errors}: only if the origin allows it; add `stale_if_error: {{ for: 24h }}`"),
    };
    refreshing.map_or_else(|| on_error.clone(), |first| format!("{first}; {on_error}"))
}

fn scope(rule: &ScopeRule) -> String {
    match rule {
        ScopeRule::Credential => "separate for each credential".to_owned(),
        ScopeRule::Shared => "shared by all clients".to_owned(),
        ScopeRule::Header(name) => format!("separate for each value of {name}"),
    }
}

fn query(rule: &QueryRule) -> String {
    match rule {
        QueryRule::All => "the whole query".to_owned(),
        QueryRule::Include(names) if names.is_empty() => "no query parameter".to_owned(),
        QueryRule::Include(names) => format!("only the query parameters {}", names.join(", ")),
        QueryRule::Exclude(names) => format!("the query without {}", names.join(", ")),
        QueryRule::Sorted(rule) => format!("{}, sorted by name", query(rule)),
    }
}

fn key(rule: &KeyPolicy) -> String {
    let mut text = query(&rule.query);
    if !rule.headers.is_empty() {
        text = format!("{text}; the fields {}", list(&rule.headers));
    }
    if !rule.ignored.is_empty() {
        text = format!("{text}; not the fields {}", list(&rule.ignored));
    }
    text
}

fn error(on: ErrorMatch) -> String {
    match on {
        ErrorMatch::Status(matched) => status(matched),
        ErrorMatch::Connect => "connect".to_owned(),
        ErrorMatch::Timeout => "timeout".to_owned(),
        ErrorMatch::Breaker => "an open breaker".to_owned(),
        ErrorMatch::Budget => "a spent budget".to_owned(),
    }
}

fn status(matched: StatusMatch) -> String {
    match matched {
        StatusMatch::Exact(code) => code.as_str().to_owned(),
        StatusMatch::Class(class) => format!("{class}xx"),
    }
}

/// The items, separated by commas.
pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
