//! The policy of an upstream: response rules, rate limit, ban guard, circuit breaker, cost.
//!
//! Owns: the values that `upstreams.*` resolves to. Never touches: the configuration file, calls.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;

use crate::policy::StatusMatch;
use crate::semantics::json_path::JsonPath;
use crate::semantics::rate_limit::LimitScope;
use crate::semantics::rate_limit::dialect::LimitTable;
use crate::semantics::time_zone::TimeZone;

/// The policy of an upstream. The default has no rules and only the default limits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamPolicy {
    /// Classification of its responses.
    pub rules: ResponseRules,
    /// The rate limit of calls.
    pub rate_limit: RateLimit,
    /// The ban guard.
    pub ban_guard: Option<BanGuardRule>,
    /// The circuit breaker.
    pub breaker: Option<CircuitBreaker>,
    /// The cost of calls.
    pub cost: Option<Cost>,
}

impl UpstreamPolicy {
    /// Whether larder may have to inspect the JSON body of a response.
    pub fn reads_bodies(&self) -> bool {
        self.rules.read_bodies() || self.charges_by_body()
    }

    /// Whether larder must inspect the JSON body of a response with this status.
    pub fn reads_body_of(&self, status: StatusCode) -> bool {
        self.rules.read_body_of(status) || self.charges_by_body()
    }

    fn charges_by_body(&self) -> bool {
        self.cost.as_ref().is_some_and(|cost| matches!(cost.credits, CreditSource::Body(_)))
    }
}

/// `success` and `errors`: classification of responses beyond their status.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResponseRules {
    /// A 2xx response whose body matches none of these is an error; empty: every 2xx is a success.
    pub success: Vec<JsonRule>,
    /// The classes of errors; the first match counts.
    pub errors: Vec<ErrorRule>,
    /// How the API states its limits and errors, where the rules above do not match.
    pub dialect: Option<Arc<Dialect>>,
}

/// `rate_limit.dialect`: how an API states its limits and errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialect {
    /// Its name; `own`: one of the configuration's own.
    pub name: Box<str>,
    /// Where it states limits and waits.
    pub table: LimitTable,
    /// The classes of its errors; the first match counts.
    pub errors: Vec<ErrorRule>,
}

impl ResponseRules {
    /// Whether any rule inspects bodies.
    pub fn read_bodies(&self) -> bool {
        let by_dialect = |dialect: &Arc<Dialect>| {
            dialect.table.reads_bodies(true) || dialect.errors.iter().any(ErrorRule::reads_body)
        };
        self.reads_all_bodies() || self.dialect.as_ref().is_some_and(by_dialect)
    }

    /// Whether any rule inspects the body of a response with this status.
    pub fn read_body_of(&self, status: StatusCode) -> bool {
        let is_error = status.is_client_error() || status.is_server_error();
        let by_dialect = |dialect: &Arc<Dialect>| {
            let reads = |rule: &ErrorRule| rule.reads_body() && rule.covers(status);
            dialect.table.reads_bodies(is_error) || dialect.errors.iter().any(reads)
        };
        self.reads_all_bodies() || self.dialect.as_ref().is_some_and(by_dialect)
    }

    /// The operator's own rules inspect the bodies of all responses.
    fn reads_all_bodies(&self) -> bool {
        !self.success.is_empty() || self.errors.iter().any(ErrorRule::reads_body)
    }
}

/// `"$.status.error_code": [0, "0"]`: the value at the path is one of these.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonRule {
    /// The path of the value.
    pub path: JsonPath,
    /// The matching values.
    pub values: Vec<Value>,
}

impl JsonRule {
    /// Whether the body has one of the values at the path.
    pub fn matches(&self, body: &Value) -> bool {
        self.path.first(body).is_some_and(|found| self.values.contains(found))
    }
}

/// `"$.error.message": secondary rate limit`: a text at the path contains one of these, in any letter case.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRule {
    /// The path of the texts.
    pub path: JsonPath,
    /// The parts to look for, in lower case.
    pub parts: Vec<Box<str>>,
}

impl TextRule {
    /// Whether a text at the path contains one of the parts.
    pub fn matches(&self, body: &Value) -> bool {
        let contains = |text: &str| {
            let text = text.to_lowercase();
            self.parts.iter().any(|part| text.contains(&**part))
        };
        self.path.all(body).any(|found| found.as_str().is_some_and(contains))
    }
}

/// `RateLimit-Reason: [jira-burst-based]`: the field has one of these values, in any letter case; `"*"`: any
/// value.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderRule {
    /// The field.
    pub name: HeaderName,
    /// The values; `"*"`: any.
    pub values: Vec<Box<str>>,
}

impl HeaderRule {
    /// Whether the field has one of the values.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let is_one = |found: &[u8]| {
            let equal = |value: &str| value == "*" || found.eq_ignore_ascii_case(value.as_bytes());
            self.values.iter().any(|value| equal(value))
        };
        headers.get_all(&self.name).iter().any(|value| is_one(value.as_bytes().trim_ascii()))
    }
}

/// One of `errors`: all its conditions must match.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorRule {
    /// Any of these statuses; empty: every status.
    pub status: Vec<StatusMatch>,
    /// All of these conditions.
    pub json: Vec<JsonRule>,
    /// All of these conditions on texts.
    pub contains: Vec<TextRule>,
    /// All of these conditions on fields.
    pub headers: Vec<HeaderRule>,
    /// The class of the error.
    pub class: OutcomeClass,
    /// The cooldown after the error; `None`: as the response specifies, else by the class.
    pub cooldown: Option<CooldownUntil>,
    /// The scope of the limit that was exceeded; `None`: as the response specifies.
    pub scope: Option<LimitScope>,
}

impl ErrorRule {
    /// A rule without conditions, which matches nothing.
    pub fn new(class: OutcomeClass) -> Self {
        let (status, json, contains, headers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { status, json, contains, headers, class, cooldown: None, scope: None }
    }

    /// Whether it inspects the body.
    pub fn reads_body(&self) -> bool {
        !(self.json.is_empty() && self.contains.is_empty())
    }

    /// Whether it can match a response with this status.
    pub fn covers(&self, status: StatusCode) -> bool {
        self.status.is_empty() || self.status.iter().any(|pattern| pattern.matches(status))
    }

    /// Whether all its conditions match. A rule without conditions matches nothing.
    pub fn matches(&self, status: StatusCode, headers: &HeaderMap, json: Option<&Value>) -> bool {
        let has_conditions = self.reads_body() || !(self.status.is_empty() && self.headers.is_empty());
        let by_body = |body| {
            self.json.iter().all(|rule| rule.matches(body))
                && self.contains.iter().all(|rule| rule.matches(body))
        };
        has_conditions
            && self.covers(status)
            && self.headers.iter().all(|rule| rule.matches(headers))
            && (!self.reads_body() || json.is_some_and(by_body))
    }
}

/// The class of a call's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeClass {
    /// A usable response.
    Ok,
    /// A rate limit was exceeded.
    RateLimited(RateLimitKind),
    /// The credential was rejected.
    Auth,
    /// The origin failed.
    Server,
    /// The connection failed, or the response was not valid HTTP.
    Network,
    /// A timeout.
    Timeout,
}

impl OutcomeClass {
    /// The token for logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::RateLimited(limit) => limit.token(),
            Self::Auth => "auth",
            Self::Server => "server-error",
            Self::Network => "connect",
            Self::Timeout => "timeout",
        }
    }
}

/// The kind of limit that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimitKind {
    /// A short one: calls per second or minute.
    Minute,
    /// A long one: calls per day or month.
    Quota,
    /// One shared with other API users, who exhausted it.
    Shared,
}

impl RateLimitKind {
    /// The token for logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Minute => "rate-limited",
            Self::Quota => "quota",
            Self::Shared => "shared-limit",
        }
    }
}

/// `errors[].hold`: the cooldown after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CooldownUntil {
    /// A fixed duration.
    For(Duration),
    /// Until the day ends (UTC).
    UntilMidnight,
    /// Until the day ends in this zone.
    UntilMidnightIn(TimeZone),
    /// Until the month ends (UTC).
    UntilNextMonth,
    /// Until the operator ends it (`larder upstreams release`).
    UntilReleased,
}

/// The time of a cooldown that only the operator ends, longer than any other.
pub const UNTIL_RELEASED: Duration = Duration::from_secs(200 * 365 * 86_400);

/// Whether a cooldown with this much time left is one that only the operator ends.
pub fn is_until_released(left: Duration) -> bool {
    left > UNTIL_RELEASED / 2
}

/// `30/m`: the most calls in any window of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The number of calls, at least one.
    pub count: u32,
    /// The length of the window, above zero.
    pub per: Duration,
}

/// `rate_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The highest rate; `None`: unlimited.
    pub limit: Option<Rate>,
    /// Whether larder follows the origin's rate limit fields (`RateLimit`, `X-RateLimit-*`) before a 429.
    pub learn: bool,
    /// How long a call waits in the queue.
    pub max_wait: Duration,
    /// The most concurrent calls that wait for their response head.
    pub in_flight: usize,
}

/// `ban_guard`: an origin bans clients that receive too many of these responses; larder stops before that.
#[derive(Debug, Clone, PartialEq)]
pub struct BanGuardRule {
    /// The statuses that count.
    pub statuses: Vec<StatusMatch>,
    /// The limit of the origin.
    pub limit: Rate,
    /// The share of the limit at which larder stops, above 0 and at most 1.
    pub trip_at: f64,
}

/// `breaker`: the circuit breaker blocks calls to an origin that fails repeatedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// The number of consecutive failures that opens it …
    pub failures: u32,
    /// … if they occur within this time.
    pub within: Duration,
    /// How long it stays open; then one call probes the origin.
    pub open_for: Duration,
}

/// `cost`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// The currency, such as `USD`.
    pub currency: String,
    /// The credits of a call.
    pub credits: CreditSource,
    /// The price of a credit.
    pub per_credit: f64,
    /// Whether a 304 costs as much as a full response.
    pub not_modified: bool,
    /// The budget; `None`: unlimited.
    pub budget: Option<CostBudget>,
}

/// The source of the number of credits that a call cost.
#[derive(Debug, Clone, PartialEq)]
pub enum CreditSource {
    /// A fixed number for each call.
    PerCall(f64),
    /// A field of the response.
    Header(HeaderName),
    /// A value in the JSON body of the response.
    Body(JsonPath),
}

/// `cost.budget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostBudget {
    /// The credits per period.
    pub credits: f64,
    /// The period.
    pub period: Period,
    /// The share at which larder logs a warning, above 0 and at most 1.
    pub warn_at: f64,
    /// The action when the budget is spent.
    pub at_limit: OverBudgetAction,
}

/// A calendar period (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the last day.
    Month,
}

impl Period {
    /// The token for the configuration, logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// `at_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverBudgetAction {
    /// No calls: stored responses are served, also stale ones; other requests are refused.
    StaleOnly,
    /// No calls, and no stale responses.
    Refuse,
    /// Calls continue; larder only logs a warning.
    Warn,
}

impl OverBudgetAction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::StaleOnly, Self::Refuse, Self::Warn];

    /// The token for the configuration, logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::StaleOnly => "stale-only",
            Self::Refuse => "refuse",
            Self::Warn => "warn",
        }
    }
}
