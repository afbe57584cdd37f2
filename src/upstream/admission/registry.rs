//! The traffic of all upstreams: what is known of them outlives a configuration.
//!
//! Owns: which of them a call belongs to. Never touches: what is known of each.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::upstream::admission::persistence::{Disk, LimitStore};
use crate::upstream::admission::state::UpstreamState;
use crate::upstream::routing::UpstreamTarget;

/// How many hosts that no upstream names are remembered.
const UNNAMED: usize = 1024;

/// The traffic of all upstreams.
#[derive(Debug, Default)]
pub struct UpstreamRegistry {
    pub(super) named: Mutex<HashMap<Arc<str>, Arc<UpstreamState>>>,
    pub(super) unnamed: Mutex<HashMap<Box<str>, Arc<UpstreamState>>>,
    pub(super) keeping: OnceLock<Arc<dyn LimitStore>>,
    pub(super) disk: Mutex<Disk>,
}

impl UpstreamRegistry {
    pub(super) fn of(&self, place: &UpstreamTarget, now: Instant) -> Arc<UpstreamState> {
        let Some(upstream) = &place.upstream else {
            return self.unnamed(&format!("{}:{}", place.host, place.port), now);
        };
        self.named(&upstream.name)
    }

    /// The traffic of a configured upstream, or of a host and port.
    pub(super) fn by_name(
        &self,
        name: &Arc<str>,
        configured: bool,
        now: Instant,
    ) -> Arc<UpstreamState> {
        if configured { self.named(name) } else { self.unnamed(name, now) }
    }

    /// The traffic of an upstream that a call has been made to.
    pub(super) fn known(&self, name: &str) -> Option<Arc<UpstreamState>> {
        self.named.lock().get(name).cloned()
    }

    /// The hosts that no upstream names, sorted.
    pub(super) fn others(&self) -> Vec<Arc<UpstreamState>> {
        let mut others: Vec<_> = self.unnamed.lock().values().cloned().collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others
    }

    fn named(&self, name: &Arc<str>) -> Arc<UpstreamState> {
        let mut named = self.named.lock();
        if let Some(traffic) = named.get(name) {
            return Arc::clone(traffic);
        }
        let traffic = UpstreamState::new(Arc::clone(name));
        named.insert(Arc::clone(name), Arc::clone(&traffic));
        traffic
    }

    fn unnamed(&self, name: &str, now: Instant) -> Arc<UpstreamState> {
        let mut unnamed = self.unnamed.lock();
        if let Some(traffic) = unnamed.get(name) {
            return Arc::clone(traffic);
        }
        if unnamed.len() >= UNNAMED {
            unnamed.retain(|_, traffic| !traffic.is_idle(now));
        }
        if unnamed.len() >= UNNAMED {
            make_room(&mut unnamed, now);
        }
        let traffic = UpstreamState::new(name.into());
        unnamed.insert(name.into(), Arc::clone(&traffic));
        traffic
    }
}

/// Forgets hosts of which nothing is known but larder's own guess after a failure, and then the half of those that
/// are held for the shortest time: a client that makes hosts up must not make larder forget what an API said.
fn make_room(unnamed: &mut HashMap<Box<str>, Arc<UpstreamState>>, now: Instant) {
    unnamed.retain(|_, traffic| traffic.is_busy() || traffic.told_until(now).is_some());
    if unnamed.len() < UNNAMED {
        return;
    }
    let mut until: Vec<_> = unnamed.values().map(|traffic| traffic.told_until(now)).collect();
    let middle = until.len() / 2;
    let (_, &mut middle, _) = until.select_nth_unstable(middle);
    unnamed.retain(|_, traffic| traffic.is_busy() || traffic.told_until(now) > middle);
}

impl UpstreamState {
    fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { name, state: Mutex::default(), eased: Notify::new() })
    }

    fn is_busy(&self) -> bool {
        self.state.lock().in_flight > 0
    }

    /// Until when it is held by the API's own word.
    fn told_until(&self, now: Instant) -> Option<Instant> {
        let state = self.state.lock();
        let firm = state.holds.all().filter(|(_, hold)| hold.firm && hold.until > now);
        firm.map(|(_, hold)| hold.until).max()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let held = state.holds.all().any(|(_, hold)| hold.until > now);
        state.in_flight == 0 && !held
    }
}
