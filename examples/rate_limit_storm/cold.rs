//! Cold keys: nothing stale to show, so the client waits for the retries.
//!
//! Owns: measuring the waits on the virtual clock. Never touches: warm keys (`chapters`).

use std::time::Duration;

use http::StatusCode;
use larder::fake::discord::Options;
use larder::fake::faults::{Fault, Faults, RateLimited};
use serde_json::json;

use crate::Figures;
use crate::client::{Answer, Failure};
use crate::scene::{Scene, roles};

/// The hand turns so far at once: the waits are measured as exactly.
const STEP: Duration = Duration::from_millis(10);

/// 429, 429, 200, with a word and without.
pub(crate) async fn waits(figures: &mut Figures) -> Result<(), Failure> {
    let (answer, waits) = cold(Faults::next(2, Fault::rate_limited(2)), "").await?;
    let told = waits.iter().all(|wait| (1_990..=2_050).contains(&wait.as_millis()));
    let good = answer.status == 200 && told && waits.len() == 2;
    let shown = json!(seconds(&waits));
    figures.line("waits_told", "cold, 429 429 200, Retry-After: 2: waits", shown, "2 s, 2 s", good);

    let wordless = Fault::RateLimited(RateLimited::default());
    let (answer, waits) = cold(Faults::next(3, wordless), "").await?;
    let within = waits
        .iter()
        .zip([1_000_u128, 2_000, 4_000])
        .all(|(wait, even)| (even * 79 / 100..=even * 122 / 100).contains(&wait.as_millis()));
    let good = answer.status == 200 && within && waits.len() == 3;
    let (shown, wanted) = (json!(seconds(&waits)), "1 s, 2 s, 4 s, each ± 20 %");
    figures.line("waits_untold", "cold, three 429 without a word: waits", shown, wanted, good);
    Ok(())
}

/// An API that never relents, and one that fails in a way that is not to be retried.
pub(crate) async fn always(figures: &mut Figures) -> Result<(), Failure> {
    let (answer, waits) = cold(Faults::always(Fault::rate_limited(1)), "").await?;
    let own = String::from_utf8_lossy(&answer.body).contains("rate limited");
    let good = answer.status == 429 && waits.len() == 3 && own;
    let shown = json!(format!("{} after {} retries", answer.status, waits.len()));
    let wanted = "429 after 3 retries, in the API's own words";
    figures.line("always_429", "cold, always 429", shown, wanted, good);

    let broken = Fault::Status(StatusCode::INTERNAL_SERVER_ERROR);
    let only = "    retry: { on: [429] }";
    let (answer, waits) = cold(Faults::always(broken), only).await?;
    let good = answer.status == 500 && waits.is_empty();
    let shown = json!(format!("{} after {} retries", answer.status, waits.len()));
    figures.line("never_500", "cold, 500, `on: [429]`", shown, "500 after 0 retries", good);
    Ok(())
}

/// The answer to a cold key, and how long the API was left alone between the calls for it.
async fn cold(behaviour: Faults, route: &str) -> Result<(Answer, Vec<Duration>), Failure> {
    let scene = Scene::set(Options { behaviour, ..Options::default() }, route, "").await?;
    let asking = scene.getting(&roles(0));
    let (mut waits, mut waited, mut calls) = (Vec::new(), Duration::ZERO, 0);
    while !asking.is_finished() {
        scene.settle().await;
        let total = scene.discord.calls().total;
        if total > calls && calls > 0 {
            waits.push(std::mem::take(&mut waited));
        } else if total > calls {
            waited = Duration::ZERO;
        }
        calls = total;
        scene.clock.advance(STEP);
        waited += STEP;
    }
    let answer = asking.await??;
    if scene.discord.calls().total > calls {
        waits.push(waited);
    }
    scene.end().await;
    Ok((answer, waits))
}

fn seconds(waits: &[Duration]) -> String {
    let shown: Vec<_> = waits.iter().map(|wait| format!("{:.2} s", wait.as_secs_f64())).collect();
    shown.join(", ")
}
