//! Spending, avoiding, budgets and their windows, over reloads and restarts.
#![expect(clippy::float_cmp, reason = "whole credits are exact")]

use std::time::UNIX_EPOCH;

use super::*;
use crate::config::{Timeouts, UpstreamHost, UpstreamTls};
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

fn a_month(credits: f64) -> CostBudget {
    CostBudget {
        credits,
        period: Period::Month,
        warn_at: 0.8,
        at_limit: OverBudgetAction::StaleOnly,
    }
}

fn upstream(name: &str, host: &str, cost: Option<Cost>) -> Arc<Upstream> {
    let host = HostPattern::parse(host).unwrap();
    let tls =
        UpstreamTls { extra_roots: Vec::new(), client_cert: None, insecure: false, http2: true };
    Arc::new(Upstream {
        name: name.into(),
        hosts: vec![UpstreamHost { host, scheme: None, port: None }],
        mount: None,
        timeouts: Timeouts::default(),
        tls,
        credential: None,
        conduct: UpstreamPolicy { cost, ..UpstreamPolicy::default() },
    })
}

/// `coins` costs something, `roles` does not.
fn account(clock: &Clock, cost: Cost) -> Arc<Telemetry> {
    let upstreams =
        [upstream("roles", "roles.example", None), upstream("coins", "*.example", Some(cost))];
    let account = Telemetry::dated(clock.clone(), &[], &[]);
    account.ledger().price(&upstreams);
    account
}

fn answered(account: &Telemetry, host: &str, result: ResultKind) {
    account.record(&RequestEvent {
        route: 0,
        result,
        why: None,
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
        is_larders: false,
    });
}

fn only(account: &Telemetry, now: SystemTime) -> CostReport {
    let spendings = account.ledger().spendings(now);
    assert_eq!(spendings.len(), 1);
    spendings.into_iter().next().unwrap()
}

/// What a disk would hold, if it held everything.
fn kept(account: &Telemetry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = account.ledger().changed().into_iter();
    rows.filter_map(|row| Some((row.key, row.value?))).collect()
}

fn restored(account: &Telemetry, kept: &[(Vec<u8>, Vec<u8>)]) -> usize {
    account.ledger().restore(kept.iter().map(|(key, value)| (&key[..], &value[..])))
}

#[test]
fn what_calls_cost_adds_up_by_day_and_month() {
    let account = account(&Clock::by_hand(noon()), cost(in_header(), None));
    let ledger = account.ledger();
    ledger.spend("coins", 1.0, noon() - DAY);
    ledger.spend("coins", 2.0, noon());
    ledger.spend("coins", 0.0, noon());
    ledger.spend("coins", 5.0, noon() + 17 * DAY);
    ledger.spend("roles", 7.0, noon());
    ledger.spend("nobody", 7.0, noon());
    let coins = only(&account, noon());
    assert_eq!((coins.today.calls, coins.today.credits), (2, 2.0));
    assert_eq!((coins.month.calls, coins.month.credits, coins.month.money), (3, 3.0, 1.5));
    assert_eq!(coins.month.since, noon() - 14 * DAY - DAY / 2);
    assert_eq!(coins.today.ends_in, DAY / 2);
    assert_eq!(only(&account, noon() + 17 * DAY).month.credits, 5.0);
}

#[test]
fn an_answer_without_a_call_avoids_what_calls_cost_on_average() {
    let account = account(&Clock::by_hand(noon()), cost(in_header(), None));
    answered(&account, "api.example", ResultKind::Hit);
    assert_eq!(only(&account, noon()).today.avoided_credits, 1.0, "nothing is known yet");
    account.ledger().spend("coins", 2.0, noon());
    account.ledger().spend("coins", 4.0, noon());
    account.ledger().spend("coins", 0.0, noon());
    assert_eq!(account.ledger().usual("coins"), 3.0);
    for result in ResultKind::ALL {
        answered(&account, "api.example", result);
    }
    answered(&account, "roles.example", ResultKind::Hit);
    answered(&account, "elsewhere.test", ResultKind::Hit);
    let today = only(&account, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits, today.calls), (4, 10.0, 3));
    let page = account.render();
    for line in [
        "larder_cost_avoided_total{upstream=\"coins\"} 5\n",
        "larder_cost_total{upstream=\"coins\"} 3\n",
        "larder_credits_total{upstream=\"coins\"} 6\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
}

#[test]
fn a_call_that_is_priced_as_such_is_avoided_at_that_price() {
    let account = account(&Clock::by_hand(noon()), cost(CreditSource::PerCall(0.25), None));
    answered(&account, "api.example", ResultKind::Coalesced);
    account.ledger().avoided("coins", 0.25, noon());
    let today = only(&account, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits), (1, 0.5), "a 304 was a call");
}

#[test]
fn what_is_avoided_belongs_to_the_day_on_which_it_was() {
    let clock = Clock::by_hand(noon());
    let account = account(&clock, cost(in_header(), None));
    answered(&account, "api.example", ResultKind::Hit);
    clock.advance(DAY);
    answered(&account, "api.example", ResultKind::Hit);
    answered(&account, "api.example", ResultKind::Hit);
    assert_eq!(only(&account, noon()).today.avoided_calls, 1);
    assert_eq!(only(&account, noon() + DAY).today.avoided_calls, 2);
    assert_eq!(only(&account, noon()).month.avoided_calls, 3);
}

#[test]
fn a_budget_is_spent_until_its_window_ends() {
    let budget = a_month(10.0);
    let account = account(&Clock::by_hand(noon()), cost(in_header(), Some(budget)));
    let standing = |now| account.ledger().standing("coins", &budget, now);
    account.ledger().spend("coins", 7.0, noon());
    let before = standing(noon());
    assert_eq!((before.used, before.share, before.spent, before.warn), (7.0, 0.7, false, false));
    account.ledger().spend("coins", 1.0, noon());
    assert!(standing(noon()).warn && !standing(noon()).spent);
    account.ledger().spend("coins", 2.0, noon());
    let last = noon() + 16 * DAY + DAY / 2 - Duration::from_secs(1);
    assert!(standing(last).spent);
    assert_eq!(standing(last).ends_in, Duration::from_secs(1));
    let next = standing(last + Duration::from_secs(1));
    assert_eq!((next.used, next.spent, next.ends_in), (0.0, false, 28 * DAY));
    // By a clock that was set back the window before counts again.
    assert!(standing(last).spent);
}

#[test]
fn a_clock_set_back_or_years_ahead_loses_nothing_of_this_month() {
    let account = account(&Clock::by_hand(noon()), cost(in_header(), None));
    account.ledger().spend("coins", 3.0, noon());
    account.ledger().spend("coins", 1.0, noon() + 4000 * DAY);
    account.ledger().spend("coins", 1.0, UNIX_EPOCH);
    account.ledger().spend("coins", 4.0, noon());
    assert_eq!(only(&account, noon()).today.credits, 7.0);
}

#[test]
fn the_last_thirteen_months_are_kept() {
    let account = account(&Clock::by_hand(noon()), cost(in_header(), None));
    for month in 0..13 {
        account.ledger().spend("coins", 1.0, noon() + month * 31 * DAY);
    }
    assert_eq!(kept(&account).len(), 13);
    account.ledger().spend("coins", 1.0, noon() + 13 * 31 * DAY);
    let rows = account.ledger().changed();
    let gone: Vec<_> = rows.iter().filter(|row| row.value.is_none()).collect();
    assert_eq!((rows.len(), gone.len()), (2, 1));
    assert_eq!(only(&account, noon()).month.credits, 0.0);
    assert_eq!(only(&account, noon() + 31 * DAY).month.credits, 1.0);
}

#[test]
fn what_was_kept_is_added_to_what_was_spent_meanwhile() {
    let clock = Clock::by_hand(noon());
    let before = account(&clock, cost(in_header(), None));
    before.ledger().spend("coins", 3.0, noon());
    before.ledger().spend("coins", 5.0, noon() - DAY);
    answered(&before, "api.example", ResultKind::Hit);
    let rows = kept(&before);
    assert_eq!(rows.len(), 2);
    assert!(before.ledger().changed().is_empty(), "each change is told once");
    let after = account(&clock, cost(in_header(), None));
    after.ledger().spend("coins", 1.0, noon());
    assert_eq!(restored(&after, &rows), 0);
    let coins = only(&after, noon());
    assert_eq!((coins.today.credits, coins.month.credits), (4.0, 9.0));
    assert_eq!((coins.today.avoided_calls, after.ledger().usual("coins")), (1, 3.0));
    let changed = kept(&after);
    assert_eq!(changed.len(), 1, "what did not change is not written again");
    assert_eq!(restored(&account(&clock, cost(in_header(), None)), &changed), 0);
    let unreadable = [(b"x".to_vec(), Vec::new())];
    assert_eq!(restored(&after, &unreadable), 1);
}

#[test]
fn a_reload_goes_on_in_the_same_books() {
    let clock = Clock::by_hand(noon());
    let before = account(&clock, cost(in_header(), Some(a_month(10.0))));
    before.ledger().spend("coins", 5.0, noon());
    let line = "larder_budget_used_ratio{upstream=\"coins\"} 0.5\n";
    assert!(before.render().contains(line));
    let after = before.renamed(&[], &[], Redactor::default());
    let dearer = Cost { per_credit: 2.0, ..cost(in_header(), None) };
    after.ledger().price(&[upstream("coins", "coins.example", Some(dearer))]);
    assert!(!before.render().contains("larder_budget_used_ratio{"));
    before.ledger().spend("coins", 1.0, noon());
    let coins = only(&after, noon());
    assert_eq!((coins.month.credits, coins.month.money), (6.0, 12.0));
    answered(&after, "api.example", ResultKind::Hit);
    assert_eq!(only(&after, noon()).month.avoided_calls, 0, "its hosts are others now");
    after.ledger().price(&[]);
    after.ledger().spend("coins", 1.0, noon());
    after.ledger().price(&[upstream("coins", "coins.example", Some(cost(in_header(), None)))]);
    assert_eq!(only(&after, noon()).month.credits, 7.0, "no call is lost that was under way");
}

#[test]
fn threads_that_hit_at_once_are_all_counted() {
    let account = account(&Clock::by_hand(noon()), cost(CreditSource::PerCall(1.0), None));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..1000 {
                    answered(&account, "api.example", ResultKind::Hit);
                    if n % 100 == 0 {
                        account.ledger().spend("coins", 1.0, noon());
                    }
                }
            });
        }
    });
    let today = only(&account, noon()).today;
    assert_eq!((today.avoided_calls, today.avoided_credits, today.credits), (4000, 4000.0, 40.0));
}

#[test]
fn a_budget_warns_once_in_each_window_and_once_more_when_it_is_spent() {
    let budget = a_month(10.0);
    let account = account(&Clock::by_hand(noon()), cost(in_header(), Some(budget)));
    let written = CapturedLog::default();
    tracing::subscriber::with_default(written.log(), || {
        for month in 0..2 {
            for _ in 0..12 {
                let now = noon() + month * 31 * DAY;
                account.ledger().spend("coins", 1.0, now);
                account.ledger().standing("coins", &budget, now);
            }
        }
    });
    let lines = written.lines();
    let said: Vec<_> =
        lines.iter().map(|line| (line["message"].as_str().unwrap(), &line["used"])).collect();
    let (nearly, spent) = (serde_json::json!(8), serde_json::json!(10));
    let month = [("Budget nearly spent", &nearly), ("Budget spent", &spent)];
    assert_eq!(said, [month, month].concat());
    assert_eq!(
        (&lines[0]["upstream"], &lines[0]["at_limit"]),
        (&"coins".into(), &"stale-only".into())
    );
}

// ---- reservations

#[test]
fn calls_under_way_reserve_their_price_and_the_last_credit_is_spent() {
    let budget = CostBudget { credits: 5.0, period: Period::Day, ..a_month(5.0) };
    let account = account(&Clock::by_hand(noon()), cost(CreditSource::PerCall(1.0), Some(budget)));
    let ledger = account.ledger();
    let reserve = || ledger.reserve("coins", &budget, noon());
    let under_way: Vec<_> = (0..5).map(|_| reserve().expect("there is room")).collect();
    assert_eq!(reserve().err(), Some(BudgetShortage::Reserved));
    assert_eq!(ledger.shortage("coins", &budget, noon()), Some(BudgetShortage::Reserved));
    for reservation in under_way.into_iter().skip(1) {
        ledger.spend("coins", 1.0, noon());
        drop(reservation);
        assert!(reserve().is_ok(), "the fifth cost nothing, and its reservation is gone");
    }
    ledger.spend("coins", 1.0, noon());
    assert_eq!(reserve().err(), Some(BudgetShortage::Spent(DAY / 2)));
}

#[test]
fn one_call_after_another_spends_a_budget_to_its_end_whatever_they_cost() {
    let budget = a_month(5.0);
    for (credits, price, calls) in [
        (CreditSource::PerCall(1.0), 1.0, 5),
        (CreditSource::PerCall(2.0), 2.0, 3),
        (in_header(), 0.5, 10),
    ] {
        let account = account(&Clock::by_hand(noon()), cost(credits, Some(budget)));
        let ledger = account.ledger();
        let mut made = 0;
        while let Ok(_reservation) = ledger.reserve("coins", &budget, noon()) {
            ledger.spend("coins", price, noon());
            made += 1;
        }
        assert_eq!(made, calls, "{price}");
    }
}

#[test]
fn a_learned_price_is_reserved_and_a_credit_at_least() {
    let budget = a_month(10.0);
    let account = account(&Clock::by_hand(noon()), cost(in_header(), Some(budget)));
    let ledger = account.ledger();
    let at_once = || {
        let reserve = |_| ledger.reserve("coins", &budget, noon()).ok();
        (0..20).map_while(reserve).collect::<Vec<_>>().len()
    };
    assert_eq!(at_once(), 10, "nothing is known yet: a credit");
    ledger.spend("coins", 0.5, noon());
    assert_eq!(at_once(), 10);
    ledger.spend("coins", 5.5, noon());
    assert_eq!(at_once(), 2, "3 each, 4 left");
}

#[test]
fn threads_that_reserve_at_once_are_given_no_more_than_there_is() {
    let budget = a_month(100.0);
    let account = account(&Clock::by_hand(noon()), cost(CreditSource::PerCall(1.0), Some(budget)));
    let given = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(reservation) = account.ledger().reserve("coins", &budget, noon()) {
                    account.ledger().spend("coins", 1.0, noon());
                    drop(reservation);
                    given.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    // A thread may stop while another's call is both reserved and spent; no thread overspends.
    let given = given.into_inner();
    assert!((97..=100).contains(&given), "{given}");
}
