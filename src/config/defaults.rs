//! The defaults of all configuration keys, in one place.
//!
//! Owns: the defaults that the reference file documents (a test compares the two), also those of `policy`'s types.
//! One depends on another key and is with its rule: the stale window under a `ttl` that overrides the origin
//! (`policy::cacheability`). Never touches: the content of the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::config::{Admin, BodyLimits, Limits, Log, LogFormat, LogLevel, Store, UpstreamTls};
use crate::policy::timeouts::{Deadline, TimeoutOverrides, Timeouts};
use crate::policy::upstream::{BanGuardRule, CircuitBreaker, Rate, RateLimit};
use crate::policy::{
    Backoff, ClientCacheControl, CooldownPolicy, ErrorMatch, KeyPolicy, Policy, RetryPolicy, ScopeRule,
    SetCookiePolicy, StaleIfError, StatusMatch, Ttl,
};
use crate::semantics::status;

/// `listen`: loopback only.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// `admin.listen`: loopback only.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// The most bytes that the larder of `larder exec` stores in the system's memory, if it can write to no disk.
pub const EXEC_SHARED_MEMORY: u64 = 64 << 20;

/// `coalesce.wait`.
pub const COALESCE_WAIT: Duration = Duration::from_secs(10);

/// `ttl.max` if only `min` is given: RFC 9111 §1.2.2.
pub const LONGEST_TTL: Duration = Duration::from_secs(i32::MAX as u64);

/// Query parameters that are secret by their whole name. `semantics::redaction` also matches single words
/// of a name; `secret_query` adds further names.
pub const SECRET_QUERY: [&str; 9] =
    ["api_key", "apikey", "key", "token", "access_token", "secret", "sig", "signature", "password"];

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ADMIN, token: None, allow: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 << 10,
            headers: 128,
            head_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            tunnel_idle: Duration::from_secs(60 * 60),
            patience: Duration::from_secs(15 * 60),
            body: BodyLimits { idle: Duration::from_secs(30), min_rate: 64 },
            drain: Duration::from_secs(30),
            connections: 10_000,
            waiters_per_key: 2000,
            in_flight: 128 << 20,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, level: LogLevel::Info }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("larder-data"),
            memory: 128 << 20,
            disk: 2 << 30,
            sweep_every: Duration::from_secs(60),
            max_object: 8 << 20,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Deadline::Soft(Duration::from_secs(30)),
            between_bytes: Deadline::Soft(Duration::from_secs(30)),
            total: Deadline::Soft(Duration::from_secs(60)),
            patience: Limits::default().patience,
        }
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { extra_roots: Vec::new(), client_cert: None, insecure: false, http2: true }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let status = |code| ErrorMatch::Status(StatusMatch::Exact(code));
        Self {
            retries: 3,
            on: vec![
                status(StatusCode::TOO_MANY_REQUESTS),
                status(StatusCode::BAD_GATEWAY),
                status(StatusCode::SERVICE_UNAVAILABLE),
                status(StatusCode::GATEWAY_TIMEOUT),
                status(status::OVERLOADED),
                ErrorMatch::Connect,
                ErrorMatch::Timeout,
            ],
            methods: vec![Method::GET, Method::HEAD],
            backoff: Backoff::default(),
            honour_retry_after: true,
            budget: Duration::from_secs(15),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(30), jitter: 0.2 }
    }
}

impl Default for CooldownPolicy {
    fn default() -> Self {
        Self { cooldown: Duration::from_secs(30), max_cooldown: Duration::from_secs(60 * 60) }
    }
}

impl Default for StaleIfError {
    /// Rate limits, server errors, failed or timed-out connections, blocked calls.
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

impl Default for RateLimit {
    fn default() -> Self {
        Self { limit: None, learn: false, max_wait: Duration::from_secs(2), in_flight: 256 }
    }
}

impl Default for BanGuardRule {
    /// Discord's limit: 10,000 of these responses in ten minutes lead to a ban.
    fn default() -> Self {
        let statuses = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        Self {
            statuses: statuses.map(StatusMatch::Exact).into(),
            limit: Rate { count: 10_000, per: Duration::from_secs(600) },
            trip_at: 0.8,
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self { failures: 5, within: half_a_minute, open_for: half_a_minute }
    }
}

impl Policy {
    /// The policy of a route without keys: RFC 9111, with separate responses for each credential.
    pub fn origin() -> Self {
        Self {
            ttl: Ttl::Origin,
            ttl_by_status: Vec::new(),
            ttl_jitter: 0.0,
            stale_while_revalidate: None,
            stale_if_error: StaleIfError::default(),
            retry: RetryPolicy::default(),
            cooldown: CooldownPolicy::default(),
            scope: ScopeRule::Credential,
            key: KeyPolicy::default(),
            coalesce_wait: COALESCE_WAIT,
            set_cookie: SetCookiePolicy::Refuse,
            timeouts: TimeoutOverrides::default(),
            targeted_cache_control: Vec::new(),
            client_cache_control: ClientCacheControl::Honour,
            keep_limit_fields: false,
        }
    }
}
