//! `upstreams.*.success` and `.errors`: classification of responses beyond their status.
//!
//! Owns: the syntax of rules over statuses and JSON bodies, and which rules are refused.
//! Never touches: responses.

use crate::config::diagnostics::ValueError;
use crate::config::duration::parse_positive;
use crate::config::file::{Entry, Node, ScalarKind, Value};
use crate::config::keyword::keyword;
use crate::config::reader::{self, Reader, Section, Spanned};
use crate::config::resolve::{header_names, status};
use crate::policy::StatusMatch;
use crate::policy::upstream::{
    CooldownUntil, ErrorRule, HeaderRule, JsonRule, OutcomeClass, RateLimitKind, ResponseRules, TextRule,
};
use crate::semantics::json_path::JsonPath;
use crate::semantics::rate_limit::LimitScope;
use crate::semantics::time_zone::TimeZone;

/// `success` and `errors`. The dialect is part of `rate_limit`.
pub(super) fn read(one: &mut Section<'_>, reader: &mut Reader<'_>) -> ResponseRules {
    ResponseRules { success: success(one, reader), errors: errors(one, reader), dialect: None }
}

fn success(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<JsonRule> {
    let Some(mut section) = one.section(reader, "success") else { return Vec::new() };
    let json = json(&mut section, reader);
    section.finish(reader);
    json
}

/// The rules in file order; the first match counts.
pub(super) fn errors(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<ErrorRule> {
    let Some(node) = one.get("errors") else { return Vec::new() };
    let path = one.key_path("errors");
    let what = "is not a list: the order of rules matters, the first match counts";
    let nodes = reader.list(node, &path, what, "begin each rule with `- status: …`");
    let rule = |(at, node)| error(node, &format!("{path}[{at}]"), reader);
    nodes.iter().enumerate().filter_map(rule).collect()
}

fn error(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<ErrorRule> {
    let mut section = reader.section(node, path)?;
    let known = reader.problems.len();
    let status = section.scalars(reader, "status", status::status).unwrap_or_default();
    let json = json(&mut section, reader);
    let contains = contains(&mut section, reader);
    let headers = headers(&mut section, reader);
    let class = section.scalar(reader, "class", class);
    let cooldown = section.scalar(reader, "hold", cooldown);
    let scope = section.scalar(reader, "scope", scope).map(|at| at.value);
    section.finish(reader);
    if reader.problems.len() > known {
        return None;
    }
    let reads_body = !(json.is_empty() && contains.is_empty());
    if status.is_empty() && !reads_body && headers.is_empty() {
        let what = "has neither `status` nor `json`: it would match every response";
        let fix = "add `status: [403]`, or `json: { \"$.error.code\": [7] }`";
        reader.problem(section.place, path, what, fix);
    }
    if !reads_body {
        refuse_non_errors(&status, reader);
    }
    if class.is_none() {
        let fix = "add `class: minute`, or quota, shared, auth, server";
        section.missing(reader, "class", fix);
    }
    if let (Some(until), Some(class)) = (&cooldown, &class) {
        refuse_unlimited(until, class.value, reader);
    }
    let status = reader::values(status);
    let cooldown = cooldown.map(|at| at.value);
    Some(ErrorRule { status, json, contains, headers, class: class?.value, cooldown, scope })
}

/// Refuses a cooldown without an end, except for a quota that has to be paid for.
fn refuse_unlimited(until: &Spanned<CooldownUntil>, class: OutcomeClass, reader: &mut Reader<'_>) {
    if until.value == CooldownUntil::UntilReleased && class != OutcomeClass::RateLimited(RateLimitKind::Quota)
    {
        let what = "`until-released` is for `class: quota` only: nothing but the operator ends it";
        reader.problem(until.place, &until.path, what, "write a duration such as `30s`, or `class: quota`");
    }
}

/// Refuses statuses below 400 in rules without `json`: they are no errors by themselves.
fn refuse_non_errors(statuses: &[Spanned<StatusMatch>], reader: &mut Reader<'_>) {
    for at in statuses.iter().filter(|at| !status::is_error(at.value)) {
        let what = "would classify responses that are no errors as errors";
        let fix = "add `json` with the values in the body that mark such a response as an error";
        reader.problem(at.place, &at.path, what, fix);
    }
}

fn class(text: &str) -> Result<OutcomeClass, ValueError> {
    let words = [
        ("minute", OutcomeClass::RateLimited(RateLimitKind::Minute)),
        ("quota", OutcomeClass::RateLimited(RateLimitKind::Quota)),
        ("shared", OutcomeClass::RateLimited(RateLimitKind::Shared)),
        ("auth", OutcomeClass::Auth),
        ("server", OutcomeClass::Server),
    ];
    keyword("one of minute, quota, shared, auth, server", &words)(text)
}

fn cooldown(text: &str) -> Result<CooldownUntil, ValueError> {
    let wanted = "a duration such as `30s`, `until-utc-midnight`, `until-midnight Europe/Berlin`, \
                  `until-utc-month` or `until-released`";
    if let Some(zone) = text.strip_prefix("until-midnight") {
        return zone_of(zone).map(CooldownUntil::UntilMidnightIn);
    }
    let words = ["until-utc-midnight", "until-utc-month", "until-released"];
    if !text.contains(|c: char| c.is_ascii_digit()) {
        return keyword(wanted, &words.map(|word| (word, word)))(text).map(|word| match word {
            "until-utc-midnight" => CooldownUntil::UntilMidnight,
            "until-utc-month" => CooldownUntil::UntilNextMonth,
            _ => CooldownUntil::UntilReleased,
        });
    }
    parse_positive(text).map(CooldownUntil::For).map_err(|error| ValueError { wanted, ..error })
}

/// Parses the zone of `until-midnight ZONE`.
pub(super) fn zone_of(text: &str) -> Result<TimeZone, ValueError> {
    TimeZone::parse(text.trim()).filter(|_| text.starts_with(' ')).ok_or_else(|| {
        let fix = "write one such as `until-midnight America/Los_Angeles`, or `until-utc-midnight`";
        ValueError::new("a time zone by its IANA name", "names no time zone (IANA)", fix)
    })
}

/// Parses the scope of a limit.
pub(super) fn scope(text: &str) -> Result<LimitScope, ValueError> {
    let words = [
        ("caller", LimitScope::Caller),
        ("global", LimitScope::Global),
        ("shared", LimitScope::Shared),
        ("endpoint", LimitScope::Endpoint),
    ];
    keyword("one of caller, endpoint, global, shared", &words)(text)
}

/// `contains`: `{ "$.message": secondary rate limit }`.
fn contains(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<TextRule> {
    let Some(inner) = section.section(reader, "contains") else { return Vec::new() };
    let rule = |entry: &Entry| {
        let parts = reader.scalars(&entry.value, &inner.key_path(&entry.key), text_part);
        Some(TextRule { path: reader.name(entry, &inner.path, path)?, parts: reader::values(parts) })
    };
    inner.entries().iter().filter_map(rule).collect()
}

fn text_part(text: &str) -> Result<Box<str>, ValueError> {
    let is_empty = text.trim().is_empty();
    let fix = "write a part of the error's message, such as `secondary rate limit`";
    let error = || ValueError::new("a part of a text", "is empty: it would match every text", fix);
    (!is_empty).then(|| text.to_lowercase().into()).ok_or_else(error)
}

/// `headers`: `{ RateLimit-Reason: [jira-burst-based] }`.
fn headers(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<HeaderRule> {
    let Some(inner) = section.section(reader, "headers") else { return Vec::new() };
    let rule = |entry: &Entry| {
        let path = inner.key_path(&entry.key);
        let values = reader.scalars(&entry.value, &path, |text| Ok(Box::<str>::from(text)));
        let name = reader.name(entry, &inner.path, header_names::of_response)?;
        Some(HeaderRule { name, values: reader::values(values) })
    };
    inner.entries().iter().filter_map(rule).collect()
}

/// `json`: `{ "$.status.error_code": [0, "0"] }`.
fn json(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<JsonRule> {
    let Some(inner) = section.section(reader, "json") else { return Vec::new() };
    let rule = |entry: &Entry| {
        let values = values(&entry.value, &inner.key_path(&entry.key), reader);
        Some(JsonRule { path: reader.name(entry, &inner.path, path)?, values })
    };
    inner.entries().iter().filter_map(rule).collect()
}

/// Parses the path of a value in a JSON body.
pub(super) fn path(text: &str) -> Result<JsonPath, ValueError> {
    JsonPath::parse(text).map_err(|_| {
        let rooted = format!("$.{text}");
        let fix = if JsonPath::parse(&rooted).is_ok() {
            format!("did you mean `{rooted}`?")
        } else {
            "write one such as `$.status.error_code`, `$.items[0].id` or `$['error-code']`".to_owned()
        };
        ValueError::new("a JSON path such as `$.status.error_code`", "is not a JSON path (RFC 9535)", fix)
    })
}

/// One value or a list of them.
fn values(node: &Node, path: &str, reader: &mut Reader<'_>) -> Vec<serde_json::Value> {
    let Value::List(items) = &node.value else {
        return value(node, path, reader).into_iter().collect();
    };
    if items.is_empty() {
        let fix = "write the expected values, such as `[0, \"0\"]`";
        reader.problem(node.place, path, "names no value: nothing would match", fix);
    }
    let value = |(at, item)| value(item, &format!("{path}[{at}]"), reader);
    items.iter().enumerate().filter_map(value).collect()
}

/// A value as JSON: `0` is a number, `"0"` a string, `true` a boolean, an empty value is null.
fn value(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<serde_json::Value> {
    let read = match &node.value {
        Value::Null => return Some(serde_json::Value::Null),
        Value::Scalar(_, ScalarKind::Typed) => reader.scalar(node, path, typed),
        Value::Scalar(_, ScalarKind::Text) | Value::List(_) | Value::Map(_) => {
            reader.scalar(node, path, |text| Ok(text.into()))
        }
    };
    read.map(|at| at.value)
}

fn typed(text: &str) -> Result<serde_json::Value, ValueError> {
    serde_json::from_str(&text.to_ascii_lowercase()).map_err(|_| {
        let fix = "write it in decimal without leading zeros, or in quotes for text";
        ValueError::new("a value that JSON has", "is not a valid JSON number", fix)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use serde_json::json;

    use crate::config::env::Env;
    use crate::config::parse;
    use crate::policy::StatusMatch;
    use crate::policy::upstream::{CooldownUntil, OutcomeClass, RateLimitKind, ResponseRules};

    fn rules(keys: &str) -> ResponseRules {
        let text = format!("version: 1\nupstreams: {{ u: {{ hosts: [a.example], {keys} }} }}\n");
        let env: Env = [("CODE", "7")].into_iter().collect();
        let config = parse("p", &text, &env).unwrap_or_else(|report| panic!("{report}"));
        config.upstreams[0].policy.rules.clone()
    }

    #[test]
    fn values_have_their_json_types() {
        let rules = rules(
            "success: { json: { $.code: [0, \"0\", '0', 0.5, 1e3, true, True, no, null, ~, ok, \
             \"${CODE}\"] } }",
        );
        let expected = [
            json!(0),
            json!("0"),
            json!("0"),
            json!(0.5),
            json!(1e3),
            json!(true),
            json!(true),
            json!("no"),
            json!(null),
            json!(null),
            json!("ok"),
            json!("7"),
        ];
        assert_eq!(rules.success[0].values, expected);
        assert_eq!(rules.success[0].path.to_string(), "$.code");
        assert!(rules.read_bodies());
    }

    #[test]
    fn rules_keep_their_order_and_their_classes() {
        let rules = rules(
            "errors: [{ json: { $.code: 1009 }, class: quota, hold: until-utc-midnight }, \
             { status: 5xx, json: { $.a: 1, $.b: [x] }, class: shared, hold: 90s }, \
             { status: [401, 403], class: auth, hold: until-utc-month }, \
             { status: 503, class: minute }, { status: 200, json: { $.ok: false }, class: server }]",
        );
        let classes: Vec<_> = rules.errors.iter().map(|rule| (rule.class, rule.cooldown.clone())).collect();
        let limited = OutcomeClass::RateLimited;
        let expected = [
            (limited(RateLimitKind::Quota), Some(CooldownUntil::UntilMidnight)),
            (limited(RateLimitKind::Shared), Some(CooldownUntil::For(Duration::from_secs(90)))),
            (OutcomeClass::Auth, Some(CooldownUntil::UntilNextMonth)),
            (limited(RateLimitKind::Minute), None),
            (OutcomeClass::Server, None),
        ];
        assert_eq!(classes, expected);
        assert_eq!(rules.errors[1].status, [StatusMatch::Class(5)]);
        assert_eq!(rules.errors[1].json.len(), 2);
        let codes = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].map(StatusMatch::Exact);
        assert_eq!(rules.errors[2].status, codes);
    }

    #[test]
    fn without_rules_bodies_are_not_inspected() {
        assert_eq!(rules("errors: []"), ResponseRules::default());
        assert!(!rules("errors: [{ status: 403, class: minute }]").read_bodies());
    }
}
