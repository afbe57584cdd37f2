//! `upstreams.*.rate_limit.dialect`: the name of a shipped dialect, or a map of one's own.
//!
//! Owns: the keys of a dialect, which the shipped ones (`config::dialects`) have in common with those of a
//! configuration. Never touches: responses.

use std::sync::Arc;

use http::HeaderName;

use crate::config::diagnostics::{SourceLocation, ValueError};
use crate::config::dialects;
use crate::config::duration::parse_positive;
use crate::config::env::Env;
use crate::config::file::{self, Node, Value};
use crate::config::file_source::NoFiles;
use crate::config::keyword::{boolean, keyword, nearest};
use crate::config::reader::{Reader, Section};
use crate::config::resolve::header_names;
use crate::config::resolve::upstreams::response_rules;
use crate::policy::upstream::Dialect;
use crate::semantics::json_path::JsonPath;
use crate::semantics::rate_limit::dialect::{Balance, BodyWait, LimitFields, LimitTable, Reset, Usage};
use crate::semantics::rate_limit::unit::TimeUnit;
use crate::semantics::rate_limit::{LimitScope, LimitUnit};
use crate::semantics::time_zone::TimeZone;

/// `dialect` of a `rate_limit` section.
pub(super) fn read(rate_limit: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Arc<Dialect>> {
    let node = rate_limit.get("dialect")?;
    let path = rate_limit.key_path("dialect");
    if matches!(node.value, Value::Scalar(..)) {
        return reader.scalar(node, &path, shipped).map(|at| Arc::new(at.value));
    }
    let mut section = reader.section(node, &path)?;
    let base = section.scalar(reader, "extends", shipped).map(|at| at.value);
    let own = keys(&mut section, "own", reader);
    Some(Arc::new(match base {
        Some(base) => extended(own, base, section.has("generic")),
        None => own,
    }))
}

/// A shipped dialect.
pub(crate) fn shipped(name: &str) -> Result<Dialect, ValueError> {
    let names: Vec<_> = dialects::ALL.iter().map(|(name, _)| *name).collect();
    let wanted = "the name of a dialect, such as `openai`";
    let Some((name, text)) = dialects::ALL.iter().find(|(known, _)| *known == name) else {
        let fix = nearest(name, &names).map_or_else(
            || format!("known: {}; or a map with `limits`", names.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        return Err(ValueError::new(wanted, "is not a known dialect", fix));
    };
    let (env, files) = (Env::default(), NoFiles);
    let mut reader = Reader::new(name, &env, &files);
    let node = file::parse(text).unwrap_or(Node { place: SourceLocation::default(), value: Value::Null });
    let dialect = reader.section(&node, "").map(|mut section| keys(&mut section, name, &mut reader));
    debug_assert!(reader.problems.is_empty(), "{name}: {:?}", reader.problems);
    dialect.ok_or_else(|| ValueError::is_not(wanted))
}

/// The limits of `own` replace those of the same name; its rules come first.
fn extended(own: Dialect, base: Dialect, sets_generic: bool) -> Dialect {
    let LimitTable { generic, limits, waits, body_waits, balance } = own.table;
    let mut table = base.table;
    table.generic = if sets_generic { generic } else { table.generic };
    table.limits.retain(|limit| limits.iter().all(|own| own.name != limit.name));
    table.limits.extend(limits);
    table.waits.extend(waits);
    table.body_waits.extend(body_waits);
    table.balance = balance.or(table.balance);
    let errors = own.errors.into_iter().chain(base.errors).collect();
    Dialect { name: base.name, table, errors }
}

fn keys(section: &mut Section<'_>, name: &str, reader: &mut Reader<'_>) -> Dialect {
    let table = LimitTable {
        generic: section.scalar_or(reader, "generic", boolean, true),
        limits: each(section, "limits", reader, limit),
        waits: waits(section, reader),
        body_waits: each(section, "body_waits", reader, body_wait),
        balance: section.section(reader, "balance").and_then(|mut inner| balance(&mut inner, reader)),
    };
    let errors = response_rules::errors(section, reader);
    section.finish(reader);
    Dialect { name: name.into(), table, errors }
}

/// The maps of a list.
fn each<T>(
    section: &mut Section<'_>,
    key: &'static str,
    reader: &mut Reader<'_>,
    one: impl Fn(&mut Section<'_>, usize, &mut Reader<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(node) = section.get(key) else { return Vec::new() };
    let path = section.key_path(key);
    let nodes = reader.list(node, &path, "is not a list", "begin each member with `- `");
    let read = |(at, node): (usize, &Node)| {
        let mut inner = reader.section(node, &format!("{path}[{at}]"))?;
        let value = one(&mut inner, at, reader);
        inner.finish(reader);
        value
    };
    nodes.iter().enumerate().filter_map(read).collect()
}

fn limit(one: &mut Section<'_>, at: usize, reader: &mut Reader<'_>) -> Option<LimitFields> {
    let name = one.scalar(reader, "name", limit_name);
    let field = |one: &mut Section<'_>, key, reader: &mut Reader<'_>| {
        one.scalar(reader, key, header_names::of_response).map(|at| at.value)
    };
    let limit = field(one, "limit", reader);
    let remaining = field(one, "remaining", reader);
    let usage = field(one, "usage", reader);
    let key = one.scalar(reader, "usage_key", limit_name).map(|at| at.value);
    let limit = LimitFields {
        name: name.map_or_else(|| format!("limit-{at}").into(), |at| at.value),
        limit,
        remaining,
        usage: usage.map(|field| Usage { field, key }),
        reset: reset(one, reader),
        window: one.scalar(reader, "window", parse_positive).map(|at| at.value),
        unit: one.scalar_or(reader, "counts", counted, LimitUnit::Calls),
        scope: one.scalar_or(reader, "scope", response_rules::scope, LimitScope::Caller),
    };
    if limit.remaining.is_none() && limit.usage.is_none() {
        let fix = "add `remaining: X-RateLimit-Remaining`, or `usage:` for a field such as `32/40`";
        reader.problem(one.place, &one.path, "does not say where the remaining calls are stated", fix);
        return None;
    }
    Some(limit)
}

fn reset(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Reset> {
    let field = one.scalar(reader, "reset", header_names::of_response);
    let unit = one.scalar_or(reader, "unit", unit, TimeUnit::Auto);
    let fixed = one.scalar(reader, "resets_in", fixed_reset);
    field.map(|at| Reset::Field(at.value, unit)).or(fixed.map(|at| at.value))
}

fn fixed_reset(text: &str) -> Result<Reset, ValueError> {
    match text {
        "until-utc-midnight" => Ok(Reset::Midnight(TimeZone::UTC)),
        text => match text.strip_prefix("until-midnight") {
            Some(zone) => response_rules::zone_of(zone).map(Reset::Midnight),
            None => parse_positive(text).map(Reset::After),
        },
    }
}

/// `waits`: `{ X-Quota-Resets-In: s }`.
fn waits(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<(HeaderName, TimeUnit)> {
    let Some(inner) = section.section(reader, "waits") else { return Vec::new() };
    let mut all = Vec::new();
    for entry in inner.entries() {
        let name = reader.name(entry, &inner.path, header_names::of_response);
        let unit = reader.scalar(&entry.value, &inner.key_path(&entry.key), unit);
        all.extend(name.zip(unit.map(|at| at.value)));
    }
    all
}

fn body_wait(one: &mut Section<'_>, _: usize, reader: &mut Reader<'_>) -> Option<BodyWait> {
    let path = path(one, "path", reader);
    let after = one.scalar(reader, "after", limit_name).map(|at| at.value);
    let unit = one.scalar_or(reader, "unit", unit, TimeUnit::Seconds);
    Some(BodyWait { path: path?, after, unit })
}

fn balance(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Balance> {
    let requested = path(one, "requested", reader);
    let available = path(one, "available", reader);
    let maximum = path(one, "maximum", reader);
    let per_second = path(one, "per_second", reader);
    one.finish(reader);
    let (requested, available, maximum) = (requested?, available?, maximum?);
    Some(Balance { requested, available, maximum, per_second: per_second? })
}

fn path(one: &mut Section<'_>, key: &'static str, reader: &mut Reader<'_>) -> Option<JsonPath> {
    let fix = "write a JSON path such as `$.error.retry_after`";
    one.required(reader, key, response_rules::path, fix).map(|at| at.value)
}

fn unit(text: &str) -> Result<TimeUnit, ValueError> {
    keyword("one of s, ms, epoch, epoch-ms, iso8601, go-duration, auto", &TimeUnit::ALL)(text)
}

fn counted(text: &str) -> Result<LimitUnit, ValueError> {
    keyword("`calls` or `other`", &[("calls", LimitUnit::Calls), ("other", LimitUnit::Other)])(text)
}

fn limit_name(text: &str) -> Result<Box<str>, ValueError> {
    if text.is_empty() || text.len() > 64 || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(ValueError::is_not("a text of 1 to 64 characters"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use crate::config::env::Env;
    use crate::config::file_source::NoFiles;
    use crate::config::reader::Reader;
    use crate::config::resolve::upstreams::dialect::{keys, shipped};
    use crate::config::{dialects, file, parse};
    use crate::policy::upstream::UpstreamPolicy;

    fn policy(dialect: &str) -> Result<UpstreamPolicy, String> {
        let text = format!(
            "version: 1\nupstreams: {{ u: {{ hosts: [a.example], rate_limit: {{ dialect: {dialect} }} }} }}\n"
        );
        let config = parse("p", &text, &Env::default()).map_err(|report| report.to_string())?;
        Ok(config.upstreams[0].policy.clone())
    }

    #[test]
    fn every_shipped_dialect_is_valid_and_has_its_name() {
        for (name, text) in dialects::ALL {
            let (env, files) = (Env::default(), NoFiles);
            let mut reader = Reader::new(name, &env, &files);
            let tree = file::parse(text).unwrap_or_else(|problem| panic!("{name}: {problem:?}"));
            let mut section = reader.section(&tree, "").expect("a map");
            keys(&mut section, name, &mut reader);
            assert!(reader.problems.is_empty(), "{name}: {:?}", reader.problems);
            assert_eq!(&*shipped(name).unwrap().name, name);
        }
    }

    #[test]
    fn a_dialect_of_ones_own_extends_a_shipped_one() {
        let rules = policy(
            "{ extends: openai, limits: [{ name: requests, remaining: X-Left, resets_in: 1m }, \
             { name: images, remaining: X-Images, reset: X-Images-Reset, unit: epoch, scope: endpoint }], \
             errors: [{ status: 418, class: minute }] }",
        );
        let dialect = rules.unwrap().rules.dialect.expect("a dialect");
        let names: Vec<_> = dialect.table.limits.iter().map(|limit| &*limit.name).collect();
        assert_eq!(names, ["tokens", "requests", "images"]);
        assert!(dialect.errors.len() > 1 && dialect.errors[0].status.len() == 1);
    }

    #[test]
    fn mistakes_in_a_dialect_are_named() {
        for (dialect, expected) in [
            ("opnai", "did you mean `openai`?"),
            ("mine", "known: anthropic, "),
            ("{ extends: unknown }", "is not a known dialect"),
            ("{ limits: [{ name: a }] }", "does not say where the remaining calls are stated"),
            ("{ limits: [{ remaining: X, reset: Y, unit: minutes }] }", "is not one of s, ms, epoch"),
            ("{ limits: [{ remaining: X, resets_in: until-midnight Mars }] }", "names no time zone"),
            ("{ body_waits: [{ unit: s }] }", "is missing"),
            ("{ waits: { X-Wait: h } }", "is not one of s, ms"),
            ("{ errors: [{ contains: { $.m: \"\" }, class: minute }] }", "would match every text"),
            ("{ limit: [] }", "did you mean `limits`?"),
        ] {
            let report = policy(dialect).expect_err(dialect);
            assert!(report.contains(expected), "{dialect}: {report}");
        }
    }
}
