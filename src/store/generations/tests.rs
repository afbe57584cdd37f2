//! The order of invalidations, across restarts and successors.

use std::time::{Duration, SystemTime};

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn only_entries_with_an_earlier_epoch_are_unusable() {
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(20));
    let after = generations.current_epoch();
    assert_eq!(generations.validity(7, before), Validity::Gone);
    assert_eq!(generations.validity(7, after), Validity::Current);
    assert_eq!(generations.validity(8, before), Validity::Current, "another target is not affected");
}

#[test]
fn a_soft_invalidation_has_a_time_and_a_hard_one_wins_over_it() {
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Soft, at(20));
    assert_eq!(
        generations.validity(7, before),
        Validity::Outdated(ForcedStale { at: at(20), superseded: false })
    );
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Superseded, at(25));
    let superseded = ForcedStale { at: at(25), superseded: true };
    assert_eq!(generations.validity(7, before), Validity::Outdated(superseded));
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(30));
    assert_eq!(generations.validity(7, before), Validity::Gone);
}

#[test]
fn a_purge_of_everything_takes_effect_at_once() {
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    generations.invalidate(PurgeScope::All, PurgeKind::Hard, at(20));
    assert_eq!(generations.validity(1, before), Validity::Gone);
    assert_eq!(generations.validity(1, generations.current_epoch()), Validity::Current);
}

#[test]
fn epochs_increase_when_the_clock_goes_back() {
    // STO-07.
    let generations = Generations::new(at(1000));
    let before = generations.current_epoch();
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(1));
    assert!(generations.current_epoch() > before);
    assert_eq!(generations.validity(7, before), Validity::Gone);
}

#[test]
fn invalidations_survive_a_restart() {
    for (restarted, clock) in [(at(30), "goes on"), (at(5), "went back"), (at(20), "stood still")] {
        let old = Generations::new(at(10));
        let purged = old.current_epoch();
        let change = old.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(20));
        let later = old.current_epoch();
        let kept = Snapshot { targets: [(7, change.generation)].into(), ..Snapshot::default() };

        let new = Generations::new(restarted);
        new.adopt(kept, restarted);
        assert_eq!(new.validity(7, purged), Validity::Gone, "{clock}");
        assert_eq!(new.validity(7, later), Validity::Current, "{clock}");
        assert_eq!(new.validity(8, purged), Validity::Current, "{clock}");
        // The new larder can invalidate entries that the old one stored.
        new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, restarted);
        assert_eq!(new.validity(7, later), Validity::Gone, "{clock}");
    }
}

/// Only the epoch of an entry from before the clock went back shows its age.
#[test]
fn entries_stored_before_a_clock_step_back_can_be_invalidated() {
    let old = Generations::new(at(100));
    let stored = old.current_epoch();
    let kept = old.all();
    assert_eq!(kept.targets.len(), 0, "nothing was invalidated");
    let new = Generations::new(at(50));
    new.adopt(kept, at(50));
    assert_eq!(new.validity(7, stored), Validity::Current);
    new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(51));
    assert_eq!(new.validity(7, stored), Validity::Gone);
}

#[test]
fn a_successors_invalidations_win_over_its_predecessors_entries() {
    let old = Generations::new(at(10));
    let new = Generations::new(at(20));
    new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(21));
    // The old larder drains; its clock is ahead, and its entries have a later epoch than the purge.
    let change = old.invalidate(PurgeScope::Target(9), PurgeKind::Hard, at(500));
    let stored_by_old = old.current_epoch();
    let kept = Snapshot { targets: [(9, change.generation)].into(), ..Snapshot::default() };
    let all = new.adopt(kept, at(22));
    assert_eq!(new.validity(7, stored_by_old), Validity::Gone);
    assert!(all.targets.contains_key(&7), "and it is persisted");
    assert!(all.targets.contains_key(&9));
}

#[test]
fn forgetting_never_makes_an_invalidated_entry_usable() {
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    for target in 0..=(REMEMBERED as u128 * 2) {
        generations.invalidate(PurgeScope::Target(target), PurgeKind::Hard, at(10));
        if generations.is_full() {
            generations.forget(|_, _| true);
        }
    }
    for target in [0, 1, REMEMBERED as u128, REMEMBERED as u128 * 2] {
        assert_eq!(generations.validity(target, before), Validity::Gone, "{target}");
    }
    assert!(generations.snapshot.read().targets.len() <= REMEMBERED);
    assert_eq!(generations.validity(0, generations.current_epoch()), Validity::Current);
}

#[test]
fn targets_without_entries_are_forgotten_first_and_cost_no_hit() {
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    for target in 0..=(REMEMBERED as u128) {
        generations.invalidate(PurgeScope::Target(target), PurgeKind::Hard, at(10));
    }
    assert!(generations.is_full());
    generations.forget(|target, _| target < 10);
    assert_eq!(generations.snapshot.read().targets.len(), 10);
    for (target, validity) in [(0, Validity::Gone), (9, Validity::Gone), (10, Validity::Current)] {
        assert_eq!(generations.validity(target, before), validity, "{target}");
    }
}
