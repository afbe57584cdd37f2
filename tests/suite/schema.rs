//! The JSON Schema of proxy.yaml: valid, consistent with the configuration that larder accepts, and as
//! strict as a schema can be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use larder::cli::schema::SCHEMA;
use larder::config::{self, diagnostics::WarningKind, env::Env};
use serde_json::Value;

use crate::process::{run_larder, text};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).expect("the schema compiles")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Parses YAML as an editor does.
fn json(yaml: &str) -> Result<Value, String> {
    serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
}

fn fixtures(kind: &str, ending: &str) -> Vec<PathBuf> {
    let folder = repository().join("tests/fixtures/config").join(kind);
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    let paths = entries.map(|entry| entry.expect("they can be listed").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == ending)).collect();
    paths.sort();
    paths
}

/// Complete configurations for widely used APIs.
fn presets() -> Vec<PathBuf> {
    ["coinmarketcap", "discord", "github"]
        .map(|name| repository().join(format!("docs/presets/{name}.yaml")))
        .into()
}

/// Every shipped configuration.
fn all_presets() -> Vec<PathBuf> {
    let names = larder::cli::presets::ALL.iter().map(|preset| preset.name);
    names.map(|name| repository().join(format!("docs/presets/{name}.yaml"))).collect()
}

/// The YAML blocks of a page.
fn blocks(page: &str) -> Vec<&str> {
    let after = page.split("\n```yaml\n").skip(1);
    after.filter_map(|rest| rest.split("\n```").next()).collect()
}

/// The errors that the schema reports for a configuration.
fn schema_errors(validator: &Validator, yaml: &str) -> Vec<String> {
    let value = json(yaml).expect("it is YAML");
    let message = |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(&value).map(message).collect()
}

#[test]
fn the_schema_is_valid_and_declares_its_dialect() {
    assert!(jsonschema::meta::is_valid(&schema()));
    assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[tokio::test]
async fn larder_schema_prints_the_schema() {
    let output = run_larder(&["schema"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), SCHEMA));
}

#[test]
fn the_schema_accepts_every_example_that_larder_accepts() {
    let validator = validator();
    let mut all: Vec<(String, String)> = fixtures("good", "yaml")
        .into_iter()
        .chain([repository().join("proxy.yaml")])
        .chain(all_presets())
        .map(|path| (path.display().to_string(), fs::read_to_string(path).expect("it is text")))
        .collect();
    for page in ["README.md", "docs/operations.md"] {
        let text = fs::read_to_string(repository().join(page)).expect("the page is there");
        all.extend(blocks(&text).into_iter().map(|block| (page.to_owned(), block.to_owned())));
    }
    assert!(all.len() > 10, "only {} configurations", all.len());
    for (name, yaml) in all {
        assert_eq!(schema_errors(&validator, &yaml), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_presets_page_shows_every_preset_and_larder_accepts_them() {
    let page = fs::read_to_string(repository().join("docs/presets.md")).expect("the page is there");
    let blocks = blocks(&page);
    let env: Env = [("DISCORD_TOKEN", "x"), ("CMC_API_KEY", "x")].into_iter().collect();
    assert_eq!(blocks.len(), presets().len());
    for path in presets() {
        let text = fs::read_to_string(&path).expect("the preset is there");
        assert!(blocks.contains(&text.trim_end()), "{} is not what the page shows", path.display());
        let config = config::parse("proxy.yaml", &text, &env).unwrap_or_else(|report| panic!("{report}"));
        let set_aside = |kind: WarningKind| kind == WarningKind::OverridesOrigin;
        assert!(config.warnings.iter().all(|note| set_aside(note.kind)), "{:?}", config.warnings);
    }
}

#[test]
fn proxy_yaml_names_the_schema_for_editors() {
    let yaml = fs::read_to_string(repository().join("proxy.yaml")).unwrap();
    let named = yaml.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=");
    let named = repository().join(named.expect("the first line names it"));
    assert_eq!(fs::read_to_string(named).unwrap(), SCHEMA);
}

/// Unknown keys and values of a wrong type. Only larder checks the rules between keys.
#[test]
fn the_schema_rejects_configurations_of_a_wrong_shape() {
    let validator = validator();
    let by_shape = [
        "is not a known key",
        "is not a map",
        "is a list where one value is expected",
        "is a map where one value is expected",
        "has no value",
        "has no unit",
        "is not known: this larder reads version 1",
        "is not a duration",
        "is not a size",
        "is neither a map nor",
    ];
    let mut refused = 0;
    for path in fixtures("bad", "txt") {
        let report = fs::read_to_string(&path).unwrap();
        if !by_shape.iter().any(|words| report.contains(words)) {
            continue;
        }
        let yaml = fs::read_to_string(path.with_extension("yaml")).unwrap();
        if yaml.contains("${") {
            // A schema cannot see values from the environment.
            continue;
        }
        assert!(!schema_errors(&validator, &yaml).is_empty(), "{}", path.display());
        refused += 1;
    }
    assert!(refused >= 8, "only {refused} fixtures are wrong by their shape");
}

/// A template, the values that are valid in the place of VALUE, and some that are not.
const FORMS: [(&str, &[&str], &[&str]); 33] = [
    (
        "secret_path: VALUE",
        &["\"/bot{token}/**\"", "[\"/a/*/{k}.json\", \"/{a}/{b}\"]", "[]"],
        &[
            "\"bot{token}\"",
            "/a",
            "/a/**",
            "\"/{a}{b}\"",
            "\"/{a}*\"",
            "\"/{}\"",
            "\"/{a\"",
            "\"/{a}?b\"",
            "\"/{a} b\"",
            "\"/**/{a}\"",
            "\"/{a}**\"",
            "{}",
        ],
    ),
    (
        "upstreams: { u: { hosts: [a.example], mount: VALUE } }",
        &[
            "/a",
            "/a/b-c/",
            "{ path: /a }",
            "{ path: /a, to: \"http://a.example\" }",
            "{ path: /a, allow_hosts: host.docker.internal, allow_origins: [\"http://localhost:3000\", \"tauri://localhost\", \"null\"] }",
        ],
        &[
            "a",
            "/",
            "/a//b",
            "/a?b",
            "{ path: /a, allow_hosts: [\"h:1\"] }",
            "{ path: /a, allow_origins: [localhost] }",
            "{ path: /a, allow_origins: [\"http://localhost:3000/\"] }",
            "[/a]",
            "{ to: \"https://a.example\" }",
            "{ path: /a, to: a.example }",
        ],
    ),
    (
        "routes: [{ name: a, match: { host: a }, targeted_cache_control: VALUE }]",
        &["CDN-Cache-Control", "[X-Cache-Control, cdn-cache-control]", "[]"],
        &["Cache-Control", "Surrogate-Control", "CDN-Cache-Control-X", "{}"],
    ),
    (
        "limits: { idle: VALUE }",
        &["30s", "1h 30m", "250ms", "2 weeks", "1.5h", "\"5m\"", " 1d "],
        &["5", "5M", "soon", "-5s", "1y", "3months", "[30s]", "{}", "\"\""],
    ),
    (
        "limits: { in_flight: VALUE }",
        &["64MiB", "100MB", "1 GiB", "16777216B"],
        &["64", "64M", "1.5GiB", "lots", "64mib"],
    ),
    (
        "listen: VALUE",
        &["127.0.0.1:8080", "\"[::1]:0\"", "[127.0.0.1:1, 127.0.0.1:2]"],
        &["8080", "localhost:8080", "127.0.0.1", "\"::1:80\"", "[]"],
    ),
    (
        "admin: VALUE",
        &["off", "{ allow: 10.0.0.0/8 }", "{ allow: [10.0.0.1, \"fd00::/8\"] }"],
        &["on", "[]", "{ allow: everybody }", "{ token: x }"],
    ),
    (
        "tls: { ca: { constrain: VALUE } }",
        &["example.com", "[internal, 10.0.0.0/8, \"::1\"]", "[]"],
        &["\"*.example.com\"", ".example.com", "a:443", "\"*\"", "{}"],
    ),
    (
        "tls: { passthrough: VALUE }",
        &["pinned.example", "[\"*.example\", \"a:8443\"]", "\"*\"", "[]"],
        &["https://a.example", "a.example/path", "{}"],
    ),
    ("store: { disk: VALUE }", &["off", "2GiB"], &["on", "none", "2"]),
    ("log: { level: VALUE }", &["debug"], &["verbose", "[info]"]),
    ("defaults: { mode: VALUE }", &["cache", "bypass", "offline"], &["off", "Cache"]),
    ("defaults: { scope: VALUE }", &["credential", "{ header: X-U }"], &["shared", "{}"]),
    ("routes: VALUE", &["[]"], &["{}", "x", "[{ name: a }]", "[{ match: { host: a } }]"]),
    (
        "routes: [{ name: a, match: { host: a }, ttl: VALUE }]",
        &["30m", "forever", "origin", "{ fallback: 1m }", "{ min: 1m, max: 1h }", "{ max: 1h }"],
        &["never", "{}", "{ fallback: 1m, max: 1h }", "[1m]", "30"],
    ),
    (
        "routes: [{ name: a, match: { host: a }, stale_if_error: { on: VALUE } }]",
        &["[429, 5xx, connect, timeout]", "503", "[breaker, budget]"],
        &["[200]", "[2xx]", "broken"],
    ),
    (
        "defaults: { retry: VALUE }",
        &["off", "false", "{}", "{ on: [429, 5xx, timeout] }", "{ methods: PUT }"],
        &["on", "3", "[]", "{ on: breaker }", "{ on: 200 }", "{ methods: get }"],
    ),
    ("defaults: { retry: { retries: VALUE } }", &["0", "10", "\"3\""], &["11", "-1", "1.5", "off"]),
    (
        "defaults: { retry: { backoff: { jitter: VALUE } } }",
        &["0", "0.2", "20%", "2.5 %", "1", "\"1.0\""],
        &["1.5", "20", "101%", "-0.1", "some"],
    ),
    (
        "defaults: { ttl_jitter: VALUE }",
        &["0", "0.1", "10%", "0.5", "50%", "\"50.0 %\"", "2.5%"],
        &["0.51", "51%", "1", "10", "5m", "-0.1", "50.1%"],
    ),
    (
        "routes: [{ name: a, match: { host: a }, ttl_by_status: VALUE }]",
        &["{ 404: 5m }", "{ 5xx: 1s }"],
        &["{ 4x: 1m }", "{ 404: 5 }", "404"],
    ),
    (
        "upstreams: { u: { hosts: VALUE } }",
        &["a.example", "[\"*.example\", \"https://b.example\"]"],
        &["[]", "http://a.example", "a.example/path"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], rate_limit: { limit: VALUE } } }",
        &["30/m", "50/s", "10000/10m", "5 / d"],
        &["30", "0/m", "m/30", "-1/s", "[30/m]", "30/s/s", "30/"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], rate_limit: VALUE } }",
        &["{ learn: true, max_wait: 0s }", "{ in_flight: 1 }"],
        &["30/m", "{ learn: perhaps }", "{ in_flight: 0 }", "{ max_wait: 2 }"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], ban_guard: VALUE } }",
        &["{}", "{ statuses: [403, 4xx], trip_at: 90% }", "{ limit: 100/h }"],
        &["10", "{ statuses: [] }", "{ statuses: 200 }", "{ trip_at: 0 }", "{ trip_at: 2 }"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], breaker: VALUE } }",
        &["{}", "{ failures: 1, within: 1m, open_for: 10s }"],
        &["5", "{ failures: 0 }", "{ within: 5 }"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], success: { json: VALUE } } }",
        &["{ $.a: 0 }", "{ \"$['a'].b\": [0, \"0\", true, null, 1.5] }", "{}"],
        &["{ a.b: 0 }", "{ $.a: [] }", "{ $.a: [[0]] }", "{ $.a: {} }", "[0]"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], errors: VALUE } }",
        &[
            "[]",
            "[{ status: 403, class: auth }]",
            "[{ json: { $.a: 7 }, class: quota, hold: until-utc-month }, { status: [4xx], class: \
             minute, hold: 30s }]",
            "[{ status: 200, json: { $.a: 7 }, class: server }]",
        ],
        &[
            "{ status: 403, class: auth }",
            "[{ class: auth }]",
            "[{ status: 403 }]",
            "[{ status: 403, class: day }]",
            "[{ status: 4x, class: auth }]",
            "[{ status: 403, class: auth, hold: until-midnight }]",
        ],
    ),
    (
        "upstreams: { u: { hosts: [a.example], cost: VALUE } }",
        &[
            "{}",
            "{ currency: USD, per_credit: 0.00167, not_modified: true }",
            "{ credits: $.status.credit_count }",
            "{ credits: { header: X-Credits } }",
            "{ credits: 0.5, budget: { credits: 10000/month, warn_at: 80%, at_limit: warn } }",
        ],
        &[
            "{ currency: USD }",
            "{ per_credit: 0.1 }",
            "{ credits: 0 }",
            "{ credits: status.credit_count }",
            "{ credits: {} }",
            "{ budget: {} }",
            "{ budget: { credits: 10000 } }",
            "{ budget: { credits: 5/year } }",
            "{ budget: { credits: 5/day, at_limit: stop } }",
        ],
    ),
    (
        "upstreams: { u: { hosts: [a.example], credential: VALUE } }",
        &[],
        &[
            "{ header: X-Key }",
            "{ from_env: A }",
            "{ header: X-Key, from_env: A, file: b }",
            "{ header: \"X Key\", from_env: A }",
            "{ header: X-Key, from_env: A-B }",
            "{ header: X-Key, from_env: A, allow_origins: [localhost] }",
            "key",
        ],
    ),
    (
        "proxy: VALUE",
        &["off", "none", "http://h:1", "h", "\"https://u:p%40@[::1]/\"", "SOCKS5h://h.example:1080"],
        &["ftp://h", "\"http://h/path\"", "\"http://\"", "\"http://a b\"", "socks4://h:1", "{ a: b }"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], cost: { budget: { credits: 5/day, warn_at: VALUE } } } }",
        &["0.8", "100%", "1"],
        &["0", "\"0%\"", "1.1", "80"],
    ),
    (
        "upstreams: { u: { hosts: [a.example], timeouts: { first_byte: VALUE } } }",
        &["30s", "off", "{ soft: 30s }"],
        &["soft", "30", "{ soft: off }", "{}"],
    ),
];

/// Single values: larder and the schema reject the same ones.
#[test]
fn larder_and_the_schema_accept_the_same_values() {
    let validator = validator();
    for (template, right, wrong_ones) in FORMS {
        for (values, valid) in [(right, true), (wrong_ones, false)] {
            for value in values {
                let yaml = format!("version: 1\n{}\n", template.replace("VALUE", value));
                let read = config::parse("proxy.yaml", &yaml, &Env::default());
                assert_eq!(read.is_ok(), valid, "larder: {yaml}");
                assert_eq!(schema_errors(&validator, &yaml).is_empty(), valid, "the schema: {yaml}");
            }
        }
    }
}

/// Each closed object of the schema and its place in a file; KEY stands for one of its keys.
const SECTIONS: [(&str, &str); 42] = [
    ("", "KEY: x"),
    ("/properties/access", "access: { KEY: x }"),
    ("/properties/admin/anyOf/2", "admin: { KEY: x }"),
    ("/properties/destinations", "destinations: { KEY: x }"),
    ("/properties/limits", "limits: { KEY: x }"),
    ("/properties/log", "log: { KEY: x }"),
    ("/properties/tls", "tls: { KEY: x }"),
    ("/properties/tls/properties/ca", "tls: { ca: { KEY: x } }"),
    ("/properties/store", "store: { KEY: x }"),
    ("/properties/scope_secret", "scope_secret: { KEY: x }"),
    ("/properties/defaults", "defaults: { KEY: x }"),
    ("/$defs/upstream", "upstreams: { u: { KEY: x } }"),
    ("/$defs/upstream/properties/mount/anyOf/1", "upstreams: { u: { hosts: [h], mount: { KEY: x } } }"),
    ("/$defs/timeouts", "upstreams: { u: { timeouts: { KEY: x } } }"),
    ("/$defs/timeouts", "routes: [{ timeouts: { KEY: x } }]"),
    ("/$defs/deadline/anyOf/2", "upstreams: { u: { timeouts: { total: { KEY: x } } } }"),
    ("/$defs/upstream/properties/tls", "upstreams: { u: { tls: { KEY: x } } }"),
    (
        "/$defs/upstream/properties/tls/properties/client_cert",
        "upstreams: { u: { tls: { client_cert: { KEY: x } } } }",
    ),
    ("/$defs/upstream/properties/credential", "upstreams: { u: { hosts: [h], credential: { KEY: x } } }"),
    ("/$defs/upstream/properties/success", "upstreams: { u: { success: { KEY: x } } }"),
    ("/$defs/upstream/properties/errors/items", "upstreams: { u: { errors: [{ KEY: x }] } }"),
    ("/$defs/upstream/properties/rate_limit", "upstreams: { u: { rate_limit: { KEY: x } } }"),
    ("/$defs/upstream/properties/ban_guard", "upstreams: { u: { ban_guard: { KEY: x } } }"),
    ("/$defs/upstream/properties/breaker", "upstreams: { u: { breaker: { KEY: x } } }"),
    ("/$defs/upstream/properties/cost", "upstreams: { u: { cost: { KEY: x } } }"),
    (
        "/$defs/upstream/properties/cost/properties/credits/anyOf/3",
        "upstreams: { u: { cost: { credits: { KEY: x } } } }",
    ),
    (
        "/$defs/upstream/properties/cost/properties/budget",
        "upstreams: { u: { cost: { budget: { KEY: x } } } }",
    ),
    ("/$defs/route", "routes: [{ KEY: x }]"),
    ("/$defs/route/properties/key", "routes: [{ key: { KEY: x } }]"),
    ("/$defs/route/properties/key/properties/query", "routes: [{ key: { query: { KEY: x } } }]"),
    ("/$defs/match", "routes: [{ match: { KEY: x } }]"),
    ("/$defs/ttl/anyOf/2", "routes: [{ ttl: { KEY: x } }]"),
    ("/$defs/scopeByField", "routes: [{ scope: { KEY: x } }]"),
    ("/$defs/scopeByField", "defaults: { scope: { KEY: x } }"),
    ("/$defs/coalesce", "routes: [{ coalesce: { KEY: x } }]"),
    ("/$defs/coalesce", "defaults: { coalesce: { KEY: x } }"),
    ("/$defs/staleIfError", "routes: [{ stale_if_error: { KEY: x } }]"),
    ("/$defs/staleIfError", "defaults: { stale_if_error: { KEY: x } }"),
    ("/$defs/retry/anyOf/2", "routes: [{ retry: { KEY: x } }]"),
    ("/$defs/retry/anyOf/2", "defaults: { retry: { KEY: x } }"),
    ("/$defs/retry/anyOf/2/properties/backoff", "routes: [{ retry: { backoff: { KEY: x } } }]"),
    ("/$defs/retry/anyOf/2/properties/backoff", "defaults: { retry: { backoff: { KEY: x } } }"),
];

/// Similar to no key, so that larder suggests none in its place.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

/// The keys that larder lists as known when it rejects an unknown one.
fn known_to_larder(template: &str) -> BTreeSet<String> {
    let yaml = format!("version: 1\n{}\n", template.replace("KEY", UNKNOWN));
    let report = config::parse("proxy.yaml", &yaml, &Env::default()).expect_err("an unknown key");
    let problem = report.problems().iter().find(|problem| problem.path.ends_with(UNKNOWN));
    let problem = problem.unwrap_or_else(|| panic!("{template}: {report}"));
    let known = problem.fix.strip_prefix("known here: ").expect("it lists the known keys");
    known.split(", ").map(str::to_owned).collect()
}

fn known_to_the_schema(schema: &Value, place: &str) -> BTreeSet<String> {
    let properties = schema.pointer(place).and_then(|section| section["properties"].as_object());
    properties.unwrap_or_else(|| panic!("no section at {place}")).keys().cloned().collect()
}

#[test]
fn the_schema_has_exactly_the_keys_that_larder_accepts() {
    let schema = schema();
    for (place, template) in SECTIONS {
        assert_eq!(known_to_the_schema(&schema, place), known_to_larder(template), "{template}");
    }
}

#[test]
fn every_section_of_the_schema_is_closed_and_compared() {
    fn closed(value: &Value, place: &str, found: &mut BTreeSet<String>) {
        if value["additionalProperties"] == Value::Bool(false) {
            found.insert(place.to_owned());
        } else {
            let open = value["properties"].is_object() && value["type"] == "object";
            assert!(!open, "{place} takes unknown keys");
        }
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(items) => {
                items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return,
        };
        for (name, child) in children {
            closed(child, &format!("{place}/{name}"), found);
        }
    }
    let mut found = BTreeSet::new();
    closed(&schema(), "", &mut found);
    let compared: BTreeSet<_> = SECTIONS.iter().map(|(place, _)| (*place).to_owned()).collect();
    assert_eq!(found, compared);
}

/// proxy.yaml is the reference: it names every key, at least in a comment.
#[test]
fn the_reference_names_every_key_of_the_schema() {
    let reference = fs::read_to_string(repository().join("proxy.yaml")).unwrap();
    let schema = schema();
    for (place, _) in SECTIONS {
        for key in known_to_the_schema(&schema, place) {
            assert!(reference.contains(&format!("{key}:")), "proxy.yaml does not name {place}/{key}");
        }
    }
}

/// Editors show the description next to the key.
#[test]
fn every_key_has_a_description() {
    let schema = schema();
    for (place, _) in SECTIONS {
        let section = schema.pointer(place).unwrap();
        for (key, value) in section["properties"].as_object().unwrap() {
            let referred = value["$ref"].as_str().and_then(|to| schema.pointer(to.strip_prefix('#')?));
            let described = |value: &Value| value["description"].is_string();
            assert!(described(value) || referred.is_some_and(described), "{place}/{key}");
        }
    }
}
