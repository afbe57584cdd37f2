//! What a route resolves to: values that say what to keep, for how long, for whom, and what to do when
//! the origin says no.
//!
//! Owns: the vocabulary of policy and its effect on lifetime, windows and storing.
//! Never touches: the configuration file, the store, the clock.

pub mod cacheability;
pub mod error_match;
pub mod retry;
pub mod upstream;

use std::time::Duration;

use http::{HeaderName, StatusCode};

pub use crate::policy::cacheability::{Freshness, FreshnessState, Lifetime};
pub use crate::policy::error_match::ErrorClass;
pub use crate::policy::retry::{Backoff, CooldownPolicy, MOST_RETRIES, RetryPolicy};

/// Everything a route says about its answers. Built by `config`, read by the pure core.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long an answer is fresh.
    pub ttl: Ttl,
    /// Further statuses that are stored, and for how long (`ttl_by_status`); first match wins.
    pub ttl_by_status: Vec<(StatusMatch, Duration)>,
    /// The largest share of a lifetime, 0 to 0.5, that is taken off so that what was stored together
    /// does not expire together.
    pub ttl_jitter: f64,
    /// The route's own stale-while-revalidate window; `None`: the origin's word (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// When a stale answer may stand in for an error.
    pub stale_if_error: StaleIfError,
    /// When a call is made once more.
    pub retry: RetryPolicy,
    /// How long an origin that failed is left alone.
    pub hold: CooldownPolicy,
    /// Whose answers they are.
    pub scope: ScopeRule,
    /// What else goes into the key.
    pub key: KeyPolicy,
    /// How long a client waits for somebody else's fill before it asks for itself.
    pub coalesce_wait: Duration,
    /// What becomes of answers with `Set-Cookie`.
    pub set_cookie: SetCookiePolicy,
    /// The targeted fields whose word counts in place of `Cache-Control`, the first one first
    /// (RFC 9213).
    pub targeted_cache_control: Vec<HeaderName>,
}

impl Policy {
    /// What a route means that says nothing: RFC 9111, each credential its own answers.
    pub fn origin() -> Self {
        Self {
            ttl: Ttl::Origin,
            ttl_by_status: Vec::new(),
            ttl_jitter: 0.0,
            stale_while_revalidate: None,
            stale_if_error: StaleIfError::default(),
            retry: RetryPolicy::default(),
            hold: CooldownPolicy::default(),
            scope: ScopeRule::Credential,
            key: KeyPolicy::default(),
            coalesce_wait: Duration::from_secs(10),
            set_cookie: SetCookiePolicy::Refuse,
            targeted_cache_control: Vec::new(),
        }
    }
}

/// The five forms of `ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// `ttl: origin`, or none: RFC 9111, nothing else.
    Origin,
    /// `ttl: { fallback: 30m }`: only where the origin gave no explicit freshness.
    Fallback(Duration),
    /// `ttl: { min: 1m, max: 1h }`: clamps what the origin says. `min <= max`.
    Clamp {
        /// Never shorter than this.
        min: Duration,
        /// Never longer than this.
        max: Duration,
    },
    /// `ttl: 30m`: the operator's word; the origin's freshness fields are set aside.
    Override(Duration),
    /// `ttl: forever`: the operator's word, never stale.
    Forever,
}

impl Ttl {
    /// Whether the operator's word sets the origin's `Cache-Control`, `Expires`, `Pragma` aside.
    pub fn overrides_origin(self) -> bool {
        matches!(self, Self::Override(_) | Self::Forever)
    }
}

/// A status or a class of statuses (`404`, `5xx`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusMatch {
    /// This one.
    Exact(StatusCode),
    /// All of a class: 1 to 5.
    Class(u8),
}

impl StatusMatch {
    /// Whether `status` is meant.
    pub fn matches(self, status: StatusCode) -> bool {
        match self {
            Self::Exact(s) => s == status,
            Self::Class(c) => u16::from(c) == status.as_u16() / 100,
        }
    }
}

/// The stale-if-error window and what counts as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleIfError {
    /// The window after freshness ends; `None`: the default (24 h under an override `ttl`, else the
    /// origin's own `stale-if-error`, RFC 5861 §4).
    pub window: Option<Duration>,
    /// The failures that a stale answer hides.
    pub on: Vec<ErrorMatch>,
    /// The answers after which what was stored before hides nothing any more: 401 and 403 for who got them,
    /// others for all.
    pub ends_on: Vec<StatusMatch>,
}

/// For whom an answer ends what was stored before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleIfErrorEnd {
    /// Whoever asks for the same.
    All,
    /// Who asks with the same credential.
    Asker,
}

impl StaleIfError {
    /// Whether a stale answer may hide this failure.
    pub fn covers(&self, failure: ErrorClass) -> bool {
        self.on.iter().any(|member| failure.is(*member))
    }

    /// Whether an answer with this status ends the right of what was stored before to hide later errors.
    pub fn ended_by(&self, status: StatusCode) -> Option<StaleIfErrorEnd> {
        let ends = self.ends_on.iter().any(|pattern| pattern.matches(status));
        let asker = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        ends.then_some(if asker { StaleIfErrorEnd::Asker } else { StaleIfErrorEnd::All })
    }

    /// Whether an answer with this status is an error that a stale one may hide.
    pub fn covers_status(&self, status: StatusCode) -> bool {
        self.on.iter().any(|member| match member {
            ErrorMatch::Status(pattern) => pattern.matches(status),
            ErrorMatch::Connect
            | ErrorMatch::Timeout
            | ErrorMatch::Breaker
            | ErrorMatch::Budget => false,
        })
    }
}

impl Default for StaleIfError {
    /// Rate limits, server errors, origins that cannot be reached in time or are not to be asked.
    fn default() -> Self {
        Self {
            window: None,
            on: vec![
                ErrorMatch::Status(StatusMatch::Exact(StatusCode::TOO_MANY_REQUESTS)),
                ErrorMatch::Status(StatusMatch::Class(5)),
                ErrorMatch::Connect,
                ErrorMatch::Timeout,
                ErrorMatch::Breaker,
                ErrorMatch::Budget,
            ],
            ends_on: [
                StatusCode::NOT_FOUND,
                StatusCode::GONE,
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
            ]
            .map(StatusMatch::Exact)
            .to_vec(),
        }
    }
}

/// One member of `stale_if_error.on` or `retry.on`; a breaker and a budget only of the former.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorMatch {
    /// An answer with this status or class.
    Status(StatusMatch),
    /// No connection, a closed one, a failed name look-up or handshake, a broken answer.
    Connect,
    /// A deadline passed.
    Timeout,
    /// The breaker is open: the origin is not asked.
    Breaker,
    /// The budget is spent: the origin is not asked.
    Budget,
}

/// Whose answer it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeRule {
    /// Each credential has its own; without any: anonymous. The default.
    Credential,
    /// One answer for all: the operator's explicit consent.
    Shared,
    /// The app names its user in this field, which is not sent upstream. A request without the
    /// field falls back to [`ScopeRule::Credential`].
    Header(HeaderName),
}

/// What of a request goes into its key besides scheme, authority, path and scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Which query parameters count.
    pub query: QueryRule,
    /// Request fields that count besides what `Vary` names.
    pub headers: Vec<HeaderName>,
    /// Fields that do not count although they are not known to be harmless.
    pub ignored: Vec<HeaderName>,
}

/// Which query parameters are part of the key. Order is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryRule {
    /// All of them, byte for byte.
    #[default]
    All,
    /// Only these.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
}

/// What becomes of answers with `Set-Cookie`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCookiePolicy {
    /// Not stored, in no scope. The default.
    Refuse,
    /// Stored without the field.
    Strip,
    /// Stored with the field: the bare RFC.
    Keep,
}

/// The master switch (product: `defaults.mode`, `larder mode`): what larder does with requests,
/// whatever their routes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As the routes say. The default.
    #[default]
    Cache,
    /// Every request passes through; nothing is read from the store or put into it.
    Bypass,
    /// Only from the store, stale answers too; no origin is asked.
    Offline,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cache, Self::Bypass, Self::Offline];

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.token() == name)
    }

    /// The one name for it in the configuration, commands, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Bypass => "bypass",
            Self::Offline => "offline",
        }
    }
}
