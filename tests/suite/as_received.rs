//! Requests reach origins as they would without larder: WebSocket schemes and users in absolute URLs, the case of
//! field names, characters that URLs may not contain.

use crate::client::End;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};

#[tokio::test]
async fn a_websocket_scheme_in_absolute_form_is_that_of_http() {
    bounded(async {
        let answer = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let origin = Origin::start(move |_| MockResponse::raw(answer)).await;
        let larder = Larder::start(&origin, "").await;
        for url in ["ws://api.example.test/socket?a", "WS://api.example.test/socket?a"] {
            let mut client = larder.client().await;
            client.send_request("GET", url, &["Connection: Upgrade", "Upgrade: websocket"]).await;
            assert_eq!(client.response("GET").await.expect("a response").status, 101, "{url}");
            assert_eq!(origin.requests().last().unwrap().target, "/socket?a");
        }
    })
    .await;
}

#[tokio::test]
async fn a_user_in_an_absolute_url_becomes_basic_and_separates_responses() {
    bounded(async {
        let origin = Origin::start(|seen| {
            MockResponse::new(200, &[], seen.field("authorization").unwrap_or("nobody"))
        })
        .await;
        for routes in [String::new(), route(&["ttl: 30m"])] {
            let larder = Larder::start(&origin, &routes).await;
            let get = async |user: &str, fields: &[&str]| {
                larder.client().await.get(&format!("http://{user}api.example.test/x"), fields).await
            };
            assert_eq!(get("ann:s3cret@", &[]).await.text(), "Basic YW5uOnMzY3JldA==");
            assert_eq!(get("bob@", &[]).await.text(), "Basic Ym9iOg==");
            assert_eq!(get("", &[]).await.text(), "nobody");
            assert_eq!(get("ann:s3cret@", &["Authorization: Bearer x"]).await.text(), "Bearer x");
            assert_eq!(get("a@b@", &[]).await.status, 400);
        }
        assert!(origin.requests().iter().all(|seen| seen.target == "/x"));
        assert!(origin.requests().iter().all(|seen| seen.field("host") == Some("api.example.test")));
    })
    .await;
}

#[tokio::test]
async fn names_of_fields_keep_their_case_on_passed_through_http_1() {
    bounded(async {
        let answer = "HTTP/1.1 200 x\r\nX-REQUEST-Id: 1\r\nETag: \"a\"\r\ncontent-LENGTH: 0\r\n\r\n";
        let origin = Origin::start(move |_| MockResponse::raw(answer)).await;
        let larder = Larder::start(&origin, "").await;
        let answer = larder.get_with("/x", &["X-API-Key: a", "x-lower: b", "ACCEPT: c"]).await;
        assert_eq!(answer.end, End::Complete);
        let head = &origin.requests()[0].raw_head;
        for line in ["X-API-Key: a", "x-lower: b", "ACCEPT: c"] {
            assert!(head.contains(line), "{line}: {head}");
        }
        for name in ["X-REQUEST-Id", "ETag", "content-LENGTH"] {
            assert!(answer.fields.iter().any(|(received, _)| received == name), "{name} {:?}", answer.fields);
        }
    })
    .await;
}

#[tokio::test]
async fn a_raw_query_is_stored_and_purged_under_its_own_name() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 30m"]).await;
        for query in ["filter={\"a\":[1,2]}", "q=a<b>c", "q={a}|b^c`d\\e[f]", "q=caf\u{e9}"] {
            for _ in 0..2 {
                let answer = larder.client().await.get(&format!("{API}/x?{query}"), &[]).await;
                assert_eq!((answer.status, answer.text()), (200, format!("/x?{query}")));
            }
            assert_eq!(larder.get(&format!("/x?{query}")).await.cache_status(), "larder; hit; ttl=1800");
        }
        assert_eq!(origin.calls(), 4);
    })
    .await;
}
