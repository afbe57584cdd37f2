//! The mode switch over real sockets: how bypass and offline handle each kind of request.

use std::time::Duration;

use larder::policy::Mode;

use crate::client::Client;
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin};

const HOUR: Duration = Duration::from_secs(3600);

/// An origin that numbers its responses, and a larder with one route that has stored `/x`.
async fn stocked(policy: &[&str], fields: &'static [&'static str]) -> (Origin, Larder) {
    let origin =
        Origin::start(move |seen| MockResponse::new(200, fields, format!("{} {}", seen.method, seen.index)))
            .await;
    let larder = Larder::with_policy(&origin, policy).await;
    assert_eq!(larder.get("/x").await.text(), "GET 0");
    (origin, larder)
}

fn set_mode(larder: &Larder, mode: Mode) {
    larder.server.admin_api().set_mode(mode);
}

#[tokio::test]
async fn offline_serves_stored_responses_of_any_age_and_marks_them() {
    let (origin, larder) = stocked(&["ttl: 1m"], &[]).await;
    set_mode(&larder, Mode::Offline);
    let fresh = larder.get("/x").await;
    assert_eq!(fresh.cache_status(), "larder; hit; ttl=60");
    larder.clock.advance(HOUR * 24 * 365);
    for method in ["GET", "HEAD"] {
        let mut client = larder.client().await;
        client.send_request(method, &format!("{API}/x"), &[]).await;
        let stale = client.response(method).await.unwrap();
        assert_eq!(stale.status, 200);
        assert_eq!(stale.cache_status(), "larder; hit; ttl=-31535940; detail=\"offline\"");
    }
    assert_eq!(origin.calls(), 1);
    let cause = "larder_stale_served_total{cause=\"offline\",route=\"api\"}";
    assert!(larder.metric(cause) > 1.0);
}

#[tokio::test]
async fn offline_does_not_revalidate_in_the_background() {
    let (_origin, larder) = stocked(&["ttl: 1m", "stale_while_revalidate: 1h"], &[]).await;
    set_mode(&larder, Mode::Offline);
    larder.clock.advance(HOUR / 2);
    let stale = larder.get("/x").await;
    assert_eq!(stale.cache_status(), "larder; hit; ttl=-1740; detail=\"offline\"");
    // A background call would reach the origin before this one.
    set_mode(&larder, Mode::Cache);
    assert_eq!(larder.get("/y").await.text(), "GET 1");
}

/// Offline does not lift the restrictions of the origin or of the client.
#[tokio::test]
async fn offline_respects_must_revalidate_no_cache_and_max_age() {
    let (origin, larder) = stocked(&["ttl: origin"], &["Cache-Control: max-age=60, must-revalidate"]).await;
    set_mode(&larder, Mode::Offline);
    let no_cache = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
    assert_eq!(no_cache.status, 504);
    let young = larder.get_with("/x", &["Cache-Control: max-age=5"]).await;
    assert_eq!(young.status, 200);
    larder.clock.advance(Duration::from_secs(30));
    let young = larder.get_with("/x", &["Cache-Control: max-age=5"]).await;
    assert_eq!(young.status, 504);
    assert_eq!(larder.get("/x").await.status, 200);
    larder.clock.advance(Duration::from_secs(31));
    let stale = larder.get("/x").await;
    assert_eq!(stale.status, 504);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn offline_refuses_at_once_every_request_that_needs_an_origin() {
    let (origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    set_mode(&larder, Mode::Offline);
    let elsewhere = format!("http://other.example.test:{}/", origin.addr.port());
    for (method, url, fields) in [
        ("GET", format!("{API}/miss"), &[][..]),
        ("HEAD", format!("{API}/miss"), &[]),
        ("POST", format!("{API}/x"), &["Content-Length: 0"]),
        ("DELETE", format!("{API}/x"), &[]),
        ("OPTIONS", format!("{API}/x"), &[]),
        ("GET", format!("{API}/x"), &["Accept: text/event-stream"]),
        ("GET", format!("{API}/x"), &["Cache-Control: no-store"]),
        ("GET", elsewhere, &[]),
    ] {
        let mut client = larder.client().await;
        client.send_request(method, &url, fields).await;
        let refused = bounded(client.response(method)).await.unwrap();
        assert_eq!(refused.status, 504, "{method} {url} {fields:?}");
        assert_eq!(refused.cache_status(), "larder; detail=\"offline\"");
        if method != "HEAD" {
            assert!(refused.text().contains("\"class\":\"offline\""), "{}", refused.text());
        }
        // The connection stays usable.
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "GET 0");
    }
    assert_eq!((origin.calls(), origin.connections()), (1, 1));
}

#[tokio::test]
async fn offline_opens_no_tunnel() {
    let origin = Origin::always(MockResponse::new(200, &[], "inside")).await;
    let larder = Larder::start(&origin, "defaults: { mode: offline }\n").await;
    let mut client = larder.client().await;
    client.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr)).await;
    let refused = bounded(client.response("CONNECT")).await.unwrap();
    assert_eq!(refused.status, 504);
    assert!(refused.text().contains("\"class\":\"offline\""), "{}", refused.text());
    assert_eq!(origin.connections(), 0);
    set_mode(&larder, Mode::Cache);
    let mut client = larder.client().await;
    client.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr)).await;
    assert_eq!(bounded(client.response("CONNECT")).await.unwrap().status, 200);
}

#[tokio::test]
async fn bypass_neither_reads_nor_fills_the_store() {
    let (origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    set_mode(&larder, Mode::Bypass);
    for (path, call) in [("/x", 1), ("/x", 2), ("/new", 3)] {
        let passed = larder.get(path).await;
        assert_eq!(passed.text(), format!("GET {call}"));
        assert_eq!(passed.cache_status(), "larder; fwd=bypass; fwd-status=200");
    }
    set_mode(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 0", "the entry is unchanged");
    assert_eq!(larder.get("/new").await.text(), "GET 4", "nothing was stored");
    assert_eq!(origin.calls(), 5);
}

/// RFC 9111 §4.4 applies in every mode: a successful write invalidates the stored response.
#[tokio::test]
async fn a_write_in_bypass_still_invalidates() {
    let (_origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    set_mode(&larder, Mode::Bypass);
    let mut client = larder.client().await;
    client.send_request("POST", &format!("{API}/x"), &["Content-Length: 0"]).await;
    assert_eq!(client.response("POST").await.unwrap().text(), "POST 1");
    set_mode(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 2");
}

#[tokio::test]
async fn a_head_in_bypass_does_not_affect_the_stored_response() {
    let (origin, larder) = stocked(&["ttl: 1h"], &["ETag: \"1\""]).await;
    origin.set_script(|_| MockResponse::raw("HTTP/1.1 200 OK\r\nETag: \"2\"\r\nContent-Length: 9\r\n\r\n"));
    set_mode(&larder, Mode::Bypass);
    let mut client = larder.client().await;
    client.send_request("HEAD", &format!("{API}/x"), &[]).await;
    assert_eq!(client.response("HEAD").await.unwrap().field("etag"), Some("\"2\""));
    set_mode(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 0");
}

#[tokio::test]
async fn a_fetch_that_ends_after_a_switch_to_bypass_is_not_stored() {
    let gate = Gate::new();
    let origin_gate = gate.clone();
    let origin = Origin::start(move |seen| match seen.index {
        0 => MockResponse::new(200, &[], "slow").after(&origin_gate),
        _ => MockResponse::new(200, &[], "later"),
    })
    .await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let crowd = ConcurrentRequests::send_plain(&larder, 3, "/x").await;
    larder.wait_for_waiters(3).await;
    set_mode(&larder, Mode::Bypass);
    gate.open();
    for answer in crowd.responses().await {
        assert_eq!(answer.text(), "slow");
    }
    set_mode(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "later");
}

#[tokio::test]
async fn the_file_sets_the_first_mode_and_the_gauge_shows_the_current_one() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let yaml = format!("defaults: {{ mode: bypass }}\n{}", route(&["ttl: 1h"]));
    let larder = Larder::start(&origin, &yaml).await;
    assert_eq!(larder.server.admin_api().mode(), Mode::Bypass);
    larder.get("/x").await;
    larder.get("/x").await;
    assert_eq!(origin.calls(), 2);
    for mode in Mode::ALL {
        set_mode(&larder, mode);
        for other in Mode::ALL {
            let series = format!("larder_mode{{mode=\"{}\"}}", other.token());
            let expected = if other == mode { 1.0 } else { 0.0 };
            larder.wait_for_metric(&series, expected).await;
        }
    }
}

/// Each request on a kept-alive connection is served in the mode of its time.
#[tokio::test]
async fn a_new_mode_applies_to_the_next_request_of_an_open_connection() {
    let (_origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    let mut client: Client = larder.client().await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
    set_mode(&larder, Mode::Bypass);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 1");
    set_mode(&larder, Mode::Offline);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
    set_mode(&larder, Mode::Cache);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
}
