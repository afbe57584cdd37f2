//! Configuration reload while requests run: a new configuration is applied as a whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use larder::policy::Mode;
use tokio::time::sleep;

use crate::client::{Client, End};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin};
use crate::process::{ConfigDir, Process};

#[tokio::test]
async fn the_next_request_on_an_open_connection_uses_the_new_configuration() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.cache_status(), "larder; fwd=bypass; fwd-status=200");
    let reloaded = larder.reload(&origin, &route(&["ttl: 1h"])).await.unwrap();
    assert_eq!((reloaded.routes, reloaded.warnings.len()), (1, 1), "a free authority");
    let miss = client.get(&url, &[]).await;
    assert!(miss.cache_status().contains("stored"), "{}", miss.cache_status());
    // Stored responses survive the next reload, and the new policy applies to them.
    larder.reload(&origin, &route(&["ttl: 2h"])).await.unwrap();
    assert_eq!(client.get(&url, &[]).await.cache_status(), "larder; hit; ttl=7200");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_request_in_flight_keeps_its_policy_and_its_route_label() {
    let gate = Gate::new();
    let origin = Origin::always(MockResponse::new(200, &[], "slow").after(&gate)).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let mut client = larder.client().await;
    client.send_request("GET", &format!("{API}/x"), &[]).await;
    origin.wait_for_calls(1).await;
    let other = "routes: [{ name: other, match: { host: api.example.test }, ttl: 1m }]\n";
    larder.reload(&origin, other).await.unwrap();
    gate.open();
    let slow = client.response("GET").await.unwrap();
    assert!(slow.cache_status().ends_with("stored; ttl=3600"), "{}", slow.cache_status());
    assert_eq!(larder.get("/x").await.cache_status(), "larder; hit; ttl=60");
    larder.wait_for_metric("larder_requests_total{result=\"miss\",route=\"api\"}", 1.0).await;
    larder.wait_for_metric("larder_requests_total{result=\"hit\",route=\"other\"}", 1.0).await;
    // The old route name is back, and its counters continue.
    larder.reload(&origin, &route(&["ttl: 1h"])).await.unwrap();
    larder.get("/x").await;
    larder.wait_for_metric("larder_requests_total{result=\"hit\",route=\"api\"}", 1.0).await;
    larder.wait_for_metric("larder_requests_total{result=\"miss\",route=\"api\"}", 1.0).await;
}

/// The keys of pooled connections do not contain the settings that determine how larder reaches an origin.
/// After such a setting changes, no pooled connection is reused.
#[tokio::test]
async fn pooled_connections_are_kept_unless_origins_are_reached_differently() {
    let origin = Origin::always(MockResponse::new(200, &[], "one")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/1").await;
    larder.reload(&origin, &route(&["ttl: 2h"])).await.unwrap();
    larder.get("/2").await;
    assert_eq!((origin.calls(), origin.connections()), (2, 1));
    let deny = format!("destinations: {{ deny: [10.0.0.0/8] }}\n{}", route(&["ttl: 2h"]));
    larder.reload(&origin, &deny).await.unwrap();
    larder.get("/3").await;
    assert_eq!((origin.calls(), origin.connections()), (3, 2));
    let other = Origin::always(MockResponse::new(200, &[], "other")).await;
    larder.reload(&other, &deny).await.unwrap();
    assert_eq!(larder.get("/4").await.text(), "other");
}

#[tokio::test]
async fn an_invalid_file_is_rejected_with_its_report() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/x").await;
    let (gauge, failures) = ("larder_config_last_reload_successful", "larder_config_reload_failures_total");
    larder.wait_for_metric(gauge, 1.0).await;
    let refused = larder.reload(&origin, &route(&["ttl: 5M"])).await.unwrap_err();
    assert!(refused.report.starts_with("test.yaml:9:10: routes[api].ttl: "), "{}", refused.report);
    assert!(refused.report.ends_with("test.yaml: 1 problem"), "{}", refused.report);
    assert_eq!(larder.get("/x").await.cache_status(), "larder; hit; ttl=3600");
    larder.wait_for_metric(gauge, 0.0).await;
    larder.wait_for_metric(failures, 1.0).await;
    larder.reload(&origin, &route(&["ttl: 1h"])).await.unwrap();
    larder.wait_for_metric(gauge, 1.0).await;
    larder.wait_for_metric(failures, 1.0).await;
}

#[tokio::test]
async fn a_changed_key_that_needs_a_restart_rejects_the_whole_file() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let yaml = format!("limits: {{ connections: 7 }}\n{}", route(&["ttl: 2h"]));
    let refused = larder.reload(&origin, &yaml).await.unwrap_err();
    let line = "test.yaml: limits.connections: cannot change while larder runs";
    assert!(refused.report.starts_with(line), "{}", refused.report);
    assert!(refused.report.contains("larder run --take-over test.yaml"), "{}", refused.report);
    larder.get("/x").await;
    assert_eq!(larder.get("/x").await.cache_status(), "larder; hit; ttl=3600");
}

/// A client that is no longer admitted is rejected on its open connection.
#[tokio::test]
async fn access_that_is_revoked_is_revoked_on_open_connections_too() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let mut client = larder.client().await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.status, 200);
    larder.reload(&origin, "access: { clients: [127.0.0.2] }\n").await.unwrap();
    let denied = client.get(&url, &[]).await;
    assert_eq!(denied.status, 403);
    assert!(denied.text().contains("client_denied"), "{}", denied.text());
    assert_eq!(origin.calls(), 1);
}

/// Once the configuration lists a header as a credential, requests with different values of it belong to
/// different users.
#[tokio::test]
async fn a_header_that_becomes_a_credential_separates_stored_responses() {
    let origin =
        Origin::start(|seen| MockResponse::new(200, &[], seen.field("x-who").unwrap_or_default())).await;
    let ignoring = ["ttl: 1h", "key: { ignore_headers: [X-Who] }"];
    let larder = Larder::with_policy(&origin, &ignoring).await;
    assert_eq!(larder.get_with("/x", &["X-Who: ann"]).await.text(), "ann");
    assert_eq!(larder.get_with("/x", &["X-Who: bob"]).await.text(), "ann", "as configured");
    let yaml = format!("credential_headers: [X-Who]\n{}", route(&["ttl: 1h"]));
    larder.reload(&origin, &yaml).await.unwrap();
    assert_eq!(larder.get_with("/x", &["X-Who: bob"]).await.text(), "bob");
    assert_eq!(larder.get_with("/x", &["X-Who: ann"]).await.text(), "ann");
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn a_mode_set_at_run_time_stays_until_the_file_changes_it() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let controls = larder.server.admin_api();
    controls.set_mode(Mode::Offline);
    larder.reload(&origin, "limits: { idle: 5s }\n").await.unwrap();
    assert_eq!(controls.mode(), Mode::Offline);
    larder.reload(&origin, "defaults: { mode: bypass }\n").await.unwrap();
    assert_eq!(controls.mode(), Mode::Bypass);
    controls.set_mode(Mode::Cache);
    larder.reload(&origin, "defaults: { mode: bypass }\n").await.unwrap();
    assert_eq!(controls.mode(), Mode::Cache);
}

#[tokio::test]
async fn the_active_configuration_is_the_last_one_that_was_applied() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let controls = larder.server.admin_api();
    assert_eq!(controls.config()["limits"]["idle"], "1m 15s");
    larder.reload(&origin, "limits: { idle: 5s }\n").await.unwrap();
    larder.reload(&origin, "limits: { idle: 5 }\n").await.unwrap_err();
    assert_eq!(controls.config()["limits"]["idle"], "5s");
}

/// Sends requests without pause until `over` is set: all on one connection (`kept`), or each on its own.
async fn load(larder: Arc<Larder>, kept: bool, over: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let mut client = larder.client().await;
    let mut sent = 0_usize;
    while !over.load(Ordering::Relaxed) {
        if !kept {
            client = larder.client().await;
        }
        sent += 1;
        let answer = client.get(&format!("{API}/{}", sent % 7), &[]).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "hello", End::Complete));
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every second configuration is invalid and is rejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lif_03_a_hundred_reloads_under_load_fail_no_request() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Arc::new(Larder::with_policy(&origin, &["ttl: 1h"]).await);
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = |kept| load(Arc::clone(&larder), kept, Arc::clone(&over), Arc::clone(&answered));
    let clients: Vec<_> = (0..4).map(|n| tokio::spawn(load(n % 2 == 0))).collect();
    for turn in 0..100 {
        let before = answered.load(Ordering::Relaxed);
        let policy = [format!("ttl: {}h", turn + 1)];
        let policy: Vec<&str> = policy.iter().map(String::as_str).collect();
        let broken = if turn % 2 == 1 { "jobs: []\n" } else { "" };
        let outcome = larder.reload(&origin, &format!("{broken}{}", route(&policy))).await;
        assert_eq!(outcome.is_ok(), turn % 2 == 0, "{outcome:?}");
        let shown = larder.server.admin_api().config()["routes"][0]["fresh"].to_string();
        let hours = turn / 2 * 2 + 1;
        assert!(shown.starts_with(&format!("\"for {}", show(hours))), "{shown} after {turn}");
        // Some requests run under each configuration.
        bounded(async {
            while answered.load(Ordering::Relaxed) < before + 4 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    larder.wait_for_metric("larder_config_reload_failures_total", 50.0).await;
    larder.wait_for_metric("larder_config_last_reload_successful", 0.0).await;
}

/// Formats hours as larder shows durations: `25h` is `1day 1h`.
fn show(hours: u64) -> String {
    larder::config::duration::show(Duration::from_secs(hours * 3600))
}

#[tokio::test]
async fn sighup_reloads_the_file_and_the_result_is_logged() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
    let start = format!("version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n{resolve}");
    let config_dir = ConfigDir::with(&start);
    let larder = Process::start(&[OsStr::new("run"), config_dir.config.as_os_str()]);
    let addr = larder.addr().await;
    let url = format!("{API}/x");
    let mut client = Client::connect(addr).await;
    assert_eq!(client.get(&url, &[]).await.cache_status(), "larder; fwd=bypass; fwd-status=200");

    fs::write(&config_dir.config, format!("{start}routes: nonsense\n")).unwrap();
    larder.signal("HUP");
    let line = larder.err.wait_for_line("Configuration not reloaded").await;
    assert!(line.contains("routes") && line.contains("ERROR"), "{line}");
    assert_eq!(client.get(&url, &[]).await.status, 200);

    let debug = format!("{start}log: {{ level: debug }}\n{}", route(&["ttl: 1h"]));
    fs::write(&config_dir.config, debug).unwrap();
    larder.signal("HUP");
    let line = larder.err.wait_for_line("Configuration reloaded").await;
    for part in ["routes=1", "added=1", "changed=0", "removed=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let miss = client.get(&url, &[]).await;
    assert!(miss.cache_status().contains("stored"), "{}", miss.cache_status());
    larder.err.wait_for_line("Request completed").await;
}
