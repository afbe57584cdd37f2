//! While larder makes no call, a client gets the API's own refusal again, in words that its SDK understands; every
//! other client gets larder's error.

use crate::client::Response;
use crate::concurrent::bounded;
use crate::failing_origin::{SECOND, error_class, yaml};
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};

const BODY: &str = r#"{"message":"You are being rate limited.","retry_after":30.0,"global":false}"#;
const FIELDS: [&str; 7] = [
    "Content-Type: application/json",
    "Retry-After: 30",
    "X-RateLimit-Limit: 5",
    "X-RateLimit-Remaining: 0",
    "X-RateLimit-Reset-After: 30",
    "X-Own: kept",
    "Set-Cookie: a=b",
];
const BOT: &str = "Authorization: Bot token";

/// Asks for `path` without a call to the origin.
async fn ask(larder: &Larder, origin: &Origin, (method, path): (&str, &str), fields: &[&str]) -> Response {
    let calls = origin.calls();
    let mut client = larder.client().await;
    client.send_request(method, &format!("{API}{path}"), fields).await;
    let response = client.response(method).await.unwrap();
    assert_eq!(origin.calls(), calls, "{method} {path}: no call is made");
    response
}

fn assert_replayed(replayed: &Response, left: &str) {
    assert_eq!((replayed.status, replayed.text().as_str()), (429, BODY));
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("retry-after", Some(left)),
        ("x-ratelimit-limit", Some("5")),
        ("x-ratelimit-remaining", Some("0")),
        ("x-ratelimit-reset-after", Some(left)),
        ("x-own", Some("kept")),
        ("set-cookie", None),
        ("cache-status", Some("larder; detail=\"replayed/cooldown-rate-limited\"")),
        (
            "proxy-status",
            Some("larder; error=http_request_denied; details=\"rate_limited\"; received-status=429"),
        ),
    ] {
        assert_eq!(replayed.field(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_client_gets_the_refusal_again_with_what_is_left_of_its_times() {
    bounded(async {
        for scope in ["shared", "credential"] {
            let origin = Origin::always(MockResponse::new(429, &FIELDS, BODY)).await;
            let text = yaml("", &["retry: off"]).replace("scope: shared", &format!("scope: {scope}"));
            let larder = Larder::start(&origin, &text).await;
            let first = larder.get_with("/users/@me", &[BOT]).await;
            assert_eq!((first.status, first.field("retry-after")), (429, Some("30")));
            larder.clock.advance(2 * SECOND);
            assert_replayed(&ask(&larder, &origin, ("GET", "/users/@me"), &[BOT]).await, "28");
            larder.clock.advance(18 * SECOND);
            // The cooldown holds for the credential, so for its other calls too, also those that pass through.
            assert_replayed(&ask(&larder, &origin, ("GET", "/guilds"), &[BOT]).await, "10");
            let post = [BOT, "Content-Length: 0"];
            assert_replayed(&ask(&larder, &origin, ("POST", "/messages"), &post).await, "10");
            let head = ask(&larder, &origin, ("HEAD", "/users/@me"), &[BOT]).await;
            assert_eq!((head.status, head.text().as_str()), (429, ""));
        }
    })
    .await;
}

#[tokio::test]
async fn anybody_else_gets_larders_own_error() {
    bounded(async {
        // The upstream's own credential puts all clients into one cooldown.
        for (first, other) in [
            (&[BOT][..], &["Authorization: Bot other"][..]),
            (&[BOT], &[]),
            (&[], &[BOT]),
            (&[BOT], &[BOT, "X-Organization: other"]),
            (&[BOT], &[BOT, "Cookie: session=other"]),
        ] {
            let down = r#"{"error":"Back soon, dear customer 4711"}"#;
            let origin = Origin::always(MockResponse::new(503, &["Retry-After: 30"], down)).await;
            let larder = Larder::start(&origin, &yaml("rate_limit: { max_wait: 0s }", &["retry: off"])).await;
            assert_eq!(larder.get_with("/x", first).await.text(), down);
            let replayed = ask(&larder, &origin, ("GET", "/x"), first).await;
            assert_eq!((replayed.status, replayed.text().as_str()), (503, down), "{first:?}");
            let foreign = ask(&larder, &origin, ("GET", "/x"), other).await;
            assert_eq!((foreign.status, error_class(&foreign).as_str()), (503, "origin_down"), "{other:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_that_is_large_or_cut_or_in_a_foreign_coding_is_not_replayed() {
    bounded(async {
        let large = "x".repeat(16 * 1024 + 1);
        let cut = b"HTTP/1.1 429 No\r\nRetry-After: 30\r\nContent-Length: 9\r\n\r\nfour".to_vec();
        for (response, fields) in [
            (MockResponse::new(429, &["Retry-After: 30"], large), &[][..]),
            (MockResponse(vec![crate::origin::Step::Write(cut), crate::origin::Step::Close]), &[]),
            (MockResponse::new(429, &["Retry-After: 30", "Content-Encoding: gzip"], "zip"), &[]),
        ] {
            let origin = Origin::always(response).await;
            let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
            larder.get_with("/x", &["Accept-Encoding: gzip"]).await;
            let own = ask(&larder, &origin, ("GET", "/x"), fields).await;
            assert_eq!((own.status, error_class(&own).as_str()), (429, "rate_limited"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_a_passed_through_call_is_replayed_too() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(429, &FIELDS, BODY)).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
        let fields = [BOT, "Content-Length: 0"];
        let mut client = larder.client().await;
        client.send_request("POST", &format!("{API}/messages"), &fields).await;
        assert_eq!(client.response("POST").await.unwrap().text(), BODY);
        larder.clock.advance(SECOND);
        assert_replayed(&ask(&larder, &origin, ("POST", "/messages"), &fields).await, "29");
    })
    .await;
}

#[tokio::test]
async fn a_secret_in_the_url_is_a_client_of_its_own() {
    bounded(async {
        let mine = "/bot111111111:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/getMe";
        let theirs = "/bot222222222:BBHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw2/getMe";
        let origin =
            Origin::start(|request| MockResponse::new(429, &["Retry-After: 40"], &request.target)).await;
        let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
        larder.get(mine).await;
        let own = ask(&larder, &origin, ("GET", mine), &[]).await;
        assert_eq!((own.status, own.text().as_str()), (429, mine));
        let other = ask(&larder, &origin, ("GET", theirs), &[]).await;
        assert_eq!((other.status, error_class(&other).as_str()), (429, "rate_limited"));
        assert!(!other.text().contains("111111111"), "{}", other.text());
        assert!(other.cache_status().contains("refused/"), "{}", other.cache_status());
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_for_the_variant_and_the_key_fields_that_it_was_sent_for() {
    bounded(async {
        for (policy, vary) in
            [("key: { headers: [Accept-Language] }", ""), ("ttl: 1m", "Vary: Accept-Language")]
        {
            let fields =
                if vary.is_empty() { vec!["Retry-After: 40"] } else { vec!["Retry-After: 40", vary] };
            let origin = Origin::always(MockResponse::new(429, &fields, "langsam")).await;
            let larder = Larder::start(&origin, &yaml("", &["retry: off", policy])).await;
            let (german, french) = ([BOT, "Accept-Language: de"], [BOT, "Accept-Language: fr"]);
            larder.get_with("/x", &german).await;
            assert_eq!(ask(&larder, &origin, ("GET", "/x"), &german).await.text(), "langsam");
            let other = ask(&larder, &origin, ("GET", "/x"), &french).await;
            assert!(other.cache_status().contains("refused/"), "{policy} {vary}: {other:?}");
        }
    })
    .await;
}

/// NTLM signs a connection in: requests on it carry nothing that names the user.
#[tokio::test]
async fn a_refusal_on_a_signed_in_connection_is_not_replayed() {
    bounded(async {
        let origin = Origin::start(|request| {
            if request.field("authorization").is_some() {
                return MockResponse::new(200, &[], "signed in");
            }
            MockResponse::new(429, &["Retry-After: 40"], "too many calls by CORP-alice")
        })
        .await;
        let larder = Larder::start(&origin, &yaml("", &["retry: off"])).await;
        let mut alice = larder.client().await;
        let url = format!("{API}/x");
        let sign_in = alice.get(&url, &["Authorization: NTLM TlRMTVNTUAADAAAA"]).await;
        assert_eq!(sign_in.text(), "signed in");
        assert_eq!(alice.get(&url, &[]).await.text(), "too many calls by CORP-alice");
        let other = ask(&larder, &origin, ("GET", "/x"), &[]).await;
        assert!(!other.text().contains("alice"), "{other:?}");
        assert!(other.cache_status().contains("refused/"), "{other:?}");
    })
    .await;
}
