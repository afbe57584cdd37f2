//! `upstreams.*.rate_limit`, `.ban_guard` and `.breaker`: the rate of calls to an upstream, and when calls
//! stop.
//!
//! Owns: their keys and bounds. Never touches: counting and waiting.

use std::sync::Arc;
use std::time::Duration;

use crate::config::diagnostics::ValueError;
use crate::config::duration::{self, parse_positive};
use crate::config::keyword::boolean;
use crate::config::number::{count, positive_share, show_share};
use crate::config::rate;
use crate::config::reader::{Reader, Section, values};
use crate::config::resolve::bounds;
use crate::config::resolve::status;
use crate::config::resolve::upstreams::dialect;
use crate::policy::StatusMatch;
use crate::policy::upstream::{BanGuardRule, CircuitBreaker, Dialect, RateLimit};

/// The largest `in_flight`: a larger one would be no limit.
const MOST_IN_FLIGHT: usize = 65_536;

/// `rate_limit`, and its `dialect`.
pub(super) fn rate_limit(
    one: &mut Section<'_>,
    reader: &mut Reader<'_>,
) -> (RateLimit, Option<Arc<Dialect>>) {
    let defaults = RateLimit::default();
    let Some(mut section) = one.section(reader, "rate_limit") else { return (defaults, None) };
    let rate_limit = RateLimit {
        limit: section.scalar(reader, "limit", rate::parse).map(|at| at.value),
        learn: section.scalar_or(reader, "learn", boolean, defaults.learn),
        max_wait: section.scalar_or(reader, "max_wait", queue_wait, defaults.max_wait),
        in_flight: section.scalar_or(reader, "in_flight", count(1, MOST_IN_FLIGHT), defaults.in_flight),
    };
    let dialect = dialect::read(&mut section, reader);
    section.finish(reader);
    (rate_limit, dialect)
}

/// Parses how long a call waits in the queue; zero is valid, too.
fn queue_wait(text: &str) -> Result<Duration, ValueError> {
    if duration::parse(text)?.is_zero() { Ok(Duration::ZERO) } else { bounds::client_wait(text) }
}

/// `ban_guard`; `None` without the section.
pub(super) fn ban_guard(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<BanGuardRule> {
    let defaults = BanGuardRule::default();
    let mut section = one.section(reader, "ban_guard")?;
    let known = reader.problems.len();
    let statuses = section.scalars(reader, "statuses", error_status);
    let limit = section.scalar_or(reader, "limit", rate::parse, defaults.limit);
    let trip_at = section.scalar_or(reader, "trip_at", positive_share, defaults.trip_at);
    section.finish(reader);
    if statuses.as_ref().is_some_and(Vec::is_empty) && reader.problems.len() == known {
        let fix = "name some, such as `[401, 403, 429]`, or remove `ban_guard`";
        let (place, path) = (section.key_place("statuses"), section.key_path("statuses"));
        reader.problem(place, &path, "names no status: nothing would be counted", fix);
    }
    if f64::from(limit.count) * trip_at < 1.0 {
        let (share, limit) = (show_share(trip_at), rate::show(limit));
        let what = format!("{share} of {limit} is less than one response: every call would be blocked");
        let fix = "write a larger `limit` or `trip_at`";
        reader.problem(section.key_place("trip_at"), &section.key_path("trip_at"), what, fix);
    }
    let statuses = statuses.map_or(defaults.statuses, values);
    Some(BanGuardRule { statuses, limit, trip_at })
}

fn error_status(text: &str) -> Result<StatusMatch, ValueError> {
    status::failed(text, "a status such as `403`, or a class such as `4xx`", &["4xx", "5xx"])
}

/// `breaker`; `None` without the section.
pub(super) fn breaker(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<CircuitBreaker> {
    let defaults = CircuitBreaker::default();
    let mut section = one.section(reader, "breaker")?;
    let failures = section.scalar(reader, "failures", count(1, 10_000));
    let failures = failures.and_then(|at| u32::try_from(at.value).ok());
    let breaker = CircuitBreaker {
        failures: failures.unwrap_or(defaults.failures),
        within: section.scalar_or(reader, "within", parse_positive, defaults.within),
        open_for: section.scalar_or(reader, "open_for", parse_positive, defaults.open_for),
    };
    section.finish(reader);
    Some(breaker)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::env::Env;
    use crate::config::parse;
    use crate::policy::upstream::{BanGuardRule, CircuitBreaker, Rate, RateLimit, UpstreamPolicy};

    fn policy(keys: &str) -> UpstreamPolicy {
        let text = format!("version: 1\nupstreams: {{ u: {{ hosts: [a.example], {keys} }} }}\n");
        let config = parse("p", &text, &Env::default()).unwrap_or_else(|report| panic!("{report}"));
        config.upstreams[0].policy.clone()
    }

    #[test]
    fn an_empty_section_has_the_defaults_of_the_reference() {
        let all = policy("rate_limit: {}, ban_guard: {}, breaker: {}");
        assert_eq!(all.rate_limit, RateLimit::default());
        assert_eq!(all.ban_guard, Some(BanGuardRule::default()));
        assert_eq!(all.breaker, Some(CircuitBreaker::default()));
        assert_eq!(policy("mount: /a"), UpstreamPolicy::default());
    }

    #[test]
    fn a_limit_and_learning_can_be_combined() {
        let limit = Some(Rate { count: 10_000, per: Duration::from_secs(600) });
        let policy = policy("rate_limit: { limit: 10000/10m, learn: true, max_wait: 0s, in_flight: 1 }");
        let expected = RateLimit { limit, learn: true, max_wait: Duration::ZERO, in_flight: 1 };
        assert_eq!(policy.rate_limit, expected);
    }

    #[test]
    fn a_guard_that_would_trip_before_the_first_response_is_refused() {
        let text = "version: 1\nupstreams: { u: { hosts: [a], ban_guard: { limit: 1/h } } }";
        let report = parse("p", text, &Env::default()).expect_err("0.8 of one").to_string();
        assert!(report.contains("80% of 1/h is less than one response"), "{report}");
        policy("ban_guard: { limit: 1/h, trip_at: 1 }");
    }
}
