//! Origins that say no, and a clock that is turned until larder asks again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use larder::upstream::status::UpstreamStatus;
use tokio::task::JoinHandle;

use crate::client::Response;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin, Seen};

pub const SECOND: Duration = Duration::from_secs(1);

const TICK: Duration = Duration::from_millis(1);

/// Retries and holds as they are by default; `api.example.test` is the upstream `api` with these keys,
/// and one route keeps everything there for all, for a minute unless `policy` says otherwise.
pub fn yaml(upstream: &str, policy: &[&str]) -> String {
    let comma = if upstream.is_empty() { "" } else { ", " };
    let upstream = format!("{{ hosts: [api.example.test]{comma}{upstream} }}");
    let own = policy.iter().any(|line| line.starts_with("ttl:"));
    let lines = [if own { &[][..] } else { &["ttl: 1m"] }, &["scope: shared"], policy].concat();
    format!(
        "defaults: {{ coalesce: {{ wait: 10s }} }}\nupstreams: {{ api: {upstream} }}\n{}",
        route(&lines)
    )
}

/// 429 with these fields and a body of the origin's own.
pub fn limited(fields: &[&str]) -> Answer {
    Answer::new(429, fields, "slow down")
}

/// These answers one after the other, then the last one for ever.
pub fn in_order(answers: Vec<Answer>) -> impl Fn(&Seen) -> Answer + Send + Sync {
    let next = AtomicUsize::new(0);
    move |_| {
        let place = next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        answers[place].clone()
    }
}

/// A request that is under way while the test turns the clock.
pub async fn asking(larder: &Larder, path: &str, fields: &[&str]) -> JoinHandle<Response> {
    let mut client = larder.client().await;
    client.ask("GET", &format!("{API}{path}"), fields).await;
    tokio::spawn(async move { client.answer("GET").await.expect("an answer") })
}

/// Something waits by the clock, and the origin's next call comes after `from` and by `to`, not
/// before.
pub async fn next_call(larder: &Larder, origin: &Origin, from: Duration, to: Duration) {
    larder.until("a try waits", |larder| larder.clock.sleepers() > 0).await;
    let calls = origin.calls();
    larder.clock.advance(from.saturating_sub(TICK));
    settled(larder).await;
    assert_eq!(origin.calls(), calls, "sooner than after {from:?}");
    larder.clock.advance(to.saturating_sub(from) + TICK);
    origin.reached(calls + 1).await;
}

/// Turns the clock by `step`s until there is an answer: that, and how long it took.
pub async fn turned(
    larder: &Larder,
    asked: JoinHandle<Response>,
    step: Duration,
) -> (Response, Duration) {
    let begun = larder.clock.now();
    while !asked.is_finished() {
        if larder.clock.sleepers() > 0 {
            larder.clock.advance(step);
        }
        settled(larder).await;
    }
    (asked.await.expect("a client reads on"), since(larder, begun))
}

pub fn since(larder: &Larder, begun: SystemTime) -> Duration {
    larder.clock.now().duration_since(begun).unwrap_or_default()
}

/// A round trip through larder that concerns nobody: whatever the clock woke has had its turn.
pub async fn settled(larder: &Larder) {
    let mut client = larder.client().await;
    client.send("nonsense\r\n\r\n").await;
    client.rest().await;
}

/// Asks until the answer is this one: a fill behind a stale answer has ended.
pub async fn gets(larder: &Larder, path: &str, body: &str) -> Response {
    for _ in 0..2000 {
        let answer = larder.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        if answer.text() == body {
            return answer;
        }
        // A try that began before the origin was back may have failed just now.
        if larder.clock.sleepers() > 0 {
            larder.clock.advance(SECOND);
        }
        tokio::task::yield_now().await;
    }
    panic!("never {body:?}");
}

/// How the upstream `api` stands.
pub fn api(larder: &Larder) -> UpstreamStatus {
    larder.server.controls().upstreams().remove(0)
}

/// What holds of the upstream `api` are about, why, and whether they are firm.
pub fn holds(larder: &Larder) -> Vec<(&'static str, &'static str, bool)> {
    api(larder).holds.iter().map(|held| (held.reach, held.cause, held.firm)).collect()
}

/// The class of an error that larder made; empty where the answer is the origin's.
pub fn class(answer: &Response) -> String {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    json["larder_error"]["class"].as_str().unwrap_or_default().to_owned()
}
