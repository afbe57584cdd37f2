//! STO-02: whatever happens to the files, nothing panics, no altered byte is found, and the tier becomes
//! usable again.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::store::disk::keys;

/// Number of times that each kind of damage is done.
const TIMES: u64 = 50;
const ENTRY_COUNT: usize = 60;

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn content(n: usize) -> Bytes {
    static CONTENTS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
        let lengths = [10, 1000, 4000, 4097, 10_000, 20_000];
        (0..ENTRY_COUNT).map(|n| bytes(n, lengths[n % lengths.len()])).collect()
    });
    CONTENTS[n].clone()
}

/// A store with every kind of entry.
async fn template() -> TestDisk {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    for round in 0..2 {
        for n in 0..ENTRY_COUNT {
            // Written twice, so that entries are replaced.
            let stored = stored_at(content(n), &[], 0, 100 + round);
            let put = put_command(key(&format!("/{n}")), &stored);
            disk.put(PutCommand { until: Some(at(2_000_000)), ..put });
        }
        disk.flush().await;
    }
    disk.close().await;
    fixture
}

/// Does the damage repeatedly, each time to a fresh copy of the same store, and checks the result. Returns
/// how many entries were found undamaged, over all times.
async fn survives(damage: impl Fn(&TestDisk, &mut StdRng)) -> usize {
    let template = template().await;
    let mut whole = 0;
    for seed in 0..TIMES {
        let fixture = TestDisk::new();
        copy(&template.cache(), &fixture.cache());
        damage(&fixture, &mut StdRng::seed_from_u64(seed));
        whole += found_whole(&fixture, seed).await;
    }
    whole
}

async fn found_whole(fixture: &TestDisk, seed: u64) -> usize {
    let mut whole = 0;
    for restart in 0..2 {
        let disk = fixture.open().await;
        for n in 0..ENTRY_COUNT {
            if let Some(found) = body(&disk, &format!("/{n}")) {
                assert!(found == content(n), "altered: seed {seed}, entry {n}");
                whole += usize::from(restart == 0);
            }
        }
        // Again: the damaged entries found have been removed meanwhile.
        disk.flush().await;
        assert_eq!(disk.health(), Health::Good, "seed {seed}");
        let path = format!("/new{restart}");
        put(&disk, &path, &stored(content(5)));
        disk.flush().await;
        assert_eq!(body(&disk, &path), Some(content(5)), "seed {seed}");
        disk.close().await;
    }
    assert!(fixture.metric("larder_store_recovered_total") <= 1, "seed {seed}: it is mended once");
    whole
}

/// A random file; the database files are as likely as all bodies together.
fn any_file(fixture: &TestDisk, random: &mut StdRng) -> PathBuf {
    let layout = fixture.layout();
    let dir = if random.random() { layout.database() } else { layout.bodies() };
    let files = files_below(&dir);
    let files: Vec<_> = files.into_iter().filter(|file| file.metadata().unwrap().len() > 0).collect();
    files[random.random_range(0..files.len())].clone()
}

fn overwrite(file: &Path, at: u64, change: impl Fn(u8) -> u8, length: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut bytes = Vec::new();
    (&file).take(length).read_to_end(&mut bytes).unwrap();
    for byte in &mut bytes {
        *byte = change(*byte);
    }
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&bytes).unwrap();
}

#[tokio::test]
async fn sto_02_flipped_bits_are_never_served() {
    let whole = survives(|fixture, random| {
        let file = any_file(fixture, random);
        let offset = random.random_range(0..file.metadata().unwrap().len());
        let bit = random.random_range(0..8);
        overwrite(&file, offset, |byte| byte ^ (1 << bit), 1);
    });
    assert!(whole.await > 0, "not every entry was lost");
}

#[tokio::test]
async fn sto_02_zeroed_blocks_are_never_served() {
    survives(|fixture, random| {
        let file = any_file(fixture, random);
        let offset = random.random_range(0..file.metadata().unwrap().len().div_ceil(4096)) * 4096;
        overwrite(&file, offset, |_| 0, 4096);
    })
    .await;
}

#[tokio::test]
async fn sto_02_truncated_files_are_never_served() {
    survives(|fixture, random| {
        let file = any_file(fixture, random);
        let length = random.random_range(0..file.metadata().unwrap().len());
        OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
    })
    .await;
}

#[tokio::test]
async fn sto_02_deleted_files_cost_only_their_own_entries() {
    let whole = survives(|fixture, random| fs::remove_file(any_file(fixture, random)).unwrap());
    assert!(whole.await > 0, "not every entry was lost");
}

#[tokio::test]
async fn sto_02_an_incomplete_snapshot_does_no_harm() {
    survives(|fixture, random| {
        let files = files_below(&fixture.layout().database());
        let snapshot = files
            .iter()
            .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")));
        let half = fixture.layout().database().join(format!("snap.{:016X}.generating", 4096));
        let bytes = snapshot.map(|file| fs::read(file).unwrap()).unwrap_or_default();
        let length = random.random_range(0..=bytes.len());
        fs::write(half, &bytes[..length]).unwrap();
    })
    .await;
}

#[tokio::test]
async fn sto_02_a_foreign_database_is_quarantined() {
    let mut count = 0;
    let foreign = tempfile::tempdir().unwrap();
    {
        let database = sled::open(foreign.path()).unwrap();
        // Some of its keys look like larder's.
        database.insert(b"E-key", b"theirs").unwrap();
        database.insert(b"Xylophone", b"theirs").unwrap();
        database.flush().unwrap();
    }
    for seed in 0..TIMES {
        let fixture = TestDisk::new();
        copy(foreign.path(), &fixture.layout().database());
        assert_eq!(found_whole(&fixture, seed).await, 0);
        assert_eq!(fixture.metric("larder_store_recovered_total"), 1);
        count += 1;
    }
    assert_eq!(count, TIMES);
}

#[tokio::test]
async fn sto_02_a_cache_of_another_version_is_removed_and_a_new_one_made() {
    let template = template().await;
    for (seed, version) in ["v0", "v1", "v3", "v99"].into_iter().enumerate() {
        let fixture = TestDisk::new();
        copy(&template.cache(), &fixture.cache());
        fs::rename(fixture.cache().join("v5"), fixture.cache().join(version)).unwrap();
        fs::create_dir(fixture.cache().join("not-a-version")).unwrap();
        let quarantine = fixture.cache().parent().unwrap().join("quarantine-2026-11-01T00:00:00Z");
        fs::create_dir(&quarantine).unwrap();
        assert_eq!(found_whole(&fixture, seed as u64).await, 0);
        assert_eq!(fixture.metric("larder_store_recovered_total"), 0, "that is no fault");
        assert!(!fixture.cache().join(version).exists());
        assert!(fixture.cache().join("not-a-version").exists());
        assert!(!quarantine.exists(), "a quarantine may be of that version");
    }
}

#[tokio::test]
async fn a_damaged_body_is_a_miss_and_is_removed() {
    let template = template().await;
    let files = template.files();
    let disk = template.open().await;
    overwrite(&files[0], 100, |byte| !byte, 1);
    let missing = (0..ENTRY_COUNT).filter(|n| body(&disk, &format!("/{n}")).is_none()).count();
    assert_eq!(missing, 1);
    disk.flush().await;
    assert_eq!(template.errors("read"), 1);
    assert_eq!(disk.totals().entries, ENTRY_COUNT as u64 - 1);
    assert_eq!(template.files(), files[1..]);
    disk.close().await;
}

#[tokio::test]
async fn a_missing_or_shortened_body_is_a_miss_and_is_removed() {
    let template = template().await;
    let files = template.files();
    let disk = template.open().await;
    fs::remove_file(&files[0]).unwrap();
    OpenOptions::new().write(true).open(&files[1]).unwrap().set_len(10).unwrap();
    let missing = (0..ENTRY_COUNT).filter(|n| body(&disk, &format!("/{n}")).is_none()).count();
    assert_eq!(missing, 2);
    disk.flush().await;
    assert_eq!(template.errors("read"), 2);
    assert_eq!(template.files(), files[2..]);
    disk.close().await;
}

#[tokio::test]
async fn a_damaged_entry_is_a_miss_and_is_removed() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    let database = disk.shared.open.load_full().unwrap();
    let entry_key = keys::entry(&keys::entry_id(&key("/x"), VariantId::SOLE));
    let mut value = database.get(&entry_key).unwrap().unwrap().to_vec();
    value[30] ^= 4;
    database.insert(&entry_key, value).unwrap();
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    disk.flush().await;
    assert_eq!((fixture.errors("read"), counts(&database)[0]), (1, 0));
    drop(database);
    disk.close().await;
}

#[tokio::test]
async fn only_the_newest_quarantine_is_kept() {
    let fixture = TestDisk::new();
    let quarantines = || {
        let names = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("quarantine-")).collect::<Vec<_>>()
    };
    for day in 0..3 {
        fixture.writer().database.insert(b"F", b"another's".to_vec()).unwrap();
        fixture.clock.advance(Duration::from_secs(86_400));
        let disk = fixture.open().await;
        assert_eq!(disk.health(), Health::Good);
        disk.close().await;
        let time = humantime::format_rfc3339_seconds(fixture.clock.now());
        assert_eq!(quarantines(), [format!("quarantine-{time}")], "day {day}");
        assert!(fixture.dir.path().join(&quarantines()[0]).join("db").exists());
    }
    assert_eq!(fixture.metric("larder_store_recovered_total"), 3);
}

#[tokio::test]
async fn when_no_database_opens_it_runs_memory_only_until_one_does() {
    let fixture = TestDisk::new();
    // A file where a directory must be.
    fs::write(fixture.cache(), b"").unwrap();
    let disk = fixture.open().await;
    let Health::MemoryOnly(reason) = disk.health() else { panic!("it is {:?}", disk.health()) };
    assert!(!reason.is_empty());
    assert!(fixture.errors("open") >= 1);
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    fs::remove_file(fixture.cache()).unwrap();
    // Recovery is tried again by a timer: only the health reports it.
    while disk.health() != Health::Good {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "x");
    disk.close().await;
}

#[tokio::test]
async fn an_opening_that_hangs_is_abandoned_and_the_cache_recreated() {
    let mut fixture = TestDisk::new();
    let disk = fixture.open().await;
    disk.close().await;
    let file = fs::File::open(fixture.layout().database().join("db")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fixture.hooks.open_within = Duration::from_millis(300);
    let disk = fixture.open().await;
    assert_eq!(disk.health(), Health::Good);
    assert_eq!(fixture.metric("larder_store_recovered_total"), 1);
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "x");
    disk.close().await;
}
