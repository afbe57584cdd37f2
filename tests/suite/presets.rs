//! Every preset against a fake of its API: responses are stored, refusals in its dialect end calls.

use std::collections::BTreeMap;

use larder::cli::presets;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};
use crate::process::{run_larder, text};

/// A documented response of an API.
#[derive(Debug, Deserialize)]
struct Documented {
    dialect: String,
    status: u16,
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    class: String,
}

impl Documented {
    fn response(&self) -> MockResponse {
        let mut fields: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        fields.push("Content-Type: application/json".to_owned());
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let body = self.body.as_ref().map(ToString::to_string).unwrap_or_default();
        MockResponse::new(self.status, &fields, &body)
    }
}

fn documented() -> Vec<Documented> {
    serde_json::from_str(include_str!("../fixtures/dialects.json")).expect("rows")
}

/// A path that a route of the preset stores, on a host of it.
const PATHS: [(&str, &str, &str); 15] = [
    ("anthropic", "api.anthropic.com", "/v1/models"),
    ("coinmarketcap", "pro-api.coinmarketcap.com", "/v1/cryptocurrency/quotes/latest?id=1"),
    ("discord", "discord.com", "/api/v10/guilds/1/roles"),
    ("gemini", "generativelanguage.googleapis.com", "/v1beta/models"),
    ("github", "api.github.com", "/repos/a/b"),
    ("google-maps", "maps.googleapis.com", "/maps/api/geocode/json?address=a&key=k"),
    ("hubspot", "api.hubapi.com", "/crm/v3/objects/contacts/1"),
    ("jira", "a.atlassian.net", "/rest/api/3/issue/A-1"),
    ("notion", "api.notion.com", "/v1/pages/1"),
    ("openai", "api.openai.com", "/v1/models"),
    ("openweather", "api.openweathermap.org", "/data/2.5/weather?id=1&appid=k"),
    ("salesforce", "a.my.salesforce.com", "/services/data/v60.0/sobjects/Account/1"),
    ("shopify", "a.myshopify.com", "/admin/api/2026-01/products/1.json"),
    ("slack", "slack.com", "/api/users.list"),
    ("stripe", "api.stripe.com", "/v1/products/1"),
];

/// The preset with plain HTTP, its host at the fake, without a secret and without retries.
fn yaml(name: &str, host: &str, origin: &Origin) -> String {
    let preset = presets::ALL.iter().find(|preset| preset.name == name).expect(name);
    let mut text = preset.text.replace("[\"https://", "[\"");
    // A call waits for the end of a short cooldown, which the test's clock does not reach.
    for block in ["version:", "tls:", "defaults:", "    credential:", "    retry:", "      max_wait:"] {
        text = without(&text, block);
    }
    let text = text.replace("    rate_limit:\n", "    rate_limit:\n      max_wait: 0s\n");
    let text = text.replace("max_wait: 2s", "max_wait: 0s").replace("max_wait: 5s", "max_wait: 0s");
    format!("resolve: {{ {host}: \"{}\" }}\n{text}\n", origin.addr)
}

/// The text without the line that begins so and the lines indented below it.
fn without(text: &str, block: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let (mut inside, mut kept) = (false, String::new());
    for line in text.lines() {
        inside = line.starts_with(block) || inside && indent(line) > indent(block);
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

async fn get(larder: &Larder, host: &str, path: &str) -> crate::client::Response {
    let mut client = Client::connect(larder.addr()).await;
    client.get(&format!("http://{host}{path}"), &["Authorization: Bearer k"]).await
}

/// A success that every API could send, with the codes that some require.
fn success() -> MockResponse {
    let body = "{\"ok\":true,\"status\":{\"error_code\":0,\"credit_count\":1}}";
    MockResponse::new(200, &["Content-Type: application/json", "Cache-Control: max-age=60"], body)
}

#[tokio::test]
async fn each_preset_stores_its_reads_and_hears_a_refusal_of_its_api() {
    bounded(async {
        for (name, host, path) in PATHS {
            let origin = Origin::always(success()).await;
            let larder = Larder::bare(&yaml(name, host, &origin)).await;
            let first = get(&larder, host, path).await;
            assert_eq!(first.status, 200, "{name}");
            let again = get(&larder, host, path).await;
            assert!(again.cache_status().contains("hit"), "{name}: {}", again.cache_status());
            assert_eq!(origin.calls(), 1, "{name}");
        }
        for row in documented().iter().filter(|row| ["rate-limited", "quota"].contains(&row.class.as_str())) {
            let Some((name, host, path)) = PATHS.iter().find(|(name, ..)| *name == row.dialect) else {
                continue;
            };
            let origin = Origin::always(row.response()).await;
            let larder = Larder::bare(&yaml(name, host, &origin)).await;
            get(&larder, host, path).await;
            let refused = get(&larder, host, path).await;
            let status = refused.cache_status();
            assert!(status.contains("replayed/") || status.contains("refused/"), "{name}: {status} {row:?}");
            assert_eq!(origin.calls(), 1, "{name}: {row:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_commands_list_print_and_write_presets() {
    let listed = run_larder(&["presets"]).await;
    let listed = text(&listed.stdout);
    assert!(listed.lines().count() == presets::ALL.len() && listed.contains("openai "), "{listed}");
    let json: Value = serde_json::from_str(&text(&run_larder(&["presets", "--json"]).await.stdout)).unwrap();
    assert_eq!(json["presets"].as_array().map(Vec::len), Some(presets::ALL.len()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let file = file.to_str().unwrap();
    let written = run_larder(&["init", "openai", "stripe", "--config", file]).await;
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let checked = run_larder(&["check", file]).await;
    let checked = text(&checked.stdout);
    assert!(checked.contains("api.openai.com") && checked.contains("api.stripe.com"), "{checked}");
    assert_eq!(run_larder(&["init", "notion", "--config", file]).await.status.code(), Some(1));
}
