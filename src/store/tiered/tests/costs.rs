//! Costs across restarts, from one larder to the next, and under damage.
#![expect(clippy::float_cmp, reason = "whole credits are exact")]

use std::fs;

use super::*;
use crate::policy::upstream::{CostBudget, OverBudgetAction, Period};

/// Fri, 30 Jan 2026 12:00:00 GMT
const NOON: Duration = Duration::from_secs(1_769_774_400);
const DAY: Duration = Duration::from_secs(86_400);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOON
}

/// A store in `dir` that persists the costs of `telemetry`.
fn open_with_costs(dir: &Path, telemetry: &Arc<Telemetry>) -> Arc<TieredStore> {
    let settings = Settings {
        path: dir.to_owned(),
        memory: 1 << 20,
        disk: 1 << 30,
        max_object: 1 << 20,
        sweep_every: Duration::from_secs(60),
        takes_over: false,
        secret: Secret::from_bytes([7; 32]),
    };
    TieredStore::open(settings, Clock::manual(noon()), telemetry)
}

fn spend(telemetry: &Telemetry, credits: f64, now: SystemTime) {
    telemetry.cost().spend("coins", credits, now);
}

fn used(telemetry: &Telemetry, period: Period, now: SystemTime) -> f64 {
    let budget = CostBudget { credits: 100.0, period, warn_at: 1.0, at_limit: OverBudgetAction::Warn };
    telemetry.cost().budget_status("coins", &budget, now).used
}

#[tokio::test]
async fn the_next_larder_starts_with_the_costs_of_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let before = Telemetry::new(&[], &[]);
    let first = open_with_costs(dir.path(), &before);
    spend(&before, 3.0, noon() - DAY);
    spend(&before, 4.0, noon());
    first.release().await;
    drop(first);
    let after = Telemetry::new(&[], &[]);
    let second = open_with_costs(dir.path(), &after);
    assert_eq!(used(&after, Period::Day, noon()), 4.0);
    assert_eq!(used(&after, Period::Month, noon()), 7.0);
    // Into the next month, and back because the clock was set back.
    let february = noon() + 2 * DAY;
    assert_eq!(used(&after, Period::Month, february), 0.0);
    spend(&after, 1.0, february);
    spend(&after, 1.0, noon());
    second.release().await;
    drop(second);
    let last = Telemetry::new(&[], &[]);
    let third = open_with_costs(dir.path(), &last);
    assert_eq!(used(&last, Period::Month, noon()), 8.0);
    assert_eq!(used(&last, Period::Month, february), 1.0);
    third.release().await;
}

/// While one larder takes over from the other each counts its own calls; once the first has released the
/// store, the second has the counts of the first as well.
#[tokio::test]
async fn a_larder_that_takes_over_adds_the_costs_of_the_other_once() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (Telemetry::new(&[], &[]), Telemetry::new(&[], &[]));
    let first = open_with_costs(dir.path(), &before);
    spend(&before, 3.0, noon());
    let second = open_with_costs(dir.path(), &after);
    spend(&after, 10.0, noon());
    spend(&before, 4.0, noon());
    assert_eq!(used(&after, Period::Month, noon()), 10.0, "only its own until then");
    put(&first, "/there", "x");
    first.release().await;
    opened(&second, "/there").await;
    assert_eq!(used(&after, Period::Month, noon()), 17.0);
    second.release().await;
    drop((first, second));
    let last = Telemetry::new(&[], &[]);
    let third = open_with_costs(dir.path(), &last);
    assert_eq!(used(&last, Period::Month, noon()), 17.0, "both were written back");
    third.release().await;
}

#[tokio::test]
async fn after_damage_of_the_state_only_later_costs_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let before = Telemetry::new(&[], &[]);
    let first = open_with_costs(dir.path(), &before);
    spend(&before, 3.0, noon());
    first.release().await;
    drop(first);
    fs::write(dir.path().join("state/db/db"), vec![0x5a; 1 << 20]).unwrap();
    let after = Telemetry::new(&[], &[]);
    let second = open_with_costs(dir.path(), &after);
    assert_eq!(second.health(), Health::Good);
    assert_eq!(used(&after, Period::Month, noon()), 0.0);
    spend(&after, 4.0, noon());
    second.release().await;
    drop(second);
    let last = Telemetry::new(&[], &[]);
    let third = open_with_costs(dir.path(), &last);
    assert_eq!(used(&last, Period::Month, noon()), 4.0);
    third.release().await;
}
