//! Names asked of the DNS: each by one look-up at a time, not too many at once, none for long.
//!
//! Owns: joining look-ups, their bounds, how long answers and failures are remembered (UPS-09).
//! Never touches: which addresses may be used (`resolve`).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::upstream::error::UpstreamError;
use crate::upstream::happy_eyeballs::is_exhausted;

/// How many names' answers are kept; each by its own TTL, within the bounds below.
const CACHED_NAMES: usize = 4096;
/// A name that does not exist is not asked for again for this long: within these bounds as its zone
/// says (RFC 2308 §5). An app that was deployed before its name waits no longer.
const NEGATIVE_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// No answer is kept longer than this.
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// Nor is a name asked for whose look-up has just failed (RFC 9520 §3.2: at least a second).
const FAILED_TTL: Duration = Duration::from_secs(1);
/// One look-up, retries included: a second less than `timeouts.connect` is unless configured, so that
/// it is the name that is to blame.
const WITHIN: Duration = Duration::from_secs(4);
/// For a name server to answer, twice.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Look-ups at once of names that have not had an address before: each takes two descriptors.
const STRANGERS: usize = 1024;
/// Of names that had one, apart: whoever asks for a thousand bad names keeps no good one waiting.
const KNOWN: usize = 256;

/// The DNS as larder asks it.
pub(super) struct DnsCache {
    dns: Option<TokioResolver>,
    clock: Clock,
    running: Mutex<HashMap<Box<str>, Arc<Outcome>>>,
    failed: Mutex<HashMap<Box<str>, Instant>>,
    known: Mutex<HashSet<Box<str>>>,
    for_known: Semaphore,
    for_strangers: Semaphore,
}

/// What a look-up came to. Where who began it goes away another goes on with it.
type Outcome = OnceCell<Result<Arc<[IpAddr]>, UpstreamError>>;

impl DnsCache {
    /// Over the system's name servers, or over `name_server` alone (tests).
    pub(super) fn new(name_server: Option<SocketAddr>, clock: Clock) -> Self {
        let dns = match dns(name_server) {
            Ok(dns) => Some(dns),
            Err(error) => {
                tracing::error!(%error, "No usable DNS configuration: only addresses, localhost and resolve: entries will work");
                None
            }
        };
        Self {
            dns,
            clock,
            running: Mutex::default(),
            failed: Mutex::default(),
            known: Mutex::default(),
            for_known: Semaphore::new(KNOWN),
            for_strangers: Semaphore::new(STRANGERS),
        }
    }

    /// The addresses of `name`.
    pub(super) async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, UpstreamError> {
        let joined = self.join(name);
        match timeout(WITHIN, joined.outcome.get_or_init(|| self.ask(name))).await {
            Ok(found) => found.clone(),
            Err(_elapsed) => {
                self.has_failed(name);
                Err(UpstreamError::Dns)
            }
        }
    }

    async fn ask(&self, name: &str) -> Result<Arc<[IpAddr]>, UpstreamError> {
        if self.failed_lately(name) {
            return Err(UpstreamError::Dns);
        }
        let known = self.known.lock().contains(name);
        let places = if known { &self.for_known } else { &self.for_strangers };
        // Nobody closes the semaphores.
        let _place = places.acquire().await.map_err(|_closed| UpstreamError::Dns)?;
        match self.dns.as_ref().ok_or(UpstreamError::Dns)?.lookup_ip(name).await {
            Ok(found) => {
                if !known {
                    remember(&mut self.known.lock(), name);
                }
                Ok(found.iter().collect())
            }
            Err(NetError::Io(error)) if is_exhausted(&error) => Err(UpstreamError::Exhausted),
            Err(error) => {
                // That there is none is an answer, which the resolver remembers.
                if !error.is_no_records_found() {
                    self.has_failed(name);
                }
                Err(UpstreamError::Dns)
            }
        }
    }

    fn failed_lately(&self, name: &str) -> bool {
        let at = self.failed.lock().get(name).copied();
        at.is_some_and(|at| self.clock.instant().saturating_duration_since(at) < FAILED_TTL)
    }

    fn has_failed(&self, name: &str) {
        let now = self.clock.instant();
        let mut failed = self.failed.lock();
        if failed.len() >= CACHED_NAMES {
            failed.retain(|_, at| now.saturating_duration_since(*at) < FAILED_TTL);
        }
        if failed.len() < CACHED_NAMES {
            failed.insert(name.into(), now);
        }
    }

    /// The look-up of `name` that is under way, or another.
    fn join<'l>(&'l self, name: &'l str) -> SharedLookup<'l> {
        let mut running = self.running.lock();
        let outcome = match running.get(name) {
            Some(outcome) => Arc::clone(outcome),
            None => Arc::clone(running.entry(name.into()).or_default()),
        };
        SharedLookup { lookups: self, name, outcome }
    }
}

fn remember(known: &mut HashSet<Box<str>>, name: &str) {
    if known.len() >= CACHED_NAMES {
        known.clear();
    }
    known.insert(name.into());
}

/// One of those who wait for a look-up. The first to know its outcome ends it, and so does the last to
/// leave.
struct SharedLookup<'l> {
    lookups: &'l DnsCache,
    name: &'l str,
    outcome: Arc<Outcome>,
}

impl Drop for SharedLookup<'_> {
    fn drop(&mut self) {
        let mut running = self.lookups.running.lock();
        let Some(outcome) = running.get(self.name) else { return };
        // One is the map's, one is its own.
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
    options.timeout = ANSWER_WITHIN;
    options.attempts = 1;
    builder.build()
}
