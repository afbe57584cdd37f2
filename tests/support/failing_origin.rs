//! Helpers for origins that fail, and for a manual clock that is advanced until larder retries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use larder::upstream::admission::status::UpstreamStatus;
use tokio::task::JoinHandle;

use crate::client::Response;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, ReceivedRequest};

pub const SECOND: Duration = Duration::from_secs(1);

const TICK: Duration = Duration::from_millis(1);

/// A configuration with the default retries and cooldowns. `api.example.test` is the upstream `api` with
/// the keys `upstream`. One route stores its responses in the shared scope, for a minute unless `policy`
/// has another `ttl`.
pub fn yaml(upstream: &str, policy: &[&str]) -> String {
    let comma = if upstream.is_empty() { "" } else { ", " };
    let upstream = format!("{{ hosts: [api.example.test]{comma}{upstream} }}");
    let has_ttl = policy.iter().any(|line| line.starts_with("ttl:"));
    let lines = [if has_ttl { &[][..] } else { &["ttl: 1m"] }, &["scope: shared"], policy].concat();
    format!("defaults: {{ coalesce: {{ wait: 10s }} }}\nupstreams: {{ api: {upstream} }}\n{}", route(&lines))
}

/// A 429 with these fields and a body.
pub fn too_many_requests(fields: &[&str]) -> MockResponse {
    MockResponse::new(429, fields, "slow down")
}

/// A script that sends these responses in order, and the last one for all further requests.
pub fn in_order(responses: Vec<MockResponse>) -> impl Fn(&ReceivedRequest) -> MockResponse + Send + Sync {
    let next = AtomicUsize::new(0);
    move |_| {
        let index = next.fetch_add(1, Ordering::SeqCst).min(responses.len() - 1);
        responses[index].clone()
    }
}

/// Sends a `GET` and reads its response in a task, while the test advances the clock.
pub async fn start_get(larder: &Larder, path: &str, fields: &[&str]) -> JoinHandle<Response> {
    let mut client = larder.client().await;
    client.send_request("GET", &format!("{API}{path}"), fields).await;
    tokio::spawn(async move { client.response("GET").await.expect("a response") })
}

/// Waits until a task sleeps, advances the clock, and asserts that the next call to the origin comes after
/// `from` and no later than `to`.
pub async fn expect_next_call(larder: &Larder, origin: &Origin, from: Duration, to: Duration) {
    larder.wait_until("a retry waits", |larder| larder.clock.sleepers() > 0).await;
    let calls = origin.calls();
    larder.clock.advance(from.saturating_sub(TICK));
    round_trip(larder).await;
    assert_eq!(origin.calls(), calls, "earlier than {from:?}");
    larder.clock.advance(to.saturating_sub(from) + TICK);
    origin.wait_for_calls(calls + 1).await;
}

/// Advances the clock by `step`s until the response comes; the response and the time that it took.
pub async fn advance_until_response(
    larder: &Larder,
    request: JoinHandle<Response>,
    step: Duration,
) -> (Response, Duration) {
    let start = larder.clock.now();
    while !request.is_finished() {
        if larder.clock.sleepers() > 0 {
            larder.clock.advance(step);
        }
        round_trip(larder).await;
    }
    (request.await.expect("no panic"), since(larder, start))
}

pub fn since(larder: &Larder, start: SystemTime) -> Duration {
    larder.clock.now().duration_since(start).unwrap_or_default()
}

/// Sends an invalid request and reads its error response: tasks that the clock has woken run meanwhile.
pub async fn round_trip(larder: &Larder) {
    let mut client = larder.client().await;
    client.send("nonsense\r\n\r\n").await;
    client.read_to_end().await;
}

/// Sends requests until the response has this body: a background revalidation has ended.
pub async fn get_until_body(larder: &Larder, path: &str, body: &str) -> Response {
    for _ in 0..2000 {
        let response = larder.get(path).await;
        assert_eq!(response.status, 200, "{}", response.text());
        if response.text() == body {
            return response;
        }
        // An attempt that began before the origin recovered may have failed just now.
        if larder.clock.sleepers() > 0 {
            larder.clock.advance(SECOND);
        }
        tokio::task::yield_now().await;
    }
    panic!("no response {body:?}");
}

/// The status of the upstream `api`.
pub fn api_status(larder: &Larder) -> UpstreamStatus {
    larder.server.admin_api().upstreams().remove(0)
}

/// The scope and the reason of each cooldown of the upstream `api`, and whether it is firm.
pub fn cooldowns(larder: &Larder) -> Vec<(&'static str, &'static str, bool)> {
    api_status(larder)
        .cooldowns
        .iter()
        .map(|cooldown| (cooldown.scope, cooldown.reason, cooldown.firm))
        .collect()
}

/// The class of an error response of larder, or of a refusal that it replays; empty for a response of the origin.
pub fn error_class(response: &Response) -> String {
    let status = response.field("proxy-status").unwrap_or_default();
    let class = status.split_once("details=\"").and_then(|(_, rest)| rest.split_once('"'));
    class.map_or_else(String::new, |(class, _)| class.to_owned())
}
