//! Keys of a route or an upstream that change what clients and origins see: clients' Cache-Control, the fields
//! of rate limits on hits, the order of query parameters, `Via`.

use crate::client::Response;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::run_larder;

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().starts_with("larder; hit")
}

#[tokio::test]
async fn a_route_may_ignore_the_cache_control_of_clients() {
    bounded(async {
        for (line, hits) in [("ttl: 30m", false), ("client_cache_control: ignore", true)] {
            let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
            let larder = Larder::with_policy(&origin, &["ttl: 30m", line][usize::from(!hits)..]).await;
            larder.get("/x").await;
            for field in [
                "Cache-Control: no-cache",
                "Cache-Control: no-store",
                "Cache-Control: max-age=0",
                "Cache-Control: min-fresh=999999",
                "Pragma: no-cache",
            ] {
                let answer = larder.get_with("/x", &[field]).await;
                assert_eq!(is_hit(&answer), hits, "{line}: {field}: {}", answer.cache_status());
            }
            let only = larder.get_with("/new", &["Cache-Control: only-if-cached, no-cache"]).await;
            assert_eq!(only.status, 504, "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn explain_names_the_directives_of_the_client() {
    let directory = tempfile::tempdir().unwrap();
    for (policy, effect) in [("honour", "may need a call"), ("ignore", "has no effect here")] {
        let file = directory.path().join(format!("{policy}.yaml"));
        let lines = ["ttl: 30m".to_owned(), format!("client_cache_control: {policy}")];
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        std::fs::write(&file, format!("version: 1\n{}", route(&lines))).unwrap();
        let file = file.to_str().unwrap();
        let field = "Cache-Control: max-age=0";
        let output = run_larder(&["check", file, "--explain", "GET", &format!("{API}/x"), "-H", field]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("max-age=0") && text.contains(effect), "{text}");
    }
}

#[tokio::test]
async fn hits_carry_limit_fields_only_if_the_route_keeps_them() {
    bounded(async {
        let fields = ["X-RateLimit-Limit: 60", "X-RateLimit-Remaining: 41", "RateLimit: \"a\";r=4"];
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit"];
        for (keeps, line) in [(false, "keep_limit_fields: false"), (true, "keep_limit_fields: true")] {
            let origin =
                Origin::always(MockResponse::new(200, &[&fields[..], &["ETag: \"a\""]].concat(), "ok")).await;
            let larder = Larder::with_policy(&origin, &["ttl: 30m", line]).await;
            larder.get("/x").await;
            for condition in [&[][..], &["If-None-Match: \"a\""]] {
                let answer = larder.get_with("/x", condition).await;
                assert!(is_hit(&answer), "{}", answer.cache_status());
                let found = names.iter().filter(|name| answer.field(name).is_some()).count();
                assert_eq!(found, if keeps { names.len() } else { 0 }, "{line} {condition:?}");
                assert_eq!(answer.all("age").len(), 1, "{line}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_sorted_query_is_for_the_key_alone() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m", "key: { query: { sort: true } }"]).await;
        assert_eq!(larder.get("/x?b=2&a=1&b=1").await.text(), "/x?b=2&a=1&b=1", "as received");
        let same = larder.get("/x?a=1&b=2&b=1").await;
        assert_eq!((is_hit(&same), same.text().as_str()), (true, "/x?b=2&a=1&b=1"));
        assert!(!is_hit(&larder.get("/x?a=1&b=1&b=2").await), "the order of one name counts");
        // A write to any order invalidates the response.
        let mut client = larder.client().await;
        client.send_request("DELETE", &format!("{API}/x?b=2&b=1&a=1"), &[]).await;
        client.response("DELETE").await.expect("a response");
        assert!(!is_hit(&larder.get("/x?a=1&b=2&b=1").await));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_without_via_still_reveals_loops() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let via = "upstreams: { api: { hosts: [api.example.test], via: off } }\n";
        for routes in [String::new(), route(&["ttl: 30m"])] {
            let larder = Larder::start(&origin, &format!("{via}{routes}")).await;
            let answer = larder.get("/x").await;
            assert!(answer.field("via").is_some(), "the client still gets it");
            let seen = origin.requests().last().cloned().unwrap();
            assert_eq!(seen.field("via"), None);
            let name = seen.field("cdn-loop").expect("a name").to_owned();
            assert!(name.starts_with("larder-"), "{name}");
            let before = origin.calls();
            let looped = larder.get_with("/y", &[&format!("CDN-Loop: other, {name}; loops=1")]).await;
            assert_eq!((looped.status, origin.calls()), (508, before));
            let other = larder.get_with("/y", &["CDN-Loop: other", "Via: 1.1 front"]).await;
            assert_eq!(other.status, 200);
            assert_eq!(origin.requests().last().unwrap().field("via"), Some("1.1 front"), "of others");
        }
    })
    .await;
}
