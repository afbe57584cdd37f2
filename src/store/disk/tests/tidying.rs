//! Sweeping what died, mending what a crash left.

use super::*;
use crate::store::EntryId;
use crate::store::disk::consistency::Check;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::queue::PutCommand;
use crate::store::disk::usage::EntrySize;

fn put_until(keeper: &mut DiskWriter, path: &str, until: Option<u64>, body: impl Into<Bytes>) {
    let until = ExpiresAt::of(until.map(at));
    let put = PutCommand {
        key: key(path),
        stored: stored(body),
        mark: MARK,
        so_far: SO_FAR,
        until,
        _presence: presence(),
    };
    keeper.put(&put).unwrap();
}

fn place(path: &str) -> EntryId {
    keys::place(&key(path), VariantId::SOLE)
}

fn has(keeper: &DiskWriter, path: &str) -> bool {
    keeper.database.get(&keys::entry(&place(path))).unwrap().is_some()
}

fn check(keeper: &mut DiskWriter) {
    keeper.check = Some(Check::default());
    while keeper.check.is_some() {
        keeper.check_on().unwrap();
    }
}

#[test]
fn what_died_is_swept_with_its_file_and_the_rest_stays() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    for n in 0..20 {
        put_until(&mut keeper, &format!("/{n}"), Some(1000 + n), bytes(1, 10_000));
    }
    put_until(&mut keeper, "/forever", None, bytes(2, 10_000));
    assert!(!keeper.sweep(at(1000)).unwrap(), "nothing is past yet");
    assert_eq!(keeper.sizes.totals().entries, 21);
    assert!(!keeper.sweep(at(1010)).unwrap());
    assert!((0..20).all(|n| has(&keeper, &format!("/{n}")) == (n >= 10)));
    assert_eq!((house.files().len(), keeper.sizes.totals().entries), (11, 11));
    assert_eq!(counts(&keeper.database), [11, 11, 11]);
    keeper.sweep(at(u64::MAX / 4)).unwrap();
    assert_eq!(counts(&keeper.database), [1, 1, 1]);
    assert!(has(&keeper, "/forever"));
    assert_eq!(keeper.sizes.totals().evictions, 0, "sweeping is not evicting");
}

fn put_varying(
    keeper: &mut DiskWriter,
    vary: &[&'static str],
    variant: u128,
    asked: u64,
    until: u64,
) {
    let put = PutCommand {
        key: key("/x"),
        stored: stored_at("x", vary, variant, asked),
        mark: MARK,
        so_far: SO_FAR,
        until: ExpiresAt::of(Some(at(until))),
        _presence: presence(),
    };
    keeper.put(&put).unwrap();
}

/// What varies by other fields may be selected in the place of what goes, and must not be older.
#[test]
fn what_is_older_goes_with_what_varies_otherwise() {
    for (newer_is_asked_at, is_left) in [(20, false), (5, true)] {
        let house = TestDisk::new();
        let mut keeper = house.keeper();
        put_varying(&mut keeper, &[], 0, 10, 5_000);
        put_varying(&mut keeper, &["x-v"], 7, newer_is_asked_at, 1_000);
        assert_eq!(counts(&keeper.database), [2, 1, 2]);
        keeper.sweep(at(2_000)).unwrap();
        assert_eq!(has(&keeper, "/x"), is_left, "{newer_is_asked_at}");
        let left = usize::from(is_left);
        assert_eq!(counts(&keeper.database), [left, left, left]);
    }
}

#[test]
fn what_cannot_be_written_takes_what_is_older_and_varies_otherwise_with_it() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    put_varying(&mut keeper, &[], 0, 10, 5_000);
    let unwritten = PutCommand {
        key: key("/x"),
        stored: stored_at("x", &["x-v"], 7, 20),
        mark: MARK,
        so_far: SO_FAR,
        until: ExpiresAt::FOREVER,
        _presence: presence(),
    };
    keeper.outdo(&unwritten).unwrap();
    assert!(!has(&keeper, "/x"));
    assert_eq!(counts(&keeper.database), [0, 0, 0]);
}

#[test]
fn a_slice_of_sweeping_is_bounded_and_says_that_more_is_due() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    for n in 0..1200 {
        put_until(&mut keeper, &format!("/{n}"), Some(1000), "small");
    }
    let slices = [keeper.sweep(at(2000)), keeper.sweep(at(2000)), keeper.sweep(at(2000))];
    assert_eq!(slices.map(Result::unwrap), [true, true, false]);
    assert_eq!(counts(&keeper.database), [0, 0, 0]);
    assert_eq!((keeper.sizes.totals().entries, keeper.sizes.bytes()), (0, 0));
}

#[test]
fn an_entry_that_lives_longer_now_is_not_swept_by_its_earlier_death() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    put_until(&mut keeper, "/x", Some(1000), "first");
    put_until(&mut keeper, "/x", Some(3000), "second");
    assert_eq!(counts(&keeper.database), [1, 1, 1]);
    // A crash between the two left the earlier death behind.
    let weight = EntrySize { file: 0, value: 5 };
    keeper.index_expiry(&place("/x"), ExpiresAt::of(Some(at(1000))), weight).unwrap();
    keeper.sweep(at(2000)).unwrap();
    assert!(has(&keeper, "/x"));
    assert_eq!(counts(&keeper.database), [1, 1, 1]);
    keeper.sweep(at(4000)).unwrap();
    assert_eq!(counts(&keeper.database), [0, 0, 0]);
}

#[test]
fn the_check_leaves_alone_what_is_as_it_should_be() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    for n in 0..1100_usize {
        put_until(&mut keeper, &format!("/{n}"), Some(9000), bytes(n, (n % 3) * 3000));
    }
    let (files, totals) = (house.files(), keeper.sizes.totals());
    check(&mut keeper);
    assert_eq!((house.files(), keeper.sizes.totals()), (files, totals));
    assert_eq!(counts(&keeper.database), [1100, 1100, 1100]);
}

#[test]
fn the_check_gives_an_entry_back_its_death_and_its_place_among_the_variants() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    put_until(&mut keeper, "/x", Some(1000), bytes(1, 10_000));
    let totals = keeper.sizes.totals();
    keeper.unindex_expiry(&place("/x"), ExpiresAt::of(Some(at(1000)))).unwrap();
    keeper.database.remove(&keys::variants(place("/x").id)).unwrap();
    check(&mut keeper);
    assert_eq!(counts(&keeper.database), [1, 1, 1]);
    assert_eq!(keeper.sizes.totals(), totals);
    keeper.sweep(at(2000)).unwrap();
    assert_eq!((counts(&keeper.database), house.files().len()), ([0, 0, 0], 0));
}

#[test]
fn the_check_removes_deaths_variants_and_files_without_their_entry() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    for n in 0..3 {
        put_until(&mut keeper, &format!("/{n}"), None, bytes(n, 10_000));
    }
    // As a crash leaves it that comes before the entry was written.
    keeper.database.remove(&keys::entry(&place("/0"))).unwrap();
    let stray = house.layout().bodies().join("00");
    std::fs::create_dir_all(&stray).unwrap();
    std::fs::write(stray.join("not-a-body"), b"").unwrap();
    check(&mut keeper);
    assert_eq!(counts(&keeper.database), [2, 2, 2]);
    assert_eq!(house.files().len(), 3, "two bodies, and what is not larder's");
    assert_eq!(keeper.sizes.totals().entries, 2);
}

#[test]
fn a_file_that_is_written_during_the_check_is_no_orphan() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    put_until(&mut keeper, "/before", None, bytes(1, 10_000));
    keeper.check = Some(Check::default());
    let mut n = 0;
    while keeper.check.is_some() {
        keeper.check_on().unwrap();
        put_until(&mut keeper, &format!("/{n}"), None, bytes(n, 10_000));
        n += 1;
    }
    assert_eq!(house.files().len(), n + 1);
    assert_eq!(keeper.sizes.totals().entries, n as u64 + 1);
}

#[test]
fn the_check_removes_a_damaged_entry_and_counts_it() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    for n in 0..3 {
        put_until(&mut keeper, &format!("/{n}"), Some(1000), bytes(n, 10_000));
    }
    let key = keys::entry(&place("/1"));
    let mut value = keeper.database.get(&key).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    keeper.database.insert(&key, value).unwrap();
    check(&mut keeper);
    assert_eq!(counts(&keeper.database), [2, 2, 2]);
    assert_eq!((house.files().len(), house.errors("read")), (2, 1));
}
