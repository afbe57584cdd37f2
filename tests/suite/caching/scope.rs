//! Which client may receive a stored response: credentials, cookies, scope fields.

use crate::caching::{is_hit, numbered, send};
use crate::client::Client;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin, ReceivedRequest};
use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::string::string_regex;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;

#[tokio::test]
async fn cch_02_a_cookie_reaches_only_the_client_that_it_was_set_for() {
    bounded(async {
        let fields = &["Set-Cookie: sid=1", "Cache-Control: max-age=60", "X-Else: 1"];
        for (policy, second_hits, second_cookie) in [
            (&["ttl: 1h"][..], false, true),
            (&["ttl: origin"], false, true),
            (&["ttl: 1h", "set_cookie: strip", "scope: shared"], true, false),
            (&["ttl: origin", "set_cookie: strip"], true, false),
            (&["ttl: origin", "set_cookie: keep"], true, true),
        ] {
            let origin = numbered(200, fields).await;
            let larder = Larder::with_policy(&origin, policy).await;
            let first = larder.get("/x").await;
            assert_eq!(first.field("set-cookie"), Some("sid=1"), "{policy:?}: its own cookie");
            let second = larder.get("/x").await;
            assert_eq!(is_hit(&second), second_hits, "{policy:?}");
            assert_eq!(second.field("set-cookie").is_some(), second_cookie, "{policy:?}");
            assert_eq!(second.field("x-else"), Some("1"));
            assert_eq!(origin.calls(), if second_hits { 1 } else { 2 }, "{policy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_scope_header_separates_users_and_is_not_sent_upstream() {
    bounded(async {
        let origin = Origin::start(|seen| MockResponse::new(200, &[], format!("call {}", seen.index))).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: { header: X-Larder-User }"]).await;
        // A user keeps its entries when its token changes.
        for (fields, body) in [
            (&["X-Larder-User: ann", "Authorization: t1"][..], "call 0"),
            (&["X-Larder-User: ann", "Authorization: t2"], "call 0"),
            (&["X-Larder-User: bob", "Authorization: t1"], "call 1"),
            (&["Authorization: t1"], "call 2"),
            (&["X-Larder-User: ", "Authorization: t1"], "call 3"),
            (&[], "call 4"),
            (&["X-Larder-User: bob"], "call 1"),
        ] {
            assert_eq!(larder.get_with("/x", fields).await.text(), body, "{fields:?}");
        }
        // Passed-through requests do not send it upstream either.
        send(&larder, "POST", "/y", &["X-Larder-User: ann"]).await;
        larder.get_with("/z", &["X-Larder-User: ann", "Cache-Control: no-store"]).await;
        assert!(origin.requests().iter().all(|seen| seen.field("x-larder-user").is_none()));
    })
    .await;
}

#[tokio::test]
async fn authorization_prevents_sharing_unless_the_origin_allows_it() {
    bounded(async {
        for (directives, shared) in [
            ("max-age=60", false),
            ("public, max-age=60", true),
            ("s-maxage=60", true),
            ("must-revalidate, max-age=60", true),
        ] {
            let field = format!("Cache-Control: {directives}");
            let origin = Origin::start(move |seen| {
                MockResponse::new(200, &[&field], seen.field("authorization").unwrap_or("anonymous"))
            })
            .await;
            let larder = Larder::with_policy(&origin, &["scope: shared"]).await;
            assert_eq!(larder.get_with("/x", &["Authorization: ann"]).await.text(), "ann");
            let other = larder.get_with("/x", &["Authorization: bob"]).await.text();
            assert_eq!(other, if shared { "ann" } else { "bob" }, "{directives}");
        }
    })
    .await;
}

/// A fixed seed: every run tests the same cases.
fn runner() -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

fn sample<T>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).expect("a case").current()
}

/// A word that marks credentials, in any case, within an otherwise random name.
fn credential_name() -> impl Strategy<Value = String> {
    let word =
        "([kK][eE][yY]|[tT]oken|TOKEN|[aA][uU][tT][hH]|[sS]ecret|seSSion|[sS]ignature|tenant|TENANT|[uU]ser)";
    string_regex(&"X-([a-z]{1,3}-)?[a-zA-Z]{0,4}{word}[a-zA-Z0-9]{0,4}".replace("{word}", word))
        .expect("a regular expression")
}

#[tokio::test]
async fn an_unknown_credential_header_never_shares_a_body_between_clients() {
    bounded(async {
        let mut runner = runner();
        let origin = Origin::start(|seen| {
            let planted =
                seen.fields.iter().find(|(name, _)| name.to_ascii_lowercase().starts_with("x-")).cloned();
            MockResponse::new(200, &[], planted.map_or("anonymous".to_owned(), |(_, value)| value))
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let mut client = larder.client().await;
        for case in 0..80 {
            let name = sample(&mut runner, credential_name());
            let url = format!("{API}/{case}");
            for round in 0..2 {
                for user in ["ann", "bob", "anonymous", "Ann", "ann,bob"] {
                    let line = format!("{name}: {user}");
                    let fields: &[&str] = if user == "anonymous" { &[] } else { &[&line] };
                    let answer = client.get(&url, fields).await;
                    assert_eq!(answer.text(), user, "{name} in round {round}");
                    assert_eq!(is_hit(&answer), round == 1, "{name}: {}", answer.cache_status());
                }
            }
        }
    })
    .await;
}

/// The identity of a request: all lines of its credential fields.
fn identity(fields: &[(String, String)]) -> String {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            all.entry(name).or_default().push(value);
        }
    }
    format!("{all:?}")
}

const CREDENTIALS: [&str; 6] =
    ["Authorization", "Cookie", "X-Api-Key", "X-Tenant-Id", "X-My-Thing", "Forwarded-User"];

#[tokio::test]
async fn a_scoped_body_is_served_only_to_requests_with_the_same_credentials() {
    bounded(async {
        let mut runner = runner();
        let origin = Origin::start(|seen: &ReceivedRequest| {
            MockResponse::new(200, &["Vary: X-Noise"], identity(&seen.fields))
        })
        .await;
        let yaml = format!("credential_headers: [X-My-Thing]\n{}", route(&["ttl: 1h"]));
        let larder = Larder::start(&origin, &yaml).await;
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..4 {
            clients.push(larder.client().await);
        }
        let mut hits = 0;
        let line = || {
            let name = proptest::sample::select(CREDENTIALS.to_vec());
            let value = proptest::sample::select(vec!["a", "b", "a, b", "ab"]);
            (name, value)
        };
        for n in 0..400 {
            let lines = sample(&mut runner, proptest::collection::vec(line(), 0..3));
            let mut fields: Vec<(String, String)> =
                lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            if n % 3 == 0 {
                fields.push(("X-Noise".to_owned(), (n % 2).to_string()));
            }
            let raw: Vec<String> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            let raw: Vec<&str> = raw.iter().map(String::as_str).collect();
            let answer = clients[n % 4].get(&format!("{API}/x"), &raw).await;
            assert_eq!(answer.text(), identity(&fields), "{raw:?}: {}", answer.cache_status());
            hits += usize::from(is_hit(&answer));
        }
        assert!(hits > 50, "{hits}: the store was used");
    })
    .await;
}
