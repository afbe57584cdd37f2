//! Tests of recorded and avoided cost, budgets and their periods, across reloads and restarts.
#![expect(clippy::float_cmp, reason = "whole credits are exact")]

use std::time::UNIX_EPOCH;

use super::*;
use crate::config::{UpstreamHost, UpstreamTls};
use crate::policy::timeouts::Timeouts;
use crate::policy::upstream::{OverBudgetAction, Period, UpstreamPolicy};
use crate::route::pattern::HostPattern;
use crate::semantics::redaction::Redactor;
use crate::telemetry::log::captured::CapturedLog;
use crate::telemetry::{RequestEvent, ResultKind, Telemetry};

/// Thu, 15 Jan 2026 12:00:00 GMT
const NOON: u64 = 1_768_478_400;
const DAY: Duration = Duration::from_secs(86_400);

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOON)
}

fn cost(credits: CreditSource, budget: Option<CostBudget>) -> Cost {
    let (currency, per_credit) = ("USD".to_owned(), 0.5);
    Cost { currency, credits, per_credit, not_modified: false, budget }
}

fn in_header() -> CreditSource {
    CreditSource::Header(http::HeaderName::from_static("x-credits"))
}

fn monthly_budget(credits: f64) -> CostBudget {
    CostBudget { credits, period: Period::Month, warn_at: 0.8, at_limit: OverBudgetAction::StaleOnly }
}

fn upstream(name: &str, host: &str, cost: Option<Cost>) -> Arc<Upstream> {
    let host = HostPattern::parse(host).unwrap();
    let tls = UpstreamTls { extra_roots: Vec::new(), client_cert: None, insecure: false, http2: true };
    Arc::new(Upstream {
        name: name.into(),
        hosts: vec![UpstreamHost { host, scheme: None, port: None }],
        mount: None,
        timeouts: Timeouts::default(),
        tls,
        proxy: None,
        credential: None,
        via: true,
        policy: UpstreamPolicy { cost, ..UpstreamPolicy::default() },
    })
}

/// Telemetry with a priced upstream `coins` and an upstream `roles` without a price.
fn telemetry(clock: &Clock, cost: Cost) -> Arc<Telemetry> {
    let upstreams = [upstream("roles", "roles.example", None), upstream("coins", "*.example", Some(cost))];
    let telemetry = Telemetry::with_clock(clock.clone(), &[], &[]);
    telemetry.cost().set_prices(&upstreams);
    telemetry
}

fn record(telemetry: &Telemetry, host: &str, result: ResultKind) {
    telemetry.record(&RequestEvent {
        route: 0,
        result,
        forward_reason: None,
        method: &http::Method::GET,
        host,
        port: 80,
        path: "/",
        status: None,
        cache_status: None,
        error: None,
        duration: Duration::ZERO,
        client_bytes: 0,
        upstream_bytes: 0,
        filled_bytes: 0,
        is_own_error: false,
    });
}

fn only(telemetry: &Telemetry, now: SystemTime) -> CostReport {
    let spendings = telemetry.cost().reports(now);
    assert_eq!(spendings.len(), 1);
    spendings.into_iter().next().unwrap()
}

/// The changed rows, without removals.
fn changed_rows(telemetry: &Telemetry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = telemetry.cost().take_changed_rows().into_iter();
    rows.filter_map(|row| Some((row.key, row.value?))).collect()
}

fn restored(telemetry: &Telemetry, rows: &[(Vec<u8>, Vec<u8>)]) -> usize {
    telemetry.cost().restore(rows.iter().map(|(key, value)| (&key[..], &value[..])))
}

#[test]
fn the_cost_of_calls_is_summed_by_day_and_month() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), None));
    let ledger = telemetry.cost();
    ledger.spend("coins", 1.0, noon() - DAY);
    ledger.spend("coins", 2.0, noon());
    ledger.spend("coins", 0.0, noon());
    ledger.spend("coins", 5.0, noon() + 17 * DAY);
    ledger.spend("roles", 7.0, noon());
    ledger.spend("unknown", 7.0, noon());
    let coins = only(&telemetry, noon());
    assert_eq!((coins.today.calls, coins.today.credits), (2, 2.0));
    assert_eq!((coins.month.calls, coins.month.credits, coins.month.money), (3, 3.0, 1.5));
    assert_eq!(coins.month.since, noon() - 14 * DAY - DAY / 2);
    assert_eq!(coins.today.ends_in, DAY / 2);
    assert_eq!(only(&telemetry, noon() + 17 * DAY).month.credits, 5.0);
}

#[test]
fn a_response_without_a_call_avoids_the_average_cost() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), None));
    record(&telemetry, "api.example", ResultKind::Hit);
    assert_eq!(only(&telemetry, noon()).today.avoided_credits, 1.0, "no cost is known yet");
    telemetry.cost().spend("coins", 2.0, noon());
    telemetry.cost().spend("coins", 4.0, noon());
    telemetry.cost().spend("coins", 0.0, noon());
    assert_eq!(telemetry.cost().usual_cost("coins"), 3.0);
    for result in ResultKind::ALL {
        record(&telemetry, "api.example", result);
    }
    record(&telemetry, "roles.example", ResultKind::Hit);
    record(&telemetry, "elsewhere.test", ResultKind::Hit);
    let today = only(&telemetry, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits, today.calls), (4, 10.0, 3));
    let page = telemetry.render();
    for line in [
        "larder_cost_avoided_total{upstream=\"coins\"} 5\n",
        "larder_cost_total{upstream=\"coins\"} 3\n",
        "larder_credits_total{upstream=\"coins\"} 6\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
}

#[test]
fn an_avoided_call_with_a_fixed_price_counts_at_that_price() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(CreditSource::PerCall(0.25), None));
    record(&telemetry, "api.example", ResultKind::Coalesced);
    telemetry.cost().record_free_call("coins", 0.25, noon());
    let today = only(&telemetry, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits), (1, 0.5), "a revalidation is a call");
}

#[test]
fn an_avoided_call_is_counted_on_its_day() {
    let clock = Clock::manual(noon());
    let telemetry = telemetry(&clock, cost(in_header(), None));
    record(&telemetry, "api.example", ResultKind::Hit);
    clock.advance(DAY);
    record(&telemetry, "api.example", ResultKind::Hit);
    record(&telemetry, "api.example", ResultKind::Hit);
    assert_eq!(only(&telemetry, noon()).today.avoided_calls, 1);
    assert_eq!(only(&telemetry, noon() + DAY).today.avoided_calls, 2);
    assert_eq!(only(&telemetry, noon()).month.avoided_calls, 3);
}

#[test]
fn a_spent_budget_is_available_again_in_the_next_period() {
    let budget = monthly_budget(10.0);
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), Some(budget)));
    let status = |now| telemetry.cost().budget_status("coins", &budget, now);
    telemetry.cost().spend("coins", 7.0, noon());
    let before = status(noon());
    assert_eq!((before.used, before.share, before.spent, before.warn), (7.0, 0.7, false, false));
    telemetry.cost().spend("coins", 1.0, noon());
    assert!(status(noon()).warn && !status(noon()).spent);
    telemetry.cost().spend("coins", 2.0, noon());
    let last = noon() + 16 * DAY + DAY / 2 - Duration::from_secs(1);
    assert!(status(last).spent);
    assert_eq!(status(last).ends_in, Duration::from_secs(1));
    let next = status(last + Duration::from_secs(1));
    assert_eq!((next.used, next.spent, next.ends_in), (0.0, false, 28 * DAY));
    // If the clock is set back, the previous period counts again.
    assert!(status(last).spent);
}

#[test]
fn a_clock_that_is_set_back_or_years_ahead_loses_no_usage_of_this_month() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), None));
    telemetry.cost().spend("coins", 3.0, noon());
    telemetry.cost().spend("coins", 1.0, noon() + 4000 * DAY);
    telemetry.cost().spend("coins", 1.0, UNIX_EPOCH);
    telemetry.cost().spend("coins", 4.0, noon());
    assert_eq!(only(&telemetry, noon()).today.credits, 7.0);
}

#[test]
fn the_last_thirteen_months_are_kept() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), None));
    for month in 0..13 {
        telemetry.cost().spend("coins", 1.0, noon() + month * 31 * DAY);
    }
    assert_eq!(changed_rows(&telemetry).len(), 13);
    telemetry.cost().spend("coins", 1.0, noon() + 13 * 31 * DAY);
    let rows = telemetry.cost().take_changed_rows();
    let removed: Vec<_> = rows.iter().filter(|row| row.value.is_none()).collect();
    assert_eq!((rows.len(), removed.len()), (2, 1));
    assert_eq!(only(&telemetry, noon()).month.credits, 0.0);
    assert_eq!(only(&telemetry, noon() + 31 * DAY).month.credits, 1.0);
}

#[test]
fn restored_usage_is_added_to_the_usage_since_the_start() {
    let clock = Clock::manual(noon());
    let before = telemetry(&clock, cost(in_header(), None));
    before.cost().spend("coins", 3.0, noon());
    before.cost().spend("coins", 5.0, noon() - DAY);
    record(&before, "api.example", ResultKind::Hit);
    let rows = changed_rows(&before);
    assert_eq!(rows.len(), 2);
    assert!(before.cost().take_changed_rows().is_empty(), "each change is reported once");
    let after = telemetry(&clock, cost(in_header(), None));
    after.cost().spend("coins", 1.0, noon());
    assert_eq!(restored(&after, &rows), 0);
    let coins = only(&after, noon());
    assert_eq!((coins.today.credits, coins.month.credits), (4.0, 9.0));
    assert_eq!((coins.today.avoided_calls, after.cost().usual_cost("coins")), (1, 3.0));
    let changed = changed_rows(&after);
    assert_eq!(changed.len(), 1, "unchanged days are not written again");
    assert_eq!(restored(&telemetry(&clock, cost(in_header(), None)), &changed), 0);
    let unreadable = [(b"x".to_vec(), Vec::new())];
    assert_eq!(restored(&after, &unreadable), 1);
}

#[test]
fn usage_is_kept_across_reloads() {
    let clock = Clock::manual(noon());
    let before = telemetry(&clock, cost(in_header(), Some(monthly_budget(10.0))));
    before.cost().spend("coins", 5.0, noon());
    let line = "larder_budget_used_ratio{upstream=\"coins\"} 0.5\n";
    assert!(before.render().contains(line));
    let after = before.with_names(&[], &[], Redactor::default());
    let dearer = Cost { per_credit: 2.0, ..cost(in_header(), None) };
    after.cost().set_prices(&[upstream("coins", "coins.example", Some(dearer))]);
    assert!(!before.render().contains("larder_budget_used_ratio{"));
    before.cost().spend("coins", 1.0, noon());
    let coins = only(&after, noon());
    assert_eq!((coins.month.credits, coins.month.money), (6.0, 12.0));
    record(&after, "api.example", ResultKind::Hit);
    assert_eq!(only(&after, noon()).month.avoided_calls, 0, "the upstream has other hosts now");
    after.cost().set_prices(&[]);
    after.cost().spend("coins", 1.0, noon());
    after.cost().set_prices(&[upstream("coins", "coins.example", Some(cost(in_header(), None)))]);
    assert_eq!(only(&after, noon()).month.credits, 7.0, "no call that was pending during a reload is lost");
}

#[test]
fn concurrent_hits_are_all_counted() {
    let telemetry = telemetry(&Clock::manual(noon()), cost(CreditSource::PerCall(1.0), None));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..1000 {
                    record(&telemetry, "api.example", ResultKind::Hit);
                    if n % 100 == 0 {
                        telemetry.cost().spend("coins", 1.0, noon());
                    }
                }
            });
        }
    });
    let today = only(&telemetry, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits, today.credits), (4000, 4000.0, 40.0));
}

#[test]
fn a_budget_warns_once_per_period_and_once_more_when_it_is_spent() {
    let budget = monthly_budget(10.0);
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), Some(budget)));
    let log = CapturedLog::default();
    tracing::subscriber::with_default(log.subscriber(), || {
        for month in 0..2 {
            for _ in 0..12 {
                let now = noon() + month * 31 * DAY;
                telemetry.cost().spend("coins", 1.0, now);
                telemetry.cost().budget_status("coins", &budget, now);
            }
        }
    });
    let lines = log.lines();
    let messages: Vec<_> =
        lines.iter().map(|line| (line["message"].as_str().unwrap(), &line["used"])).collect();
    let (nearly, spent) = (serde_json::json!(8), serde_json::json!(10));
    let month = [("Budget nearly spent", &nearly), ("Budget spent", &spent)];
    assert_eq!(messages, [month, month].concat());
    assert_eq!((&lines[0]["upstream"], &lines[0]["at_limit"]), (&"coins".into(), &"stale-only".into()));
}

// ---- reservations

#[test]
fn pending_calls_reserve_their_cost_and_the_last_credit_is_spent() {
    let budget = CostBudget { credits: 5.0, period: Period::Day, ..monthly_budget(5.0) };
    let telemetry = telemetry(&Clock::manual(noon()), cost(CreditSource::PerCall(1.0), Some(budget)));
    let ledger = telemetry.cost();
    let reserve = || ledger.reserve("coins", &budget, noon());
    let pending: Vec<_> = (0..5).map(|_| reserve().expect("credits are left")).collect();
    assert_eq!(reserve().err(), Some(BudgetShortage::Reserved));
    assert_eq!(ledger.shortage("coins", &budget, noon()), Some(BudgetShortage::Reserved));
    for reservation in pending.into_iter().skip(1) {
        ledger.spend("coins", 1.0, noon());
        drop(reservation);
        assert!(reserve().is_ok(), "one call cost nothing, and its reservation is released");
    }
    ledger.spend("coins", 1.0, noon());
    assert_eq!(reserve().err(), Some(BudgetShortage::Spent(DAY / 2)));
}

#[test]
fn consecutive_calls_spend_a_budget_completely_at_any_price() {
    let budget = monthly_budget(5.0);
    for (credits, price, calls) in
        [(CreditSource::PerCall(1.0), 1.0, 5), (CreditSource::PerCall(2.0), 2.0, 3), (in_header(), 0.5, 10)]
    {
        let telemetry = telemetry(&Clock::manual(noon()), cost(credits, Some(budget)));
        let ledger = telemetry.cost();
        let mut made = 0;
        while let Ok(_reservation) = ledger.reserve("coins", &budget, noon()) {
            ledger.spend("coins", price, noon());
            made += 1;
        }
        assert_eq!(made, calls, "{price}");
    }
}

#[test]
fn a_learned_price_is_reserved_but_at_least_one_credit() {
    let budget = monthly_budget(10.0);
    let telemetry = telemetry(&Clock::manual(noon()), cost(in_header(), Some(budget)));
    let ledger = telemetry.cost();
    let concurrent_calls = || {
        let reserve = |_| ledger.reserve("coins", &budget, noon()).ok();
        (0..20).map_while(reserve).collect::<Vec<_>>().len()
    };
    assert_eq!(concurrent_calls(), 10, "no price is known yet: one credit each");
    ledger.spend("coins", 0.5, noon());
    assert_eq!(concurrent_calls(), 10);
    ledger.spend("coins", 5.5, noon());
    assert_eq!(concurrent_calls(), 2, "3 each, 4 left");
}

#[test]
fn concurrent_reservations_never_exceed_the_budget() {
    let budget = monthly_budget(100.0);
    let telemetry = telemetry(&Clock::manual(noon()), cost(CreditSource::PerCall(1.0), Some(budget)));
    let granted = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(reservation) = telemetry.cost().reserve("coins", &budget, noon()) {
                    telemetry.cost().spend("coins", 1.0, noon());
                    drop(reservation);
                    granted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    // A thread may stop early while the call of another one is both reserved and spent; the budget is never
    // exceeded.
    let granted = granted.into_inner();
    assert!((97..=100).contains(&granted), "{granted}");
}
