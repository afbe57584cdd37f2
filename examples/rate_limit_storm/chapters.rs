//! The chapters about warm keys and about many calls.
//!
//! Owns: what each chapter does to the API and what the app must see. Never touches: cold keys (`cold`).

use std::time::Duration;

use http::StatusCode;
use larder::fake::discord::{Options, limits::Limits};
use larder::fake::faults::{Fault, Faults, Percentage, RateLimited, Scope};
use larder::fake::script::{Phase, Script};
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Failure;
use crate::scene::{Scene, roles};
use crate::{Figures, Story};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// 60 seconds of 429 with `Retry-After: 1`.
pub(crate) async fn storm(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    let scene = Scene::set(Options::default(), "", "").await?;
    scene.warm(story.keys).await?;
    scene.clock.advance(HOUR);
    let limited = RateLimited { retry_after: Some(1), scope: Scope::Global, code: None };
    let phase = Phase::lasting("storm", MINUTE, Some(Fault::RateLimited(limited)));
    scene.discord.play(Script::try_from(vec![phase])?);
    let before = scene.discord.calls().total;
    let errors = scene.press(story.keys, story.requests, story.at_once, MINUTE).await?;
    let probes = scene.discord.calls().total - before;
    said(figures, "storm", "60 s of 429, Retry-After: 1", errors, probes, 60 + story.at_once);
    scene.end().await;
    Ok(())
}

/// Ten minutes of refused connections, and the time after them.
pub(crate) async fn outage(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    let scene = Scene::set(Options::default(), "", "").await?;
    scene.warm(story.keys).await?;
    scene.clock.advance(HOUR);
    let phase = Phase::lasting("outage", 10 * MINUTE, Some(Fault::Close));
    scene.discord.play(Script::try_from(vec![phase])?);
    let before = scene.discord.calls().total;
    let errors = scene.press(story.keys, story.requests, story.at_once, 10 * MINUTE).await?;
    let probes = scene.discord.calls().total - before;
    said(figures, "outage", "10 min of closed connections", errors, probes, 20 + story.at_once);

    // The API is back: twenty clients for each key at once.
    scene.clock.advance(MINUTE);
    let before = scene.discord.calls().total;
    let mut asking = JoinSet::new();
    for key in 0..story.keys {
        for _ in 0..20 {
            asking.spawn(scene.getting(&roles(key)));
        }
    }
    let mut errors = 0;
    while let Some(answer) = asking.join_next().await {
        errors += usize::from(answer???.status != 200);
    }
    let calls = scene.discord.calls().total - before;
    let wanted = format!("at most {}, one for each key", story.keys);
    let good = calls <= story.keys as u64 && errors == 0;
    figures.line(
        "recovery_calls",
        "recovery: calls, 20 clients a key",
        json!(calls),
        &wanted,
        good,
    );
    scene.end().await;
    Ok(())
}

/// Ten minutes of 503.
pub(crate) async fn brownout(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    let scene = Scene::set(Options::default(), "", "").await?;
    scene.warm(story.keys).await?;
    scene.clock.advance(HOUR);
    scene.discord.play(Script::try_from(vec![Phase::outage(10 * MINUTE)])?);
    let before = scene.discord.calls().total;
    let errors = scene.press(story.keys, story.requests, story.at_once, 10 * MINUTE).await?;
    let probes = scene.discord.calls().total - before;
    said(figures, "brownout", "10 min of 503", errors, probes, 20 + story.at_once);
    scene.end().await;
    Ok(())
}

fn said(figures: &mut Figures, key: &str, what: &str, errors: usize, probes: u64, most: usize) {
    let title = format!("{what}: errors the app saw");
    figures.line(&format!("{key}_errors"), &title, json!(errors), "0", errors == 0);
    let wanted = format!("at most {most}: outage / hold + calls under way");
    let title = format!("{what}: probes");
    let good = probes <= most as u64;
    figures.line(&format!("{key}_probes"), &title, json!(probes), &wanted, good);
}

/// Fresh for an hour, stale for a day, then honestly gone.
pub(crate) async fn a_day(figures: &mut Figures) -> Result<(), Failure> {
    let scene = Scene::set(Options::default(), "    retry: off", "").await?;
    scene.warm(1).await?;
    scene.discord.behave(Faults::always(Fault::Status(StatusCode::BAD_GATEWAY)));
    let mut seen = Vec::new();
    for seconds in [60 * 60 - 1, 2, 24 * 60 * 60 - 3, 3] {
        scene.clock.advance(Duration::from_secs(seconds));
        seen.push(scene.get(&roles(0)).await?.status);
    }
    let shown = seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let good = seen == [200, 200, 200, 502];
    let wanted = "200 200 200 502";
    figures.line("a_day", "at 59:59, 1:00:01, 24:59:58, 25:00:01", json!(shown), wanted, good);
    scene.end().await;
    Ok(())
}

/// Every second call is a 503, at 200 requests a second for cold keys.
pub(crate) async fn half_down(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    let fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);
    let share = Percentage::of(0.5).ok_or("a half is a share")?;
    let behaviour = Faults { share, seed: Some(7), ..Faults::always(fault) };
    let scene = Scene::set(Options { behaviour, ..Options::default() }, "", "").await?;
    let (steps, each) = (story.half_down * 10, 20);
    let mut asking = JoinSet::new();
    let (mut key, mut errors, mut answered) = (0, 0, 0);
    for _ in 0..steps {
        for _ in 0..each {
            asking.spawn(scene.getting(&roles(key)));
            key += 1;
        }
        scene.settle().await;
        while let Some(answer) = asking.try_join_next() {
            (errors, answered) = (errors + usize::from(answer???.status != 200), answered + 1);
        }
        scene.clock.advance(Duration::from_millis(100));
    }
    while !asking.is_empty() {
        scene.clock.advance(Duration::from_millis(100));
        scene.settle().await;
        while let Some(answer) = asking.try_join_next() {
            (errors, answered) = (errors + usize::from(answer???.status != 200), answered + 1);
        }
    }
    let calls = scene.discord.calls().total;
    let most = key as u64 * 12 / 10 + 10;
    let title = format!("half of all calls fail: calls for {answered} requests");
    let wanted = format!("at most {most}: a fifth more, and ten");
    figures.line("half_down_calls", &title, json!(calls), &wanted, calls <= most);
    let share = share_of(errors, key)?;
    let wanted = "fewer than without larder: 50 %";
    figures.line(
        "half_down_errors",
        "half of all calls fail: errors seen",
        json!(share),
        wanted,
        errors * 2 < key,
    );
    scene.end().await;
    Ok(())
}

/// A limit of 50 calls a second that larder learns from the answers.
pub(crate) async fn learned(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    let options = Options { limits: Some(Limits::default()), ..Options::default() };
    let rate_limit = ", rate_limit: { learn: true, max_wait: 60s }";
    let scene = Scene::set(options, "    coalesce: { wait: 60s }", rate_limit).await?;
    let guild = 81_384_788_765_712_384_u64;
    let mut asking = JoinSet::new();
    for member in 0..story.paced {
        let path = format!("/api/v10/guilds/{guild}/members/{}", 80_351_110_224_678_912 + member);
        asking.spawn(scene.getting(&path));
    }
    let (step, mut time, mut errors) = (Duration::from_millis(10), Duration::ZERO, 0);
    while !asking.is_empty() {
        scene.settle().await;
        while let Some(answer) = asking.try_join_next() {
            errors += usize::from(answer???.status != 200);
        }
        scene.clock.advance(step);
        time += step;
        if time > 10 * MINUTE {
            return Err("the paced calls do not end".into());
        }
    }
    let exceeded = scene.discord.exceeded();
    let beyond = exceeded.user + exceeded.global + exceeded.shared;
    figures.line("learned_429", "a learned 50/s: 429 at the API", json!(beyond), "0", beyond == 0);
    figures.line("learned_errors", "a learned 50/s: errors seen", json!(errors), "0", errors == 0);
    // The first window's calls need no time at all.
    let possible = 50.0 * (time.as_secs_f64() + 1.0);
    let used = 100.0 * f64::from(u32::try_from(story.paced)?) / possible;
    let shown = json!(format!("{used:.1} %"));
    figures.line(
        "learned_used",
        "a learned 50/s: share of it used",
        shown,
        "at least 90 %",
        used >= 90.0,
    );
    scene.end().await;
    Ok(())
}

/// `part` of `all` in per cent.
fn share_of(part: usize, all: usize) -> Result<String, Failure> {
    let (part, all) = (f64::from(u32::try_from(part)?), f64::from(u32::try_from(all.max(1))?));
    Ok(format!("{:.1} %", 100.0 * part / all))
}
