//! Dialects of APIs' limits on the way of real calls, and quotas that only an operator releases.

use std::ffi::OsStr;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::failing_origin::{SECOND, error_class};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, ReceivedRequest};
use crate::process::{ConfigDir, Process, run_larder, text};

const JSON: &str = "Content-Type: application/json";

fn yaml(rate_limit: &str) -> String {
    let rate_limit = format!("rate_limit: {{ {rate_limit}, max_wait: 0s }}");
    let upstream = format!("{{ hosts: [api.example.test], {rate_limit} }}");
    let route = route(&["ttl: 1h", "scope: shared"]);
    format!("defaults: {{ retry: off }}\nupstreams: {{ api: {upstream} }}\n{route}")
}

fn spent(_: &ReceivedRequest) -> MockResponse {
    MockResponse::new(429, &[JSON], "{\"error\":{\"code\":\"insufficient_quota\"}}")
}

#[tokio::test]
async fn used_up_limits_are_kept_until_the_longest_reset() {
    bounded(async {
        let fields = [
            "x-ratelimit-remaining-requests: 0",
            "x-ratelimit-reset-requests: 20ms",
            "x-ratelimit-remaining-tokens: 0",
            "x-ratelimit-reset-tokens: 6m0s",
        ];
        let origin = Origin::always(MockResponse::new(200, &fields, "here")).await;
        let larder = Larder::start(&origin, &yaml("dialect: openai, learn: true")).await;
        assert_eq!(larder.get("/1").await.status, 200);
        larder.clock.advance(359 * SECOND);
        let refused = larder.get("/2").await;
        assert_eq!((refused.status, error_class(&refused).as_str()), (429, "rate_limit"));
        assert_eq!(refused.field("retry-after"), Some("1"));
        assert_eq!(origin.calls(), 1);
        larder.clock.advance(SECOND);
        assert_eq!(larder.get("/2").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_refilled_does_not_run_out_under_a_longer_one() {
    bounded(async {
        let fields = [
            "x-ratelimit-limit-requests: 2",
            "x-ratelimit-remaining-requests: 1",
            "x-ratelimit-reset-requests: 10ms",
            "x-ratelimit-limit-tokens: 100",
            "x-ratelimit-remaining-tokens: 50",
            "x-ratelimit-reset-tokens: 6m0s",
        ];
        let origin = Origin::always(MockResponse::new(200, &fields, "here")).await;
        let larder = Larder::start(&origin, &yaml("dialect: openai, learn: true")).await;
        for number in 0..60 {
            assert_eq!(larder.get(&format!("/{number}")).await.status, 200, "{number}");
            larder.clock.advance(SECOND / 10);
        }
    })
    .await;
}

#[tokio::test]
async fn a_limit_of_one_endpoint_leaves_the_others_alone() {
    bounded(async {
        let origin = Origin::start(|request| {
            if request.target.starts_with("/api/users") {
                MockResponse::new(200, &[JSON], "{\"ok\":false,\"error\":\"ratelimited\"}")
            } else {
                MockResponse::new(200, &[JSON], "{\"ok\":true}")
            }
        })
        .await;
        let larder = Larder::start(&origin, &yaml("dialect: slack")).await;
        assert_eq!(larder.get("/api/users.list?a").await.status, 200);
        let refused = larder.get("/api/users.list?b").await;
        assert_eq!((refused.status, error_class(&refused).as_str()), (429, "rate_limited"));
        assert_eq!(larder.get("/api/conversations.list").await.status, 200);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn spent_money_blocks_calls_until_it_is_released() {
    bounded(async {
        let origin = Origin::start(spent).await;
        let larder = Larder::start(&origin, &yaml("dialect: openai")).await;
        assert_eq!(larder.get("/1").await.status, 429);
        larder.clock.advance(100 * 86_400 * SECOND);
        let refused = larder.get("/2").await;
        assert_eq!((refused.status, error_class(&refused).as_str()), (429, "quota_spent"));
        assert_eq!(refused.field("retry-after"), None, "nobody knows");
        assert!(refused.cache_status().contains("refused/"), "another URL: {refused:?}");
        assert!(larder.get("/1").await.cache_status().contains("replayed/"), "the API's own words");
        let mut other = larder.client().await;
        let others = other.get(&format!("{API}/2"), &["X-Organization: other"]).await;
        assert!(others.text().contains("larder upstreams release"), "{}", others.text());
        origin.set_script(|_| MockResponse::new(200, &[], "here"));
        let admin = larder.server.admin_api();
        assert_eq!(admin.release("other").await, None);
        assert_eq!(larder.get("/2").await.status, 429);
        assert_eq!(admin.release("api").await, Some(1));
        assert_eq!(larder.get("/2").await.text(), "here");
        assert_eq!(admin.release("api").await, Some(0));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn spent_money_is_remembered_over_a_restart_and_released_by_the_command() {
    bounded(async {
        let origin = Origin::start(spent).await;
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
        let free = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
        let config_dir = ConfigDir::with(&format!("{free}\n{resolve}\n{}", yaml("dialect: openai")));
        let config = config_dir.config.as_os_str();
        let run = || Process::start(&[OsStr::new("run"), config]);
        let mut larder = run();
        assert_eq!(get(&larder, "/1").await, (429, String::new()));
        larder.signal("TERM");
        larder.wait_for_exit().await;
        origin.set_script(|_| MockResponse::new(200, &[], "here"));
        let mut larder = run();
        assert_eq!(get(&larder, "/2").await, (429, "quota_spent".to_owned()));
        let admin = larder.admin().await.to_string();
        let shown = run_larder(&["upstreams", "--admin", &admin]).await;
        let shown = text(&shown.stdout);
        assert!(shown.contains("(quota): calls are blocked until `larder upstreams release`"), "{shown}");
        let released = run_larder(&["upstreams", "release", "api", "--admin", &admin]).await;
        assert_eq!(text(&released.stdout), "api: ended 1 cooldown; its calls are made again\n");
        assert_eq!(get(&larder, "/3").await, (200, String::new()));
        larder.signal("TERM");
        larder.wait_for_exit().await;
        assert_eq!(get(&run(), "/4").await, (200, String::new()), "the release is remembered, too");
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

async fn get(larder: &Process, path: &str) -> (u16, String) {
    let mut client = Client::connect(larder.addr().await).await;
    let answer = client.get(&format!("{API}{path}"), &[]).await;
    (answer.status, error_class(&answer))
}
