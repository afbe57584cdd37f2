//! The policy of a route: which responses are stored, for how long and for which users, and the handling of
//! errors.
//!
//! Owns: the policy types, and their effect on lifetimes, stale windows and storing.
//! Never touches: the configuration file, the store, the clock.

pub mod cacheability;
pub mod error_match;
pub mod retry;
pub mod timeouts;
pub mod upstream;

use std::time::Duration;

use http::{HeaderName, StatusCode};

pub use crate::policy::cacheability::{Freshness, FreshnessState, Lifetime};
pub use crate::policy::error_match::ErrorClass;
pub use crate::policy::retry::{Backoff, CooldownPolicy, MAX_RETRIES, RetryPolicy};
use crate::policy::timeouts::TimeoutOverrides;
use crate::semantics::cache_control::RequestCacheControl;
use crate::semantics::query::{names, order_name};
use crate::semantics::request::ProxyRequest;

/// The policy of a route for its responses. Built by `config`, read by the pure core.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The freshness lifetime of responses.
    pub ttl: Ttl,
    /// Further statuses that are stored, with their lifetimes (`ttl_by_status`); the first match counts.
    pub ttl_by_status: Vec<(StatusMatch, Duration)>,
    /// The largest share, 0 to 0.5, by which a lifetime is shortened, so that responses stored at the same
    /// time do not expire at the same time.
    pub ttl_jitter: f64,
    /// The route's own stale-while-revalidate window; `None`: that of the origin (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// When a stale response may be served instead of an error.
    pub stale_if_error: StaleIfError,
    /// When a call is retried.
    pub retry: RetryPolicy,
    /// The cooldown of a failed origin.
    pub cooldown: CooldownPolicy,
    /// Which users share a response.
    pub scope: ScopeRule,
    /// Which parts of a request are in the key.
    pub key: KeyPolicy,
    /// How long a request waits for a fill in flight before it starts its own fetch.
    pub coalesce_wait: Duration,
    /// The handling of responses with `Set-Cookie`.
    pub set_cookie: SetCookiePolicy,
    /// The timeouts of its calls that differ from those of the upstream.
    pub timeouts: TimeoutOverrides,
    /// The targeted fields that replace `Cache-Control`, in order of precedence (RFC 9213).
    pub targeted_cache_control: Vec<HeaderName>,
    /// Whether clients may force refreshes.
    pub client_cache_control: ClientCacheControl,
    /// Whether hits carry the rate-limit fields of the stored response.
    pub keep_limit_fields: bool,
}

/// The effect of a request's own `Cache-Control` and `Pragma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCacheControl {
    /// As in RFC 9111. The default.
    #[default]
    Honour,
    /// None, except that `only-if-cached` and `max-stale` still avoid calls.
    Ignore,
}

impl Policy {
    /// The cache directives of `request` that have an effect.
    pub fn request_directives(&self, request: &ProxyRequest) -> RequestCacheControl {
        let sent = request.cache_control();
        match self.client_cache_control {
            ClientCacheControl::Honour => sent,
            ClientCacheControl::Ignore => RequestCacheControl {
                only_if_cached: sent.only_if_cached,
                max_stale: sent.max_stale,
                ..RequestCacheControl::default()
            },
        }
    }
}

/// The five forms of `ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// `ttl: origin`, or no `ttl`: RFC 9111 only.
    Origin,
    /// `ttl: { fallback: 30m }`: only if the origin gives no explicit freshness.
    Fallback(Duration),
    /// `ttl: { min: 1m, max: 1h }`: clamps the origin's lifetime. `min <= max`.
    Clamp {
        /// The shortest lifetime.
        min: Duration,
        /// The longest lifetime.
        max: Duration,
    },
    /// `ttl: 30m`: overrides the origin's freshness fields.
    Override(Duration),
    /// `ttl: forever`: overrides the origin; the response never becomes stale.
    Forever,
}

impl Ttl {
    /// Whether it overrides the origin's `Cache-Control`, `Expires` and `Pragma`.
    pub fn overrides_origin(self) -> bool {
        matches!(self, Self::Override(_) | Self::Forever)
    }
}

/// A status or a class of statuses (`404`, `5xx`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusMatch {
    /// A single status.
    Exact(StatusCode),
    /// All statuses of a class, 1 to 5.
    Class(u8),
}

impl StatusMatch {
    /// Whether it matches `status`.
    pub fn matches(self, status: StatusCode) -> bool {
        match self {
            Self::Exact(s) => s == status,
            Self::Class(c) => u16::from(c) == status.as_u16() / 100,
        }
    }
}

/// The stale-if-error window, and the failures to which it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleIfError {
    /// The window after the freshness lifetime; `None`: the default (24 h under an override `ttl`, else the
    /// origin's own `stale-if-error`, RFC 5861 §4).
    pub window: Option<Duration>,
    /// The failures on which a stale response is served.
    pub on: Vec<ErrorMatch>,
    /// The statuses after which responses stored before are no longer served on errors: 401 and 403 for
    /// requests with the same credential, others for all.
    pub ends_on: Vec<StatusMatch>,
}

/// The requests for which a response ends stale-if-error of responses stored before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleIfErrorEnd {
    /// All requests for the same target.
    All,
    /// Requests with the same credential.
    SameCredential,
}

impl StaleIfError {
    /// Whether a stale response may be served on this failure.
    pub fn covers(&self, failure: ErrorClass) -> bool {
        self.on.iter().any(|member| failure.matches(*member))
    }

    /// Whether, and for which requests, a response with this status ends stale-if-error of responses stored
    /// before it.
    pub fn ended_by(&self, status: StatusCode) -> Option<StaleIfErrorEnd> {
        let ends = self.ends_on.iter().any(|pattern| pattern.matches(status));
        let credential_only = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        ends.then_some(if credential_only { StaleIfErrorEnd::SameCredential } else { StaleIfErrorEnd::All })
    }

    /// Whether a response with this status is an error on which a stale one may be served.
    pub fn covers_status(&self, status: StatusCode) -> bool {
        self.on.iter().any(|member| match member {
            ErrorMatch::Status(pattern) => pattern.matches(status),
            ErrorMatch::Connect | ErrorMatch::Timeout | ErrorMatch::Breaker | ErrorMatch::Budget => false,
        })
    }
}

/// One member of `stale_if_error.on` or `retry.on`; breaker and budget only of the former.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorMatch {
    /// A response with this status or class.
    Status(StatusMatch),
    /// A failed connection, name lookup or handshake, or an invalid response.
    Connect,
    /// A timeout.
    Timeout,
    /// The circuit breaker is open: no call was made.
    Breaker,
    /// The cost budget is spent: no call was made.
    Budget,
}

/// Which users share a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeRule {
    /// Separate for each credential; without one: anonymous. The default.
    Credential,
    /// Shared by all clients: the operator's explicit consent.
    Shared,
    /// The app names its user in this field, which is not sent upstream. A request without the
    /// field falls back to [`ScopeRule::Credential`].
    Header(HeaderName),
}

/// Which parts of a request are in its key besides scheme, authority, path and scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Which query parameters are in the key.
    pub query: QueryRule,
    /// Request fields that are in the key by name. (`Vary` selects among the variants of a key.)
    pub headers: Vec<HeaderName>,
    /// Fields that are not in the key although they are not known to be harmless.
    pub ignored: Vec<HeaderName>,
}

/// Which query parameters are in the key. Their order is kept, except under [`QueryRule::Sorted`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryRule {
    /// All of them, byte for byte.
    #[default]
    All,
    /// Only these.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
    /// Those of this rule, sorted by name. Parameters that an origin may read as one name keep their order.
    Sorted(Box<Self>),
}

impl QueryRule {
    /// The parameters of `query` that are in the key, in order.
    ///
    /// ```
    /// use larder::policy::QueryRule;
    ///
    /// let rule = QueryRule::Exclude(vec!["utm_source".to_owned()]);
    /// let query = Some("id=1&utm%5Fsource=mail&sort=asc");
    /// assert!(rule.included(query).eq(["id=1", "sort=asc"]));
    /// ```
    pub fn included<'q>(&self, query: Option<&'q str>) -> impl Iterator<Item = &'q str> {
        let (query, sorted) = match self {
            Self::Sorted(rule) => (None, sorted(rule, query)),
            Self::All | Self::Include(_) | Self::Exclude(_) => (query, Vec::new()),
        };
        let params = query.into_iter().flat_map(|query| query.split('&'));
        params.filter(|param| self.includes(param)).chain(sorted)
    }

    /// The parameters of `query` that are not in the key.
    pub fn excluded<'q>(&self, query: Option<&'q str>) -> impl Iterator<Item = &'q str> {
        let params = query.into_iter().flat_map(|query| query.split('&'));
        params.filter(|param| !self.includes(param))
    }

    /// Names are compared as origins decode them.
    fn includes(&self, param: &str) -> bool {
        match self {
            Self::All => true,
            // Included if any of its names is wanted, excluded only if all are ignored: a parameter that an
            // origin could read is never missing from the key.
            Self::Include(wanted) => names(param).any(|name| wanted.iter().any(|w| *w == name)),
            Self::Exclude(ignored) => !names(param).all(|name| ignored.iter().any(|i| *i == name)),
            Self::Sorted(rule) => rule.includes(param),
        }
    }
}

/// The parameters that `rule` includes, sorted. A query with `;` is not sorted: a parameter then may have
/// several names.
fn sorted<'q>(rule: &QueryRule, query: Option<&'q str>) -> Vec<&'q str> {
    let split = query.into_iter().flat_map(|query| query.split('&'));
    let mut params: Vec<_> = split.filter(|param| rule.includes(param)).collect();
    if !query.is_some_and(|query| query.contains(';')) {
        params.sort_by_cached_key(|param| order_name(param));
    }
    params
}

/// The handling of responses with `Set-Cookie`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCookiePolicy {
    /// Not stored, in any scope. The default.
    Refuse,
    /// Stored without the field.
    Strip,
    /// Stored with the field, as in RFC 9111.
    Keep,
}

/// The mode of larder (`defaults.mode`, `larder mode`). It takes precedence over all routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Cache according to the routes. The default.
    #[default]
    Cache,
    /// Forward every request; the store is neither read nor written.
    Bypass,
    /// Respond only from the store, also with stale responses; no calls to origins.
    Offline,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cache, Self::Bypass, Self::Offline];

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.token() == name)
    }

    /// The token for the configuration, commands, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Bypass => "bypass",
            Self::Offline => "offline",
        }
    }
}
