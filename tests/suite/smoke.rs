//! The most basic guarantees: heads are rewritten on kept-alive connections too, and a body that is not
//! whole never ends cleanly.

use crate::client::{Client, End};
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin, Step};

#[tokio::test]
async fn every_head_on_a_kept_alive_connection_is_rewritten() {
    let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    for path in ["/one", "/two?x=1", "/three"] {
        client
            .send(format!("GET {API}{path} HTTP/1.1\r\nHost: Other.Example:80\r\nX-Case: KeptAsIs\r\n\r\n"))
            .await;
        let answer = client.response("GET").await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, path.to_owned()));
    }
    for seen in origin.requests() {
        assert_eq!(seen.field("host"), Some("api.example.test"), "{}", seen.raw_head);
        assert!(seen.raw_head.contains("X-Case: KeptAsIs"), "{}", seen.raw_head);
        assert!(seen.field("via").is_some_and(|via| via.contains("larder")));
        assert!(!seen.target.contains("http:"), "origin-form: {}", seen.target);
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn connect_after_get_on_the_same_connection_is_a_tunnel() {
    let origin = Origin::always(MockResponse::new(200, &[], "plain")).await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    assert_eq!(client.get(&format!("{API}/"), &[]).await.text(), "plain");
    client.send("CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n\r\n").await;
    assert_eq!(client.response("CONNECT").await.unwrap().status, 200);
    client.send("GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n").await;
    assert_eq!(client.response("GET").await.unwrap().text(), "plain");
    assert_eq!(origin.requests()[1].target, "/inside");
}

/// On a cached route the engine streams the cut body, both chunked and with a length.
#[tokio::test]
async fn a_cut_body_never_ends_cleanly_and_is_not_stored() {
    let chunked = MockResponse::chunked_open(200, &[], &[b"half"]).then([Step::Close]);
    let length = MockResponse::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").then([Step::Close]);
    for cut in [chunked, length] {
        let origin = Origin::always(cut).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        for _ in 0..2 {
            let answer = larder.get("/x").await;
            assert_eq!((answer.text().as_str(), answer.end), ("half", End::Truncated));
        }
        assert_eq!(origin.calls(), 2, "nothing was stored");
    }
}

/// HTTP/1.0 has no framing for a body of unknown length: only a reset shows that it is cut.
#[tokio::test]
async fn a_cut_body_ends_in_a_reset_for_an_http_1_0_client() {
    let gate = Gate::new();
    let script =
        MockResponse::chunked_open(200, &[], &[b"half"]).then([Step::Wait(gate.clone()), Step::Close]);
    let origin = Origin::always(script).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let mut client: Client = larder.client().await;
    client.send(format!("GET {API}/x HTTP/1.0\r\nHost: api.example.test\r\n\r\n")).await;
    origin.wait_for_calls(1).await;
    gate.open();
    let answer = client.response("GET").await.unwrap();
    assert_eq!(answer.end, End::Truncated);
}

#[tokio::test]
async fn the_same_bytes_pass_through_where_no_route_caches() {
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = body.clone();
    let origin =
        Origin::start(move |_| MockResponse::new(200, &["X-Hop: 1", "Connection: X-Hop"], &sent)).await;
    let larder = Larder::start(&origin, "").await;
    let answer = larder.get("/big").await;
    assert_eq!(answer.body, body);
    assert_eq!(answer.field("x-hop"), None, "hop-by-hop fields end here");
    assert_eq!(answer.cache_status(), "larder; fwd=bypass; fwd-status=200");
    let mut client = larder.client().await;
    client.send_request("POST", &format!("{API}/big"), &[]).await;
    let answer = client.response("POST").await.unwrap();
    assert_eq!(answer.cache_status(), "larder; fwd=method; fwd-status=200", "the method is the reason");
}
