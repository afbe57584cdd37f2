//! `routes`: their patterns, order and names.
//!
//! Owns: the keys of `match`; names; warnings about routes that override the origin or never match.
//! Never touches: the policy of a route (`policy`).

use std::sync::Arc;

use http::{HeaderName, Method};

use crate::config::Upstream;
use crate::config::diagnostics::{SourceLocation, ValueError, WarningKind};
use crate::config::duration;
use crate::config::file::{Entry, Node, Value};
use crate::config::reader::{Reader, Section, Spanned, values};
use crate::config::resolve::bounds;
use crate::config::resolve::destinations::{host_pattern, warn_trailing_dots};
use crate::config::resolve::policy::{self, Defaults};
use crate::config::resolve::{header_names, upstreams};
use crate::policy::{ScopeRule, Ttl};
use crate::route::pattern::{FieldMatch, PathPattern, Pattern, QueryMatch, ValueMatch};
use crate::route::table::{Route, Table};
use crate::semantics::target::Scheme;

/// `routes`, in the order of the file.
pub(super) fn read(
    top: &mut Section<'_>,
    defaults: &Defaults,
    upstreams: &[Arc<Upstream>],
    credentials: &[HeaderName],
    reader: &mut Reader<'_>,
) -> Table {
    let Some(node) = top.get("routes") else { return Table::default() };
    let what = "is not a list: the order of routes matters, the first match wins";
    let nodes = reader.list(node, "routes", what, "begin each route with `- name: …`");
    let mut routes: Vec<Route> = Vec::new();
    let mut places = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let Some((route, place)) = route(node, at, defaults, reader) else { continue };
        if routes.iter().any(|earlier| earlier.name == route.name) {
            let what = "is the name of an earlier route";
            let path = format!("routes[{at}].name");
            reader.problem(place, &path, what, "give each route its own name");
        }
        routes.push(route);
        places.push(place);
    }
    let table = Table::new(routes);
    refuse_ignored(&table, &places, credentials, reader);
    warn_shadowed(&table, &places, reader);
    warn_rewritten_port(&table, &places, upstreams, reader);
    table
}

/// One route and the location of its name. A route with problems may be left out; they are recorded.
fn route(
    node: &Node,
    at: usize,
    defaults: &Defaults,
    reader: &mut Reader<'_>,
) -> Option<(Route, SourceLocation)> {
    let mut section = reader.section(node, &format!("routes[{at}]"))?;
    let name = name(&mut section, reader);
    if let Some(name) = &name {
        section.path = format!("routes[{}]", name.value);
    }
    let pattern = pattern(&mut section, reader);
    let methods = pattern.as_ref().map_or(&[][..], |pattern| &pattern.methods);
    let (policy, ttl) = policy::read(&mut section, methods, defaults, reader);
    section.finish(reader);
    let pattern = pattern?;
    let cached = [Method::GET, Method::HEAD];
    if let Some((key, place)) = policy::first_storage_key(&mut section)
        && !pattern.methods.iter().any(|method| cached.contains(method))
    {
        let methods = pattern.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" or ");
        let what = format!("has no effect: larder cannot keep answers to {methods}");
        let fix = format!("remove `{key}`, or add GET to `match.method`");
        reader.problem(place, &section.key_path(key), what, fix);
    }
    if let Some(ttl) = &ttl {
        warn_overrides_origin(ttl, reader);
    }
    let Spanned { value: name, place, .. } = name?;
    Some((Route { name, index: at, pattern, policy: Arc::new(policy) }, place))
}

fn name(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Spanned<Arc<str>>> {
    section.required(reader, "name", upstreams::label, "add `name: …`; it is the label in metrics and logs")
}

fn pattern(route: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Pattern> {
    let Some(node) = route.get("match") else {
        let fix = "add `match: { host: api.example, path: \"/…\" }`";
        route.missing(reader, "match", fix);
        return None;
    };
    let mut section = reader.section(node, &route.key_path("match"))?;
    let fix = "add `host: api.example`; `\"*\"` means every host";
    let host = section.required(reader, "host", host_pattern, fix);
    warn_trailing_dots(&mut section, "host", reader);
    let methods = section.scalars(reader, "method", bounds::method);
    if methods.as_ref().is_some_and(Vec::is_empty) && is_empty_list(section.get("method")) {
        let place = section.key_place("method");
        reader.problem(place, &section.key_path("method"), "names no method", "remove the key for GET");
    }
    let path = section.scalar_or(reader, "path", path, PathPattern::any());
    let headers = conditions(&mut section, "headers", reader, header_names::name);
    let query = conditions(&mut section, "query", reader, header_names::param);
    section.finish(reader);
    let methods = methods.map_or(vec![Method::GET], values);
    let headers = headers.into_iter().map(|(name, value)| FieldMatch { name, value }).collect();
    let query = query.into_iter().map(|(name, value)| QueryMatch { name, value }).collect();
    Some(Pattern { host: host?.value, methods, path, headers, query })
}

fn is_empty_list(node: Option<&Node>) -> bool {
    node.is_some_and(|node| matches!(&node.value, Value::List(items) if items.is_empty()))
}

/// Parses conditions `name: value`, or `name: "*"` for any value.
fn conditions<N>(
    section: &mut Section<'_>,
    key: &'static str,
    reader: &mut Reader<'_>,
    read_name: impl Fn(&str) -> Result<N, ValueError>,
) -> Vec<(N, ValueMatch)> {
    let Some(inner) = section.section(reader, key) else { return Vec::new() };
    let one = |entry: &Entry| {
        let path = inner.key_path(&entry.key);
        let value = reader.scalar(&entry.value, &path, |text| {
            Ok(if text == "*" { ValueMatch::Present } else { ValueMatch::Is(text.to_owned()) })
        });
        reader.name(entry, &path, &read_name).zip(value.map(|at| at.value))
    };
    inner.entries().iter().filter_map(one).collect()
}

fn path(text: &str) -> Result<PathPattern, ValueError> {
    PathPattern::parse(text).map_err(|e| ValueError::new("a path pattern", e.to_string(), e.fix()))
}

fn warn_overrides_origin(ttl: &Spanned<Ttl>, reader: &mut Reader<'_>) {
    let shown = match ttl.value {
        Ttl::Override(lifetime) => duration::show(lifetime),
        Ttl::Forever => "forever".to_owned(),
        Ttl::Origin | Ttl::Fallback(_) | Ttl::Clamp { .. } => return,
    };
    let text = format!(
        "the origin's Cache-Control, Expires and Pragma are ignored: `ttl: {shown}` is the only \
         rule, even for no-store and private"
    );
    reader.warn(ttl, WarningKind::OverridesOrigin, text);
}

/// Refuses `key.ignore_headers` for fields that identify a user.
fn refuse_ignored(
    table: &Table,
    places: &[SourceLocation],
    credentials: &[HeaderName],
    reader: &mut Reader<'_>,
) {
    for (route, place) in table.routes().iter().zip(places) {
        let path = format!("routes[{}].key.ignore_headers", route.name);
        for name in &route.policy.key.ignored {
            let what = if credentials.contains(name) {
                "is one of `credential_headers`: one user would receive another user's response"
            } else if route.policy.scope == ScopeRule::Header(name.clone()) {
                "names the user of this route (`scope`)"
            } else {
                continue;
            };
            reader.problem(*place, &path, format!("`{name}` {what}"), "leave it out here");
        }
    }
}

/// Warns about routes for a port that an upstream rewrites. Routes match the URL of the forwarded request, so
/// they never match the original port.
fn warn_rewritten_port(
    table: &Table,
    places: &[SourceLocation],
    upstreams: &[Arc<Upstream>],
    reader: &mut Reader<'_>,
) {
    for (route, place) in table.routes().iter().zip(places) {
        let pattern = &route.pattern.host;
        let (Some(host), Some(port)) = (pattern.exact(), pattern.port()) else { continue };
        let find_host = |upstream: &&Arc<Upstream>| {
            upstream.hosts.iter().find(|entry| entry.host.matches(host, port)).cloned()
        };
        let Some((upstream, to)) = upstreams.iter().find_map(|up| Some((up, find_host(&up)?))) else {
            continue;
        };
        let Some(scheme) = to.scheme else { continue };
        let plain = port == Scheme::Http.default_port();
        let new_port = to.port.unwrap_or(if plain { scheme.default_port() } else { port });
        if new_port != port {
            let at = Spanned { value: (), place: *place, path: format!("routes[{}]", route.name) };
            let text = format!(
                "matches no request for http://{host}:{port}: upstream `{}` sends those on to \
                 {}://{host}:{new_port}, and routes match that URL; name the host without a port",
                upstream.name,
                scheme.as_str()
            );
            reader.warn(&at, WarningKind::Shadowed, text);
        }
    }
}

fn warn_shadowed(table: &Table, places: &[SourceLocation], reader: &mut Reader<'_>) {
    for shadowed in table.shadowed() {
        let (Some(route), Some(by)) = (table.routes().get(shadowed.route), table.routes().get(shadowed.by))
        else {
            continue;
        };
        let place = places.get(shadowed.route).copied().unwrap_or_default();
        let at = Spanned { value: (), place, path: format!("routes[{}]", route.name) };
        let text = format!("never matches: the earlier route `{}` matches all its requests", by.name);
        reader.warn(&at, WarningKind::Shadowed, text);
    }
}
