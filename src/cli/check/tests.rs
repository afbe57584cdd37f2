//! The output of `larder check` for valid, invalid and explained configurations.

use std::io::Write;

use clap::Parser;
use serde_json::Value;

use crate::cli::check::{Args, run};
use crate::cli::{Context, ExitStatus};
use crate::config::env::Env;

const FILE: &str = r#"
version: 1
listen: 127.0.0.1:0
resolve: { api.example: "127.0.0.1:9" }
upstreams: { api: { hosts: ["https://api.example"] } }
secret_query: [auth_code]
routes:
  - name: coins
    match: { host: api.example, path: "/v1/{coin}" }
    ttl: 30m
    ttl_by_status: { 404: 5m }
  - name: shadowed
    match: { host: api.example, path: /v1/btc }
    scope: shared
"#;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    check: Args,
}

struct Output {
    exit: ExitStatus,
    out: String,
    err: String,
}

/// Runs `larder check FILE ARGUMENTS`.
fn check(text: &str, arguments: &[&str]) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let line = ["check", path].into_iter().chain(arguments.iter().copied());
    let args = CommandLine::try_parse_from(line).unwrap().check;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut context = Context { env: Env::default(), out: &mut out, err: &mut err };
    let exit = run(&args, &mut context);
    Output { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

#[test]
fn a_url_below_a_mount_is_explained_as_the_url_it_is_rewritten_to() {
    let text = FILE
        .replace("127.0.0.1:0", "127.0.0.1:8080")
        .replace(r#"hosts: ["https://api.example"]"#, r#"hosts: ["https://api.example"], mount: /coins"#);
    let url = "http://localhost:8080/coins/v1/btc";
    let output = check(&text, &["--explain", "GET", url]);
    assert_eq!((output.exit, output.err.as_str()), (ExitStatus::Ok, ""));
    for words in ["sent as       https://api.example/v1/btc", "route         coins"] {
        assert!(output.out.contains(words), "{words}: {}", output.out);
    }
    let output = check(&text, &["--explain", "GET", "http://localhost:8080/v1/btc"]);
    assert!(output.out.contains("route         none") && !output.out.contains("sent as"));
}

#[test]
fn a_valid_file_is_described_as_text() {
    let output = check(FILE, &[]);
    assert_eq!((output.exit, output.err.as_str()), (ExitStatus::Ok, ""));
    for words in [
        "is valid: 2 routes",
        "coins  GET api.example/v1/{coin}",
        "for 30m, regardless of the origin; 404 for 5m",
        "24h in place of 429, 5xx, connect, timeout, an open breaker, a spent budget",
        "shared by all clients",
        "api.example is reached at 127.0.0.1:9",
        "api: https://api.example",
        "Notes:",
        "routes[coins].ttl: the origin's Cache-Control, Expires and Pragma are ignored",
        "routes[shadowed]: never matches: the earlier route `coins`",
    ] {
        assert!(output.out.contains(words), "{words}\n{}", output.out);
    }
}

#[test]
fn an_invalid_file_exits_3_with_the_report() {
    let output = check("version: 1\nlisten: 0.0.0.0:1\nlimts: {}\n", &[]);
    assert_eq!((output.exit, output.out.as_str()), (ExitStatus::Invalid, ""));
    assert!(output.err.contains(":2:9: listen: would be an open proxy"), "{}", output.err);
    assert!(output.err.contains("2 problems"), "{}", output.err);
}

#[test]
fn an_invalid_file_is_reported_as_json() {
    let output = check("version: 1\nlimts: {}\n", &["--json"]);
    assert_eq!(output.exit, ExitStatus::Invalid);
    let value: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(value["valid"], false);
    assert_eq!(value["problems"][0]["line"], 2);
    assert_eq!(value["problems"][0]["path"], "limts");
    assert_eq!(value["problems"][0]["fix"], "did you mean `limits`?");
}

#[test]
fn a_valid_file_is_described_as_json() {
    let output = check(FILE, &["--json"]);
    let value: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(output.exit, ExitStatus::Ok);
    assert_eq!(value["routes"][0]["name"], "coins");
    assert_eq!(value["routes"][1]["scope"], "shared by all clients");
    assert_eq!(value["notes"][0]["kind"], "origin-set-aside");
    assert_eq!(value["notes"][1]["kind"], "shadowed-route");
}

#[test]
fn an_explained_request_names_its_route_and_hides_its_secrets() {
    let url = "http://api.example/v1/eth?auth_code=s3cret&b=2";
    let fields = ["-H", "Authorization: Bearer s3cret", "-H", "x-fancy-token:s3cret"];
    for json in [&[] as &[&str], &["--json"]] {
        let request = ["--explain", "GET", url];
        let line: Vec<_> = request.iter().chain(&fields).chain(json).copied().collect();
        let output = check(FILE, &line);
        assert_eq!(output.exit, ExitStatus::Ok, "{}", output.err);
        assert!(!output.out.contains("s3cret"), "{}", output.out);
        for shown in ["coins", "auth_code=(secret)&b=2", "credential by authorization, x-fancy-token"] {
            assert!(output.out.contains(shown), "{shown}\n{}", output.out);
        }
    }
}

#[test]
fn a_request_that_is_not_cached_is_explained_with_a_note() {
    let explain = |method, url| check(FILE, &["--explain", method, url]).out;
    assert!(explain("GET", "http://other.example/").contains("no route matches"));
    assert!(explain("POST", "http://api.example/v1/eth").contains("of this URL unusable"));
    assert!(explain("GET", "https://api.example/v1/eth").contains("is intercepted"));
    assert!(explain("GET", "https://other.example/").contains("as a tunnel"));
    assert!(!explain("HEAD", "http://api.example/v1/eth").contains("note"));
}

const TREATED: &str = r#"
version: 1
defaults: { stale_if_error: { cooldown: 0s, max_cooldown: 5m } }
upstreams:
  api:
    hosts: ["https://api.example"]
    success: { json: { "$.code": [0, "0"] } }
    errors: [{ json: { "$.code": 7 }, class: quota, hold: until-utc-midnight }, { status: 403, class: auth }]
    rate_limit: { limit: 30/m, learn: true }
    ban_guard: {}
    breaker: {}
    cost: { currency: USD, per_credit: 0.5, budget: { credits: 333/day, at_limit: refuse } }
routes:
  - name: writes
    match: { host: api.example, method: [POST, PUT] }
    retry: { retries: 6, methods: [PUT], on: [5xx], backoff: { jitter: 0 } }
"#;

#[test]
fn upstream_policies_are_described_for_a_file_and_for_a_request() {
    let retry = "PUT: 6 times after 5xx; waits as Retry-After specifies, else 1s, 2s, 4s, …, 30s, 15s in all";
    let upstream = [
        "$.code is 0 or \"0\"",
        "$.code is 7: quota, cooldown until the day ends (UTC)",
        "403: auth",
        "up to 30/m, and as its responses specify; each waits up to 2s; 256 in flight",
        "no more calls at 80% of 10000/10m responses 401, 403, 429",
        "open for 30s after 5 failures within 30s",
        "credits 1 for each call, 0.5 USD each; a 304 is free",
        "333 credits a day (UTC), a warning from 80% on, then calls are refused",
    ];
    let whole = check(TREATED, &[]).out;
    let put = check(TREATED, &["--explain", "PUT", "http://api.example/a"]).out;
    for words in upstream.iter().chain(&[retry, "as Retry-After specifies, up to 5m"]) {
        assert!(whole.contains(words), "{words}\n{whole}");
        assert!(put.contains(words), "{words}\n{put}");
    }
    let post = check(TREATED, &["--explain", "POST", "http://api.example/a"]).out;
    assert!(post.contains("never for POST"), "{post}");
    let unrouted = check(TREATED, &["--explain", "GET", "http://api.example/a", "--json"]).out;
    let unrouted: Value = serde_json::from_str(&unrouted).unwrap();
    assert_eq!(unrouted["upstream"], "api");
    assert_eq!(unrouted["upstream_policy"]["cooldown"], "as Retry-After specifies, up to 5m");
    let rules = "$.code is 7: quota, cooldown until the day ends (UTC); 403: auth";
    assert_eq!(unrouted["upstream_policy"]["errors"], rules);
}

#[test]
fn invalid_arguments_exit_2() {
    for request in [
        ["--explain", "get", "http://a/"],
        ["--explain", "GET", "ftp://a/"],
        ["--explain", "GET", "a"],
        ["--explain", "", "http://a/"],
    ] {
        assert_eq!(check(FILE, &request).exit, ExitStatus::Usage, "{request:?}");
    }
    let output = check(FILE, &["--explain", "GET", "http://a/", "-H", "s3cret without a colon"]);
    assert_eq!(output.exit, ExitStatus::Usage);
    assert!(!output.err.contains("s3cret"), "{}", output.err);
}

#[test]
fn adjacent_routes_with_one_policy_are_described_once() {
    let route = |(name, ttl)| format!("{{ name: {name}, match: {{ host: {name}.example }}, ttl: {ttl} }}");
    let routes = [("a", "30m"), ("bb", "30m"), ("c", "1m"), ("d", "30m")].map(route).join(", ");
    let text = format!("version: 1\nroutes: [{routes}]\n");
    let out = check(&text, &[]).out;
    let block = "\n  a   GET a.example/**\n  bb  GET bb.example/**\n    fresh     for 30m";
    assert!(out.contains(block), "{out}");
    assert!(out.contains("\n  d  GET d.example/**\n    as a\n"), "{out}");
    assert_eq!(out.matches("for 30m, regardless of the origin").count(), 1, "{out}");
    assert_eq!(out.matches("are ignored: `ttl: 30m`").count(), 1, "{out}");
    assert!(out.contains("no-store and private (and at 2 more places)"), "{out}");
    assert!(out.contains("\nNotes:"), "{out}");
}

#[test]
fn the_key_that_allows_stale_responses_is_named_if_none_is_set() {
    let route = "routes: [{ name: r, match: { host: a.example } }]";
    let out = check(&format!("version: 1\n{route}\n"), &[]).out;
    let words =
        "until a 404, 410, 401, 403: only if the origin allows it; add `stale_if_error: { for: 24h }`";
    assert!(out.contains("stale     in place of 429, 5xx") && out.contains(words), "{out}");
}

#[test]
fn a_ttl_of_a_route_for_post_has_no_effect() {
    let route = "routes: [{ name: e, match: { host: a.example, method: POST }, ttl: forever }]";
    let output = check(&format!("version: 1\n{route}\n"), &[]);
    let words = "routes[e].ttl: has no effect: larder cannot keep answers to POST";
    assert!(output.exit == ExitStatus::Invalid && output.err.contains(words), "{}", output.err);
}

#[test]
fn destinations_that_are_denied_are_explained_as_such() {
    let rules = "destinations: { deny: [10.0.0.0/8, '*.bad.example', '127.0.0.1:9'] }";
    let file = format!("version: 1\n{rules}\nresolve: {{ here.example: '127.0.0.1:9' }}\n");
    for (url, denied) in [
        ("http://10.1.2.3/", true),
        ("http://a.bad.example/", true),
        ("http://here.example/", true),
        ("http://169.254.169.254/", true),
        ("http://127.0.0.1:9901/", true),
        ("http://api.example/", false),
        ("http://192.0.2.1:81/", false),
    ] {
        let out = check(&file, &["--explain", "GET", url]).out;
        let words = ["the destination is", "metadata service"];
        assert_eq!(words.iter().any(|words| out.contains(words)), denied, "{url}: {out}");
    }
}
