//! Secrets in URLs: the origin and the client receive them, but larder neither stores nor shows them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::time::timeout;

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, TIMEOUT, run_larder, text};
use crate::store::files_below;

/// Query parameters in which APIs take their keys.
const NAMES: [&str; 12] = [
    "CMC_PRO_API_KEY",
    "x_cg_pro_api_key",
    "private_token",
    "client_secret",
    "refresh_token",
    "accessToken",
    "X-Amz-Signature",
    "subscription-key",
    "appid",
    "hapikey",
    "jwt",
    "code",
];

const BOT: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";
const HOOK: &str = "T024BE7LD/B024BE7LH/X7kQ2pVd9sLm3RtYw8ZcNa5u";
const LOCATION: &str = "https://files.example.test/a?access_token=L0cationT0ken77aa31";

/// A larder process with a disk store and a log of everything.
struct LoggedLarder {
    process: Process,
    config_dir: ConfigDir,
    store: tempfile::TempDir,
    addr: SocketAddr,
    admin: String,
}

impl LoggedLarder {
    async fn start(origin: &Origin, more: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let (process, config_dir) = Process::run(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             log: {{ level: trace }}\nresolve: {{ api.example.test: \"{}\" }}\n\
             store: {{ path: \"{}\" }}\n{more}{}",
            origin.addr,
            store.path().join("store").display(),
            route(&["ttl: 30m", "ttl_by_status: { 302: 30m }"]),
        ))
        .await;
        let (addr, admin) = (process.addr().await, process.admin().await.to_string());
        Self { process, config_dir, store, addr, admin }
    }

    async fn get(&self, path: &str) -> Response {
        Client::connect(self.addr).await.get(&format!("{API}{path}"), &[]).await
    }

    /// Runs a verb of the CLI against this larder and returns its output.
    async fn verb(&self, arguments: &[&str]) -> String {
        let admin = ["--admin", self.admin.as_str()];
        let output = run_larder(&[arguments, &admin].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn entries(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.verb(&["ls", "--json"]).await).unwrap();
        list["entries"].as_array().unwrap().clone()
    }

    /// Everything that this larder wrote or shows: entries with their fields, metrics, the log, all files.
    async fn traces(mut self, urls: &[&str]) -> String {
        let mut all = self.verb(&["ls", "--json"]).await;
        for url in urls {
            all.push_str(&self.verb(&["inspect", url]).await);
            all.push_str(&self.verb(&["purge", "--dry-run", url]).await);
        }
        let mut client = Client::connect(self.admin.parse().unwrap()).await;
        client.send("GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
        all.push_str(&text(&timeout(TIMEOUT, client.read_to_end()).await.unwrap()));
        self.process.signal("TERM");
        assert!(self.process.wait_for_exit().await.success());
        all.push_str(&self.process.err.text());
        for file in files_below(self.store.path()) {
            all.push_str(&String::from_utf8_lossy(&fs::read(file).unwrap()));
        }
        all
    }
}

/// The output of `check --explain` for a `GET`.
async fn explained(config: &Path, url: &str) -> String {
    let config = config.to_str().unwrap();
    let output = run_larder(&["check", config, "--explain", "GET", url]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn secret(name: &str) -> String {
    format!("S3cr3t{}9f31", name.replace(['_', '-'], ""))
}

/// Whether no call was made for the request: the response was stored, or in flight for another client.
fn is_shared(answer: &Response) -> bool {
    let status = answer.cache_status();
    status.starts_with("larder; hit") || status.contains("; collapsed")
}

async fn echo() -> Origin {
    Origin::start(|seen| MockResponse::new(200, &[], seen.index.to_string())).await
}

#[tokio::test]
async fn secret_parameters_separate_users_and_appear_nowhere_in_clear() {
    bounded(async {
        let origin = echo().await;
        let larder = LoggedLarder::start(&origin, "").await;
        let mut urls = Vec::new();
        for name in NAMES {
            let path = |user: u8| format!("/v1/prices?{name}={}{user}&limit=10", secret(name));
            for (user, hit) in [(1, false), (2, false), (1, true)] {
                assert_eq!(is_shared(&larder.get(&path(user)).await), hit, "{name}");
            }
            urls.push(format!("{API}{}", path(1)));
        }
        assert_eq!(origin.calls(), 2 * NAMES.len());
        assert!(origin.requests().iter().all(|seen| seen.target.contains("S3cr3t")), "as it was sent");
        let entries = larder.entries().await;
        let shown: Vec<_> = entries.iter().filter_map(|entry| entry["url"].as_str()).collect();
        let expected = format!("{API}/v1/prices?x_cg_pro_api_key=(secret)&limit=10");
        assert_eq!(shown.iter().filter(|url| **url == expected).count(), 2, "{shown:?}");
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let traces = larder.traces(&urls).await;
        assert!(
            traces.contains("/v1/prices") && traces.contains("Request completed"),
            "the traces are complete"
        );
        for name in NAMES {
            assert!(!traces.contains(&secret(name)), "{name} appears in clear");
        }
    })
    .await;
}

/// A capability link contains only a short secret; GraphQL over GET has everything in one parameter.
#[tokio::test]
async fn short_links_and_json_members_separate_users_and_stay_masked() {
    bounded(async {
        let origin = echo().await;
        let larder = LoggedLarder::start(&origin, "").await;
        let json = |user: &str| format!("%7B%22id%22%3A7%2C%22token%22%3A%22{user}Tok3n%22%7D");
        let graphql = |user: &str| format!("/graphql?query=q&variables={}", json(user));
        for (path, hit) in [
            ("/share/X7kQ2pVd9sLm3RtY".to_owned(), false),
            ("/share/q8ZcNa5uT2bWx4Ke".to_owned(), false),
            ("/share/X7kQ2pVd9sLm3RtY".to_owned(), true),
            (graphql("ann"), false),
            (graphql("bob"), false),
            (graphql("ann"), true),
        ] {
            assert_eq!(is_shared(&larder.get(&path).await), hit, "{path}");
        }
        let url = format!("{API}{}", graphql("ann"));
        let explained = explained(&larder.config_dir.config, &url).await;
        assert!(explained.contains("%22id%22%3A7%2C%22token%22%3A%22(secret)%22"), "{explained}");
        let link = format!("{API}/share/X7kQ2pVd9sLm3RtY");
        let mut traces = larder.traces(&[url.as_str(), link.as_str()]).await;
        assert!(traces.contains("/share/(secret)") && traces.contains("variables=(secret)"));
        traces.push_str(&explained);
        for secret in ["X7kQ2pVd", "q8ZcNa5u", "annTok3n", "bobTok3n"] {
            assert!(!traces.contains(secret), "{secret} appears in clear");
        }
    })
    .await;
}

#[tokio::test]
async fn secrets_in_paths_and_locations_stay_masked_but_reach_clients() {
    bounded(async {
        let links = [
            format!("Location: {LOCATION}"),
            "Link: </next?cursor=5&api_key=L1nkK3y>; rel=next".to_owned(),
            "Refresh: 5; url=/b?session=R3fr3sh".to_owned(),
            "Content-Location: /c/bot7:C0nt3ntL0cation/x".to_owned(),
        ];
        let origin = Origin::start(move |seen| {
            let fields: Vec<&str> = links.iter().map(String::as_str).collect();
            let redirects = seen.target.contains("getFile");
            MockResponse::new(if redirects { 302 } else { 200 }, if redirects { &fields } else { &[] }, "")
        })
        .await;
        let larder = LoggedLarder::start(&origin, "").await;
        larder.get(&format!("/bot{BOT}/getMe")).await;
        larder.get(&format!("/services/{HOOK}")).await;
        for hit in [false, true] {
            let answer = larder.get("/getFile").await;
            assert_eq!((answer.status, is_shared(&answer)), (302, hit), "{}", answer.cache_status());
            assert_eq!(answer.field("location"), Some(LOCATION), "verbatim");
            assert_eq!(answer.field("refresh"), Some("5; url=/b?session=R3fr3sh"));
        }
        let inspected = larder.verb(&["inspect", &format!("{API}/getFile")]).await;
        for shown in [
            "location: https://files.example.test/a?access_token=(secret)",
            "link: </next?cursor=5&api_key=(secret)>; rel=next",
            "refresh: 5; url=/b?session=(secret)",
            "content-location: /c/bot(secret)/x",
        ] {
            assert!(inspected.contains(shown), "{shown} in {inspected}");
        }
        let (bot, hook) = (format!("{API}/bot{BOT}/getMe"), format!("{API}/services/{HOOK}"));
        let traces = larder.traces(&[bot.as_str(), hook.as_str()]).await;
        assert!(traces.contains("/bot(secret)/getMe"), "the traces are complete");
        for secret in ["AAHdqTcv", "X7kQ2pVd", "L0cationT0ken", "L1nkK3y", "R3fr3sh", "C0nt3nt"] {
            assert!(!traces.contains(secret), "{secret} appears in clear");
        }
    })
    .await;
}

#[tokio::test]
async fn captures_of_secret_path_separate_users_and_stay_masked() {
    bounded(async {
        let origin = echo().await;
        let larder = LoggedLarder::start(&origin, "secret_path: [\"/bot{token}/**\"]\n").await;
        for (word, hit) in [("plainword", false), ("otherword", false), ("plainword", true)] {
            assert_eq!(is_shared(&larder.get(&format!("/bot{word}/getMe")).await), hit, "{word}");
        }
        assert_eq!(origin.calls(), 2);
        let url = format!("{API}/botplainword/getMe");
        let output = larder.verb(&["ls"]).await;
        assert!(output.contains("/bot(secret)/getMe") && output.contains("api"), "{output}");
        let explained = explained(&larder.config_dir.config, &url).await;
        assert!(explained.contains("/bot(secret)/getMe"), "{explained}");
        let mut traces = larder.traces(&[]).await;
        traces.push_str(&explained);
        for word in ["plainword", "otherword"] {
            assert!(!traces.contains(word), "{word} appears in clear");
        }
    })
    .await;
}

#[tokio::test]
async fn a_masked_entry_is_purged_by_its_url_or_by_its_key() {
    bounded(async {
        let origin = echo().await;
        let larder = LoggedLarder::start(&origin, "").await;
        let path = |user: &str| format!("/bot{user}:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe");
        for user in ["1", "2", "3"] {
            larder.get(&path(user)).await;
        }
        let entries = larder.entries().await;
        assert_eq!(entries.len(), 3);
        let url = format!("{API}{}", path("1"));
        let output = larder.verb(&["purge", &url]).await;
        assert!(output.starts_with("purged 1 stored response of "), "{output}");
        let key = larder.entries().await[0]["key"].as_str().unwrap().to_owned();
        let output = larder.verb(&["purge", "--key", &key]).await;
        assert_eq!(output, "purged 1 stored response\n");
        let mut hits = Vec::new();
        for user in ["1", "2", "3"] {
            hits.push(is_shared(&larder.get(&path(user)).await));
        }
        assert_eq!(hits.iter().filter(|hit| **hit).count(), 1, "{hits:?}");
        assert!(!hits[0], "the URL that was purged");
    })
    .await;
}
