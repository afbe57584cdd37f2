//! What an operator can ask of a running larder.
//!
//! Owns: the vocabulary of the admin API. Never touches: how it is done; whoever builds the larder
//! implements it.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::HeaderMap;

use crate::policy::Mode;
use crate::semantics::target::Target;
use crate::telemetry::cost::CostReport;
use crate::upstream::status::UpstreamStatus;

/// A running larder as its operator sees it.
#[async_trait]
pub trait AdminApi: Send + Sync + 'static {
    /// Whether it should get requests (`/readyz`).
    fn ready(&self) -> Readiness;

    /// `proxy.pac` for a client that has asked this host by that name (`Host`).
    fn pac(&self, asked: Option<&str>) -> String;

    /// The configuration in force, as JSON without any secret.
    fn config(&self) -> serde_json::Value;

    /// The certificate that clients must trust where TLS is intercepted (PEM); `None`: nothing is.
    fn ca(&self) -> Option<String>;

    /// Reads the configuration again and swaps it in, or keeps the old one and says why.
    async fn reload(&self) -> Result<ReloadResult, ReloadError>;

    /// The master switch.
    fn mode(&self) -> Mode;

    /// Turns the master switch. Lasts until the next turn, reload or restart.
    fn set_mode(&self, mode: Mode);

    /// Makes stored answers unusable (or stale) and says so only once it lasts.
    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError>;

    /// A page of what is stored.
    async fn entries(&self, asked: &ListQuery) -> Page;

    /// How each upstream stands: what is held and limited, in the order of the configuration.
    fn upstreams(&self) -> Vec<UpstreamStatus>;

    /// What each upstream that costs something has cost, in the order of the configuration.
    fn cost(&self) -> Vec<CostReport>;
}

/// Whether a larder should get requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// False while it is stopping.
    pub ready: bool,
    /// What is not as it should be, though answers are given: `("store", "memory only: …")`.
    pub details: Vec<(&'static str, String)>,
}

/// A configuration that was swapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadResult {
    /// How many routes are in force.
    pub routes: usize,
    /// What the operator should know though it is no error.
    pub notes: Vec<String>,
}

/// Why the old configuration stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadError {
    /// The report, as `larder check` prints it.
    pub report: String,
}

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Of what.
    pub what: PurgeTarget,
    /// Only make it stale: it is revalidated, and may stand in for errors meanwhile.
    pub soft: bool,
    /// Only count.
    pub dry_run: bool,
}

/// What a purge reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeTarget {
    /// One URL: all variants, all scopes.
    Url(Target),
    /// The URL of an entry with this [`Entry::key`], which may not be shown whole.
    Key(u128),
    /// Everything.
    All,
}

/// What a purge reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeResult {
    /// Stored answers that it concerns, in all tiers.
    pub count: u64,
    /// The URL that larder makes of the one that was named (by a mount, by an upgrade to `https`), its
    /// secrets masked; `None`: it is that one.
    pub sent_as: Option<String>,
}

/// Why a purge is not acknowledged. What is in memory is unusable all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeError {
    /// Why it would not outlast this process.
    pub why: String,
}

/// Which page of what is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Behind this cursor, which came with the page before.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
    /// Only of this URL.
    pub url: Option<Target>,
    /// Only of the URL of an entry with this [`Entry::key`], which may not be shown whole.
    pub key: Option<u128>,
    /// With their fields and `Vary` (`larder inspect`).
    pub details: bool,
}

/// A page of what is stored.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of the store.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
    /// As [`PurgeResult::sent_as`], of [`ListQuery::url`].
    pub sent_as: Option<String>,
}

/// A stored answer as an operator sees it: no credential, no secret of its URL, no body.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Scheme, authority, path and counted query; secret parts are masked.
    pub url: String,
    /// The id that all answers of this URL share, for [`PurgeTarget::Key`] and [`ListQuery::key`].
    pub key: u128,
    /// Whose it is: `shared`, `anonymous`, `credential`, `named`.
    pub scope: &'static str,
    /// The route that the URL belongs to now; `None`: none.
    pub route: Option<String>,
    /// The status.
    pub status: u16,
    /// When its head arrived.
    pub stored: SystemTime,
    /// Its age now (RFC 9111 §4.2.3).
    pub age: Duration,
    /// Its remaining freshness under the current policy in seconds, negative when stale; `None`
    /// where no route caches it any more.
    pub ttl: Option<i64>,
    /// Bytes of its body.
    pub bytes: u64,
    /// The request fields that chose it.
    pub vary: Vec<String>,
    /// Where it is: `memory`, `disk`, or both.
    pub tiers: Vec<&'static str>,
    /// Its fields, values that may be secret masked; only with [`ListQuery::details`].
    pub headers: Option<HeaderMap>,
}
