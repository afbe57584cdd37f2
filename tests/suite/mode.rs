//! The master switch over real sockets: what bypass and offline do with each kind of request.

use std::time::Duration;

use larder::policy::Mode;

use crate::client::Client;
use crate::crowd::{Crowd, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin};

const HOUR: Duration = Duration::from_secs(3600);

/// An origin that counts, and a larder with one route.
async fn stocked(policy: &[&str], fields: &'static [&'static str]) -> (Origin, Larder) {
    let origin = Origin::start(move |seen| {
        Answer::new(200, fields, format!("{} {}", seen.method, seen.index))
    })
    .await;
    let larder = Larder::with_policy(&origin, policy).await;
    assert_eq!(larder.get("/x").await.text(), "GET 0");
    (origin, larder)
}

fn turn(larder: &Larder, mode: Mode) {
    larder.server.controls().set_mode(mode);
}

#[tokio::test]
async fn offline_serves_what_is_stored_whatever_its_age_and_says_so() {
    let (origin, larder) = stocked(&["ttl: 1m"], &[]).await;
    turn(&larder, Mode::Offline);
    let fresh = larder.get("/x").await;
    assert_eq!(fresh.cache_status(), "larder; hit; ttl=60");
    larder.clock.advance(HOUR * 24 * 365);
    for method in ["GET", "HEAD"] {
        let mut client = larder.client().await;
        client.ask(method, &format!("{API}/x"), &[]).await;
        let stale = client.answer(method).await.unwrap();
        assert_eq!(stale.status, 200);
        assert_eq!(stale.cache_status(), "larder; hit; ttl=-31535940; detail=\"offline\"");
    }
    assert_eq!(origin.calls(), 1);
    let cause = "larder_stale_served_total{cause=\"offline\",route=\"api\"}";
    assert!(larder.metric(cause) > 1.0);
}

#[tokio::test]
async fn offline_does_not_refresh_behind_the_clients_back() {
    let (_origin, larder) = stocked(&["ttl: 1m", "stale_while_revalidate: 1h"], &[]).await;
    turn(&larder, Mode::Offline);
    larder.clock.advance(HOUR / 2);
    let stale = larder.get("/x").await;
    assert_eq!(stale.cache_status(), "larder; hit; ttl=-1740; detail=\"offline\"");
    // Whatever had been started would be there before the next answer of the same origin.
    turn(&larder, Mode::Cache);
    assert_eq!(larder.get("/y").await.text(), "GET 1");
}

/// Offline is laid over the request: what the origin or the client forbids stays forbidden.
#[tokio::test]
async fn offline_shows_nothing_stale_that_the_origin_forbids_and_nothing_to_a_client_that_insists()
{
    let (origin, larder) =
        stocked(&["ttl: origin"], &["Cache-Control: max-age=60, must-revalidate"]).await;
    turn(&larder, Mode::Offline);
    let insisting = larder.get_with("/x", &["Cache-Control: no-cache"]).await;
    assert_eq!(insisting.status, 504);
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
async fn offline_refuses_at_once_whatever_only_an_origin_could_answer() {
    let (origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    turn(&larder, Mode::Offline);
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
        client.ask(method, &url, fields).await;
        let refused = bounded(client.answer(method)).await.unwrap();
        assert_eq!(refused.status, 504, "{method} {url} {fields:?}");
        assert_eq!(refused.cache_status(), "larder; detail=\"offline\"");
        if method != "HEAD" {
            assert!(refused.text().contains("\"class\":\"offline\""), "{}", refused.text());
        }
        // The connection is as good as before.
        assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "GET 0");
    }
    assert_eq!((origin.calls(), origin.connections()), (1, 1));
}

#[tokio::test]
async fn offline_opens_no_tunnel() {
    let origin = Origin::always(Answer::new(200, &[], "inside")).await;
    let larder = Larder::start(&origin, "defaults: { mode: offline }\n").await;
    let mut client = larder.client().await;
    client.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr)).await;
    let refused = bounded(client.answer("CONNECT")).await.unwrap();
    assert_eq!(refused.status, 504);
    assert!(refused.text().contains("\"class\":\"offline\""), "{}", refused.text());
    assert_eq!(origin.connections(), 0);
    turn(&larder, Mode::Cache);
    let mut client = larder.client().await;
    client.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr)).await;
    assert_eq!(bounded(client.answer("CONNECT")).await.unwrap().status, 200);
}

#[tokio::test]
async fn bypass_neither_reads_the_store_nor_puts_anything_in() {
    let (origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    turn(&larder, Mode::Bypass);
    for (path, call) in [("/x", 1), ("/x", 2), ("/new", 3)] {
        let passed = larder.get(path).await;
        assert_eq!(passed.text(), format!("GET {call}"));
        assert_eq!(passed.cache_status(), "larder; fwd=bypass; fwd-status=200");
    }
    turn(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 0", "it was left as it was");
    assert_eq!(larder.get("/new").await.text(), "GET 4", "nothing was put in");
    assert_eq!(origin.calls(), 5);
}

/// RFC 9111 §4.4 holds in every mode: what is stored must not outlive a write that went through.
#[tokio::test]
async fn a_write_that_passes_in_bypass_still_invalidates() {
    let (_origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    turn(&larder, Mode::Bypass);
    let mut client = larder.client().await;
    client.ask("POST", &format!("{API}/x"), &["Content-Length: 0"]).await;
    assert_eq!(client.answer("POST").await.unwrap().text(), "POST 1");
    turn(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 2");
}

#[tokio::test]
async fn a_head_in_bypass_says_nothing_about_what_is_stored() {
    let (origin, larder) = stocked(&["ttl: 1h"], &["ETag: \"1\""]).await;
    origin.now(|_| Answer::raw("HTTP/1.1 200 OK\r\nETag: \"2\"\r\nContent-Length: 9\r\n\r\n"));
    turn(&larder, Mode::Bypass);
    let mut client = larder.client().await;
    client.ask("HEAD", &format!("{API}/x"), &[]).await;
    assert_eq!(client.answer("HEAD").await.unwrap().field("etag"), Some("\"2\""));
    turn(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "GET 0");
}

#[tokio::test]
async fn what_is_on_its_way_when_bypass_is_turned_is_answered_and_not_stored() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |seen| match seen.index {
        0 => Answer::new(200, &[], "slow").after(&held),
        _ => Answer::new(200, &[], "later"),
    })
    .await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let crowd = Crowd::plain(&larder, 3, "/x").await;
    larder.waiting(3).await;
    turn(&larder, Mode::Bypass);
    gate.open();
    for answer in crowd.answers().await {
        assert_eq!(answer.text(), "slow");
    }
    turn(&larder, Mode::Cache);
    assert_eq!(larder.get("/x").await.text(), "later");
}

#[tokio::test]
async fn the_file_says_the_mode_at_start_and_the_gauge_says_it_always() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let yaml = format!("defaults: {{ mode: bypass }}\n{}", route(&["ttl: 1h"]));
    let larder = Larder::start(&origin, &yaml).await;
    assert_eq!(larder.server.controls().mode(), Mode::Bypass);
    larder.get("/x").await;
    larder.get("/x").await;
    assert_eq!(origin.calls(), 2);
    for mode in Mode::ALL {
        turn(&larder, mode);
        for other in Mode::ALL {
            let series = format!("larder_mode{{mode=\"{}\"}}", other.token());
            let expected = if other == mode { 1.0 } else { 0.0 };
            larder.counts(&series, expected).await;
        }
    }
}

/// `Client` on a kept-alive connection: each request is answered by what the switch says then.
#[tokio::test]
async fn the_switch_holds_from_the_next_request_of_an_open_connection() {
    let (_origin, larder) = stocked(&["ttl: 1h"], &[]).await;
    let mut client: Client = larder.client().await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
    turn(&larder, Mode::Bypass);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 1");
    turn(&larder, Mode::Offline);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
    turn(&larder, Mode::Cache);
    assert_eq!(client.get(&url, &[]).await.text(), "GET 0");
}
