//! DNS lookups: concurrent lookups of one name are collapsed; their number and duration are bounded.
//!
//! Owns: collapsing lookups, their limits, how long addresses and failures are cached (UPS-09).
//! Never touches: which addresses may be used (`resolve`).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::upstream::connect::happy_eyeballs::is_exhausted;
use crate::upstream::outcome::error::UpstreamError;

/// How many names are cached, each for its own TTL within the bounds below.
const CACHED_NAMES: usize = 4096;
/// Bounds of the negative TTL that a zone specifies (RFC 2308 §5). An app that is deployed before its DNS
/// name waits no longer than this.
const NEGATIVE_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Upper bound of the positive TTL.
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// How long a failed lookup is not repeated (RFC 9520 §3.2: at least a second).
const FAILED_TTL: Duration = Duration::from_secs(1);
/// Deadline for one lookup including retries: a second less than the default of `timeouts.connect`, so that
/// the failure is reported as one of DNS.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// Deadline for each of the two attempts at a name server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent lookups of names that have not resolved before; each takes two descriptors.
const MAX_UNKNOWN_LOOKUPS: usize = 1024;
/// Concurrent lookups of names that have resolved before. The separate limit keeps a flood of bad names from
/// delaying good ones.
const MAX_KNOWN_LOOKUPS: usize = 256;

/// Resolves names through the DNS and caches the results.
pub(in crate::upstream) struct DnsCache {
    dns: Option<TokioResolver>,
    clock: Clock,
    running: Mutex<HashMap<Box<str>, Arc<Outcome>>>,
    failed: Mutex<HashMap<Box<str>, Instant>>,
    known: Mutex<HashSet<Box<str>>>,
    known_slots: Semaphore,
    unknown_slots: Semaphore,
}

/// The result of a lookup. If the task that runs it is dropped, another waiting task continues it.
type Outcome = OnceCell<Result<Arc<[IpAddr]>, UpstreamError>>;

impl DnsCache {
    /// A cache over the system's name servers, or over `name_server` only (tests).
    pub(in crate::upstream) fn new(name_server: Option<SocketAddr>, clock: Clock) -> Self {
        let dns = match dns(name_server) {
            Ok(dns) => Some(dns),
            Err(error) => {
                tracing::error!(%error, "No usable DNS configuration: only IP addresses, localhost and resolve: entries will work");
                None
            }
        };
        Self {
            dns,
            clock,
            running: Mutex::default(),
            failed: Mutex::default(),
            known: Mutex::default(),
            known_slots: Semaphore::new(MAX_KNOWN_LOOKUPS),
            unknown_slots: Semaphore::new(MAX_UNKNOWN_LOOKUPS),
        }
    }

    /// The addresses of `name`.
    pub(in crate::upstream) async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, UpstreamError> {
        let lookup = self.join(name);
        match timeout(LOOKUP_TIMEOUT, lookup.outcome.get_or_init(|| self.query(name))).await {
            Ok(found) => found.clone(),
            Err(_elapsed) => {
                self.record_failure(name);
                Err(UpstreamError::Dns)
            }
        }
    }

    async fn query(&self, name: &str) -> Result<Arc<[IpAddr]>, UpstreamError> {
        if self.failed_recently(name) {
            return Err(UpstreamError::Dns);
        }
        let known = self.known.lock().contains(name);
        let slots = if known { &self.known_slots } else { &self.unknown_slots };
        // The semaphores are never closed.
        let _slot = slots.acquire().await.map_err(|_closed| UpstreamError::Dns)?;
        match self.dns.as_ref().ok_or(UpstreamError::Dns)?.lookup_ip(name).await {
            Ok(found) => {
                if !known {
                    remember(&mut self.known.lock(), name);
                }
                Ok(found.iter().collect())
            }
            Err(NetError::Io(error)) if is_exhausted(&error) => Err(UpstreamError::Exhausted),
            Err(error) => {
                // The resolver caches a negative response itself.
                if !error.is_no_records_found() {
                    self.record_failure(name);
                }
                Err(UpstreamError::Dns)
            }
        }
    }

    fn failed_recently(&self, name: &str) -> bool {
        let at = self.failed.lock().get(name).copied();
        at.is_some_and(|at| self.clock.instant().saturating_duration_since(at) < FAILED_TTL)
    }

    fn record_failure(&self, name: &str) {
        let now = self.clock.instant();
        let mut failed = self.failed.lock();
        if failed.len() >= CACHED_NAMES {
            failed.retain(|_, at| now.saturating_duration_since(*at) < FAILED_TTL);
        }
        if failed.len() < CACHED_NAMES {
            failed.insert(name.into(), now);
        }
    }

    /// Joins the running lookup of `name`, or registers a new one.
    fn join<'l>(&'l self, name: &'l str) -> SharedLookup<'l> {
        let mut running = self.running.lock();
        let outcome = match running.get(name) {
            Some(outcome) => Arc::clone(outcome),
            None => Arc::clone(running.entry(name.into()).or_default()),
        };
        SharedLookup { cache: self, name, outcome }
    }
}

fn remember(known: &mut HashSet<Box<str>>, name: &str) {
    if known.len() >= CACHED_NAMES {
        known.clear();
    }
    known.insert(name.into());
}

/// One waiter of a lookup. The lookup is unregistered by the first waiter dropped after its end, or by the
/// last waiter.
struct SharedLookup<'l> {
    cache: &'l DnsCache,
    name: &'l str,
    outcome: Arc<Outcome>,
}

impl Drop for SharedLookup<'_> {
    fn drop(&mut self) {
        let mut running = self.cache.running.lock();
        let Some(outcome) = running.get(self.name) else { return };
        // The map holds one reference, this waiter the other.
        let is_last = Arc::strong_count(outcome) <= 2;
        if Arc::ptr_eq(outcome, &self.outcome) && (is_last || outcome.initialized()) {
            running.remove(self.name);
        }
    }
}

fn dns(name_server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match name_server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let mut connection = ConnectionConfig::udp();
            connection.port = address.port();
            let server = NameServerConfig::new(address.ip(), true, vec![connection]);
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, vec![], vec![server]),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    options.cache_size = CACHED_NAMES as u64;
    options.negative_min_ttl = Some(NEGATIVE_TTL.0);
    options.negative_max_ttl = Some(NEGATIVE_TTL.1);
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = ATTEMPT_TIMEOUT;
    options.attempts = 1;
    builder.build()
}
