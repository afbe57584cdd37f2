//! The status of upstreams, for their operator (`larder upstreams`, `/v1/upstreams`).
//!
//! Owns: the displayed values, derived from the limiter state. Never touches: their JSON (`admin`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Upstream;
use crate::policy::upstream::{UpstreamPolicy, is_until_released};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::ban_guard::trips_at;
use crate::upstream::admission::cooldown::CooldownScope;
use crate::upstream::admission::rate_limiter::AdaptiveLimit;
use crate::upstream::admission::rejection::RejectReason;
use crate::upstream::admission::state::{LimiterState, UpstreamState};

/// The status of an upstream, or of a host that no upstream names.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamStatus {
    /// The configured name, or the host and port.
    pub name: Arc<str>,
    /// Whether it is a configured upstream.
    pub configured: bool,
    /// Calls that wait for the head of their response.
    pub in_flight: usize,
    /// Calls in queues.
    pub waiting: usize,
    /// The cooldowns: why calls are blocked, and until when.
    pub cooldowns: Vec<CooldownStatus>,
    /// The state of the circuit breaker: `closed`, `open` or `half-open`. `None`: there is no breaker.
    pub breaker: Option<&'static str>,
    /// The limits that larder keeps.
    pub limits: Vec<LimitStatus>,
    /// Responses that the ban guard counts in its window, and the count at which it trips.
    pub ban_guard: Option<(u64, u64)>,
    /// Retries in the last ten seconds, and the maximum.
    pub retries: (u64, u64),
}

/// A cooldown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownStatus {
    /// The scope: `upstream`, `origin`, `endpoints`, `endpoint`, `credential`, `bucket`, `key`.
    pub scope: &'static str,
    /// The reason: `rate-limited`, `quota`, `shared-limit`, `connect`, `timeout`, `server-error`, `breaker`,
    /// `ban-guard`, `budget`.
    pub reason: &'static str,
    /// Whether it blocks every call. Otherwise it blocks only calls that have a stale response.
    pub firm: bool,
    /// The time left. Zero: a probe is due.
    pub left: Duration,
    /// Whether only the operator ends it (`larder upstreams release`).
    pub until_released: bool,
    /// Whether a probe is in flight.
    pub probing: bool,
    /// How many cooldowns are merged here. Those of keys are merged, with the longest time left.
    pub count: usize,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitStatus {
    /// `configured`, `learned`, or the name of a learned bucket.
    pub name: String,
    /// Calls per window.
    pub limit: u64,
    /// The length of a window, if it is known.
    pub window: Option<Duration>,
    /// Calls that may still go out in this window.
    pub left: u64,
}

impl AdmissionControl {
    /// The status of the configured upstreams, and of other hosts that have a limiter state.
    pub fn report(&self, upstreams: &[Arc<Upstream>]) -> Vec<UpstreamStatus> {
        let now = self.clock.instant();
        let named = upstreams.iter().map(|upstream| {
            let state = self.registry.get(&upstream.name);
            let (name, policy) = (Arc::clone(&upstream.name), &upstream.policy);
            let mut report = match state {
                Some(state) => status_of(name, true, policy, &mut state.limiter.lock(), now),
                None => status_of(name, true, policy, &mut LimiterState::default(), now),
            };
            // Reserved credits are no cooldown: they are spent or released with the next response.
            let spent = self.over_budget(upstream).filter(|rejection| !rejection.left.is_zero());
            report.cooldowns.extend(spent.map(|rejection| CooldownStatus {
                scope: CooldownScope::Upstream.token(),
                reason: rejection.reason.short_token(),
                firm: true,
                left: rejection.left,
                until_released: false,
                probing: false,
                count: 1,
            }));
            report
        });
        let default_policy = UpstreamPolicy::default();
        let others = self.registry.unconfigured();
        let unnamed = others.iter().map(|state: &Arc<UpstreamState>| {
            status_of(Arc::clone(&state.name), false, &default_policy, &mut state.limiter.lock(), now)
        });
        named.chain(unnamed).collect()
    }
}

impl AdmissionControl {
    /// Ends the cooldowns of spent quotas of an upstream, or of a host and port, and forgets which learned
    /// limits are used up. Returns the number of cooldowns once that is on disk; `None`: no upstream has this name.
    pub async fn release(&self, upstreams: &[Arc<Upstream>], name: &str) -> Option<usize> {
        let is_configured = upstreams.iter().any(|upstream| &*upstream.name == name);
        let unnamed = || self.registry.unconfigured().into_iter().find(|state| &*state.name == name);
        let Some(state) = self.registry.get(name).or_else(unnamed) else {
            return is_configured.then_some(0);
        };
        let ended = state.limiter.lock().release(self.clock.instant());
        state.recheck.notify_waiters();
        self.registry.flush().await;
        tracing::info!(upstream = name, ended, "The operator released the quotas of an upstream");
        Some(ended)
    }
}

impl LimiterState {
    fn release(&mut self, now: Instant) -> usize {
        let ended = self.cooldowns.release();
        self.unsaved.cooldowns |= ended > 0;
        for (limit, queue) in self.learned.values_mut() {
            if limit.remaining(now) == Some(0) {
                *limit = AdaptiveLimit::default();
                queue.wake();
            }
        }
        ended
    }
}

fn status_of(
    name: Arc<str>,
    configured: bool,
    policy: &UpstreamPolicy,
    state: &mut LimiterState,
    now: Instant,
) -> UpstreamStatus {
    let cooldowns = cooldowns(state, now);
    let breaker = policy.breaker.map(|_| breaker(state, now));
    let ban_guard =
        policy.ban_guard.as_ref().map(|rule| (state.ban_guard.counted(rule, now), trips_at(rule)));
    UpstreamStatus {
        name,
        configured,
        in_flight: state.slots.in_flight,
        waiting: state.waiting(),
        cooldowns,
        breaker,
        limits: limits(policy, state, now),
        ban_guard,
        retries: state.retry_budget.usage(now),
    }
}

fn breaker(state: &LimiterState, now: Instant) -> &'static str {
    let cooldown = state.cooldowns.all().find(|(scope, cooldown)| {
        *scope == CooldownScope::Upstream && cooldown.reason == RejectReason::Breaker
    });
    match cooldown {
        Some((_, cooldown)) if cooldown.until > now => "open",
        Some(_) => "half-open",
        None => "closed",
    }
}

/// Merges cooldowns of the same kind: there may be one for each key.
fn cooldowns(state: &LimiterState, now: Instant) -> Vec<CooldownStatus> {
    let mut groups: BTreeMap<(&'static str, &'static str, bool), CooldownStatus> = BTreeMap::new();
    for (scope, cooldown) in state.cooldowns.all() {
        let left = cooldown.until.saturating_duration_since(now);
        // A cooldown of these scopes that is over, without a probe in flight, blocks no call.
        if left.is_zero()
            && !cooldown.probing
            && matches!(scope, CooldownScope::Key(_) | CooldownScope::Endpoint(_) | CooldownScope::Family(_))
        {
            continue;
        }
        let (scope, reason) = (scope.token(), cooldown.reason.short_token());
        let group = groups.entry((scope, reason, cooldown.firm)).or_insert(CooldownStatus {
            scope,
            reason,
            firm: cooldown.firm,
            left,
            until_released: false,
            probing: false,
            count: 0,
        });
        group.left = group.left.max(left);
        group.until_released |= is_until_released(left);
        group.probing |= cooldown.probing;
        group.count += 1;
    }
    groups.into_values().collect()
}

fn limits(policy: &UpstreamPolicy, state: &mut LimiterState, now: Instant) -> Vec<LimitStatus> {
    let mut limits = Vec::new();
    if let Some(rate) = policy.rate_limit.limit {
        let limit = u64::from(rate.count);
        // The credential with the fewest calls left.
        let left = state.windows.values_mut().map(|(window, _)| window.left(now) as u64).min();
        let (name, window) = ("configured".to_owned(), Some(rate.per));
        limits.push(LimitStatus { name, limit, window, left: left.unwrap_or(limit) });
    }
    if policy.rate_limit.learn {
        let known = state.learned.values().flat_map(|(limit, _)| limit.known());
        limits.extend(known.map(|known| LimitStatus {
            name: learned_name(&known.name),
            limit: known.limit,
            window: known.window,
            left: known.left_at(now),
        }));
    }
    limits
}

fn learned_name(name: &str) -> String {
    if name.is_empty() { "learned".to_owned() } else { format!("learned ({name})") }
}
