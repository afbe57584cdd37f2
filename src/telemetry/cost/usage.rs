//! Daily usage of one upstream.
//!
//! Owns: the days, the set of days with unsaved changes, the removal of old days. Never touches: prices,
//! budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use crate::policy::upstream::Period;
use crate::telemetry::cost::codec::{self, StateRow};
use crate::telemetry::cost::credits::{CreditUsage, MicroCredits};
use crate::telemetry::cost::utc_day::Day;

/// The usage of the upstream with this name. It is kept across reloads and restarts.
#[derive(Debug)]
pub(super) struct UsageHistory {
    name: Arc<str>,
    /// Avoided calls that are not in `days` yet: a hit must not wait for a lock.
    avoided: Avoided,
    /// The average cost of a call that cost something, in millionths of a credit; zero if not known yet.
    average: AtomicU64,
    days: Mutex<Days>,
}

#[derive(Debug, Default)]
struct Avoided {
    day: AtomicU32,
    calls: AtomicU64,
    credits: AtomicU64,
}

#[derive(Debug, Default)]
struct Days {
    by_day: BTreeMap<Day, CreditUsage>,
    total: CreditUsage,
    changed: BTreeSet<Day>,
    last_alert: Option<AlertState>,
    /// The credits that are reserved for pending calls.
    reserved: MicroCredits,
}

/// The last warning about a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlertState {
    /// The first day of the period that the warning is about.
    pub(super) period_start: Day,
    /// The size of the budget.
    pub(super) budget: MicroCredits,
    /// Whether the warning said that the budget is spent, and not nearly spent.
    pub(super) spent: bool,
}

impl UsageHistory {
    pub(super) fn new(name: Arc<str>) -> Self {
        let (avoided, average, days) = (Avoided::default(), AtomicU64::new(0), Mutex::default());
        Self { name, avoided, average, days }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Records a call with this cost.
    pub(super) fn spend(&self, credits: MicroCredits, now: SystemTime) {
        self.lock_days().add(Day::from_time(now), CreditUsage::spent(credits));
        self.update_average();
    }

    /// Records a call without a charge; `avoided` is the usual cost.
    pub(super) fn add_free_call(&self, avoided: MicroCredits, now: SystemTime) {
        self.lock_days().add(Day::from_time(now), CreditUsage { avoided, ..CreditUsage::default() });
    }

    /// Records an avoided call and its usual cost. Runs for every hit.
    pub(super) fn add_avoided_call(&self, credits: MicroCredits, now: SystemTime) {
        let day = Day::from_time(now).raw();
        if self.avoided.day.load(Ordering::Relaxed) != day {
            let _days = self.lock_days();
            self.avoided.day.store(day, Ordering::Relaxed);
        }
        self.avoided.calls.fetch_add(1, Ordering::Relaxed);
        self.avoided.credits.fetch_add(credits.0, Ordering::Relaxed);
    }

    /// The average cost of a call that cost something; `None` before the first one.
    pub(super) fn average_cost(&self) -> Option<MicroCredits> {
        let average = self.average.load(Ordering::Relaxed);
        (average > 0).then_some(MicroCredits(average))
    }

    /// The usage in the period of `now`.
    pub(super) fn usage_in_period(&self, period: Period, now: SystemTime) -> CreditUsage {
        self.lock_days().usage_in_period(period, now)
    }

    /// Reserves `price` and returns `true` if the credits spent in the period of `now` plus the reserved ones
    /// are less than `budget`, else returns `false`. A call is permitted while any credits are left, even if
    /// it is expected to cost more; otherwise the last credits of a budget could never be spent.
    pub(super) fn reserve(
        &self,
        price: MicroCredits,
        budget: MicroCredits,
        period: Period,
        now: SystemTime,
    ) -> bool {
        let mut days = self.lock_days();
        let fits = days.usage_in_period(period, now).credits.plus(days.reserved) < budget;
        if fits {
            days.reserved = days.reserved.plus(price);
        }
        fits
    }

    /// Releases the credits that were reserved for a call.
    pub(super) fn release(&self, price: MicroCredits) {
        let mut days = self.days.lock();
        days.reserved = MicroCredits(days.reserved.0.saturating_sub(price.0));
    }

    /// The credits that are reserved for pending calls.
    pub(super) fn reserved(&self) -> MicroCredits {
        self.days.lock().reserved
    }

    /// Records a warning. `false` if the same warning was recorded before in this period.
    pub(super) fn record_alert(&self, alert: AlertState) -> bool {
        let mut days = self.days.lock();
        let before = days
            .last_alert
            .filter(|before| (before.period_start, before.budget) == (alert.period_start, alert.budget));
        let is_new = before.is_none_or(|before| alert.spent && !before.spent);
        if is_new {
            days.last_alert = Some(alert);
        }
        is_new
    }

    /// Adds the persisted usage of a day to the usage since the start of this process.
    pub(super) fn add_restored(&self, day: Day, persisted: CreditUsage) {
        let mut days = self.lock_days();
        let has_own_usage = days.by_day.contains_key(&day);
        days.add(day, persisted);
        if !has_own_usage {
            days.changed.remove(&day);
        }
        drop(days);
        self.update_average();
    }

    /// Appends the rows of the days that changed since the last call of this method.
    pub(super) fn take_changed_rows(&self, rows: &mut Vec<StateRow>) {
        let mut days = self.lock_days();
        for day in std::mem::take(&mut days.changed) {
            rows.push(codec::encode(&self.name, day, days.by_day.get(&day).copied()));
        }
    }

    /// Locks the days and adds the avoided calls that are not in them yet.
    fn lock_days(&self) -> MutexGuard<'_, Days> {
        let mut days = self.days.lock();
        let avoided_calls = self.avoided.calls.swap(0, Ordering::Relaxed);
        let avoided = MicroCredits(self.avoided.credits.swap(0, Ordering::Relaxed));
        if avoided_calls > 0 || avoided > MicroCredits::default() {
            let day = Day::from_raw(self.avoided.day.load(Ordering::Relaxed));
            days.add(day, CreditUsage { avoided_calls, avoided, ..CreditUsage::default() });
        }
        days
    }

    fn update_average(&self) {
        let average = self.days.lock().total.average_cost().unwrap_or_default();
        self.average.store(average.0, Ordering::Relaxed);
    }
}

impl Days {
    fn usage_in_period(&self, period: Period, now: SystemTime) -> CreditUsage {
        let day = Day::from_time(now);
        let window = self.by_day.range(day.period_start(period)..day.next_period_start(period));
        window.fold(CreditUsage::default(), |sum, (_, one)| sum.plus(*one))
    }

    fn add(&mut self, day: Day, sum: CreditUsage) {
        self.total = self.total.plus(sum);
        let before = self.by_day.get(&day).copied();
        self.by_day.insert(day, before.unwrap_or_default().plus(sum));
        self.changed.insert(day);
        if before.is_none() {
            self.drop_old_months();
        }
    }

    /// Drops all but the last months that have usage. The limit is a number of months and not a date: if the
    /// clock is years ahead for a moment, the usage of the current month must not be lost.
    fn drop_old_months(&mut self) {
        let mut months: Vec<Day> = self.by_day.keys().map(|day| day.period_start(Period::Month)).collect();
        months.dedup();
        let Some(oldest) = months.len().checked_sub(MONTHS).map(|over| months[over]) else {
            return;
        };
        let kept = self.by_day.split_off(&oldest);
        let dropped = std::mem::replace(&mut self.by_day, kept);
        self.changed.extend(dropped.into_keys());
    }
}

/// One year plus the current month, which can be compared with the same month of the previous year.
const MONTHS: usize = 13;
