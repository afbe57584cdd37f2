//! What one upstream has cost, day by day.
//!
//! Owns: the days, which of them changed since they were kept, what is forgotten. Never touches:
//! prices, budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use crate::policy::upstream::Period;
use crate::telemetry::cost::codec::{self, UsageRow};
use crate::telemetry::cost::credits::{CreditUsage, MicroCredits};
use crate::telemetry::cost::utc_day::Day;

/// One upstream, by its name: it outlives a reload, and is found again after a restart.
#[derive(Debug)]
pub(super) struct UsageHistory {
    name: Arc<str>,
    /// What hits avoided and is in no day yet: a hit must not wait for a lock.
    avoided: Avoided,
    /// What a call costs that costs something, in millionths; zero: not known yet.
    usual: AtomicU64,
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
    all: CreditUsage,
    changed: BTreeSet<Day>,
    told: Option<AlertState>,
    /// The credits that calls under way are expected to cost.
    reserved: MicroCredits,
}

/// What an operator was told of a budget last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlertState {
    /// In the window that begins then.
    pub(super) window: Day,
    /// Of a budget of this size.
    pub(super) budget: MicroCredits,
    /// That it is spent; else that it nearly is.
    pub(super) spent: bool,
}

impl UsageHistory {
    pub(super) fn new(name: Arc<str>) -> Self {
        let (avoided, usual, days) = (Avoided::default(), AtomicU64::new(0), Mutex::default());
        Self { name, avoided, usual, days }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A call that cost so much.
    pub(super) fn spend(&self, credits: MicroCredits, now: SystemTime) {
        self.settled().add(Day::of(now), CreditUsage::spent(credits));
        self.note_usual();
    }

    /// A call that was made and cost nothing, though others cost so much.
    pub(super) fn spare(&self, avoided: MicroCredits, now: SystemTime) {
        self.settled().add(Day::of(now), CreditUsage { avoided, ..CreditUsage::default() });
    }

    /// A call that was not made and would have cost so much. On the way of every hit.
    pub(super) fn avoid(&self, credits: MicroCredits, now: SystemTime) {
        let day = Day::of(now).raw();
        if self.avoided.day.load(Ordering::Relaxed) != day {
            let _days = self.settled();
            self.avoided.day.store(day, Ordering::Relaxed);
        }
        self.avoided.calls.fetch_add(1, Ordering::Relaxed);
        self.avoided.credits.fetch_add(credits.0, Ordering::Relaxed);
    }

    /// What a call costs that costs something; `None`: there was none yet.
    pub(super) fn usual(&self) -> Option<MicroCredits> {
        let usual = self.usual.load(Ordering::Relaxed);
        (usual > 0).then_some(MicroCredits(usual))
    }

    /// What came together in the window of `now`.
    pub(super) fn window(&self, period: Period, now: SystemTime) -> CreditUsage {
        self.settled().window(period, now)
    }

    /// Sets `price` aside, unless the credits spent in the window of `now` and those set aside leave
    /// nothing of `all`: then `false`. As long as anything is left a call may go out, even one that is
    /// expected to cost more: otherwise the last credits of a budget could never be spent.
    pub(super) fn reserve(
        &self,
        price: MicroCredits,
        all: MicroCredits,
        period: Period,
        now: SystemTime,
    ) -> bool {
        let mut days = self.settled();
        let fits = days.window(period, now).credits.plus(days.reserved) < all;
        if fits {
            days.reserved = days.reserved.plus(price);
        }
        fits
    }

    /// The credits set aside for a call are free again.
    pub(super) fn release(&self, price: MicroCredits) {
        let mut days = self.days.lock();
        days.reserved = MicroCredits(days.reserved.0.saturating_sub(price.0));
    }

    /// The credits that calls under way are expected to cost.
    pub(super) fn reserved(&self) -> MicroCredits {
        self.days.lock().reserved
    }

    /// Takes down what an operator is told; false: it was told before.
    pub(super) fn tell(&self, told: AlertState) -> bool {
        let mut days = self.days.lock();
        let before =
            days.told.filter(|before| (before.window, before.budget) == (told.window, told.budget));
        let news = before.is_none_or(|before| told.spent && !before.spent);
        if news {
            days.told = Some(told);
        }
        news
    }

    /// Adds what an earlier larder kept of a day to what happened since this one started.
    pub(super) fn adopt(&self, day: Day, kept: CreditUsage) {
        let mut days = self.settled();
        let own = days.by_day.contains_key(&day);
        days.add(day, kept);
        if !own {
            days.changed.remove(&day);
        }
        drop(days);
        self.note_usual();
    }

    /// What changed since this was asked last.
    pub(super) fn changed(&self, rows: &mut Vec<UsageRow>) {
        let mut days = self.settled();
        for day in std::mem::take(&mut days.changed) {
            rows.push(codec::encode(&self.name, day, days.by_day.get(&day).copied()));
        }
    }

    /// The days, with all that was avoided among them.
    fn settled(&self) -> MutexGuard<'_, Days> {
        let mut days = self.days.lock();
        let avoided_calls = self.avoided.calls.swap(0, Ordering::Relaxed);
        let avoided = MicroCredits(self.avoided.credits.swap(0, Ordering::Relaxed));
        if avoided_calls > 0 || avoided > MicroCredits::default() {
            let day = Day::from_raw(self.avoided.day.load(Ordering::Relaxed));
            days.add(day, CreditUsage { avoided_calls, avoided, ..CreditUsage::default() });
        }
        days
    }

    fn note_usual(&self) {
        let usual = self.days.lock().all.usual().unwrap_or_default();
        self.usual.store(usual.0, Ordering::Relaxed);
    }
}

impl Days {
    fn window(&self, period: Period, now: SystemTime) -> CreditUsage {
        let day = Day::of(now);
        let window = self.by_day.range(day.first(period)..day.next(period));
        window.fold(CreditUsage::default(), |sum, (_, one)| sum.plus(*one))
    }

    fn add(&mut self, day: Day, sum: CreditUsage) {
        self.all = self.all.plus(sum);
        let before = self.by_day.get(&day).copied();
        self.by_day.insert(day, before.unwrap_or_default().plus(sum));
        self.changed.insert(day);
        if before.is_none() {
            self.forget();
        }
    }

    /// Keeps the last months in which anything was counted. Not those before some date: a clock that
    /// is years ahead for a moment must not cost what this month has spent.
    fn forget(&mut self) {
        let mut months: Vec<Day> = self.by_day.keys().map(|day| day.first(Period::Month)).collect();
        months.dedup();
        let Some(oldest) = months.len().checked_sub(MONTHS).map(|over| months[over]) else {
            return;
        };
        let kept = self.by_day.split_off(&oldest);
        let gone = std::mem::replace(&mut self.by_day, kept);
        self.changed.extend(gone.into_keys());
    }
}

/// A year and the month that is compared with its first.
const MONTHS: usize = 13;
