//! The cost of calls in reports and metrics, across days, reloads, restarts and crashes.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::store::state_db::StateDb;
use larder::telemetry::cost::CostReport;
use serde_json::Value;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, eventually, run_larder, text};

const DAY: Duration = Duration::from_secs(86_400);

/// `api.example.test` costs one credit of `per_credit` dollars for each call; the budget is ten a month.
fn costly(per_credit: f64) -> String {
    let budget = "budget: { credits: 10/month, at_limit: warn }";
    let cost = format!("{{ currency: USD, credits: 1, per_credit: {per_credit}, {budget} }}");
    let upstream = format!("{{ hosts: [api.example.test], cost: {cost} }}");
    format!("upstreams: {{ coins: {upstream} }}\n{}", route(&["ttl: 1h", "scope: shared"]))
}

fn coins(larder: &Larder) -> CostReport {
    let all = larder.server.admin_api().cost();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

fn spend(larder: &Larder, credits: f64) {
    larder.server.telemetry().cost().spend("coins", credits, larder.clock.now());
}

fn approx_equals(amount: f64, expected: f64) -> bool {
    (amount - expected).abs() < 1e-9
}

#[tokio::test]
async fn a_new_month_resets_the_budget_and_a_new_day_does_not() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    spend(&larder, 9.0);
    let before = coins(&larder);
    let (budget, status) = before.budget.expect("it has one");
    assert!(approx_equals(budget.credits, 10.0) && approx_equals(status.share, 0.9) && status.warn);
    assert!(approx_equals(before.month.money, 4.5), "{before:?}");
    assert!(approx_equals(larder.metric("larder_budget_used_ratio{upstream=\"coins\"}"), 0.9));
    larder.clock.advance(DAY);
    let tomorrow = coins(&larder);
    assert!(
        approx_equals(tomorrow.today.credits, 0.0) && approx_equals(tomorrow.month.credits, 9.0),
        "{tomorrow:?}"
    );
    larder.clock.advance(30 * DAY);
    let next = coins(&larder);
    assert!(approx_equals(next.month.credits, 0.0) && !next.budget.unwrap().1.warn, "{next:?}");
    assert!(approx_equals(larder.metric("larder_budget_used_ratio{upstream=\"coins\"}"), 0.0));
}

#[tokio::test]
async fn every_call_with_a_response_is_charged_cached_or_passed_through() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    larder.get("/a").await;
    larder.get("/b").await;
    let mut client = larder.client().await;
    client.send_request("DELETE", &format!("{API}/a"), &[]).await;
    assert_eq!(client.response("DELETE").await.unwrap().status, 200);
    larder.wait_until("three calls", |larder| coins(larder).today.calls == 3).await;
    let today = coins(&larder).today;
    assert!(approx_equals(today.credits, 3.0) && approx_equals(today.money, 1.5), "{today:?}");
    assert!(approx_equals(larder.metric("larder_credits_total{upstream=\"coins\"}"), 3.0));
    assert!(approx_equals(larder.metric("larder_cost_total{upstream=\"coins\"}"), 1.5));
}

#[tokio::test]
async fn hits_count_as_avoided_calls_and_a_reload_keeps_the_counts() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    for _ in 0..4 {
        larder.get("/x").await;
    }
    larder.wait_until("three hits", |larder| coins(larder).today.avoided_calls == 3).await;
    assert!(approx_equals(coins(&larder).today.avoided_money, 1.5));
    assert!(approx_equals(larder.metric("larder_cost_avoided_total{upstream=\"coins\"}"), 1.5));
    larder.reload(&origin, &costly(2.0)).await.unwrap();
    assert!(approx_equals(coins(&larder).today.avoided_money, 6.0));
    larder.get("/x").await;
    larder.wait_until("a fourth", |larder| coins(larder).today.avoided_calls == 4).await;
    larder.reload(&origin, &route(&["ttl: 1h"])).await.unwrap();
    assert!(larder.server.admin_api().cost().is_empty());
}

// ---- processes

fn config_dir_for(origin: &Origin) -> ConfigDir {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
    ConfigDir::with(&format!("version: 1\n{free}\n{resolve}\n{}", costly(0.5)))
}

fn run(config_dir: &ConfigDir, flags: &[&str]) -> Process {
    let mut arguments = vec![OsStr::new("run"), config_dir.config.as_os_str()];
    arguments.extend(flags.iter().map(OsStr::new));
    Process::start(&arguments)
}

/// Requests a new path once, then `times` more: those are hits.
async fn hit(addr: SocketAddr, path: &str, times: usize) {
    let mut client = Client::connect(addr).await;
    for _ in 0..=times {
        client.get(&format!("{API}{path}"), &[]).await;
    }
}

/// Waits until `larder cost` reports `avoided` avoided calls for this month.
async fn until_reported(admin: SocketAddr, avoided: u64) {
    let admin = admin.to_string();
    let polling = async {
        loop {
            let output = run_larder(&["cost", "--json", "--admin", &admin]).await;
            let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap_or_default();
            let calls = report["upstreams"][0]["month"]["avoided"]["calls"].as_u64();
            assert!(calls.is_none_or(|calls| calls <= avoided), "counted twice: {report}");
            if calls == Some(avoided) {
                return;
            }
        }
    };
    bounded(polling).await;
}

/// Whether the count of `avoided` calls would survive a kill at this moment.
fn is_stored(config_dir: &ConfigDir, avoided: u64) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let from = config_dir.directory.path().join("larder-data/state/db");
    // A file may disappear during the copy; the next copy is complete.
    if copy_tree(&from, &copy.path().join("db")).is_err() {
        return false;
    }
    let Ok((state, _)) = StateDb::open(copy.path(), SystemTime::UNIX_EPOCH) else { return false };
    let rows = state.take_cost_rows();
    state.close();
    rows.iter().any(|(_, value)| value.get(24..32) == Some(&avoided.to_be_bytes()))
}

pub fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn counts_survive_a_kill_and_a_stop() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let config_dir = config_dir_for(&origin);
    let mut first = run(&config_dir, &[]);
    hit(first.addr().await, "/x", 3).await;
    until_reported(first.admin().await, 3).await;
    eventually("on disk", || is_stored(&config_dir, 3)).await;
    first.signal("KILL");
    first.wait_for_exit().await;
    let mut second = run(&config_dir, &[]);
    until_reported(second.admin().await, 3).await;
    hit(second.addr().await, "/y", 2).await;
    until_reported(second.admin().await, 5).await;
    second.signal("TERM");
    assert_eq!(second.wait_for_exit().await.code(), Some(0));
    let third = run(&config_dir, &[]);
    until_reported(third.admin().await, 5).await;
}

#[tokio::test]
async fn a_hand_over_keeps_the_counts() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let config_dir = config_dir_for(&origin);
    let mut before = run(&config_dir, &[]);
    hit(before.addr().await, "/x", 3).await;
    until_reported(before.admin().await, 3).await;
    let next = run(&config_dir, &["--take-over"]);
    let (addr, admin) = (next.addr().await, next.admin().await);
    assert_eq!(before.wait_for_exit().await.code(), Some(0), "{}", before.err.text());
    until_reported(admin, 3).await;
    hit(addr, "/y", 2).await;
    until_reported(admin, 5).await;
}
