//! `retry` and the cooldowns of `stale_if_error`.
//!
//! Owns: their keys and bounds, the rule that each key of a route overrides that of `defaults`, and which
//! methods may be retried where. Never touches: waiting.

use http::Method;

use crate::config::diagnostics::WarningKind;
use crate::config::duration::{self, parse_positive};
use crate::config::file::Value;
use crate::config::keyword::boolean;
use crate::config::number::{between, count, share};
use crate::config::reader::{Reader, Section, Spanned, values};
use crate::config::resolve::bounds;
use crate::config::resolve::status;
use crate::policy::{Backoff, CooldownPolicy, MAX_RETRIES, RetryPolicy};
use crate::semantics::method;

/// The resolved `retry` section, and the methods that the section itself names.
struct RetrySection {
    retry: RetryPolicy,
    methods: Vec<Spanned<Method>>,
}

/// `defaults.retry`.
pub(super) fn for_defaults(defaults: &mut Section<'_>, reader: &mut Reader<'_>) -> RetryPolicy {
    let section = read(defaults, &RetryPolicy::default(), reader);
    for Spanned { value, place, path } in
        section.methods.iter().filter(|at| !method::is_idempotent(&at.value))
    {
        let what = format!("a {value} of every route would be sent again, and may take effect twice");
        let fix = "name it on the routes whose API tolerates such a call twice";
        reader.problem(*place, path, what, fix);
    }
    section.retry
}

/// `retry` of a route that matches `methods`, with defaults from `defaults`.
pub(super) fn for_route(
    route: &mut Section<'_>,
    methods: &[Method],
    defaults: &RetryPolicy,
    reader: &mut Reader<'_>,
) -> RetryPolicy {
    let known = reader.problems.len();
    let RetrySection { retry, methods: named } = read(route, defaults, reader);
    let is_matched = |method: &Method| {
        methods.contains(method) || (method == Method::HEAD && methods.contains(&Method::GET))
    };
    if reader.problems.len() > known || !route.has("retry") || retry.retries == 0 {
        return retry;
    }
    if !methods.is_empty() && !retry.methods.iter().any(is_matched) {
        let what = "has no effect: it retries none of the methods that this route matches";
        let fix = "name them in `retry.methods` if a repeated call does no harm, or remove `retry`";
        reader.problem(route.key_place("retry"), &route.key_path("retry"), what, fix);
    }
    for at in named.iter().filter(|at| !method::is_idempotent(&at.value) && is_matched(&at.value)) {
        let text = format!(
            "a {} whose response is lost or an error is sent again, as configured here: it may take \
             effect twice, unless the API detects a repeated call by an idempotency key",
            at.value
        );
        reader.warn(at, WarningKind::Repeated, text);
    }
    retry
}

fn read(section: &mut Section<'_>, base: &RetryPolicy, reader: &mut Reader<'_>) -> RetrySection {
    let unset = RetrySection { retry: base.clone(), methods: Vec::new() };
    let Some(node) = section.get("retry") else { return unset };
    let path = section.key_path("retry");
    if matches!(node.value, Value::Scalar(..)) {
        let off = reader.scalar(node, &path, bounds::off("write `retry: { retries: 3 }`, or `retry: off`"));
        let retries = if off.is_some() { 0 } else { base.retries };
        return RetrySection { retry: RetryPolicy { retries, ..unset.retry }, ..unset };
    }
    let Some(mut inner) = reader.section(node, &path) else { return unset };
    if base.retries == 0 && !inner.has("retries") {
        let what = "has no effect: `defaults.retry` switches retries off";
        reader.problem(section.key_place("retry"), &path, what, "add `retries: 3`");
    }
    keys(&mut inner, base, reader)
}

fn keys(section: &mut Section<'_>, base: &RetryPolicy, reader: &mut Reader<'_>) -> RetrySection {
    let retries = section.scalar(reader, "retries", count(0, MAX_RETRIES));
    let retries = retries.and_then(|at| u32::try_from(at.value).ok()).unwrap_or(base.retries);
    let on = section.scalars(reader, "on", status::retried);
    let named = section.scalars(reader, "methods", bounds::method);
    let backoff = backoff(section, base.backoff, reader);
    let honour_retry_after =
        section.scalar_or(reader, "honour_retry_after", boolean, base.honour_retry_after);
    let budget = section.scalar_or(reader, "budget", bounds::client_wait, base.budget);
    section.finish(reader);
    let retry = RetryPolicy {
        retries,
        on: on.map_or_else(|| base.on.clone(), values),
        methods: named.clone().map_or_else(|| base.methods.clone(), values),
        backoff,
        honour_retry_after,
        budget,
    };
    RetrySection { retry, methods: named.unwrap_or_default() }
}

fn backoff(section: &mut Section<'_>, base: Backoff, reader: &mut Reader<'_>) -> Backoff {
    let Some(mut inner) = section.section(reader, "backoff") else { return base };
    let read = Backoff {
        initial: inner.scalar_or(reader, "initial", parse_positive, base.initial),
        factor: inner.scalar_or(reader, "factor", between(1.0, 10.0), base.factor),
        max: inner.scalar_or(reader, "max", parse_positive, base.max),
        jitter: inner.scalar_or(reader, "jitter", share, base.jitter),
    };
    inner.finish(reader);
    if read.initial > read.max {
        let (initial, max) = (duration::show(read.initial), duration::show(read.max));
        let what = format!("the first wait, {initial}, is longer than the longest, {max}");
        let fix = "write an `initial` up to `max`";
        let key = if inner.has("initial") { "initial" } else { "max" };
        reader.problem(inner.key_place(key), &inner.key_path(key), what, fix);
    }
    read
}

/// `stale_if_error.cooldown` and `.max_cooldown`, with defaults from `base`.
pub(super) fn cooldown(
    section: &mut Section<'_>,
    base: CooldownPolicy,
    reader: &mut Reader<'_>,
) -> CooldownPolicy {
    let read = CooldownPolicy {
        cooldown: section.scalar_or(reader, "cooldown", duration::parse, base.cooldown),
        max_cooldown: section.scalar_or(reader, "max_cooldown", parse_positive, base.max_cooldown),
    };
    if read.cooldown > read.max_cooldown {
        let (cooldown, max) = (duration::show(read.cooldown), duration::show(read.max_cooldown));
        let what = format!("`cooldown` is {cooldown}, which is longer than `max_cooldown`, {max}");
        let fix = "write a `cooldown` up to `max_cooldown`";
        let key = if section.has("cooldown") { "cooldown" } else { "max_cooldown" };
        reader.problem(section.key_place(key), &section.key_path(key), what, fix);
    }
    read
}

#[cfg(test)]
mod tests {

    use std::time::Duration;

    use http::Method;

    use crate::config::diagnostics::{Warning, WarningKind};
    use crate::config::env::Env;
    use crate::config::{Config, parse};
    use crate::policy::{CooldownPolicy, ErrorMatch, Policy, RetryPolicy};

    fn valid(rest: &str) -> Config {
        let text = format!("version: 1\n{rest}\n");
        parse("proxy.yaml", &text, &Env::default()).unwrap_or_else(|report| panic!("{report}"))
    }

    /// The only problem of a file.
    fn wrong(rest: &str) -> String {
        let text = format!("version: 1\n{rest}\n");
        let report = parse("proxy.yaml", &text, &Env::default()).expect_err(rest);
        assert_eq!(report.problems().len(), 1, "{report}");
        let problem = &report.problems()[0];
        format!("{}: {}; {}", problem.path, problem.what, problem.fix)
    }

    fn policy(config: &Config, route: usize) -> Policy {
        (*config.routes.routes()[route].policy).clone()
    }

    const ROUTES: &str = "routes:\n- { name: own, match: { host: a }, \
                          retry: { retries: 1, backoff: { initial: 250ms } } }\n\
                          - { name: plain, match: { host: b } }\n\
                          - { name: never, match: { host: c }, retry: off }";

    #[test]
    fn each_key_of_a_route_overrides_that_of_defaults() {
        let config = valid(&format!(
            "defaults: {{ retry: {{ on: [500, timeout], backoff: {{ factor: 3, jitter: 10% }} }} }}\n\
             {ROUTES}"
        ));
        let (own, plain, never) =
            (policy(&config, 0).retry, policy(&config, 1).retry, policy(&config, 2).retry);
        assert_eq!((own.retries, own.backoff.initial), (1, Duration::from_millis(250)));
        assert_eq!(own.on, plain.on);
        assert_eq!(own.on[1], ErrorMatch::Timeout);
        assert!((own.backoff.factor - 3.0).abs() < 1e-12 && (own.backoff.jitter - 0.1).abs() < 1e-12);
        assert_eq!((plain.retries, plain.backoff.initial), (3, Duration::from_secs(1)));
        assert_eq!(never.retries, 0);
        assert_eq!(policy(&valid(ROUTES), 1).retry, RetryPolicy::default());
    }

    #[test]
    fn ups_07_retries_and_waits_are_bounded() {
        for (keys, expected) in [
            ("retries: 11", "from 0 to 10"),
            ("budget: 11m", "longer than any client waits"),
            ("budget: 0s", "above zero"),
            ("backoff: { initial: 1m }", "the first wait, 1m, is longer than the longest, 30s"),
            ("backoff: { max: 100ms }", "the first wait, 1s, is longer than the longest, 100ms"),
            ("backoff: { factor: 0.5 }", "from 1 to 10"),
            ("backoff: { jitter: 120% }", "more than 100%"),
            ("on: [budget]", "there is nothing to retry"),
            ("on: [breakers]", "is not a status"),
            ("retrys: 3", "did you mean `retries`?"),
        ] {
            let problem = wrong(&format!("defaults: {{ retry: {{ {keys} }} }}"));
            assert!(problem.contains(expected), "{keys}: {problem}");
        }
    }

    #[test]
    fn non_idempotent_calls_are_retried_only_if_their_route_allows_it() {
        let everywhere = wrong("defaults: { retry: { methods: [GET, PUT, POST] } }");
        assert!(everywhere.starts_with("defaults.retry.methods[2]: a POST of every route"));
        let route = |keys: &str| format!("routes: [{{ name: r, match: {{ host: a, {keys} }} }}]");
        let config = valid(&route("method: POST }, retry: { methods: [POST, PUT]"));
        let repeated = |note: &&Warning| note.kind == WarningKind::Repeated;
        let notes: Vec<_> = config.warnings.iter().filter(repeated).collect();
        let [note] = notes.as_slice() else { panic!("{notes:?}") };
        assert_eq!(note.path, "routes[r].retry.methods[0]");
        assert!(policy(&config, 0).retry.is_retryable(&Method::POST));
        let useless = wrong(&route("method: POST }, retry: { retries: 2"));
        assert!(useless.contains("retries none of the methods that this route matches"), "{useless}");
        valid(&route("method: [POST, GET] }, retry: { retries: 2"));
        valid(&route("method: GET }, retry: { methods: HEAD"));
        valid(&route("method: POST }, retry: off, stale_if_error: { max_cooldown: 5m"));
    }

    #[test]
    fn a_route_that_retries_while_defaults_do_not_needs_a_count() {
        let off = "defaults: { retry: off }\n";
        let route =
            |keys: &str| format!("{off}routes: [{{ name: r, match: {{ host: a }}, retry: {{ {keys} }} }}]");
        assert!(wrong(&route("on: 500")).contains("`defaults.retry` switches retries off"));
        assert_eq!(policy(&valid(&route("on: 500, retries: 2")), 0).retry.retries, 2);
    }

    #[test]
    fn cooldowns_of_defaults_apply_to_every_route_and_to_unrouted_calls() {
        let config = valid(
            "defaults: { stale_if_error: { cooldown: 5s, max_cooldown: 10m } }\n\
             routes:\n- { name: a, match: { host: a }, ttl: origin }\n\
             - { name: b, match: { host: b }, stale_if_error: { cooldown: 0s } }",
        );
        let ten = Duration::from_secs(600);
        assert_eq!(config.cooldown, CooldownPolicy { cooldown: Duration::from_secs(5), max_cooldown: ten });
        assert_eq!(policy(&config, 0).cooldown, config.cooldown);
        assert_eq!(
            policy(&config, 1).cooldown,
            CooldownPolicy { cooldown: Duration::ZERO, max_cooldown: ten }
        );
        for keys in ["cooldown: 2h", "max_cooldown: 1s"] {
            let problem = wrong(&format!("defaults: {{ stale_if_error: {{ {keys} }} }}"));
            assert!(problem.contains("is longer than `max_cooldown`"), "{problem}");
        }
    }

    #[test]
    fn a_route_that_stores_nothing_may_set_only_max_cooldown() {
        let route = |keys: &str| {
            let method = "match: { host: a, method: POST }";
            format!("routes: [{{ name: r, {method}, stale_if_error: {{ {keys} }} }}]")
        };
        valid(&route("max_cooldown: 5m"));
        assert!(wrong(&route("cooldown: 5s")).contains("larder cannot keep answers to POST"));
    }
}
