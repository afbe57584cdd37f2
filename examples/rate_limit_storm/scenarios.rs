//! The scenarios with warm keys and with many calls.
//!
//! Owns: the faults of each scenario and its targets. Never touches: cold keys (`cold`).

use std::time::Duration;

use http::StatusCode;
use larder::fake::discord::{Options, limits::Limits};
use larder::fake::faults::{Fault, Faults, Percentage, RateLimited, Scope};
use larder::fake::script::{Phase, Script};
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Failure;
use crate::testbed::{Testbed, roles};
use crate::{Figures, Target, Workload};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A failure of the API while the responses of warm keys are stale.
struct Outage {
    key: &'static str,
    title: &'static str,
    phase: Phase,
    time: Duration,
    /// The most calls that larder may make besides those in flight.
    probes: usize,
}

impl Outage {
    /// Runs the load during the failure; returns the testbed at its end.
    async fn run(self, workload: Workload, figures: &mut Figures) -> Result<Testbed, Failure> {
        let Workload { keys, requests, at_once, .. } = workload;
        let testbed = Testbed::start(Options::default(), "", "").await?;
        testbed.warm(keys).await?;
        testbed.clock.advance(HOUR);
        testbed.discord.play(Script::try_from(vec![self.phase])?);
        let before = testbed.discord.calls().total;
        let errors = testbed.run_load(keys, requests, at_once, self.time).await?;
        let calls = testbed.discord.calls().total - before;
        let (key, title) = (format!("{}_errors", self.key), format!("{}: errors in the app", self.title));
        figures.line(&key, &title, json!(errors), Target("0", errors == 0));
        let most = self.probes + at_once;
        let target = format!("at most {most}: outage / cooldown + calls in flight");
        let (key, title) = (format!("{}_probes", self.key), format!("{}: calls to the API", self.title));
        figures.line(&key, &title, json!(calls), Target(&target, calls <= most as u64));
        Ok(testbed)
    }
}

/// 60 seconds of 429 with `Retry-After: 1`.
pub(crate) async fn storm(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    let limited = RateLimited { retry_after: Some(1), scope: Scope::Global, code: None };
    let phase = Phase::lasting("storm", MINUTE, Some(Fault::RateLimited(limited)));
    let title = "60 s of 429, Retry-After: 1";
    let storm = Outage { key: "storm", title, phase, time: MINUTE, probes: 60 };
    storm.run(workload, figures).await?.stop().await;
    Ok(())
}

/// Ten minutes of 503.
pub(crate) async fn brownout(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    let (phase, time) = (Phase::outage(10 * MINUTE), 10 * MINUTE);
    let brownout = Outage { key: "brownout", title: "10 min of 503", phase, time, probes: 20 };
    brownout.run(workload, figures).await?.stop().await;
    Ok(())
}

/// Ten minutes of closed connections, and the recovery.
pub(crate) async fn outage(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    let phase = Phase::lasting("outage", 10 * MINUTE, Some(Fault::Close));
    let (title, time) = ("10 min of closed connections", 10 * MINUTE);
    let outage = Outage { key: "outage", title, phase, time, probes: 20 };
    let testbed = outage.run(workload, figures).await?;

    // The API recovers: twenty concurrent clients for each key.
    testbed.clock.advance(MINUTE);
    let before = testbed.discord.calls().total;
    let mut clients = JoinSet::new();
    for key in 0..workload.keys {
        for _ in 0..20 {
            clients.spawn(testbed.spawn_get(&roles(key)));
        }
    }
    let mut errors = 0;
    while let Some(response) = clients.join_next().await {
        errors += usize::from(response???.status != 200);
    }
    let calls = testbed.discord.calls().total - before;
    let wanted = format!("at most {}, one for each key", workload.keys);
    let good = calls <= workload.keys as u64 && errors == 0;
    figures.line("recovery_calls", "recovery: calls, 20 clients a key", json!(calls), Target(&wanted, good));
    testbed.stop().await;
    Ok(())
}

/// Fresh for an hour, stale for a day, then an error.
pub(crate) async fn fresh_then_stale(figures: &mut Figures) -> Result<(), Failure> {
    let testbed = Testbed::start(Options::default(), "    retry: off", "").await?;
    testbed.warm(1).await?;
    testbed.discord.behave(Faults::always(Fault::Status(StatusCode::BAD_GATEWAY)));
    let mut seen = Vec::new();
    for seconds in [60 * 60 - 1, 2, 24 * 60 * 60 - 3, 3] {
        testbed.clock.advance(Duration::from_secs(seconds));
        seen.push(testbed.get(&roles(0)).await?.status);
    }
    let shown = seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let good = seen == [200, 200, 200, 502];
    let wanted = "200 200 200 502";
    figures.line("a_day", "at 59:59, 1:00:01, 24:59:58, 25:00:01", json!(shown), Target(wanted, good));
    testbed.stop().await;
    Ok(())
}

/// Every second call gets 503, at 200 requests a second for cold keys.
pub(crate) async fn half_down(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    let fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);
    let share = Percentage::from_fraction(0.5).ok_or("0.5 is a valid share")?;
    let behaviour = Faults { share, seed: Some(7), ..Faults::always(fault) };
    let testbed = Testbed::start(Options { behaviour, ..Options::default() }, "", "").await?;
    let (steps, each) = (workload.half_down * 10, 20);
    let mut clients = JoinSet::new();
    let (mut key, mut errors, mut finished) = (0, 0, 0);
    for _ in 0..steps {
        for _ in 0..each {
            clients.spawn(testbed.spawn_get(&roles(key)));
            key += 1;
        }
        testbed.wait_until_idle().await;
        while let Some(response) = clients.try_join_next() {
            (errors, finished) = (errors + usize::from(response???.status != 200), finished + 1);
        }
        testbed.clock.advance(Duration::from_millis(100));
    }
    while !clients.is_empty() {
        testbed.clock.advance(Duration::from_millis(100));
        testbed.wait_until_idle().await;
        while let Some(response) = clients.try_join_next() {
            (errors, finished) = (errors + usize::from(response???.status != 200), finished + 1);
        }
    }
    let calls = testbed.discord.calls().total;
    let most = key as u64 * 12 / 10 + 100;
    let title = format!("half of all calls fail: calls for {finished} requests");
    let wanted = format!("at most {most}: 20 % more, and a hundred");
    figures.line("half_down_calls", &title, json!(calls), Target(&wanted, calls <= most));
    let share = share_of(errors, key)?;
    let wanted = "fewer than without larder: 50 %";
    figures.line(
        "half_down_errors",
        "half of all calls fail: errors in the app",
        json!(share),
        Target(wanted, errors * 2 < key),
    );
    testbed.stop().await;
    Ok(())
}

/// A limit of 50 calls a second that larder learns from the responses.
pub(crate) async fn learned(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    let options = Options { limits: Some(Limits::default()), ..Options::default() };
    let rate_limit = ", rate_limit: { learn: true, max_wait: 60s }";
    let testbed = Testbed::start(options, "    coalesce: { wait: 60s }", rate_limit).await?;
    let guild = 81_384_788_765_712_384_u64;
    let mut clients = JoinSet::new();
    for member in 0..workload.rate_limited {
        let path = format!("/api/v10/guilds/{guild}/members/{}", 80_351_110_224_678_912 + member);
        clients.spawn(testbed.spawn_get(&path));
    }
    let (step, mut time, mut errors) = (Duration::from_millis(10), Duration::ZERO, 0);
    while !clients.is_empty() {
        testbed.wait_until_idle().await;
        while let Some(response) = clients.try_join_next() {
            errors += usize::from(response???.status != 200);
        }
        testbed.clock.advance(step);
        time += step;
        if time > 10 * MINUTE {
            return Err("the rate-limited calls do not end".into());
        }
    }
    let exceeded = testbed.discord.exceeded();
    let beyond = exceeded.user + exceeded.global + exceeded.shared;
    figures.line("learned_429", "a learned 50/s: 429 at the API", json!(beyond), Target("0", beyond == 0));
    figures.line(
        "learned_errors",
        "a learned 50/s: errors in the app",
        json!(errors),
        Target("0", errors == 0),
    );
    // The calls of the first window are sent at once.
    let possible = 50.0 * (time.as_secs_f64() + 1.0);
    let used = 100.0 * f64::from(u32::try_from(workload.rate_limited)?) / possible;
    let shown = json!(format!("{used:.1} %"));
    figures.line(
        "learned_used",
        "a learned 50/s: share of it used",
        shown,
        Target("at least 90 %", used >= 90.0),
    );
    testbed.stop().await;
    Ok(())
}

/// `part` of `all` in per cent.
fn share_of(part: usize, all: usize) -> Result<String, Failure> {
    let (part, all) = (f64::from(u32::try_from(part)?), f64::from(u32::try_from(all.max(1))?));
    Ok(format!("{:.1} %", 100.0 * part / all))
}
