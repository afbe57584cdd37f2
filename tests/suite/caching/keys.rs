//! Cache keys and variants: which requests share a stored response.

use crate::caching::{echo, is_hit};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};

/// A test of the store covers the cap with thousands of variants; this one shows that it is applied.
#[tokio::test]
async fn cch_05_variants_of_one_url_are_capped_and_the_newest_are_kept() {
    bounded(async {
        let origin =
            Origin::start(|seen| MockResponse::new(200, &["Vary: X-V"], seen.field("x-v").unwrap_or("none")))
                .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
        let mut client = larder.client().await;
        for n in 0..300 {
            client.get(&format!("{API}/x"), &[&format!("X-V: {n}")]).await;
        }
        let entries = larder.metric("larder_entries{tier=\"memory\"}");
        assert!((64.0..=66.0).contains(&entries), "{entries}");
        for (n, hit) in [(299, true), (236, true), (0, false)] {
            let answer = client.get(&format!("{API}/x"), &[&format!("X-V: {n}")]).await;
            assert_eq!((is_hit(&answer), answer.text()), (hit, n.to_string()));
        }
    })
    .await;
}

#[tokio::test]
async fn cch_07_only_urls_that_are_equivalent_by_rfc_3986_share_a_response() {
    let different =
        ["//a", "/a;x", "/A", "/a?", "/a", "/a%2Fb", "/a/b", "/b", "/%40", "/a?x", "/a?x=", "/a/"];
    bounded(async {
        let origin = echo().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        for hit in [false, true] {
            for path in different {
                let answer = larder.get(path).await;
                assert_eq!((answer.text().as_str(), is_hit(&answer)), (path, hit), "{path}");
            }
        }
        assert_eq!(origin.calls(), different.len());
        // A path that an origin may resolve to another path is never stored.
        for path in [
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/./b",
            "/a/..%2fb",
            "/a/..;/b",
            "/a/..%c1%9cb",
            "/a/%c0%ae%c0%ae/b",
            "/a/%uff0e%uff0e/b",
            "/a/x%c0%afb",
        ] {
            let calls = origin.calls();
            for _ in 0..2 {
                let answer = larder.get(path).await;
                assert_eq!((answer.text().as_str(), is_hit(&answer)), (path, false), "{path}");
            }
            assert_eq!(origin.calls(), calls + 2, "{path}");
        }
        let calls = origin.calls();
        for same in [
            "http://API.Example.Test/a",
            "http://api.example.test:80/a",
            "HTTP://api.example.test/a",
            "http://api.example.test/%61",
        ] {
            let answer = larder.client().await.get(same, &[]).await;
            assert!(is_hit(&answer), "{same}: {}", answer.cache_status());
        }
        assert_eq!(origin.calls(), calls);
    })
    .await;
}

#[tokio::test]
async fn cch_08_parts_of_a_key_cannot_be_confused() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let field = |name| seen.field(name).unwrap_or("-").to_owned();
            MockResponse::new(200, &[], format!("{} {} {}", seen.target, field("x-a"), field("x-b")))
        })
        .await;
        let policy = ["ttl: 1h", "key: { headers: [X-A, X-B] }"];
        let larder = Larder::with_policy(&origin, &policy).await;
        let mut all = std::collections::BTreeSet::new();
        for (path, fields) in [
            ("/x", &["X-A: AB"][..]),
            ("/x", &["X-A: A", "X-B: B"]),
            ("/x", &["X-B: AB"]),
            ("/x", &["X-A: A|B"]),
            ("/x", &["X-A: A,B"]),
            ("/x", &[]),
            ("/x|y", &[]),
            ("/x?a=1&b=2", &[]),
            ("/x?b=2&a=1", &[]),
            ("/x?k=v%26", &[]),
            ("/x?k=v&", &[]),
            ("/x?k=v", &[]),
            ("/x/y?", &[]),
        ] {
            let first = larder.get_with(path, fields).await;
            let again = larder.get_with(path, fields).await;
            assert!(!is_hit(&first) && is_hit(&again), "{path} {fields:?}");
            assert_eq!(first.text(), again.text());
            assert!(all.insert(first.text()), "{path} {fields:?}: {}", first.text());
        }
        assert_eq!(origin.calls(), all.len());
    })
    .await;
}

#[tokio::test]
async fn cch_09_two_origins_share_no_response() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], seen.field("host").unwrap())).await;
        let (addr, port) = (origin.addr, origin.addr.port());
        let larder = Larder::bare(&format!(
            "resolve: {{ one.test: \"{addr}\", two.test: \"{addr}\" }}\n\
             routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1h, scope: shared }}]\n"
        ))
        .await;
        for hit in [false, true] {
            for host in ["one.test", "two.test", &format!("one.test:{port}"), "one.test:81"] {
                let answer = larder.client().await.get(&format!("http://{host}/x"), &[]).await;
                assert_eq!((answer.text(), is_hit(&answer)), (host.to_owned(), hit));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cch_21_codings_are_never_mixed_and_bodies_are_unchanged() {
    bounded(async {
        // One origin sends `Vary`, the other does not.
        for vary in ["Vary: Accept-Encoding", "X-Nothing: 1"] {
            let origin = Origin::start(move |seen| {
                let accepts = seen.field("accept-encoding").unwrap_or_default();
                let coding = ["br", "gzip"].into_iter().find(|coding| accepts.contains(coding));
                match coding {
                    Some(coding) => {
                        let field = format!("Content-Encoding: {coding}");
                        MockResponse::new(200, &[vary, &field], format!("\u{1}{coding} bytes"))
                    }
                    None => MockResponse::new(200, &[vary], "plain"),
                }
            })
            .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            for round in 0..2 {
                for (accepts, body) in [
                    (&["Accept-Encoding: gzip"][..], "\u{1}gzip bytes"),
                    (&["Accept-Encoding: gzip, br"], "\u{1}br bytes"),
                    (&[], "plain"),
                    (&["Accept-Encoding: br;q=0, gzip;q=0"], "plain"),
                    (&["Accept-Encoding: identity"], "plain"),
                    (&["Accept-Encoding: x-gzip, deflate"], "\u{1}gzip bytes"),
                ] {
                    let answer = larder.get_with("/x", accepts).await;
                    let context = format!("{vary} {round} {accepts:?}: {}", answer.cache_status());
                    let coding = body.strip_prefix('\u{1}').and_then(|b| b.split(' ').next());
                    // Without `Vary` a response without a coding is served to every client.
                    let plain = !vary.starts_with("Vary") && answer.text() == "plain";
                    let (body, coding) = if plain { ("plain", None) } else { (body, coding) };
                    assert_eq!(answer.text(), body, "{context}");
                    assert_eq!(answer.field("content-encoding"), coding, "{context}");
                }
            }
            assert_eq!(origin.calls(), 3, "{vary}");
        }
    })
    .await;
}

#[tokio::test]
async fn variants_are_stored_side_by_side_and_other_fields_are_ignored() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let field = |name| seen.field(name).unwrap_or("-");
            MockResponse::new(
                200,
                &["Vary: Accept-Language, X-B", "Cache-Control: max-age=60"],
                format!("{} {}", field("accept-language"), field("x-b")),
            )
        })
        .await;
        let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
        for (fields, body, hit) in [
            (&["Accept-Language: de, en"][..], "de, en -", false),
            (&["Accept-Language: EN,de", "X-Other: 1"], "de, en -", true),
            (&["Accept-Language: de, en", "X-B: 1"], "de, en 1", false),
            (&[], "- -", false),
            (&["Accept-Language: de, en", "X-B: "], "de, en ", false),
            (&["Accept-Language: fr"], "fr -", false),
            (&["Accept-Language: de, en"], "de, en -", true),
            (&["X-Other: 2"], "- -", true),
            (&["X-B: 1", "Accept-Language: de,en"], "de, en 1", true),
        ] {
            let answer = larder.get_with("/x", fields).await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (body, hit), "{fields:?}");
        }
        assert!(larder.get_with("/x", &["X-B: 9"]).await.cache_status().contains("fwd=vary-miss"));
    })
    .await;
}

#[tokio::test]
async fn vary_star_never_matches() {
    bounded(async {
        for vary in ["Vary: *", "Vary: X-A, *", "Vary: , *"] {
            let origin =
                Origin::start(move |seen| MockResponse::new(200, &[vary], format!("call {}", seen.index)))
                    .await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            larder.get("/x").await;
            assert_eq!(larder.get("/x").await.text(), "call 1", "{vary}");
        }
    })
    .await;
}
