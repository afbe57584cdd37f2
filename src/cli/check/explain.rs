//! `check --explain METHOD URL`: explains how larder would handle one request.
//!
//! Owns: building that request, and the text of its route, scope and key, without any credential value.
//! Never touches: the network; the response is unknown here.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::describe;
use crate::frontend::mount::Mounts;
use crate::policy::{ClientCacheControl, Policy};
use crate::route::pattern::Pattern;
use crate::semantics::connection_auth;
use crate::semantics::hop_by_hop;
use crate::semantics::method;
use crate::semantics::redaction;
use crate::semantics::request::{ListenerKind, ProxyRequest};
use crate::semantics::target::{Scheme, Target};
use crate::upstream::connect::egress_policy::{Denied, EgressPolicy};
use crate::upstream::routing::UpstreamTable;

/// The reason why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    /// Not a method.
    #[error("`{0}` is not a method; write it in capitals, such as GET")]
    Method(String),
    /// Not a URL.
    #[error("`{url}` is not a URL that larder can request: {source}")]
    Url {
        url: String,
        #[source]
        source: crate::semantics::target::TargetError,
    },
    /// Not a header field. The message omits it, since its value may be a credential.
    #[error("a -H argument is not a header field; write 'Name: value'")]
    Field,
}

/// Labels and their texts.
type OutputRows = Vec<(&'static str, String)>;

/// How larder would handle the request.
pub(super) struct Explanation {
    request: String,
    /// The URL to which a mount or an upstream rewrites it; routes and keys use this URL.
    sent_as: Option<String>,
    route: Option<(String, String)>,
    policy: OutputRows,
    upstream: Option<(String, OutputRows)>,
    key: Vec<(String, String)>,
    credentials: Vec<String>,
    notes: Vec<Cow<'static, str>>,
}

/// Builds the request as the frontend would pass it on.
pub(super) fn build_request(
    config: &Config,
    method_and_url: &[String],
    fields: &[String],
) -> Result<ProxyRequest, ExplainError> {
    let (method, url) = match method_and_url {
        [method, url] => (method.as_str(), url.as_str()),
        [] | [_] | [_, _, ..] => ("", ""),
    };
    let is_upper = method.bytes().all(|byte| !byte.is_ascii_lowercase());
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|_| is_upper);
    let method =
        method.ok_or_else(|| ExplainError::Method(method_and_url.first().cloned().unwrap_or_default()))?;
    let target = Target::absolute(url)
        .map_err(|source| ExplainError::Url { url: config.redactor().text(url).into_owned(), source })?;
    let mut request = ProxyRequest::get(target);
    request.method = method;
    let loopback = config.listen.first().is_none_or(|at| at.ip().to_canonical().is_loopback());
    request.listener = if loopback { ListenerKind::Loopback } else { ListenerKind::Reachable };
    for field in fields {
        let (name, value) = field.split_once(':').ok_or(ExplainError::Field)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| ExplainError::Field)?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| ExplainError::Field)?;
        request.headers.append(name, value);
    }
    hop_by_hop::strip(&mut request.headers);
    request.headers.remove(http::header::HOST);
    Ok(request)
}

/// Explains how the configuration handles the request.
pub(super) fn explain(config: &Config, received: &ProxyRequest) -> Explanation {
    // The explanation contains no HMAC, so no secret is needed to compute one.
    let key_builder = config.key_builder([0; 32]);
    let request = &as_sent_upstream(config, received);
    let route = config.routes.find(request);
    let stored = request.method == Method::GET || request.method == Method::HEAD;
    let mut notes: Vec<Cow<'static, str>> = Vec::new();
    if received.target.scheme() == Scheme::Https {
        let intercepts = config.intercepts_host(received.target.host(), received.target.port());
        notes.push(if intercepts { INTERCEPTED.into() } else { NOT_INTERCEPTED.into() });
    }
    notes.extend(denial(config, request).map(Cow::Borrowed));
    if route.is_none() {
        notes.push("no route matches: passed through unchanged, not stored".into());
    } else if !stored {
        notes.push("only responses to GET and HEAD are stored: passed through".into());
    }
    notes.extend(route.filter(|_| stored).and_then(|route| client_directives(&route.policy, request)));
    if request.is_overridden() {
        notes.push("a field or a query parameter overrides its method: passed through, not stored".into());
    }
    if connection_auth::is_in_request(&request.headers) {
        notes.push(SIGNS_IN.into());
    }
    if (!stored && !method::is_safe(&request.method)) || request.is_overridden() {
        notes.push("a success makes stored responses of this URL unusable".into());
    }
    let cached = route.filter(|_| stored);
    let credentials = key_builder.credentials(&request.headers);
    let rewritten = request.target != received.target;
    Explanation {
        request: format!("{} {}", request.method, shown_target(config, &received.target)),
        sent_as: rewritten.then(|| shown_target(config, &request.target)),
        route: route.map(|route| (route.name.to_string(), shown_pattern(&route.pattern))),
        policy: route.map(|route| policy(&route.policy, &request.method, stored)).unwrap_or_default(),
        upstream: upstream(config, &request.target, route.is_some()),
        key: cached.map(|route| key_builder.explain(request, &route.policy)).unwrap_or_default(),
        credentials: credentials.into_iter().map(ToString::to_string).collect(),
        notes,
    }
}

/// Why `destinations` denies the request; `None`: it does not, as far as that is known without DNS.
fn denial(config: &Config, request: &ProxyRequest) -> Option<&'static str> {
    let (host, port) = (request.target.host(), request.target.port());
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let rule = config.resolve.iter().find(|rule| rule.host == host && rule.port.is_none_or(|at| at == port));
    let fixed = rule.map(|rule| rule.address).or_else(|| literal.map(|ip| SocketAddr::new(ip, port)));
    let policy = EgressPolicy::new(config.destinations.clone());
    policy.add_own_listeners(config.listen.iter().copied());
    policy.add_own_listeners(config.admin.iter().map(|admin| admin.listen));
    // Without a known address, only the rules about names and ports are certain.
    let address = fixed.unwrap_or(SocketAddr::new(ANY_PUBLIC, port));
    policy.check(host, address, request.listener).err().map(Denied::text)
}

/// A public address that no rule names.
const ANY_PUBLIC: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));

const INTERCEPTED: &str =
    "https to this host is intercepted: the client must trust larder's certificate authority";

const NOT_INTERCEPTED: &str = "https to this host passes through as a tunnel that larder does not inspect: list \
     the host in a route or in tls.intercept, or request http:// and let an upstream `https://HOST` upgrade it";

const SIGNS_IN: &str = "it authenticates its connection (NTLM, Negotiate): passed through on a connection for its \
     client only, not stored";

/// The effect of the client's own cache directives, if it has any that keep a stored response from being used.
fn client_directives(policy: &Policy, request: &ProxyRequest) -> Option<Cow<'static, str>> {
    let named = request.cache_control().restrictions().join(", ");
    let effect = match policy.client_cache_control {
        _ if named.is_empty() => return None,
        ClientCacheControl::Ignore => "has no effect here (client_cache_control: ignore)",
        ClientCacheControl::Honour => {
            "limits which stored responses it accepts, so it may need a call; with `client_cache_control: \
             ignore` on the route it has no effect"
        }
    };
    Some(format!("the client's {named} {effect}").into())
}

/// The request with the target to which a mount and its upstream rewrite it, and with larder's own
/// credential in place of the client's, if the upstream has one.
fn as_sent_upstream(config: &Config, received: &ProxyRequest) -> ProxyRequest {
    let mut request = received.clone();
    let upstreams = UpstreamTable::new(config.upstreams.clone());
    let mounts = Mounts::new(&config.upstreams);
    if let Some(mounted) = mounts.resolve_url(&request.target, &config.listen) {
        request.target = mounted;
    }
    if let Some(canonical) = upstreams.canonical_target(&request.target) {
        request.target = canonical;
    }
    if let Some(credential) = upstreams.credential(&request.target) {
        request.headers.insert(credential.header.clone(), HeaderValue::from_static("larder"));
    }
    request
}

/// The route's policy for the request. For one that is passed through, only retry and cooldown.
fn policy(policy: &Policy, method: &Method, stored: bool) -> OutputRows {
    let retry = ("retry", describe::retry_for_method(&policy.retry, method));
    if !stored {
        return vec![retry, ("cooldown", describe::cooldown(policy.cooldown))];
    }
    let lines = describe::policy(policy).into_iter();
    lines.map(|line| if line.0 == retry.0 { retry.clone() } else { line }).collect()
}

/// The upstream of the target's host, and the policy of that upstream.
fn upstream(config: &Config, target: &Target, routed: bool) -> Option<(String, OutputRows)> {
    let found = UpstreamTable::new(config.upstreams.clone()).lookup(target);
    let upstream = found.upstream?;
    let mut rows = describe::upstream_policy(&upstream);
    if !routed {
        rows.push(("cooldown", describe::cooldown(config.cooldown)));
    }
    Some((upstream.name.to_string(), rows))
}

/// A route's pattern with secrets masked: its path may contain a token.
fn shown_pattern(pattern: &Pattern) -> String {
    redaction::paths_in(&pattern.to_string()).into_owned()
}

/// The URL without its query, which the key lists by parameter, and with secrets masked.
fn shown_target(config: &Config, target: &Target) -> String {
    let query = if target.query().is_some() { "?…" } else { "" };
    let redactor = config.redactor();
    let path = redactor.path(target.path());
    format!("{}://{}{path}{query}", target.scheme().as_str(), target.authority())
}

impl Explanation {
    /// Prints it as text.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.request)?;
        if let Some(sent_as) = &self.sent_as {
            writeln!(out, "sent as       {sent_as}  (routes, keys and purges use this URL)")?;
        }
        match &self.route {
            Some((name, pattern)) => writeln!(out, "\nroute         {name}  ({pattern})")?,
            None => writeln!(out, "\nroute         none")?,
        }
        for (label, text) in &self.policy {
            writeln!(out, "  {label:<12}{text}")?;
        }
        if let Some((name, rows)) = &self.upstream {
            writeln!(out, "\nupstream      {name}")?;
            for (label, text) in rows {
                writeln!(out, "  {label:<12}{text}")?;
            }
        }
        if !self.key.is_empty() {
            writeln!(out, "\nkey")?;
        }
        for (part, shown) in &self.key {
            writeln!(out, "  {part:<12}{shown}")?;
        }
        let none = if self.credentials.is_empty() { "none" } else { "" };
        writeln!(out, "\ncredentials   {none}{}", self.credentials.join(", "))?;
        for note in &self.notes {
            writeln!(out, "note          {note}")?;
        }
        Ok(())
    }

    /// The JSON form.
    pub(super) fn to_json(&self) -> Value {
        let pairs = |pairs: &[(String, String)]| {
            pairs.iter().map(|(part, shown)| json!({ "part": part, "shown": shown })).collect::<Vec<_>>()
        };
        json!({
            "request": self.request,
            "sent_as": self.sent_as,
            "route": self.route.as_ref().map(|(name, _)| name),
            "match": self.route.as_ref().map(|(_, pattern)| pattern),
            "policy": describe::to_json_object(&self.policy),
            "upstream": self.upstream.as_ref().map(|(name, _)| name),
            "upstream_policy": self.upstream.as_ref().map(|(_, rows)| describe::to_json_object(rows)),
            "key": pairs(&self.key),
            "credentials": self.credentials,
            "notes": self.notes,
        })
    }
}
