//! The traffic of all upstreams: what is known of them outlives a configuration.
//!
//! Owns: which of them a call belongs to. Never touches: what is known of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::upstream::gate::traffic::Traffic;
use crate::upstream::place::Place;

/// How many hosts that no upstream names are remembered.
const UNNAMED: usize = 1024;

/// The traffic of all upstreams.
#[derive(Debug, Default)]
pub struct Traffics {
    named: Mutex<HashMap<Arc<str>, Arc<Traffic>>>,
    unnamed: Mutex<HashMap<Box<str>, Arc<Traffic>>>,
}

impl Traffics {
    pub(super) fn of(&self, place: &Place, now: Instant) -> Arc<Traffic> {
        let Some(upstream) = &place.upstream else { return self.unnamed(place, now) };
        let mut named = self.named.lock();
        if let Some(traffic) = named.get(&upstream.name) {
            return Arc::clone(traffic);
        }
        let traffic = Traffic::new(Arc::clone(&upstream.name));
        named.insert(Arc::clone(&upstream.name), Arc::clone(&traffic));
        traffic
    }

    /// The traffic of an upstream that a call has been made to.
    pub(super) fn known(&self, name: &str) -> Option<Arc<Traffic>> {
        self.named.lock().get(name).cloned()
    }

    /// The hosts that no upstream names, sorted.
    pub(super) fn others(&self) -> Vec<Arc<Traffic>> {
        let mut others: Vec<_> = self.unnamed.lock().values().cloned().collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others
    }

    fn unnamed(&self, place: &Place, now: Instant) -> Arc<Traffic> {
        let name = format!("{}:{}", place.host, place.port);
        let mut unnamed = self.unnamed.lock();
        if let Some(traffic) = unnamed.get(name.as_str()) {
            return Arc::clone(traffic);
        }
        if unnamed.len() >= UNNAMED {
            unnamed.retain(|_, traffic| !traffic.is_idle(now));
        }
        if unnamed.len() >= UNNAMED {
            unnamed.clear();
        }
        let traffic = Traffic::new(name.as_str().into());
        unnamed.insert(name.into(), Arc::clone(&traffic));
        traffic
    }
}

impl Traffic {
    fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { name, state: Mutex::default(), eased: Notify::new() })
    }

    fn is_idle(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let held = state.holds.all().any(|(_, hold)| hold.until > now);
        state.in_flight == 0 && !held
    }
}
