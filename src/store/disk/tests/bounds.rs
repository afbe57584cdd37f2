//! Bounds of the queue and of stored bytes.

use std::sync::mpsc;

use super::*;
use crate::store::disk::keys;
use crate::store::disk::queue::PutCommand;

#[tokio::test]
async fn queued_bodies_are_bounded_and_dropped_ones_are_counted() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let (resume, stalled) = mpsc::channel();
    disk.stall(stalled);
    let body = bytes(1, usize::try_from(MIB).unwrap());
    let large = stored(body.clone());
    for n in 0..70 {
        put(&disk, &format!("/{n}"), &large);
    }
    // Each weighs a little more than its body.
    assert_eq!(fixture.errors("drop"), 70 - 63);
    drop(resume);
    disk.flush().await;
    assert_eq!(disk.totals().entries, 63);
    assert_eq!(self::body(&disk, "/62"), Some(body));
    put(&disk, "/69", &large);
    disk.flush().await;
    assert_eq!(disk.totals().entries, 64, "there is room again");
    disk.close().await;
}

#[tokio::test]
async fn queued_commands_are_bounded() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let (resume, stalled) = mpsc::channel();
    disk.stall(stalled);
    let small = stored("small");
    for n in 0..5000 {
        put(&disk, &format!("/{n}"), &small);
        disk.remove_target(n);
    }
    // The stall itself may or may not still be queued.
    let dropped = fixture.errors("drop");
    assert!((10_000 - 4096..=10_000 - 4095).contains(&dropped), "{dropped}");
    drop(resume);
    disk.flush().await;
    disk.close().await;
}

#[tokio::test]
async fn of_several_queued_puts_the_newest_is_written() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let (resume, stalled) = mpsc::channel();
    disk.stall(stalled);
    let large = usize::try_from(MIB).unwrap();
    for n in 0..200 {
        // In no order of time.
        put(&disk, "/x", &stored_at(bytes(n, large), &[], 0, 1000 + (n as u64 * 7) % 200));
    }
    put(&disk, "/y", &stored("reclaimed"));
    disk.remove_target(key("/y").target_id());
    put(&disk, "/y", &stored("put after"));
    assert_eq!(fixture.errors("drop"), 0, "one entry waits once");
    drop(resume);
    disk.flush().await;
    let newest = (0..200).max_by_key(|n| (n * 7) % 200).unwrap();
    assert_eq!(body(&disk, "/x"), Some(bytes(newest, large)));
    assert_eq!(body(&disk, "/y").unwrap(), "put after");
    disk.close().await;
}

#[tokio::test]
async fn hits_go_on_while_the_store_thread_is_stalled() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    put(&disk, "/inline", &stored("inline"));
    put(&disk, "/file", &stored(bytes(1, 100_000)));
    disk.flush().await;
    let (resume, stalled) = mpsc::channel();
    disk.stall(stalled);
    put(&disk, "/x", &stored("waits"));
    for _ in 0..100 {
        assert_eq!(body(&disk, "/inline").unwrap(), "inline");
        assert_eq!(body(&disk, "/file"), Some(bytes(1, 100_000)));
    }
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    drop(resume);
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "waits");
    disk.close().await;
}

/// Bytes that the files take on disk.
fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files_below(dir).iter().map(|file| file.metadata().unwrap().blocks() * 512).sum()
}

/// Puts `puts` responses of these sizes, each several times, and checks every 500 puts how much the files
/// take. STO-05 allows 1.3 times the bound: sled's growth comes in jumps.
async fn churn(bound: u64, puts: usize, sizes: [usize; 6]) {
    let fixture = TestDisk { bytes: bound, ..TestDisk::new() };
    let disk = fixture.open().await;
    let bodies = sizes.map(|size| bytes(size, size));
    let mut written = 0;
    for n in 0..puts {
        let body = &bodies[n % sizes.len()];
        written += body.len() as u64;
        let until = at(2_000_000 + n as u64 / 10 + 3600 * (n as u64 % 3));
        let key = key(&format!("/{}", n * 7919 % (puts / 2)));
        disk.put(PutCommand { until: Some(until), ..put_command(key, &stored(body.clone())) });
        if n % 500 == 499 {
            disk.flush().await;
            assert!(disk.totals().bytes <= bound);
            let disk_usage = disk_usage(&fixture.cache());
            assert!(disk_usage <= bound * 13 / 10, "{disk_usage} after {n}");
        }
    }
    let totals = disk.totals();
    assert!(written > bound && totals.evictions > 1000 && totals.bytes > bound / 2, "{totals:?}");
    assert_eq!(fixture.errors("drop") + fixture.errors("write"), 0);
    let blobs = files_below(&fixture.layout().database().join("blobs"));
    assert!(blobs.is_empty(), "no value is so large that its space is never freed");
    disk.close().await;
}

#[tokio::test]
async fn eviction_keeps_the_size_of_the_files_near_the_bound() {
    churn(24 * MIB, 5000, [300, 2000, 4000, 9000, 30_000, 80_000]).await;
}

#[tokio::test]
async fn many_small_responses_stay_within_the_bound_too() {
    churn(12 * MIB, 10_000, [300, 700, 1000, 1500, 2500, 4000]).await;
}

#[test]
fn the_nearest_expiry_is_evicted_first_and_entries_without_one_last() {
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    let until = |n: u64| (n > 0).then(|| at(5000 + n));
    for n in 0..10 {
        let stored = stored(bytes(1, 10_000));
        let put = PutCommand { until: until(n), ..put_command(key(&format!("/{n}")), &stored) };
        writer.put(&put).unwrap();
    }
    let each = writer.usage.bytes() / 10;
    writer.bound = each * 4;
    writer.make_room().unwrap();
    let left = |writer: &DiskWriter| -> Vec<u64> {
        let key = |n: u64| keys::entry(&keys::entry_id(&key(&format!("/{n}")), VariantId::SOLE));
        (0..10).filter(|n| writer.database.get(&key(*n)).unwrap().is_some()).collect()
    };
    // Eviction frees a little more than needed.
    assert_eq!(left(&writer), [0, 8, 9]);
    assert_eq!(writer.usage.totals().evictions, 7);
    writer.evict_down_to(each).unwrap();
    assert_eq!(left(&writer), [0]);
    writer.evict_down_to(0).unwrap();
    assert_eq!(left(&writer), [0; 0]);
    assert_eq!((writer.usage.bytes(), fixture.files().len()), (0, 0));
    assert_eq!(counts(&writer.database), [0, 0, 0]);
}
