//! The states of all upstreams, which outlive configurations.
//!
//! Owns: which state a call belongs to. Never touches: the content of a state.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::upstream::admission::limit_store::{Disk, LimitStore};
use crate::upstream::admission::state::UpstreamState;
use crate::upstream::routing::UpstreamTarget;

/// The maximum number of hosts without a configured upstream that have a state.
const MAX_UNNAMED: usize = 1024;

/// The states of all upstreams.
#[derive(Debug, Default)]
pub struct UpstreamRegistry {
    pub(super) named: Mutex<HashMap<Arc<str>, Arc<UpstreamState>>>,
    pub(super) unnamed: Mutex<HashMap<Box<str>, Arc<UpstreamState>>>,
    pub(super) store: OnceLock<Arc<dyn LimitStore>>,
    pub(super) disk: Mutex<Disk>,
}

impl UpstreamRegistry {
    pub(super) fn for_target(&self, target: &UpstreamTarget, now: Instant) -> Arc<UpstreamState> {
        let Some(upstream) = &target.upstream else {
            return self.unnamed(&format!("{}:{}", target.host, target.port), now);
        };
        self.named(&upstream.name)
    }

    /// The state of a configured upstream, or of a host and port.
    pub(super) fn by_name(&self, name: &Arc<str>, configured: bool, now: Instant) -> Arc<UpstreamState> {
        if configured { self.named(name) } else { self.unnamed(name, now) }
    }

    /// The state of a configured upstream, if a call has been made to it.
    pub(super) fn get(&self, name: &str) -> Option<Arc<UpstreamState>> {
        self.named.lock().get(name).cloned()
    }

    /// The states of hosts that no upstream names, sorted by name.
    pub(super) fn unconfigured(&self) -> Vec<Arc<UpstreamState>> {
        let mut others: Vec<_> = self.unnamed.lock().values().cloned().collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others
    }

    fn named(&self, name: &Arc<str>) -> Arc<UpstreamState> {
        let mut named = self.named.lock();
        if let Some(upstream) = named.get(name) {
            return Arc::clone(upstream);
        }
        let upstream = UpstreamState::new(Arc::clone(name));
        named.insert(Arc::clone(name), Arc::clone(&upstream));
        upstream
    }

    fn unnamed(&self, name: &str, now: Instant) -> Arc<UpstreamState> {
        let mut unnamed = self.unnamed.lock();
        if let Some(upstream) = unnamed.get(name) {
            return Arc::clone(upstream);
        }
        if unnamed.len() >= MAX_UNNAMED {
            unnamed.retain(|_, upstream| !upstream.is_idle(now));
        }
        if unnamed.len() >= MAX_UNNAMED {
            make_room(&mut unnamed, now);
        }
        let upstream = UpstreamState::new(name.into());
        unnamed.insert(name.into(), Arc::clone(&upstream));
        upstream
    }
}

/// Removes idle hosts without a firm cooldown, then the half of the rest whose cooldowns end first. A client
/// that makes up hosts must not remove the rate limits of an API.
fn make_room(unnamed: &mut HashMap<Box<str>, Arc<UpstreamState>>, now: Instant) {
    unnamed.retain(|_, upstream| upstream.is_busy() || upstream.firm_until(now).is_some());
    if unnamed.len() < MAX_UNNAMED {
        return;
    }
    let mut until: Vec<_> = unnamed.values().map(|upstream| upstream.firm_until(now)).collect();
    let middle = until.len() / 2;
    let (_, &mut middle, _) = until.select_nth_unstable(middle);
    unnamed.retain(|_, upstream| upstream.is_busy() || upstream.firm_until(now) > middle);
}

impl UpstreamState {
    fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { name, limiter: Mutex::default(), recheck: Notify::new() })
    }

    fn is_busy(&self) -> bool {
        self.limiter.lock().slots.in_flight > 0
    }

    /// When its last firm cooldown ends.
    fn firm_until(&self, now: Instant) -> Option<Instant> {
        let state = self.limiter.lock();
        let firm = state.cooldowns.all().filter(|(_, cooldown)| cooldown.firm && cooldown.until > now);
        firm.map(|(_, cooldown)| cooldown.until).max()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let state = self.limiter.lock();
        let in_cooldown = state.cooldowns.all().any(|(_, cooldown)| cooldown.until > now);
        state.slots.in_flight == 0 && !in_cooldown
    }
}
