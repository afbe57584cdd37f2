//! Cold keys: no stale response is stored, so the client waits for the retries.
//!
//! Owns: measuring the waits on the virtual clock. Never touches: warm keys (`scenarios`).

use std::time::Duration;

use http::StatusCode;
use larder::fake::discord::Options;
use larder::fake::faults::{Fault, Faults, RateLimited};
use serde_json::json;

use crate::client::{Failure, Response};
use crate::testbed::{Testbed, roles};
use crate::{Figures, Target};

/// The step of the virtual clock, and so the precision of the measured waits.
const STEP: Duration = Duration::from_millis(10);

/// 429, 429, 200, with `Retry-After` and without.
pub(crate) async fn waits(figures: &mut Figures) -> Result<(), Failure> {
    let (response, waits) = cold(Faults::next(2, Fault::rate_limited(2)), "").await?;
    let as_announced = waits.iter().all(|wait| (1_990..=2_050).contains(&wait.as_millis()));
    let good = response.status == 200 && as_announced && waits.len() == 2;
    let shown = json!(seconds(&waits));
    figures.line("waits_told", "cold, 429 429 200, Retry-After: 2: waits", shown, Target("2 s, 2 s", good));

    let without_retry_after = Fault::RateLimited(RateLimited::default());
    let (response, waits) = cold(Faults::next(3, without_retry_after), "").await?;
    let within = waits
        .iter()
        .zip([1_000_u128, 2_000, 4_000])
        .all(|(wait, expected)| (expected * 79 / 100..=expected * 122 / 100).contains(&wait.as_millis()));
    let good = response.status == 200 && within && waits.len() == 3;
    let (shown, wanted) = (json!(seconds(&waits)), "1 s, 2 s, 4 s, each ± 20 %");
    figures.line("waits_untold", "cold, three 429 without Retry-After: waits", shown, Target(wanted, good));
    Ok(())
}

/// An API that always responds with 429, and one with an error that is not retried.
pub(crate) async fn always(figures: &mut Figures) -> Result<(), Failure> {
    let (response, waits) = cold(Faults::always(Fault::rate_limited(1)), "").await?;
    let own_body = String::from_utf8_lossy(&response.body).contains("rate limited");
    let good = response.status == 429 && waits.len() == 3 && own_body;
    let shown = json!(format!("{} after {} retries", response.status, waits.len()));
    let wanted = "429 after 3 retries, with the API's own body";
    figures.line("always_429", "cold, always 429", shown, Target(wanted, good));

    let fault = Fault::Status(StatusCode::INTERNAL_SERVER_ERROR);
    let route = "    retry: { on: [429] }";
    let (response, waits) = cold(Faults::always(fault), route).await?;
    let good = response.status == 500 && waits.is_empty();
    let shown = json!(format!("{} after {} retries", response.status, waits.len()));
    figures.line("never_500", "cold, 500, `on: [429]`", shown, Target("500 after 0 retries", good));
    Ok(())
}

/// The response for a cold key, and the waits between the calls for it.
async fn cold(behaviour: Faults, route: &str) -> Result<(Response, Vec<Duration>), Failure> {
    let testbed = Testbed::start(Options { behaviour, ..Options::default() }, route, "").await?;
    let request = testbed.spawn_get(&roles(0));
    let (mut waits, mut waited, mut calls) = (Vec::new(), Duration::ZERO, 0);
    while !request.is_finished() {
        testbed.wait_until_idle().await;
        let total = testbed.discord.calls().total;
        if total > calls && calls > 0 {
            waits.push(std::mem::take(&mut waited));
        } else if total > calls {
            waited = Duration::ZERO;
        }
        calls = total;
        testbed.clock.advance(STEP);
        waited += STEP;
    }
    let response = request.await??;
    if testbed.discord.calls().total > calls {
        waits.push(waited);
    }
    testbed.stop().await;
    Ok((response, waits))
}

fn seconds(waits: &[Duration]) -> String {
    let shown: Vec<_> = waits.iter().map(|wait| format!("{:.2} s", wait.as_secs_f64())).collect();
    shown.join(", ")
}
