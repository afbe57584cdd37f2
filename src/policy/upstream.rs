//! The policy of an upstream: response rules, rate limit, ban guard, circuit breaker, cost.
//!
//! Owns: the values that `upstreams.*` resolves to. Never touches: the configuration file, calls.

use std::time::Duration;

use http::HeaderName;
use serde_json::Value;

use crate::policy::StatusMatch;
use crate::semantics::json_path::JsonPath;

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
    /// Whether larder must inspect the JSON body of responses.
    pub fn reads_bodies(&self) -> bool {
        let credits = self.cost.as_ref().map(|cost| &cost.credits);
        self.rules.read_bodies() || matches!(credits, Some(CreditSource::Body(_)))
    }
}

/// `success` and `errors`: classification of responses beyond their status.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResponseRules {
    /// A 2xx response whose body matches none of these is an error; empty: every 2xx is a success.
    pub success: Vec<JsonRule>,
    /// The classes of errors; the first match counts.
    pub errors: Vec<ErrorRule>,
}

impl ResponseRules {
    /// Whether any rule inspects bodies.
    pub fn read_bodies(&self) -> bool {
        !self.success.is_empty() || self.errors.iter().any(|rule| !rule.json.is_empty())
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

/// One of `errors`: all its conditions must match.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorRule {
    /// Any of these statuses; empty: every status.
    pub status: Vec<StatusMatch>,
    /// All of these conditions.
    pub json: Vec<JsonRule>,
    /// The class of the error.
    pub class: OutcomeClass,
    /// The cooldown after the error; `None`: as the response specifies, else by the class.
    pub cooldown: Option<CooldownUntil>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CooldownUntil {
    /// A fixed duration.
    For(Duration),
    /// Until the day ends (UTC).
    UntilMidnight,
    /// Until the month ends (UTC).
    UntilNextMonth,
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
