//! The messages that a new user or an operator reads first: at the start, in the log, after a command.

use std::path::Path;

use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Client;
use crate::larder_under_test::API;
use crate::origin::{MockResponse, Origin};
use crate::process::{Process, TIMEOUT, program, text};

/// A configuration on free ports, with `api.example.test` resolved to `origin`.
fn yaml(origin: &Origin, rest: &str) -> String {
    format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         tls: {{ ca: {{ constrain: [api.example.test] }} }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n{rest}",
        origin.addr
    )
}

/// Runs a command in `directory`, without variables that select a larder or a home directory.
async fn larder_in(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(directory).kill_on_drop(true);
    for name in ["LARDER_ADMIN", "LARDER_ADMIN_TOKEN", "HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    let output = timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it starts");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A port that is free now: `larder env` has to read it from the configuration.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn run_prints_how_to_start_an_app_so_that_https_is_included() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (larder, files) = Process::run(&yaml(&origin, "")).await;
    let config = files.config.display();
    let expected = format!(
        "your app:  larder exec --config {config} -- CMD   or   eval \"$(larder env --config {config})\""
    );
    assert_eq!(larder.out.wait_for_line("your app").await, expected);
    assert!(!larder.out.text().contains("export"), "{}", larder.out.text());
}

/// The first example of the README, with the usual limit of open files.
#[tokio::test]
async fn documented_use_starts_without_a_warning() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let route = "routes:\n  - { name: api, match: { host: api.example.test }, scope: shared, ttl: 30m, \
                 stale_while_revalidate: 10m, stale_if_error: { for: 24h } }\n";
    let (mut larder, _files) = Process::run_with_ulimit("-n 1024", &yaml(&origin, route)).await;
    larder.err.wait_for_line("Serving config").await;
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let log = larder.err.text();
    assert!(!log.contains("WARN") && !log.contains("fewer clients"), "{log}");
}

#[tokio::test]
async fn a_failed_call_is_logged_with_its_host_and_its_cause() {
    let origin = Origin::always(MockResponse::closed()).await;
    let rest = "defaults: { retry: off }\n";
    let (mut larder, _files) = Process::run(&yaml(&origin, rest)).await;
    let addr = larder.addr().await;
    for url in ["http://no-such.invalid/x", API] {
        assert_eq!(Client::connect(addr).await.get(url, &[]).await.status, 502);
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let log = larder.err.text();
    let line = |host: &str| log.lines().find(|line| line.contains(host)).unwrap_or_else(|| panic!("{log}"));
    assert!(line("host=no-such.invalid").contains("error=dns"), "{log}");
    assert!(line("host=api.example.test").contains("error=closed"), "{log}");
}

#[tokio::test]
async fn a_long_cooldown_after_a_429_is_one_warning() {
    let origin = Origin::always(MockResponse::new(429, &["Retry-After: 120"], "slow down")).await;
    let route = "routes:\n  - { name: api, match: { host: api.example.test } }\n";
    let (mut larder, _files) = Process::run(&yaml(&origin, route)).await;
    let addr = larder.addr().await;
    for path in ["/a", "/b"] {
        assert_eq!(Client::connect(addr).await.get(&format!("{API}{path}"), &[]).await.status, 429);
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let log = larder.err.text();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("The origin limits calls")).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN"), "{log}");
    assert!(lines[0].contains("host=api.example.test") && lines[0].contains("seconds=120"), "{log}");
}

/// `HTTPS_PROXY=https://…` and `ALL_PROXY=socks5://…`: such clients cannot read a response, so the log has to
/// name the mistake.
#[tokio::test]
async fn tls_and_socks_at_the_proxy_port_are_named_in_the_log() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (larder, _files) = Process::run(&yaml(&origin, "")).await;
    let addr = larder.addr().await;
    for (bytes, class) in [(&b"\x16\x03\x01\x02\x00\x01"[..], "tls"), (b"\x05\x01\x00", "socks")] {
        let mut client = Client::connect(addr).await;
        client.send(bytes).await;
        let answer = text(&client.read_to_end().await);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("http://"), "{answer}");
        larder.err.wait_for_line(&format!("class={class}_to_http_port")).await;
    }
}

#[tokio::test]
async fn a_purge_of_a_pattern_explains_that_urls_are_literal() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (larder, files) = Process::run(&yaml(&origin, "")).await;
    let admin = larder.admin().await.to_string();
    let directory = files.directory.path();
    let pattern = format!("{API}/*");
    let (code, out, _) = larder_in(directory, &["purge", "--admin", &admin, &pattern]).await;
    let expected =
        format!("purged 0 stored responses of {pattern}: a URL is taken literally; there are no patterns\n");
    assert_eq!((code, out), (Some(0), expected));
    let url = format!("{API}/x");
    let (_, out, _) = larder_in(directory, &["purge", "--admin", &admin, &url]).await;
    assert_eq!(out, format!("purged 0 stored responses of {url}\n"));
}

#[tokio::test]
async fn a_missing_configuration_is_the_error_before_any_request() {
    let nowhere = tempfile::tempdir().unwrap();
    for verb in ["cost", "upstreams", "ls", "mode", "reload", "stats"] {
        let (code, out, err) = larder_in(nowhere.path(), &[verb, "--config", "nosuch.yaml"]).await;
        let expected = format!("larder {verb}: nosuch.yaml: there is no such file\n");
        assert_eq!((code, out.as_str(), err), (Some(3), "", expected));
    }
}

#[tokio::test]
async fn env_without_a_home_directory_names_the_option_for_a_place() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let route = "routes:\n  - { name: api, match: { host: api.example.test } }\n";
    let ports = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
    let fixed = format!("listen: {}\nadmin: {{ listen: {} }}", free_port(), free_port());
    let (_larder, files) = Process::run(&yaml(&origin, route).replace(ports, &fixed)).await;
    let config = files.config.display().to_string();
    let directory = files.directory.path();
    let mut command = Command::new(program());
    command.args(["env", "--config", &config]);
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME").current_dir(directory);
    let output = command.output().await.unwrap();
    let err = text(&output.stderr);
    assert!(output.status.code() == Some(1) && err.contains("name a place with --files DIR"), "{err}");
    command.args(["--files", "here"]);
    let output = command.output().await.unwrap();
    assert!(text(&output.stdout).contains("HTTPS_PROXY"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_certificate_commands_take_the_configuration_like_all_others() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let route = "routes:\n  - { name: api, match: { host: api.example.test } }\n";
    let (_larder, files) = Process::run(&yaml(&origin, route)).await;
    let config = files.config.display().to_string();
    for verb in ["show", "export", "bundle"] {
        let arguments = ["ca", verb, "--config", &config];
        let (code, out, err) = larder_in(files.directory.path(), &arguments).await;
        assert!(code == Some(0) && !out.is_empty(), "{verb}: {err}");
    }
}
