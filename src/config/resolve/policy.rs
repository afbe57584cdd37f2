//! The policy of a route, and `defaults`.
//!
//! Owns: the forms of `ttl`, the stale windows, scopes, key rules and targeted fields, and which of them
//! exclude each other. Never touches: which requests a route matches (`routes`).

use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::defaults;
use crate::config::diagnostics::{SourceLocation, ValueError};
use crate::config::duration;
use crate::config::file::Value;
use crate::config::keyword::{boolean, keyword};
use crate::config::number::share_up_to_half;
use crate::config::reader::{Reader, Section, Spanned, values};
use crate::config::resolve::{header_names, retry, status, timeouts};
use crate::policy::{
    ClientCacheControl, CooldownPolicy, ErrorMatch, KeyPolicy, Mode, Policy, QueryRule, RetryPolicy,
    ScopeRule, SetCookiePolicy, StaleIfError, StatusMatch, Ttl,
};

/// `defaults`: the values for keys that a route does not set.
pub(super) struct Defaults {
    /// The mode of larder as a whole.
    pub(super) mode: Mode,
    /// The cooldown policy, also for calls without a route.
    pub(super) cooldown: CooldownPolicy,
    retry: RetryPolicy,
    scope: ScopeRule,
    ttl_jitter: f64,
    coalesce_wait: Duration,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: StaleIfErrorSection,
}

/// `stale_if_error` as written, and the resulting cooldown policy.
#[derive(Default)]
struct StaleIfErrorSection {
    window: Option<Duration>,
    on: Option<Vec<ErrorMatch>>,
    ends_on: Option<Vec<StatusMatch>>,
    cooldown: CooldownPolicy,
}

/// `defaults`.
pub(super) fn defaults(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Defaults {
    let mut read = Defaults {
        mode: Mode::default(),
        cooldown: CooldownPolicy::default(),
        retry: RetryPolicy::default(),
        scope: ScopeRule::Credential,
        ttl_jitter: 0.0,
        coalesce_wait: defaults::COALESCE_WAIT,
        stale_while_revalidate: None,
        stale_if_error: StaleIfErrorSection::default(),
    };
    let Some(mut section) = top.section(reader, "defaults") else { return read };
    let modes = Mode::ALL.map(|mode| (mode.token(), mode));
    read.mode =
        section.scalar_or(reader, "mode", keyword("one of cache, bypass, offline", &modes), read.mode);
    if let Some(at) = scope(&mut section, reader) {
        if at.value == ScopeRule::Shared {
            let what = "`shared` here would serve one user's responses to other users on every route";
            let fix = "write `scope: shared` on each route whose responses are the same for all";
            reader.problem(at.place, &at.path, what, fix);
        }
        read.scope = at.value;
    }
    read.ttl_jitter = section.scalar_or(reader, "ttl_jitter", share_up_to_half, read.ttl_jitter);
    if let Some(wait) = coalesce(&mut section, reader) {
        read.coalesce_wait = wait;
    }
    read.stale_while_revalidate = stale_while_revalidate(&mut section, reader);
    read.retry = retry::for_defaults(&mut section, reader);
    read.stale_if_error = stale_if_error(&mut section, read.cooldown, reader);
    read.cooldown = read.stale_if_error.cooldown;
    section.finish(reader);
    read
}

/// The policy of one route that matches `methods`, and its `ttl` with location if it is set.
pub(super) fn read(
    route: &mut Section<'_>,
    methods: &[Method],
    defaults: &Defaults,
    reader: &mut Reader<'_>,
) -> (Policy, Option<Spanned<Ttl>>) {
    let scope = scope(route, reader);
    let ttl = ttl(route, reader);
    let by_status = ttl_by_status(route, reader);
    let ttl_jitter = route.scalar_or(reader, "ttl_jitter", share_up_to_half, defaults.ttl_jitter);
    let swr = stale_while_revalidate(route, reader);
    let retry = retry::for_route(route, methods, &defaults.retry, reader);
    let sie = stale_if_error(route, defaults.cooldown, reader);
    let wait = coalesce(route, reader);
    let key = key(route, reader);
    let set_cookie = set_cookie(route, scope.as_ref(), ttl.as_ref(), reader);
    let timeouts = timeouts::read(route, reader);
    let targeted = targeted(route, ttl.as_ref(), reader);
    let client_cache_control = client_cache_control(route, reader);
    let keep_limit_fields = route.scalar_or(reader, "keep_limit_fields", boolean, false);
    let ttl_form = ttl.as_ref().map_or(Ttl::Origin, |at| at.value);
    // Windows from `defaults` apply only if `ttl` overrides the origin. Otherwise the origin's own windows
    // apply, and only those of the route itself take precedence over them.
    let overrides_origin = ttl_form.overrides_origin();
    let window = sie.window.or(defaults.stale_if_error.window.filter(|_| overrides_origin));
    let on = sie.on.or_else(|| defaults.stale_if_error.on.clone());
    let ends_on = sie.ends_on.or_else(|| defaults.stale_if_error.ends_on.clone());
    let default = StaleIfError::default();
    let policy = Policy {
        ttl: ttl_form,
        ttl_by_status: by_status,
        ttl_jitter,
        stale_while_revalidate: swr.or(defaults.stale_while_revalidate.filter(|_| overrides_origin)),
        stale_if_error: StaleIfError {
            window,
            on: on.unwrap_or(default.on),
            ends_on: ends_on.unwrap_or(default.ends_on),
        },
        retry,
        cooldown: sie.cooldown,
        scope: scope.map_or_else(|| defaults.scope.clone(), |at| at.value),
        key,
        coalesce_wait: wait.unwrap_or(defaults.coalesce_wait),
        set_cookie,
        timeouts,
        targeted_cache_control: targeted,
        client_cache_control,
        keep_limit_fields,
    };
    (policy, ttl)
}

fn ttl(route: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Spanned<Ttl>> {
    let node = route.get("ttl")?;
    let path = route.key_path("ttl");
    if matches!(node.value, Value::Map(_)) {
        let mut section = reader.section(node, &path)?;
        let value = ttl_of_map(&mut section, reader);
        section.finish(reader);
        return Some(Spanned { value: value?, place: route.key_place("ttl"), path });
    }
    let wanted = "a duration such as `30m`, `forever` or `origin`";
    let words = keyword(wanted, &[("forever", Ttl::Forever), ("origin", Ttl::Origin)]);
    reader.scalar(node, &path, |text| {
        if !text.contains(|c: char| c.is_ascii_digit()) {
            return words(text);
        }
        duration::parse(text).map(Ttl::Override).map_err(|wrong| ValueError { wanted, ..wrong })
    })
}

/// `{ fallback: 30m }` or `{ min: 1m, max: 1h }`; either of the latter two is enough.
fn ttl_of_map(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Ttl> {
    let known = reader.problems.len();
    let fallback = section.scalar(reader, "fallback", duration::parse);
    let min = section.scalar(reader, "min", duration::parse);
    let max = section.scalar(reader, "max", duration::parse);
    let (what, fix) = match (fallback, min, max) {
        (Some(fallback), None, None) => return Some(Ttl::Fallback(fallback.value)),
        (None, None, None) if reader.problems.len() > known => return None,
        (None, None, None) => (
            "has neither `fallback` nor `min` and `max`",
            "write `{ fallback: 30m }`, `{ min: 1m, max: 1h }`, or a duration alone",
        ),
        (Some(_), _, _) => (
            "has `fallback` beside `min` or `max`: the first is for responses without freshness, the \
             others for responses with it",
            "keep one of the two forms",
        ),
        (None, min, max) => {
            let min = min.map_or(Duration::ZERO, |at| at.value);
            let max = max.map_or(defaults::LONGEST_TTL, |at| at.value);
            if min <= max {
                return Some(Ttl::Clamp { min, max });
            }
            ("has a `min` above its `max`", "swap the two, or keep one")
        }
    };
    reader.problem(section.place, &section.path, what, fix);
    None
}

/// `ttl_by_status`, single statuses before classes, so that the more specific one matches first.
fn ttl_by_status(route: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<(StatusMatch, Duration)> {
    let Some(section) = route.section(reader, "ttl_by_status") else { return Vec::new() };
    let mut all = Vec::new();
    for entry in section.entries() {
        let path = section.key_path(&entry.key);
        let ttl = reader.scalar(&entry.value, &path, duration::parse);
        let status = reader.name(entry, &path, status::stored);
        all.extend(status.zip(ttl.map(|ttl| ttl.value)));
    }
    all.sort_by_key(|(status, _)| matches!(status, StatusMatch::Class(_)));
    all
}

fn stale_while_revalidate(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Duration> {
    section.scalar(reader, "stale_while_revalidate", duration::parse).map(|at| at.value)
}

/// `stale_if_error`; `cooldown` is the policy of `defaults`, which applies to every route.
fn stale_if_error(
    section: &mut Section<'_>,
    cooldown: CooldownPolicy,
    reader: &mut Reader<'_>,
) -> StaleIfErrorSection {
    let unset = StaleIfErrorSection { cooldown, ..StaleIfErrorSection::default() };
    let Some(node) = section.get("stale_if_error") else { return unset };
    let path = section.key_path("stale_if_error");
    if matches!(node.value, Value::Scalar(..)) {
        let what = "is a single value, but the window and the errors have separate keys";
        reader.problem(node.place, &path, what, "write `{ for: 24h, on: [429, 5xx, connect, timeout] }`");
        return unset;
    }
    let Some(mut inner) = reader.section(node, &path) else { return unset };
    let window = inner.scalar(reader, "for", duration::parse).map(|at| at.value);
    let on = inner.scalars(reader, "on", status::error).map(values);
    let ends_on = inner.scalars(reader, "ends_on", status::ends).map(values);
    let cooldown = retry::cooldown(&mut inner, cooldown, reader);
    inner.finish(reader);
    StaleIfErrorSection { window, on, ends_on, cooldown }
}

fn coalesce(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Duration> {
    let mut inner = section.section(reader, "coalesce")?;
    let wait = inner.scalar(reader, "wait", duration::parse);
    inner.finish(reader);
    wait.map(|at| at.value)
}

fn scope(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Spanned<ScopeRule>> {
    let node = section.get("scope")?;
    let path = section.key_path("scope");
    if matches!(node.value, Value::Map(_)) {
        let mut inner = reader.section(node, &path)?;
        let fix = "write `{ header: X-Larder-User }`, or `credential`";
        let header = inner.required(reader, "header", scope_header, fix);
        inner.finish(reader);
        let Spanned { value, place, .. } = header?;
        return Some(Spanned { value: ScopeRule::Header(value), place, path });
    }
    let words = [("credential", false), ("shared", true)];
    let wanted = "`credential`, `shared` or `{ header: X-Larder-User }`";
    let shared = reader.scalar(node, &path, keyword(wanted, &words))?;
    let value = if shared.value { ScopeRule::Shared } else { ScopeRule::Credential };
    Some(Spanned { value, place: shared.place, path })
}

/// Parses the field in which the app names its user. It is not sent upstream, so it cannot be a field that
/// the origin needs.
fn scope_header(text: &str) -> Result<HeaderName, ValueError> {
    let name = header_names::name(text)?;
    if name == http::header::AUTHORIZATION || name == http::header::COOKIE {
        let what = "would not reach the origin: the field of a scope is removed";
        let fix = "use a field of the app's own, such as `X-Larder-User`, or `scope: credential`";
        return Err(ValueError::new("the name of a request field", what, fix));
    }
    Ok(name)
}

fn key(route: &mut Section<'_>, reader: &mut Reader<'_>) -> KeyPolicy {
    let Some(mut section) = route.section(reader, "key") else { return KeyPolicy::default() };
    let query = section.section(reader, "query").map_or(QueryRule::All, |mut query| {
        let rule = query_rule(&mut query, reader);
        query.finish(reader);
        rule
    });
    let headers = section.scalars(reader, "headers", header_names::name).unwrap_or_default();
    let ignored = section.scalars(reader, "ignore_headers", header_names::ignorable).unwrap_or_default();
    for name in ignored.iter().filter(|name| headers.iter().any(|counted| counted.value == name.value)) {
        let what = format!("`{}` is in `key.headers` too", name.value);
        reader.problem(name.place, &name.path, what, "keep one of the two");
    }
    section.finish(reader);
    KeyPolicy { query, headers: values(headers), ignored: values(ignored) }
}

fn client_cache_control(route: &mut Section<'_>, reader: &mut Reader<'_>) -> ClientCacheControl {
    let words = [("honour", ClientCacheControl::Honour), ("ignore", ClientCacheControl::Ignore)];
    let word = keyword("`honour` or `ignore`", &words);
    route.scalar_or(reader, "client_cache_control", word, ClientCacheControl::default())
}

fn query_rule(query: &mut Section<'_>, reader: &mut Reader<'_>) -> QueryRule {
    let rule = included(query, reader);
    let is_sorted = query.scalar_or(reader, "sort", boolean, false);
    if is_sorted { QueryRule::Sorted(Box::new(rule)) } else { rule }
}

fn included(query: &mut Section<'_>, reader: &mut Reader<'_>) -> QueryRule {
    let include = query.scalars(reader, "include", header_names::param).map(values);
    let exclude = query.scalars(reader, "exclude", header_names::param).map(values);
    match (include, exclude) {
        (None, None) => QueryRule::All,
        (Some(names), None) => QueryRule::Include(names),
        (None, Some(names)) => QueryRule::Exclude(names),
        (Some(_), Some(_)) => {
            let what = "has both `include` and `exclude`";
            reader.problem(query.place, &query.path, what, "keep one of the two");
            QueryRule::All
        }
    }
}

fn set_cookie(
    route: &mut Section<'_>,
    scope: Option<&Spanned<ScopeRule>>,
    ttl: Option<&Spanned<Ttl>>,
    reader: &mut Reader<'_>,
) -> SetCookiePolicy {
    let words = [("strip", SetCookiePolicy::Strip), ("keep", SetCookiePolicy::Keep)];
    let Some(at) = route.scalar(reader, "set_cookie", keyword("`strip` or `keep`", &words)) else {
        return SetCookiePolicy::Refuse;
    };
    let shared = scope.is_some_and(|scope| scope.value == ScopeRule::Shared);
    let overrides_origin = ttl.is_some_and(|ttl| ttl.value.overrides_origin());
    if at.value == SetCookiePolicy::Keep && shared && overrides_origin {
        let what = "`keep` would send one user's cookies to all: the scope is shared, and this `ttl` \
                    overrides the origin's `private` and `no-store`";
        reader.problem(at.place, &at.path, what, "write `set_cookie: strip`");
    }
    at.value
}

/// The targeted fields that replace `Cache-Control`, in order. A `ttl` that overrides the origin uses none.
fn targeted(route: &mut Section<'_>, ttl: Option<&Spanned<Ttl>>, reader: &mut Reader<'_>) -> Vec<HeaderName> {
    let key = "targeted_cache_control";
    let names = route.values(reader, key, header_names::targeted);
    if !names.is_empty() && ttl.is_some_and(|ttl| ttl.value.overrides_origin()) {
        let what = "has no effect: this `ttl` overrides the origin's caching fields";
        let fix = "remove `targeted_cache_control`, or write `ttl: origin` to use the origin's fields";
        reader.problem(route.key_place(key), &route.key_path(key), what, fix);
    }
    names
}

/// The first key that affects stored responses only; it has no effect on a route whose responses are never
/// stored. `stale_if_error.max_cooldown` alone does not count, because it applies to every call.
pub(super) fn first_storage_key(route: &mut Section<'_>) -> Option<(&'static str, SourceLocation)> {
    let only_max_cooldown = route.get("stale_if_error").is_some_and(|node| match &node.value {
        Value::Map(entries) => entries.iter().all(|entry| entry.key == "max_cooldown"),
        Value::Null | Value::Scalar(..) | Value::List(_) => false,
    });
    let keys = [
        "ttl",
        "ttl_by_status",
        "ttl_jitter",
        "stale_while_revalidate",
        "stale_if_error",
        "targeted_cache_control",
        "client_cache_control",
        "keep_limit_fields",
    ];
    let affects_storing = |key: &&str| route.has(key) && !(only_max_cooldown && *key == "stale_if_error");
    let key = keys.into_iter().find(affects_storing)?;
    Some((key, route.key_place(key)))
}
