//! What calls cost: told to its operator, over the ends of days, reloads, restarts and crashes.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::store::state_db::StateDb;
use larder::telemetry::cost::CostReport;
use serde_json::Value;

use crate::client::Client;
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin};
use crate::process::{House, Process, eventually, larder, text};

const DAY: Duration = Duration::from_secs(86_400);

/// `api.example.test` costs half a dollar for each call; a budget of ten calls a month.
fn costly(per_credit: f64) -> String {
    let budget = "budget: { credits: 10/month, at_limit: warn }";
    let cost = format!("{{ currency: USD, credits: 1, per_credit: {per_credit}, {budget} }}");
    let upstream = format!("{{ hosts: [api.example.test], cost: {cost} }}");
    format!("upstreams: {{ coins: {upstream} }}\n{}", route(&["ttl: 1h", "scope: shared"]))
}

fn coins(larder: &Larder) -> CostReport {
    let all = larder.server.controls().cost();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

fn spend(larder: &Larder, credits: f64) {
    larder.server.account().ledger().spend("coins", credits, larder.clock.now());
}

fn is(amount: f64, expected: f64) -> bool {
    (amount - expected).abs() < 1e-9
}

#[tokio::test]
async fn a_new_month_begins_with_a_whole_budget_and_forgets_no_day() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    spend(&larder, 9.0);
    let before = coins(&larder);
    let (budget, standing) = before.budget.expect("it has one");
    assert!(is(budget.credits, 10.0) && is(standing.share, 0.9) && standing.warn);
    assert!(is(before.month.money, 4.5), "{before:?}");
    assert!(is(larder.metric("larder_budget_used_ratio{upstream=\"coins\"}"), 0.9));
    larder.clock.advance(DAY);
    let tomorrow = coins(&larder);
    assert!(is(tomorrow.today.credits, 0.0) && is(tomorrow.month.credits, 9.0), "{tomorrow:?}");
    larder.clock.advance(30 * DAY);
    let next = coins(&larder);
    assert!(is(next.month.credits, 0.0) && !next.budget.unwrap().1.warn, "{next:?}");
    assert!(is(larder.metric("larder_budget_used_ratio{upstream=\"coins\"}"), 0.0));
}

#[tokio::test]
async fn each_call_that_was_answered_is_spent_whichever_way_it_went_out() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    larder.get("/a").await;
    larder.get("/b").await;
    let mut client = larder.client().await;
    client.ask("DELETE", &format!("{API}/a"), &[]).await;
    assert_eq!(client.answer("DELETE").await.unwrap().status, 200);
    larder.until("three calls", |larder| coins(larder).today.calls == 3).await;
    let today = coins(&larder).today;
    assert!(is(today.credits, 3.0) && is(today.money, 1.5), "{today:?}");
    assert!(is(larder.metric("larder_credits_total{upstream=\"coins\"}"), 3.0));
    assert!(is(larder.metric("larder_cost_total{upstream=\"coins\"}"), 1.5));
}

#[tokio::test]
async fn hits_are_calls_avoided_and_a_reload_goes_on_in_the_same_books() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, &costly(0.5)).await;
    for _ in 0..4 {
        larder.get("/x").await;
    }
    larder.until("three hits", |larder| coins(larder).today.avoided_calls == 3).await;
    assert!(is(coins(&larder).today.avoided_money, 1.5));
    assert!(is(larder.metric("larder_cost_avoided_total{upstream=\"coins\"}"), 1.5));
    larder.reload(&origin, &costly(2.0)).await.unwrap();
    assert!(is(coins(&larder).today.avoided_money, 6.0));
    larder.get("/x").await;
    larder.until("a fourth", |larder| coins(larder).today.avoided_calls == 4).await;
    larder.reload(&origin, &route(&["ttl: 1h"])).await.unwrap();
    assert!(larder.server.controls().cost().is_empty());
}

// ---- processes

fn housed(origin: &Origin) -> House {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
    House::with(&format!("version: 1\n{free}\n{resolve}\n{}", costly(0.5)))
}

fn run(house: &House, flags: &[&str]) -> Process {
    let mut arguments = vec![OsStr::new("run"), house.config.as_os_str()];
    arguments.extend(flags.iter().map(OsStr::new));
    Process::start(&arguments)
}

/// A path that nobody has asked for, once and then so many times again.
async fn hit(addr: SocketAddr, path: &str, times: usize) {
    let mut client = Client::connect(addr).await;
    for _ in 0..=times {
        client.get(&format!("{API}{path}"), &[]).await;
    }
}

/// Waits until `larder cost` tells of so many calls that were avoided this month.
async fn told(admin: SocketAddr, avoided: u64) {
    let admin = admin.to_string();
    let asking = async {
        loop {
            let said = larder(&["cost", "--json", "--admin", &admin]).await;
            let said: Value = serde_json::from_str(&text(&said.stdout)).unwrap_or_default();
            let calls = said["upstreams"][0]["month"]["avoided"]["calls"].as_u64();
            assert!(calls.is_none_or(|calls| calls <= avoided), "counted twice: {said}");
            if calls == Some(avoided) {
                return;
            }
        }
    };
    bounded(asking).await;
}

/// Whether a larder that was killed now would be found to have avoided so many calls.
fn is_kept(house: &House, avoided: u64) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let from = house.directory.path().join("larder-data/state/db");
    // A file may go while it is copied: then the next copy is whole.
    if copied(&from, &copy.path().join("db")).is_err() {
        return false;
    }
    let Ok((state, _)) = StateDb::open(copy.path(), SystemTime::UNIX_EPOCH) else { return false };
    let rows = state.ledger();
    state.close();
    rows.iter().any(|(_, value)| value.get(24..32) == Some(&avoided.to_be_bytes()))
}

pub fn copied(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copied(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_was_counted_survives_a_kill_and_a_stop() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let house = housed(&origin);
    let mut first = run(&house, &[]);
    hit(first.addr().await, "/x", 3).await;
    told(first.admin().await, 3).await;
    eventually("on disk", || is_kept(&house, 3)).await;
    first.signal("KILL");
    first.ended().await;
    let mut second = run(&house, &[]);
    told(second.admin().await, 3).await;
    hit(second.addr().await, "/y", 2).await;
    told(second.admin().await, 5).await;
    second.signal("TERM");
    assert_eq!(second.ended().await.code(), Some(0));
    let third = run(&house, &[]);
    told(third.admin().await, 5).await;
}

#[tokio::test]
async fn a_larder_that_takes_over_knows_what_the_one_before_has_counted() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let house = housed(&origin);
    let mut before = run(&house, &[]);
    hit(before.addr().await, "/x", 3).await;
    told(before.admin().await, 3).await;
    let next = run(&house, &["--take-over"]);
    let (addr, admin) = (next.addr().await, next.admin().await);
    assert_eq!(before.ended().await.code(), Some(0), "{}", before.err.text());
    told(admin, 3).await;
    hit(addr, "/y", 2).await;
    told(admin, 5).await;
}
