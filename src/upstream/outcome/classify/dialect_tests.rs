//! Every documented header set and body of the shipped dialects, read as `tests/fixtures/dialects.json` says.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::*;
use crate::config;
use crate::config::dialects;
use crate::config::env::Env;
use crate::policy::upstream::is_until_released;
use crate::semantics::date;

/// A limit: its name, the limit, the rest, and the milliseconds until it resets.
type LimitRow = (String, Option<u64>, Option<u64>, Option<u128>);

#[derive(Debug, Deserialize)]
struct Row {
    dialect: String,
    about: String,
    status: u16,
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    class: String,
    /// `None`: no time is stated.
    wait_ms: Option<u128>,
    /// The name, the number of a window, the number left, and the milliseconds until it ends.
    limits: Vec<LimitRow>,
    #[serde(default)]
    until_released: bool,
    #[serde(default, rename = "final")]
    is_final: bool,
    scope: Option<String>,
}

impl Row {
    fn rules(&self) -> ResponseRules {
        let upstream = format!("{{ hosts: [a.example], rate_limit: {{ dialect: {} }} }}", self.dialect);
        let text = format!("version: 1\nupstreams: {{ u: {upstream} }}\n");
        let config = config::parse("p", &text, &Env::default()).unwrap_or_else(|report| panic!("{report}"));
        config.upstreams[0].policy.rules.clone()
    }

    fn outcome(&self) -> CallOutcome {
        let field = |(name, value): (&String, &String)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
        };
        let headers: HeaderMap = self.headers.iter().map(field).collect();
        let now = date::parse_undated(b"Sun, 29 Nov 2026 12:00:00 GMT").unwrap();
        let (status, rules) = (StatusCode::from_u16(self.status).unwrap(), self.rules());
        // Bodies that larder does not read cannot count.
        let body = self.body.as_ref().filter(|_| rules.read_body_of(status));
        response(status, &headers, body, &rules, now)
    }
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../../../../tests/fixtures/dialects.json")).expect("rows")
}

#[test]
fn every_documented_response_is_read_as_its_api_means_it() {
    for row in rows() {
        let name = format!("{}: {}", row.dialect, row.about);
        let outcome = row.outcome();
        assert_eq!(outcome.class.token(), row.class, "{name}");
        let limits: Vec<_> = outcome
            .limits
            .iter()
            .map(|limit| {
                let resets = limit.resets_in.map(|time| time.as_millis());
                (limit.name.to_string(), limit.limit, limit.remaining, resets)
            })
            .collect();
        assert_eq!(limits, row.limits, "{name}");
        let wait = outcome.retry_after.map(|wait| wait.time);
        assert_eq!(wait.is_some_and(is_until_released), row.until_released, "{name}");
        if !row.until_released {
            assert_eq!(wait.map(|time| time.as_millis()), row.wait_ms, "{name}");
        }
        assert_eq!(outcome.is_final, row.is_final, "{name}");
        let is_endpoint = outcome.quota.is_some_and(|quota| quota.scope == LimitScope::Endpoint);
        assert_eq!(is_endpoint, row.scope.as_deref() == Some("endpoint"), "{name}");
    }
}

#[test]
fn every_shipped_dialect_is_in_the_table() {
    let rows = rows();
    let tested: BTreeSet<_> = rows.iter().map(|row| row.dialect.as_str()).collect();
    for (name, _) in dialects::ALL {
        assert!(tested.contains(name), "{name}");
    }
}
