//! `check --explain METHOD URL`: what would become of one request.
//!
//! Owns: building that request and telling route, scope and key. No value of a credential is told.
//! Never touches: the network; the answer is not known here.

use std::io::{self, Write};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::describe;
use crate::frontend::mount::Mounts;
use crate::policy::Policy;
use crate::route::pattern::Pattern;
use crate::semantics::connection_auth;
use crate::semantics::hop_by_hop;
use crate::semantics::method;
use crate::semantics::redaction;
use crate::semantics::request::{ListenerKind, ProxyRequest};
use crate::semantics::target::{Scheme, Target};
use crate::upstream::routing::UpstreamTable;

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    /// Not a method.
    #[error("`{0}` is not a method; write it in capitals, such as GET")]
    Method(String),
    /// Not a URL.
    #[error("`{url}` is not a URL that larder carries: {source}")]
    Url {
        url: String,
        #[source]
        source: crate::semantics::target::TargetError,
    },
    /// Not a field. Its value may be a credential.
    #[error("one of the -H is not a field; write 'Name: value'")]
    Field,
}

/// Words and what they mean here.
type OutputRows = Vec<(&'static str, String)>;

/// What becomes of it.
pub(super) struct Explanation {
    request: String,
    /// The URL that a mount or an upstream makes of it, by which larder knows the resource.
    sent_as: Option<String>,
    route: Option<(String, String)>,
    policy: OutputRows,
    upstream: Option<(String, OutputRows)>,
    key: Vec<(String, String)>,
    credentials: Vec<String>,
    notes: Vec<&'static str>,
}

/// The request, as the front door would hand it on.
pub(super) fn asked(
    config: &Config,
    request: &[String],
    fields: &[String],
) -> Result<ProxyRequest, ExplainError> {
    let (method, url) = match request {
        [method, url] => (method.as_str(), url.as_str()),
        [] | [_] | [_, _, ..] => ("", ""),
    };
    let known = method.bytes().all(|byte| !byte.is_ascii_lowercase());
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|_| known);
    let method =
        method.ok_or_else(|| ExplainError::Method(request.first().cloned().unwrap_or_default()))?;
    let target = Target::absolute(url).map_err(|source| ExplainError::Url {
        url: config.redactor().text(url).into_owned(),
        source,
    })?;
    let mut asked = ProxyRequest::get(target);
    asked.method = method;
    let loopback = config.listen.first().is_none_or(|at| at.ip().to_canonical().is_loopback());
    asked.listener = if loopback { ListenerKind::Loopback } else { ListenerKind::Reachable };
    for field in fields {
        let (name, value) = field.split_once(':').ok_or(ExplainError::Field)?;
        let name =
            HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| ExplainError::Field)?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| ExplainError::Field)?;
        asked.headers.append(name, value);
    }
    hop_by_hop::strip_request(&mut asked.headers);
    asked.headers.remove(http::header::HOST);
    Ok(asked)
}

/// What the configuration makes of it.
pub(super) fn explain(config: &Config, asked: &ProxyRequest) -> Explanation {
    // No HMAC is shown, so no secret is needed to make one.
    let ring = config.keyring([0; 32]);
    let (request, asked) = (asked, &as_the_origin_sees_it(config, asked));
    let route = config.routes.find(asked);
    let stored = asked.method == Method::GET || asked.method == Method::HEAD;
    let mut notes = Vec::new();
    if request.target.scheme() == Scheme::Https {
        notes.push(if config.intercepts_host(request.target.host(), request.target.port()) {
            "https to this host is intercepted: the client must trust larder's certificate authority"
        } else {
            "https to this host passes through as a tunnel that larder does not look into: name the host in a route or in tls.intercept, or ask with http:// and let an upstream `https://HOST` upgrade it"
        });
    }
    if route.is_none() {
        notes.push("no route matches: passed through unchanged, not stored");
    } else if !stored {
        notes.push("only answers to GET and HEAD are stored: passed through");
    }
    if asked.is_overridden() {
        notes.push(
            "a field or a parameter names another method than its own: passed through, not stored",
        );
    }
    if connection_auth::is_sent(&asked.headers) {
        notes.push(
            "it signs in (NTLM, Negotiate): passed through over a connection that is its client's alone, not stored",
        );
    }
    if (!stored && !method::is_safe(&asked.method)) || asked.is_overridden() {
        notes.push("a success makes what is stored of this URL unusable");
    }
    let cached = route.filter(|_| stored);
    let credentials = ring.credentials(&asked.headers);
    let moved = asked.target != request.target;
    Explanation {
        request: format!("{} {}", asked.method, shown_target(config, &request.target)),
        sent_as: moved.then(|| shown_target(config, &asked.target)),
        route: route.map(|route| (route.name.to_string(), shown_pattern(&route.pattern))),
        policy: route.map(|route| policy(&route.policy, &asked.method, stored)).unwrap_or_default(),
        upstream: upstream(config, &asked.target, route.is_some()),
        key: cached.map(|route| ring.explain(asked, &route.policy)).unwrap_or_default(),
        credentials: credentials.into_iter().map(ToString::to_string).collect(),
        notes,
    }
}

/// The request for the place that a mount and its upstream send it to, with larder's own credential in its client's
/// place where it shows one.
fn as_the_origin_sees_it(config: &Config, asked: &ProxyRequest) -> ProxyRequest {
    let mut asked = asked.clone();
    let upstreams = UpstreamTable::new(config.upstreams.clone());
    let mounts = Mounts::new(&config.upstreams);
    if let Some(mounted) = mounts.stands_for(&asked.target, &config.listen) {
        asked.target = mounted;
    }
    if let Some(moved) = upstreams.moved(&asked.target) {
        asked.target = moved;
    }
    if let Some(shown) = upstreams.credential(&asked.target) {
        asked.headers.insert(shown.header.clone(), HeaderValue::from_static("larder"));
    }
    asked
}

/// What the route says of such a request: of one that is passed through, only how it is called.
fn policy(policy: &Policy, method: &Method, stored: bool) -> OutputRows {
    let retry = ("retry", describe::retry_of(&policy.retry, method));
    if !stored {
        return vec![retry, ("hold", describe::hold(policy.hold))];
    }
    let lines = describe::policy(policy).into_iter();
    lines.map(|line| if line.0 == retry.0 { retry.clone() } else { line }).collect()
}

/// The upstream of its host, and how that is treated.
fn upstream(config: &Config, target: &Target, routed: bool) -> Option<(String, OutputRows)> {
    let place = UpstreamTable::new(config.upstreams.clone()).place(target);
    let upstream = place.upstream?;
    let mut says = describe::conduct(&upstream);
    if !routed {
        says.push(("hold", describe::hold(config.hold)));
    }
    Some((upstream.name.to_string(), says))
}

/// A route's path may hold a token, too.
fn shown_pattern(pattern: &Pattern) -> String {
    redaction::paths_in(&pattern.to_string()).into_owned()
}

/// Without its query, which the key tells part by part, secrets left out.
fn shown_target(config: &Config, target: &Target) -> String {
    let query = if target.query().is_some() { "?…" } else { "" };
    let redactor = config.redactor();
    let path = redactor.path(target.path());
    format!("{}://{}{path}{query}", target.scheme().as_str(), target.authority())
}

impl Explanation {
    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.request)?;
        if let Some(sent_as) = &self.sent_as {
            writeln!(out, "sent as       {sent_as}  (routes, keys and purges see this URL)")?;
        }
        match &self.route {
            Some((name, pattern)) => writeln!(out, "\nroute         {name}  ({pattern})")?,
            None => writeln!(out, "\nroute         none")?,
        }
        for (what, says) in &self.policy {
            writeln!(out, "  {what:<12}{says}")?;
        }
        if let Some((name, says)) = &self.upstream {
            writeln!(out, "\nupstream      {name}")?;
            for (what, says) in says {
                writeln!(out, "  {what:<12}{says}")?;
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

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let pairs = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(part, shown)| json!({ "part": part, "shown": shown }))
                .collect::<Vec<_>>()
        };
        json!({
            "request": self.request,
            "sent_as": self.sent_as,
            "route": self.route.as_ref().map(|(name, _)| name),
            "match": self.route.as_ref().map(|(_, pattern)| pattern),
            "policy": describe::told(&self.policy),
            "upstream": self.upstream.as_ref().map(|(name, _)| name),
            "conduct": self.upstream.as_ref().map(|(_, says)| describe::told(says)),
            "key": pairs(&self.key),
            "credentials": self.credentials,
            "notes": self.notes,
        })
    }
}
