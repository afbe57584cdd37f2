//! The state of the API, the versions that clients have received, and the versions that later requests
//! may get.
//!
//! Owns: all ordering rules. Never touches: connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::clock;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The number of resources of each kind.
pub(crate) const RESOURCES: usize = 12;

/// The longest configured lifetime, plus the longest delay of a response, plus a margin for a busy machine.
const MAX_STALE: Duration = Duration::from_millis(2_000 + 1_200 + 1_000);

/// A resource: shared by all clients, or separate for each credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub(crate) shared: bool,
    pub(crate) number: usize,
}

impl Resource {
    pub(crate) fn path(self) -> String {
        format!("/{}/{}", if self.shared { "s" } else { "o" }, self.number)
    }

    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (kind, number) = path.strip_prefix('/')?.split_once('/')?;
        let number = number.parse().ok().filter(|number| *number < RESOURCES)?;
        Some(Self { shared: kind == "s", number })
    }

    pub(crate) fn varies(self) -> bool {
        self.number % 2 == 1
    }
}

/// A representation of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Representation {
    pub(crate) resource: Resource,
    /// Its language, if the resource varies; its user, if the resource is not shared.
    pub(crate) language: Option<&'static str>,
    pub(crate) user: Option<u64>,
}

impl Representation {
    /// The body of a version, as returned to call number `call`: every line contains all of this.
    pub(crate) fn body(&self, version: u64, call: usize) -> Vec<u8> {
        let Self { resource, language, user } = self;
        let line = format!("{} {language:?} {user:?} {version} {call}\n", resource.path());
        let times = 1 + usize::try_from(version % 7).unwrap_or_default() * 300;
        line.repeat(times).into_bytes()
    }

    /// The version and the call number, if this is a complete body of this representation.
    pub(crate) fn read(&self, body: &[u8]) -> Option<(u64, usize)> {
        let line = std::str::from_utf8(body).ok()?.lines().next()?;
        let mut words = line.rsplit(' ');
        let (call, version) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (self.body(version, call) == body).then_some((version, call))
    }
}

/// The maximum delay by which one of two calls may reach the API after the other although larder made it
/// first: a new connection takes time to open, and this machine may be busy.
const SKEW: Duration = Duration::from_millis(200);

/// A version that a client received, and the time at which the call for it reached the API.
#[derive(Debug, Clone, Copy)]
struct SeenVersion {
    version: u64,
    arrived: Instant,
}

#[derive(Default)]
struct Inner {
    versions: HashMap<Resource, u64>,
    /// The time at which each call reached the API.
    calls: Vec<Instant>,
    /// The time at which a version was replaced.
    replaced: HashMap<(Resource, u64), Instant>,
    /// The newest delivered version of each representation, if storable: later requests must not get
    /// older ones.
    delivered: HashMap<Representation, SeenVersion>,
    /// The newest version that came from the API: later responses that are not hits must not be older.
    seen: HashMap<Representation, SeenVersion>,
    /// The version that an acknowledged write or purge established: later requests must not get older ones.
    changed: HashMap<Resource, u64>,
    /// The number of kills of larder: entries that it had not yet written to disk are lost then.
    kills: usize,
    /// The last action of the operator, and its time.
    action: Option<(&'static str, Instant)>,
    violations: Vec<String>,
    counts: HashMap<&'static str, usize>,
}

impl Inner {
    /// Whether the version had been replaced for longer than larder may serve it.
    fn was_replaced(&self, representation: &Representation, version: u64, at: Instant) -> bool {
        let replaced = self.replaced.get(&(representation.resource, version));
        replaced.is_some_and(|replaced| at.saturating_duration_since(*replaced) > MAX_STALE)
    }
}

fn keep_newest(known: Entry<'_, Representation, SeenVersion>, seen: SeenVersion) {
    let known = known.or_insert(seen);
    if seen.version > known.version {
        *known = seen;
    }
}

/// The model.
pub(crate) struct Model {
    inner: Mutex<Inner>,
    requests: AtomicUsize,
    progress: watch::Sender<usize>,
}

impl Default for Model {
    fn default() -> Self {
        Self { inner: Mutex::default(), requests: AtomicUsize::new(0), progress: watch::Sender::new(0) }
    }
}

/// The state when a request began.
#[derive(Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    delivered: Option<SeenVersion>,
    seen: Option<SeenVersion>,
    changed: u64,
    kills: usize,
}

/// The version in a response, and the way it came.
pub(crate) struct ReceivedVersion {
    pub(crate) version: u64,
    /// The number of the call to which the API returned it.
    pub(crate) call: usize,
    pub(crate) hit: bool,
    /// Whether the response may be stored.
    pub(crate) storable: bool,
    pub(crate) operation: &'static str,
}

impl Model {
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns once this many requests are complete.
    pub(crate) async fn wait_for_requests(&self, requests: usize) {
        let mut progress = self.progress.subscribe();
        // This cannot fail: the model itself owns the sender.
        let _reached = progress.wait_for(|count| *count >= requests).await;
    }

    /// Records a completed request.
    pub(crate) fn record_request(&self, operation: &'static str) {
        *self.inner.lock().counts.entry(operation).or_default() += 1;
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.send_replace(requests);
    }

    /// Records a call that reaches the API; returns its number, and the current version.
    pub(crate) fn record_call(&self, resource: Resource) -> (usize, u64) {
        let mut inner = self.inner.lock();
        inner.calls.push(clock::Clock::system().instant());
        (inner.calls.len() - 1, inner.versions.get(&resource).copied().unwrap_or_default())
    }

    pub(crate) fn version(&self, resource: Resource) -> u64 {
        self.inner.lock().versions.get(&resource).copied().unwrap_or_default()
    }

    /// Changes the resource; returns its new version.
    pub(crate) fn change(&self, resource: Resource) -> u64 {
        let mut inner = self.inner.lock();
        let version = inner.versions.entry(resource).or_default();
        let before = *version;
        *version += 1;
        inner.replaced.insert((resource, before), clock::Clock::system().instant());
        before + 1
    }

    /// Later requests must get this version or a newer one.
    pub(crate) fn require_at_least(&self, resource: Resource, version: u64) {
        let mut inner = self.inner.lock();
        let changed = inner.changed.entry(resource).or_default();
        *changed = version.max(*changed);
    }

    /// Records the start of an operator action.
    pub(crate) fn set_action(&self, action: &'static str) {
        self.inner.lock().action = Some((action, clock::Clock::system().instant()));
    }

    /// Records that larder is about to be killed.
    pub(crate) fn record_kill(&self) {
        let mut inner = self.inner.lock();
        inner.kills += 1;
        inner.delivered.clear();
    }

    pub(crate) fn snapshot(&self, representation: &Representation) -> Snapshot {
        let inner = self.inner.lock();
        let latest = |all: &HashMap<Representation, SeenVersion>| all.get(representation).copied();
        Snapshot {
            at: clock::Clock::system().instant(),
            delivered: latest(&inner.delivered),
            seen: latest(&inner.seen),
            changed: inner.changed.get(&representation.resource).copied().unwrap_or_default(),
            kills: inner.kills,
        }
    }

    /// Checks and records a response to a request that began at `before`.
    pub(crate) fn check_response(
        &self,
        representation: &Representation,
        before: &Snapshot,
        response: &ReceivedVersion,
    ) {
        let &ReceivedVersion { version, call, hit, storable, operation } = response;
        let mut inner = self.inner.lock();
        let was_not_killed = inner.kills == before.kills;
        let Some(arrived) = inner.calls.get(call).copied() else { return };
        let seen = SeenVersion { version, arrived };
        let is_older = |minimum: &SeenVersion| {
            version < minimum.version && minimum.arrived.saturating_duration_since(arrived) > SKEW
        };
        let rules = [
            ("changed", version < before.changed),
            ("delivered", was_not_killed && before.delivered.as_ref().is_some_and(is_older)),
            ("seen from the API", was_not_killed && !hit && before.seen.as_ref().is_some_and(is_older)),
            ("replaced", inner.was_replaced(representation, version, before.at)),
        ];
        let action = inner.action.map(|(action, since)| (action, before.at.saturating_duration_since(since)));
        for (rule, _) in rules.into_iter().filter(|(_, violated)| *violated) {
            inner.violations.push(format!(
                "{representation:?}: v{version} although a newer one was {rule} before ({operation}, hit: {hit}, {action:?}, \
                 {before:?})"
            ));
        }
        if storable && was_not_killed {
            keep_newest(inner.delivered.entry(representation.clone()), seen);
        }
        if !hit {
            keep_newest(inner.seen.entry(representation.clone()), seen);
        }
        *inner.counts.entry(if hit { "hits" } else { "from the API" }).or_default() += 1;
    }

    pub(crate) fn record_violation(&self, violation: String) {
        self.inner.lock().violations.push(violation);
    }

    /// Prints the counts and violations; returns whether there is no violation.
    pub(crate) fn report(&self, actions: usize) -> bool {
        let inner = self.inner.lock();
        let mut counts: Vec<_> = inner.counts.iter().collect();
        counts.sort();
        for (what, count) in counts {
            println!("{what:<34}{count:>10}");
        }
        println!("{:<34}{actions:>10}", "reloads, stops, kills, take-overs");
        println!("{:<34}{:>10}", "violations", inner.violations.len());
        for violation in inner.violations.iter().take(20) {
            println!("  {violation}");
        }
        inner.violations.is_empty()
    }
}
