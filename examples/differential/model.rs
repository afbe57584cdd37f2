//! What the API has, what clients have seen of it, and what follows for those who ask later.
//!
//! Owns: every rule of order. Never touches: connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::clock;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How many resources there are of each kind.
pub(crate) const RESOURCES: usize = 12;

/// The longest lifetime of a configuration, the longest that an answer is on its way, and some for a busy machine.
const PROMISED: Duration = Duration::from_millis(2_000 + 1_200 + 1_000);

/// A resource: what belongs to all, or to each credential its own.
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

/// Which of the answers of a resource one is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Which {
    pub(crate) resource: Resource,
    /// Its language, where it varies; whose it is, where that counts.
    pub(crate) language: Option<&'static str>,
    pub(crate) user: Option<u64>,
}

impl Which {
    /// The body of a version, as a call brought it: it shows whole which one it is.
    pub(crate) fn body(&self, version: u64, call: usize) -> Vec<u8> {
        let Self { resource, language, user } = self;
        let line = format!("{} {language:?} {user:?} {version} {call}\n", resource.path());
        let times = 1 + usize::try_from(version % 7).unwrap_or_default() * 300;
        line.repeat(times).into_bytes()
    }

    /// The version and the call, if this is such a body, whole.
    pub(crate) fn read(&self, body: &[u8]) -> Option<(u64, usize)> {
        let line = std::str::from_utf8(body).ok()?.lines().next()?;
        let mut words = line.rsplit(' ');
        let (call, version) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (self.body(version, call) == body).then_some((version, call))
    }
}

/// How much later one of two calls may reach the API that larder made in the other order: a connection that is new
/// takes its time, and this machine may be busy.
const SKEW: Duration = Duration::from_millis(200);

/// A version that was told, and when the call for it had reached the API.
#[derive(Debug, Clone, Copy)]
struct Told {
    version: u64,
    asked: Instant,
}

#[derive(Default)]
struct Inner {
    versions: HashMap<Resource, u64>,
    /// When each call reached the API.
    calls: Vec<Instant>,
    /// When a version was replaced.
    replaced: HashMap<(Resource, u64), Instant>,
    /// What has been delivered and may be kept: nobody gets older ones afterwards.
    delivered: HashMap<Which, Told>,
    /// The same of all that came from the API: whoever is not given a hit gets no older ones afterwards.
    seen: HashMap<Which, Told>,
    /// What was written, purged or found to have changed, and acknowledged.
    changed: HashMap<Resource, u64>,
    /// How often larder was killed: what it had not written is forgotten then.
    kills: usize,
    /// What the operator did last, and when.
    act: Option<(&'static str, Instant)>,
    violations: Vec<String>,
    counts: HashMap<&'static str, usize>,
}

impl Inner {
    /// Whether it had been replaced for longer than larder may keep it.
    fn was_replaced(&self, which: &Which, version: u64, at: Instant) -> bool {
        let replaced = self.replaced.get(&(which.resource, version));
        replaced.is_some_and(|replaced| at.saturating_duration_since(*replaced) > PROMISED)
    }
}

fn newest(known: Entry<'_, Which, Told>, told: Told) {
    let known = known.or_insert(told);
    if told.version > known.version {
        *known = told;
    }
}

/// All of it.
pub(crate) struct Model {
    inner: Mutex<Inner>,
    asked: AtomicUsize,
    tells: watch::Sender<usize>,
}

impl Default for Model {
    fn default() -> Self {
        Self { inner: Mutex::default(), asked: AtomicUsize::new(0), tells: watch::Sender::new(0) }
    }
}

/// What was known when a request began.
#[derive(Debug)]
pub(crate) struct Before {
    at: Instant,
    delivered: Option<Told>,
    seen: Option<Told>,
    changed: u64,
    kills: usize,
}

impl Model {
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns once so many have been asked.
    pub(crate) async fn until(&self, asked: usize) {
        let mut told = self.tells.subscribe();
        // The sender is the model's own.
        let _told = told.wait_for(|count| *count >= asked).await;
    }

    /// One more request is over.
    pub(crate) fn over(&self, what: &'static str) {
        *self.inner.lock().counts.entry(what).or_default() += 1;
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.tells.send_replace(asked);
    }

    /// A call reaches the API: its number, and what there is.
    pub(crate) fn call(&self, resource: Resource) -> (usize, u64) {
        let mut inner = self.inner.lock();
        inner.calls.push(clock::monotonic());
        (inner.calls.len() - 1, inner.versions.get(&resource).copied().unwrap_or_default())
    }

    pub(crate) fn version(&self, resource: Resource) -> u64 {
        self.inner.lock().versions.get(&resource).copied().unwrap_or_default()
    }

    /// The resource changes; its version from now on.
    pub(crate) fn change(&self, resource: Resource) -> u64 {
        let mut inner = self.inner.lock();
        let version = inner.versions.entry(resource).or_default();
        let before = *version;
        *version += 1;
        inner.replaced.insert((resource, before), clock::monotonic());
        before + 1
    }

    /// Whoever asks from now on gets this version or a newer one.
    pub(crate) fn changed(&self, resource: Resource, version: u64) {
        let mut inner = self.inner.lock();
        let changed = inner.changed.entry(resource).or_default();
        *changed = version.max(*changed);
    }

    /// The operator does this now.
    pub(crate) fn acts(&self, act: &'static str) {
        self.inner.lock().act = Some((act, clock::monotonic()));
    }

    /// larder is about to be killed.
    pub(crate) fn killed(&self) {
        let mut inner = self.inner.lock();
        inner.kills += 1;
        inner.delivered.clear();
    }

    pub(crate) fn before(&self, which: &Which) -> Before {
        let inner = self.inner.lock();
        let of = |all: &HashMap<Which, Told>| all.get(which).copied();
        Before {
            at: clock::monotonic(),
            delivered: of(&inner.delivered),
            seen: of(&inner.seen),
            changed: inner.changed.get(&which.resource).copied().unwrap_or_default(),
            kills: inner.kills,
        }
    }

    /// A request that began so was answered with this version, which that call brought. `kept`: it may be kept
    /// for others.
    pub(crate) fn answered(
        &self,
        which: &Which,
        before: &Before,
        (version, call): (u64, usize),
        (hit, kept): (bool, bool),
        how: &str,
    ) {
        let mut inner = self.inner.lock();
        let survives = inner.kills == before.kills;
        let Some(asked) = inner.calls.get(call).copied() else { return };
        let told = Told { version, asked };
        let is_older = |least: &Told| {
            version < least.version && least.asked.saturating_duration_since(asked) > SKEW
        };
        let rules = [
            ("changed", version < before.changed),
            ("delivered", survives && before.delivered.as_ref().is_some_and(is_older)),
            ("seen from the API", survives && !hit && before.seen.as_ref().is_some_and(is_older)),
            ("replaced", inner.was_replaced(which, version, before.at)),
        ];
        let after = inner.act.map(|(act, since)| (act, before.at.saturating_duration_since(since)));
        for (rule, _) in rules.into_iter().filter(|(_, violated)| *violated) {
            inner.violations.push(format!(
                "{which:?}: v{version} though a newer one was {rule} before ({how}, hit: {hit}, {after:?}, \
                 {before:?})"
            ));
        }
        if kept && survives {
            newest(inner.delivered.entry(which.clone()), told);
        }
        if !hit {
            newest(inner.seen.entry(which.clone()), told);
        }
        *inner.counts.entry(if hit { "hits" } else { "from the API" }).or_default() += 1;
    }

    pub(crate) fn violated(&self, what: String) {
        self.inner.lock().violations.push(what);
    }

    /// Prints what was found; whether that is nothing.
    pub(crate) fn report(&self, acts: usize) -> bool {
        let inner = self.inner.lock();
        let mut counts: Vec<_> = inner.counts.iter().collect();
        counts.sort();
        for (what, count) in counts {
            println!("{what:<34}{count:>10}");
        }
        println!("{:<34}{acts:>10}", "reloads, stops, kills, take-overs");
        println!("{:<34}{:>10}", "violations", inner.violations.len());
        for violation in inner.violations.iter().take(20) {
            println!("  {violation}");
        }
        inner.violations.is_empty()
    }
}
