//! How upstreams stand, from what the gate knows.
//!
//! Owns: how holds of single keys are shown together. Never touches: how it is printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Upstream;
use crate::policy::upstream::UpstreamPolicy;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::state::{LimiterState, UpstreamState};
use crate::upstream::ban_guard::trips_at;
use crate::upstream::cooldown::CooldownScope;
use crate::upstream::rate_limiter::AdaptiveLimit;
use crate::upstream::rejection::RejectReason;
use crate::upstream::status::{CooldownStatus, LimitStatus, UpstreamStatus};

impl AdmissionControl {
    /// How the configured upstreams stand, and hosts that none names of which something is known.
    pub fn report(&self, upstreams: &[Arc<Upstream>]) -> Vec<UpstreamStatus> {
        let now = self.clock.instant();
        let named = upstreams.iter().map(|upstream| {
            let traffic = self.traffics.known(&upstream.name);
            let (name, conduct) = (Arc::clone(&upstream.name), &upstream.conduct);
            let mut report = match traffic {
                Some(traffic) => shown(name, true, conduct, &mut traffic.state.lock(), now),
                None => shown(name, true, conduct, &mut LimiterState::default(), now),
            };
            // Credits that are only set aside are no hold: they are spent or free with the next answer.
            let spent = self.over_budget(upstream).filter(|held| !held.left.is_zero());
            report.holds.extend(spent.map(|held| CooldownStatus {
                reach: CooldownScope::Upstream.token(),
                cause: held.cause.word(),
                firm: true,
                left: held.left,
                probing: false,
                count: 1,
            }));
            report
        });
        let nothing = UpstreamPolicy::default();
        let others = self.traffics.others();
        let unnamed = others.iter().map(|traffic: &Arc<UpstreamState>| {
            shown(Arc::clone(&traffic.name), false, &nothing, &mut traffic.state.lock(), now)
        });
        named.chain(unnamed).collect()
    }
}

fn shown(
    name: Arc<str>,
    configured: bool,
    conduct: &UpstreamPolicy,
    state: &mut LimiterState,
    now: Instant,
) -> UpstreamStatus {
    let holds = holds(state, now);
    let breaker = conduct.breaker.map(|_| breaker(state, now));
    let ban_guard =
        conduct.ban_guard.as_ref().map(|rule| (state.guard.counted(rule, now), trips_at(rule)));
    UpstreamStatus {
        name,
        configured,
        in_flight: state.in_flight,
        waiting: state.waiting(),
        holds,
        breaker,
        limits: limits(conduct, state, now),
        ban_guard,
        retries: state.retries.standing(now),
    }
}

fn breaker(state: &LimiterState, now: Instant) -> &'static str {
    let hold = state.holds.all().find(|(reach, hold)| {
        *reach == CooldownScope::Upstream && hold.cause == RejectReason::Breaker
    });
    match hold {
        Some((_, hold)) if hold.until > now => "open",
        Some(_) => "half-open",
        None => "closed",
    }
}

/// Those of one kind together: there may be one for each key.
fn holds(state: &LimiterState, now: Instant) -> Vec<CooldownStatus> {
    let mut alike: BTreeMap<(&'static str, &'static str, bool), CooldownStatus> = BTreeMap::new();
    for (reach, hold) in state.holds.all() {
        let left = hold.until.saturating_duration_since(now);
        // What is over and has no stake in what happens next is no news.
        if left.is_zero()
            && !hold.probing
            && matches!(
                reach,
                CooldownScope::Key(_) | CooldownScope::Endpoint(_) | CooldownScope::Family(_)
            )
        {
            continue;
        }
        let (reach, cause) = (reach.token(), hold.cause.word());
        let held = alike.entry((reach, cause, hold.firm)).or_insert(CooldownStatus {
            reach,
            cause,
            firm: hold.firm,
            left,
            probing: false,
            count: 0,
        });
        held.left = held.left.max(left);
        held.probing |= hold.probing;
        held.count += 1;
    }
    alike.into_values().collect()
}

fn limits(conduct: &UpstreamPolicy, state: &mut LimiterState, now: Instant) -> Vec<LimitStatus> {
    let mut limits = Vec::new();
    if let Some(rate) = conduct.rate_limit.limit {
        let limit = u64::from(rate.count);
        // The credential that has the least left.
        let left = state.windows.values_mut().map(|(window, _)| window.left(now) as u64).min();
        let (name, window) = ("configured".to_owned(), Some(rate.per));
        limits.push(LimitStatus { name, limit, window, left: left.unwrap_or(limit) });
    }
    if conduct.rate_limit.learn {
        let known = state.learned.values().filter_map(|(limit, _)| match limit {
            AdaptiveLimit::Known(known) => Some(known),
            AdaptiveLimit::Unknown | AdaptiveLimit::Asking | AdaptiveLimit::Silent => None,
        });
        limits.extend(known.map(|known| LimitStatus {
            name: "learned".to_owned(),
            limit: known.limit,
            window: known.window,
            left: known.left_at(now),
        }));
    }
    limits
}
