//! Sweeping expired entries, and repairing the disk after a crash.

use super::*;
use crate::store::EntryId;
use crate::store::disk::check_state::Check;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::queue::PutCommand;
use crate::store::disk::usage::EntrySize;

fn put_until(writer: &mut DiskWriter, path: &str, until: Option<u64>, body: impl Into<Bytes>) {
    let until = until.map(at);
    let put = PutCommand { until, ..put_command(key(path), &stored(body)) };
    writer.put(&put).unwrap();
}

fn entry_id(path: &str) -> EntryId {
    keys::entry_id(&key(path), VariantId::SOLE)
}

fn has(writer: &DiskWriter, path: &str) -> bool {
    writer.database.get(&keys::entry(&entry_id(path))).unwrap().is_some()
}

fn check(writer: &mut DiskWriter) {
    writer.check = Some(Check::default());
    while writer.check.is_some() {
        writer.check_step().unwrap();
    }
}

#[test]
fn expired_entries_are_swept_with_their_files_and_the_rest_stays() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    for n in 0..20 {
        put_until(&mut writer, &format!("/{n}"), Some(1000 + n), bytes(1, 10_000));
    }
    put_until(&mut writer, "/forever", None, bytes(2, 10_000));
    assert!(!writer.sweep(at(1000)).unwrap(), "nothing is past yet");
    assert_eq!(writer.usage.totals().entries, 21);
    assert!(!writer.sweep(at(1010)).unwrap());
    assert!((0..20).all(|n| has(&writer, &format!("/{n}")) == (n >= 10)));
    assert_eq!((fixture.files().len(), writer.usage.totals().entries), (11, 11));
    assert_eq!(counts(&writer.database), [11, 11, 11]);
    writer.sweep(at(u64::MAX / 4)).unwrap();
    assert_eq!(counts(&writer.database), [1, 1, 1]);
    assert!(has(&writer, "/forever"));
    assert_eq!(writer.usage.totals().evictions, 0, "sweeping is not evicting");
}

fn put_varying(writer: &mut DiskWriter, vary: &[&'static str], variant: u128, order: u64, until: u64) {
    let put = PutCommand {
        until: Some(at(until)),
        ..put_command(key("/x"), &stored_at("x", vary, variant, order))
    };
    writer.put(&put).unwrap();
}

/// A variant by other fields may be selected in place of a removed one, and must not be older.
#[test]
fn an_older_variant_by_other_fields_is_removed_with_the_newer() {
    for (newer_order, is_left) in [(20, false), (5, true)] {
        let fixture = TestDisk::new();
        let mut writer = fixture.writer();
        put_varying(&mut writer, &[], 0, 10, 5_000);
        put_varying(&mut writer, &["x-v"], 7, newer_order, 1_000);
        assert_eq!(counts(&writer.database), [2, 1, 2]);
        writer.sweep(at(2_000)).unwrap();
        assert_eq!(has(&writer, "/x"), is_left, "{newer_order}");
        let left = usize::from(is_left);
        assert_eq!(counts(&writer.database), [left, left, left]);
    }
}

#[test]
fn an_unwritten_response_removes_older_variants_by_other_fields() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    put_varying(&mut writer, &[], 0, 10, 5_000);
    let unwritten = put_command(key("/x"), &stored_at("x", &["x-v"], 7, 20));
    writer.remove_replaced(&unwritten).unwrap();
    assert!(!has(&writer, "/x"));
    assert_eq!(counts(&writer.database), [0, 0, 0]);
}

#[test]
fn a_sweep_slice_is_bounded_and_reports_that_more_is_due() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    for n in 0..1200 {
        put_until(&mut writer, &format!("/{n}"), Some(1000), "small");
    }
    let slices = [writer.sweep(at(2000)), writer.sweep(at(2000)), writer.sweep(at(2000))];
    assert_eq!(slices.map(Result::unwrap), [true, true, false]);
    assert_eq!(counts(&writer.database), [0, 0, 0]);
    assert_eq!((writer.usage.totals().entries, writer.usage.bytes()), (0, 0));
}

#[test]
fn an_entry_with_a_later_expiry_is_not_swept_by_its_earlier_one() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    put_until(&mut writer, "/x", Some(1000), "first");
    put_until(&mut writer, "/x", Some(3000), "second");
    assert_eq!(counts(&writer.database), [1, 1, 1]);
    // A crash between the two left the earlier expiry record behind.
    let weight = EntrySize { file: 0, value: 5 };
    writer.index_expiry(&entry_id("/x"), ExpiresAt::from_time(Some(at(1000))), weight).unwrap();
    writer.sweep(at(2000)).unwrap();
    assert!(has(&writer, "/x"));
    assert_eq!(counts(&writer.database), [1, 1, 1]);
    writer.sweep(at(4000)).unwrap();
    assert_eq!(counts(&writer.database), [0, 0, 0]);
}

#[test]
fn the_check_does_not_change_consistent_data() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    for n in 0..1100_usize {
        put_until(&mut writer, &format!("/{n}"), Some(9000), bytes(n, (n % 3) * 3000));
    }
    let (files, totals) = (fixture.files(), writer.usage.totals());
    check(&mut writer);
    assert_eq!((fixture.files(), writer.usage.totals()), (files, totals));
    assert_eq!(counts(&writer.database), [1100, 1100, 1100]);
}

#[test]
fn the_check_restores_an_entrys_expiry_and_its_variant() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    put_until(&mut writer, "/x", Some(1000), bytes(1, 10_000));
    let totals = writer.usage.totals();
    writer.unindex_expiry(&entry_id("/x"), ExpiresAt::from_time(Some(at(1000)))).unwrap();
    writer.database.remove(&keys::variants(entry_id("/x").id)).unwrap();
    check(&mut writer);
    assert_eq!(counts(&writer.database), [1, 1, 1]);
    assert_eq!(writer.usage.totals(), totals);
    writer.sweep(at(2000)).unwrap();
    assert_eq!((counts(&writer.database), fixture.files().len()), ([0, 0, 0], 0));
}

#[test]
fn the_check_removes_expiries_variants_and_files_without_entry() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    for n in 0..3 {
        put_until(&mut writer, &format!("/{n}"), None, bytes(n, 10_000));
    }
    // The state after a crash that comes before the entry was written.
    writer.database.remove(&keys::entry(&entry_id("/0"))).unwrap();
    let stray = fixture.layout().bodies().join("00");
    std::fs::create_dir_all(&stray).unwrap();
    std::fs::write(stray.join("not-a-body"), b"").unwrap();
    check(&mut writer);
    assert_eq!(counts(&writer.database), [2, 2, 2]);
    assert_eq!(fixture.files().len(), 3, "two bodies, and a file that is not larder's");
    assert_eq!(writer.usage.totals().entries, 2);
}

#[test]
fn a_file_written_during_the_check_is_no_orphan() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    put_until(&mut writer, "/before", None, bytes(1, 10_000));
    writer.check = Some(Check::default());
    let mut n = 0;
    while writer.check.is_some() {
        writer.check_step().unwrap();
        put_until(&mut writer, &format!("/{n}"), None, bytes(n, 10_000));
        n += 1;
    }
    assert_eq!(fixture.files().len(), n + 1);
    assert_eq!(writer.usage.totals().entries, n as u64 + 1);
}

#[test]
fn the_check_removes_a_damaged_entry_and_counts_it() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    for n in 0..3 {
        put_until(&mut writer, &format!("/{n}"), Some(1000), bytes(n, 10_000));
    }
    let key = keys::entry(&entry_id("/1"));
    let mut value = writer.database.get(&key).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    writer.database.insert(&key, value).unwrap();
    check(&mut writer);
    assert_eq!(counts(&writer.database), [2, 2, 2]);
    assert_eq!((fixture.files().len(), fixture.errors("read")), (2, 1));
}
