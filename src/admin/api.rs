//! The operations that a running larder offers to its operator.
//!
//! Owns: the types of the admin API. Never touches: their implementation, which is the server's
//! (`server::admin_service`).

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::HeaderMap;

use crate::policy::Mode;
use crate::semantics::target::Target;
use crate::telemetry::cost::CostReport;
use crate::upstream::admission::status::UpstreamStatus;

/// The operations of a running larder.
#[async_trait]
pub trait AdminApi: Send + Sync + 'static {
    /// Whether larder should get requests (`/readyz`).
    fn ready(&self) -> Readiness;

    /// `proxy.pac` for a client that requested it from the host in `host` (`Host`).
    fn pac(&self, host: Option<&str>) -> String;

    /// The configuration in force, as JSON without any secret.
    fn config(&self) -> serde_json::Value;

    /// The certificate that clients must trust for TLS interception (PEM); `None`: none is configured.
    fn ca(&self) -> Option<String>;

    /// Reads the configuration again and replaces the current one, or keeps that and returns the reason.
    async fn reload(&self) -> Result<ReloadResult, ReloadError>;

    /// The current mode.
    fn mode(&self) -> Mode;

    /// Sets the mode until the next change, reload or restart.
    fn set_mode(&self, mode: Mode);

    /// Makes stored responses unusable (or stale) and returns once that is durable.
    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError>;

    /// A page of stored entries.
    async fn entries(&self, query: &ListQuery) -> Page;

    /// Status of each upstream, with its cooldowns and limits, in the order of the configuration.
    fn upstreams(&self) -> Vec<UpstreamStatus>;

    /// Ends the cooldowns of spent quotas of one upstream, and returns their number once that is durable.
    /// `None`: there is no such upstream.
    async fn release(&self, upstream: &str) -> Option<usize>;

    /// Usage of each upstream with costs, in the order of the configuration.
    fn cost(&self) -> Vec<CostReport>;
}

/// Whether a larder should get requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// False while larder is stopping.
    pub ready: bool,
    /// Faults that do not prevent responses: `("store", "memory only: …")`.
    pub details: Vec<(&'static str, String)>,
}

/// A successful reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadResult {
    /// Number of active routes.
    pub routes: usize,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
}

/// The reason why the old configuration stays active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadError {
    /// The report, as `larder check` prints it.
    pub report: String,
}

/// A purge request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The entries to purge.
    pub target: PurgeTarget,
    /// Only make them stale: they are revalidated, and may be served on errors until then.
    pub soft: bool,
    /// Only count them.
    pub dry_run: bool,
}

/// The entries that a purge applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeTarget {
    /// One URL: all variants, all scopes.
    Url(Target),
    /// The URL of the entry with this [`Entry::key`]; its displayed URL may be masked.
    Key(u128),
    /// All entries.
    All,
}

/// A successful purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeResult {
    /// Number of purged entries, in all tiers.
    pub count: u64,
    /// The URL to which larder rewrites the given one (because of a mount or an upgrade to `https`), with
    /// its secrets masked; `None`: it is not rewritten.
    pub sent_as: Option<String>,
}

/// The reason why a purge is not acknowledged. Entries in memory are unusable all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeError {
    /// The reason why the purge would not outlast this process.
    pub reason: String,
}

/// Parameters of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// The page begins after this cursor, which the previous page returned.
    pub after: Option<String>,
    /// Maximum number of entries.
    pub limit: usize,
    /// Only entries of this URL.
    pub url: Option<Target>,
    /// Only entries of the URL of the entry with this [`Entry::key`]; its displayed URL may be masked.
    pub key: Option<u128>,
    /// With the header fields of the entries (`larder inspect`).
    pub details: bool,
}

/// A page of stored entries.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The entries in the order of the store.
    pub entries: Vec<Entry>,
    /// Cursor of the next page; `None`: this is the last one.
    pub next: Option<String>,
    /// As [`PurgeResult::sent_as`], for [`ListQuery::url`].
    pub sent_as: Option<String>,
}

/// A stored response for display: without credentials, secrets of its URL and body.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Scheme, authority, path and the query parameters of the key; secret parts are masked.
    pub url: String,
    /// The id that all entries of this URL share, for [`PurgeTarget::Key`] and [`ListQuery::key`].
    pub key: u128,
    /// Scope of its key: `shared`, `anonymous`, `credential`, `named`.
    pub scope: &'static str,
    /// The route that matches the URL now; `None`: none does.
    pub route: Option<String>,
    /// The response status.
    pub status: u16,
    /// The time when its head arrived.
    pub stored: SystemTime,
    /// Its current age (RFC 9111 §4.2.3).
    pub age: Duration,
    /// Its remaining freshness under the current policy in seconds, negative if stale; `None` if no
    /// route caches it any more.
    pub ttl: Option<i64>,
    /// Length of its body in bytes.
    pub bytes: u64,
    /// The request fields that select it (`Vary`).
    pub vary: Vec<String>,
    /// The tiers that contain it: `memory`, `disk`, or both.
    pub tiers: Vec<&'static str>,
    /// Its header fields, with possible secrets masked; only with [`ListQuery::details`].
    pub headers: Option<HeaderMap>,
}
