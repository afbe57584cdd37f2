//! Clients that are slow to send or to take: their fault is never the origin's, and holds nobody up.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin};

const LIMITS: &str = "limits: { body_idle: 600ms, body_min_rate: 100B/s }\n";

/// Begins a `POST` of so many bytes.
async fn begun(larder: &Larder, path: &str, length: usize, fields: &str) -> Client {
    let mut client = larder.client().await;
    let head = format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\n{fields}");
    client.send(format!("{head}Content-Length: {length}\r\n\r\nx")).await;
    client
}

#[tokio::test]
async fn a_client_that_stops_or_drips_is_told_408_and_the_origin_is_not_blamed() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let breaker = "upstreams: { api: { hosts: [api.example.test], timeouts: { first_byte: 300ms }, \
                       breaker: { failures: 3, within: 30s, open_for: 30s } } }\n";
        let yaml = format!("{LIMITS}{breaker}{}", route(&["ttl: 1h"]));
        let larder = Larder::start(&origin, &yaml).await;
        for drips in [false, false, true, true] {
            let mut client = begun(&larder, "/w", 10_000, "").await;
            let dripping = async {
                // A byte each tenth of a second: never silent, and far too slow.
                loop {
                    sleep(Duration::from_millis(100)).await;
                    if drips {
                        client.send("x").await;
                    }
                }
            };
            let _longer_than_it_may = timeout(Duration::from_millis(900), dripping).await;
            let answer = client.answer("POST").await.expect("an answer");
            assert_eq!(answer.status, 408, "drips: {drips}");
            assert!(answer.text().contains("limits.body_min_rate"), "{}", answer.text());
        }
        // Nothing is held, nothing open, for the API has done nothing wrong.
        assert_eq!(larder.get("/x").await.text(), "ok");
        let mut other = larder.client().await;
        other.ask("POST", &format!("{API}/w"), &["Content-Length: 0"]).await;
        assert_eq!(other.answer("POST").await.expect("an answer").text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn who_sends_fast_enough_for_long_and_who_converses_is_not_cut() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let larder = Larder::start(&origin, &format!("{LIMITS}{}", route(&["ttl: 1h"]))).await;
        let mut steady = begun(&larder, "/w", 1 + 15 * 30, "").await;
        let mut talks = begun(&larder, "/w", 2, "Content-Type: application/grpc+proto\r\n").await;
        for _ in 0..15 {
            sleep(Duration::from_millis(100)).await;
            steady.send([b'x'; 30]).await;
        }
        assert_eq!(steady.answer("POST").await.expect("an answer").text(), "ok");
        // It has said nothing for more than twice the limit.
        talks.send("x").await;
        assert_eq!(talks.answer("POST").await.expect("an answer").text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_slow_upload_that_tries_a_held_origin_makes_nobody_wait() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => Answer::new(429, &["Retry-After: 1", "Connection: close"], "later"),
            _ => Answer::new(200, &[], "ok"),
        })
        .await;
        let upstream =
            "upstreams: { api: { hosts: [api.example.test], pace: { max_wait: 9s } } }\n";
        let larder = Larder::start(&origin, &format!("{upstream}{}", route(&["ttl: 1h"]))).await;
        assert_eq!(larder.get("/x").await.status, 429);
        larder.clock.advance(Duration::from_secs(2));
        let mut slow = begun(&larder, "/w", 2, "").await;
        larder.until("it is under way", |_| origin.connections() == 2).await;
        let cold = timeout(Duration::from_secs(5), larder.get("/y")).await.expect("soon");
        assert_eq!(cold.text(), "ok");
        slow.send("x").await;
        assert_eq!(slow.answer("POST").await.expect("an answer").text(), "ok");
    })
    .await;
}
