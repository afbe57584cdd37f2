//! How an upstream is treated: how fast it is asked, when it is left alone, what its answers mean, and
//! what they cost.
//!
//! Owns: the values that `upstreams.*` resolves to. Never touches: the configuration file, calls.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use serde_json::Value;

use crate::policy::StatusMatch;
use crate::semantics::json_path::JsonPath;

/// Everything an upstream's section says about how it is treated. The default leaves it alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamPolicy {
    /// What its answers mean.
    pub rules: ResponseRules,
    /// How fast it is asked.
    pub rate_limit: RateLimit,
    /// The ban guard.
    pub ban_guard: Option<BanGuardRule>,
    /// When it is taken for dead.
    pub breaker: Option<CircuitBreaker>,
    /// What it costs.
    pub cost: Option<Cost>,
}

impl UpstreamPolicy {
    /// Whether the JSON body of an answer says something that its head does not.
    pub fn reads_bodies(&self) -> bool {
        let credits = self.cost.as_ref().map(|cost| &cost.credits);
        self.rules.read_bodies() || matches!(credits, Some(CreditSource::Body(_)))
    }
}

/// `success` and `errors`: what an answer means beyond its status.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResponseRules {
    /// A 2xx whose body has none of these is an error; empty: every 2xx is a success.
    pub success: Vec<JsonRule>,
    /// Which errors are what; the first that matches counts.
    pub errors: Vec<ErrorRule>,
}

impl ResponseRules {
    /// Whether any of them looks into bodies.
    pub fn read_bodies(&self) -> bool {
        !self.success.is_empty() || self.errors.iter().any(|rule| !rule.json.is_empty())
    }
}

/// `"$.status.error_code": [0, "0"]`: what is at the path is one of these.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonRule {
    /// Where.
    pub path: JsonPath,
    /// Which values.
    pub values: Vec<Value>,
}

impl JsonRule {
    /// Whether the body has one of the values there.
    pub fn matches(&self, body: &Value) -> bool {
        self.path.first(body).is_some_and(|found| self.values.contains(found))
    }
}

/// One of `errors`: all that it names must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorRule {
    /// One of these statuses; empty: any.
    pub status: Vec<StatusMatch>,
    /// All of these.
    pub json: Vec<JsonRule>,
    /// What the error is.
    pub class: OutcomeClass,
    /// How long it is not asked then; `None`: as the answer says, else as the class suggests.
    pub hold: Option<CooldownUntil>,
}

/// What an answer, or none, comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeClass {
    /// An answer to use.
    Ok,
    /// Too many calls.
    RateLimited(RateLimitKind),
    /// The credential is not accepted.
    Auth,
    /// The origin failed.
    Server,
    /// It could not be reached, or what came is no HTTP.
    Network,
    /// A deadline passed.
    Timeout,
}

impl OutcomeClass {
    /// The one name for it in logs, metrics and answers.
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

/// Which limit was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimitKind {
    /// One that is over soon: calls per second or minute.
    Minute,
    /// One that is over late: calls per day or month.
    Quota,
    /// One that others have used up; the caller did nothing wrong.
    Shared,
}

impl RateLimitKind {
    /// The one name for it in logs, metrics and answers.
    pub fn token(self) -> &'static str {
        match self {
            Self::Minute => "rate-limited",
            Self::Quota => "quota",
            Self::Shared => "shared-limit",
        }
    }
}

/// `errors[].hold`: how long the origin is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CooldownUntil {
    /// So long.
    For(Duration),
    /// Until the day ends (UTC).
    UntilMidnight,
    /// Until the month ends (UTC).
    UntilNextMonth,
}

/// `30/m`: so many calls in any stretch of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least one.
    pub count: u32,
    /// In which time, above zero.
    pub per: Duration,
}

/// `rate_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Never faster than this; `None`: as fast as calls come.
    pub limit: Option<Rate>,
    /// Whether the origin's own word (`RateLimit`, `X-RateLimit-*`) is kept to before it says 429.
    pub learn: bool,
    /// How long a call waits for its turn.
    pub max_wait: Duration,
    /// Calls that wait for the head of their answer, at once.
    pub in_flight: usize,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { limit: None, learn: false, max_wait: Duration::from_secs(2), in_flight: 256 }
    }
}

/// `ban_guard`: who gets too many of these answers is banned, and larder stops before that.
#[derive(Debug, Clone, PartialEq)]
pub struct BanGuardRule {
    /// Which answers count.
    pub statuses: Vec<StatusMatch>,
    /// How many the origin bears.
    pub limit: Rate,
    /// At which share of them larder stops, above 0 and at most 1.
    pub trip_at: f64,
}

impl Default for BanGuardRule {
    /// Discord's: who gets 10,000 of these in ten minutes is banned.
    fn default() -> Self {
        let statuses =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        Self {
            statuses: statuses.map(StatusMatch::Exact).into(),
            limit: Rate { count: 10_000, per: Duration::from_secs(600) },
            trip_at: 0.8,
        }
    }
}

/// `breaker`: an origin that fails again and again is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// So many failures, with no success between them …
    pub failures: u32,
    /// … within this time, open it …
    pub within: Duration,
    /// … for so long; then one call tries.
    pub open_for: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self { failures: 5, within: half_a_minute, open_for: half_a_minute }
    }
}

/// `cost`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// What money is counted in, such as `USD`.
    pub currency: String,
    /// What a call costs in credits.
    pub credits: CreditSource,
    /// What a credit costs.
    pub per_credit: f64,
    /// Whether a 304 costs as much as an answer.
    pub not_modified: bool,
    /// What may be spent; `None`: whatever is needed.
    pub budget: Option<CostBudget>,
}

/// Where it stands how many credits a call cost.
#[derive(Debug, Clone, PartialEq)]
pub enum CreditSource {
    /// Each call costs so many.
    PerCall(f64),
    /// In this field of the answer.
    Header(HeaderName),
    /// In the answer's JSON body.
    Body(JsonPath),
}

/// `cost.budget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostBudget {
    /// So many credits …
    pub credits: f64,
    /// … in each of these.
    pub period: Period,
    /// From which share of it larder warns, above 0 and at most 1.
    pub warn_at: f64,
    /// What happens when it is spent.
    pub at_limit: OverBudgetAction,
}

/// A calendar window (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the last day.
    Month,
}

impl Period {
    /// The one name for it in the configuration, logs, metrics and answers.
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
    /// No calls: what is stored is served, stale too; the rest is refused.
    StaleOnly,
    /// No calls, and nothing stale in their place.
    Refuse,
    /// Calls go on; larder only warns.
    Warn,
}

impl OverBudgetAction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::StaleOnly, Self::Refuse, Self::Warn];

    /// The one name for it in the configuration, logs, metrics and answers.
    pub fn token(self) -> &'static str {
        match self {
            Self::StaleOnly => "stale-only",
            Self::Refuse => "refuse",
            Self::Warn => "warn",
        }
    }
}
