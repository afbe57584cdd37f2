//! The order of invalidations, over restarts and successors.

use std::time::{Duration, SystemTime};

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn only_what_was_marked_before_the_invalidation_is_unusable() {
    let generations = Generations::new(at(10));
    let before = generations.mark();
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(20));
    let after = generations.mark();
    assert_eq!(generations.validity(7, before), Validity::Gone);
    assert_eq!(generations.validity(7, after), Validity::Current);
    assert_eq!(generations.validity(8, before), Validity::Current, "another target is left alone");
}

#[test]
fn a_soft_invalidation_says_when_and_a_hard_one_wins_over_it() {
    let generations = Generations::new(at(10));
    let before = generations.mark();
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
fn everything_is_reached_at_once() {
    let generations = Generations::new(at(10));
    let before = generations.mark();
    generations.invalidate(PurgeScope::All, PurgeKind::Hard, at(20));
    assert_eq!(generations.validity(1, before), Validity::Gone);
    assert_eq!(generations.validity(1, generations.mark()), Validity::Current);
}

#[test]
fn marks_go_on_where_the_clock_goes_back() {
    // STO-07.
    let generations = Generations::new(at(1000));
    let before = generations.mark();
    generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(1));
    assert!(generations.mark() > before);
    assert_eq!(generations.validity(7, before), Validity::Gone);
}

#[test]
fn what_was_invalidated_before_a_restart_stays_so() {
    for (restarted, clock) in [(at(30), "goes on"), (at(5), "went back"), (at(20), "stood still")] {
        let old = Generations::new(at(10));
        let purged = old.mark();
        let change = old.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(20));
        let later = old.mark();
        let kept = Snapshot { targets: [(7, change.generation)].into(), ..Snapshot::default() };

        let new = Generations::new(restarted);
        new.adopt(kept, restarted);
        assert_eq!(new.validity(7, purged), Validity::Gone, "{clock}");
        assert_eq!(new.validity(7, later), Validity::Current, "{clock}");
        assert_eq!(new.validity(8, purged), Validity::Current, "{clock}");
        // And what the old one stored can be invalidated by the new one.
        new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, restarted);
        assert_eq!(new.validity(7, later), Validity::Gone, "{clock}");
    }
}

/// Of what was stored before the clock went back only its mark tells when.
#[test]
fn what_was_stored_before_the_clock_went_back_over_a_restart_can_be_invalidated() {
    let old = Generations::new(at(100));
    let stored = old.mark();
    let kept = old.all();
    assert_eq!(kept.targets.len(), 0, "nothing was invalidated");
    let new = Generations::new(at(50));
    new.adopt(kept, at(50));
    assert_eq!(new.validity(7, stored), Validity::Current);
    new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(51));
    assert_eq!(new.validity(7, stored), Validity::Gone);
}

#[test]
fn a_successors_own_invalidations_win_over_what_its_predecessor_stored_meanwhile() {
    let old = Generations::new(at(10));
    let new = Generations::new(at(20));
    new.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(21));
    // The old one drains; its clock is ahead, and what it stores is marked later than the purge.
    let change = old.invalidate(PurgeScope::Target(9), PurgeKind::Hard, at(500));
    let stored_by_old = old.mark();
    let kept = Snapshot { targets: [(9, change.generation)].into(), ..Snapshot::default() };
    let all = new.adopt(kept, at(22));
    assert_eq!(new.validity(7, stored_by_old), Validity::Gone);
    assert!(all.targets.contains_key(&7), "and it is kept");
    assert!(all.targets.contains_key(&9));
}

#[test]
fn forgetting_never_brings_an_invalidated_target_back() {
    let generations = Generations::new(at(10));
    let before = generations.mark();
    for target in 0..=(REMEMBERED as u128 * 2) {
        generations.invalidate(PurgeScope::Target(target), PurgeKind::Hard, at(10));
        if generations.is_full() {
            generations.forget(|_, _| true);
        }
    }
    for target in [0, 1, REMEMBERED as u128, REMEMBERED as u128 * 2] {
        assert_eq!(generations.validity(target, before), Validity::Gone, "{target}");
    }
    assert!(generations.of.read().targets.len() <= REMEMBERED);
    assert_eq!(generations.validity(0, generations.mark()), Validity::Current);
}

#[test]
fn what_nothing_is_held_of_is_forgotten_first_and_costs_nobody_a_hit() {
    let generations = Generations::new(at(10));
    let before = generations.mark();
    for target in 0..=(REMEMBERED as u128) {
        generations.invalidate(PurgeScope::Target(target), PurgeKind::Hard, at(10));
    }
    assert!(generations.is_full());
    generations.forget(|target, _| target < 10);
    assert_eq!(generations.of.read().targets.len(), 10);
    for (target, validity) in [(0, Validity::Gone), (9, Validity::Gone), (10, Validity::Current)] {
        assert_eq!(generations.validity(target, before), validity, "{target}");
    }
}
