//! STO-02: whatever happens to the files, nothing panics, no altered byte is found, and the tier is
//! of use again.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::disk::keys;

/// How often each kind of damage is done.
const TIMES: u64 = 50;
const ENTRIES_OF: usize = 60;

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
        (0..ENTRIES_OF).map(|n| bytes(n, lengths[n % lengths.len()])).collect()
    });
    CONTENTS[n].clone()
}

/// A store with something of everything.
async fn template() -> TestDisk {
    let house = TestDisk::new();
    let disk = house.open().await;
    for round in 0..2 {
        for n in 0..ENTRIES_OF {
            // Written twice, so that something was replaced.
            let stored = stored_at(content(n), &[], 0, 100 + round);
            disk.put(
                &key(&format!("/{n}")),
                &stored,
                (MARK, SO_FAR),
                Some(at(2_000_000)),
                presence(),
            );
        }
        disk.flush().await;
    }
    disk.close().await;
    house
}

/// Does the damage again and again, each time to a copy of the same store, and looks what became of
/// it. Says how many entries were found whole, over all times.
async fn survives(damage: impl Fn(&TestDisk, &mut StdRng)) -> usize {
    let template = template().await;
    let mut whole = 0;
    for seed in 0..TIMES {
        let house = TestDisk::new();
        copy(&template.cache(), &house.cache());
        damage(&house, &mut StdRng::seed_from_u64(seed));
        whole += found_whole(&house, seed).await;
    }
    whole
}

async fn found_whole(house: &TestDisk, seed: u64) -> usize {
    let mut whole = 0;
    for restart in 0..2 {
        let disk = house.open().await;
        for n in 0..ENTRIES_OF {
            if let Some(found) = body(&disk, &format!("/{n}")) {
                assert!(found == content(n), "altered: seed {seed}, entry {n}");
                whole += usize::from(restart == 0);
            }
        }
        // Again: what was found damaged has been removed meanwhile.
        disk.flush().await;
        assert_eq!(disk.condition(), Health::Good, "seed {seed}");
        let path = format!("/new{restart}");
        put(&disk, &path, &stored(content(5)));
        disk.flush().await;
        assert_eq!(body(&disk, &path), Some(content(5)), "seed {seed}");
        disk.close().await;
    }
    assert!(house.metric("larder_store_recovered_total") <= 1, "seed {seed}: it is mended once");
    whole
}

/// One of the files, those of the database as likely as all bodies together.
fn any_file(house: &TestDisk, random: &mut StdRng) -> PathBuf {
    let layout = house.layout();
    let dir = if random.random() { layout.database() } else { layout.bodies() };
    let files = files_below(&dir);
    let files: Vec<_> =
        files.into_iter().filter(|file| file.metadata().unwrap().len() > 0).collect();
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
    let whole = survives(|house, random| {
        let file = any_file(house, random);
        let place = random.random_range(0..file.metadata().unwrap().len());
        let bit = random.random_range(0..8);
        overwrite(&file, place, |byte| byte ^ (1 << bit), 1);
    });
    assert!(whole.await > 0, "not all of it was lost");
}

#[tokio::test]
async fn sto_02_zeroed_blocks_are_never_served() {
    survives(|house, random| {
        let file = any_file(house, random);
        let place = random.random_range(0..file.metadata().unwrap().len().div_ceil(4096)) * 4096;
        overwrite(&file, place, |_| 0, 4096);
    })
    .await;
}

#[tokio::test]
async fn sto_02_truncated_files_are_never_served() {
    survives(|house, random| {
        let file = any_file(house, random);
        let length = random.random_range(0..file.metadata().unwrap().len());
        OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
    })
    .await;
}

#[tokio::test]
async fn sto_02_deleted_files_cost_only_what_was_in_them() {
    let whole = survives(|house, random| fs::remove_file(any_file(house, random)).unwrap());
    assert!(whole.await > 0, "not all of it was lost");
}

#[tokio::test]
async fn sto_02_a_half_made_snapshot_does_no_harm() {
    survives(|house, random| {
        let files = files_below(&house.layout().database());
        let snapshot = files.iter().find(|file| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."))
        });
        let half = house.layout().database().join(format!("snap.{:016X}.generating", 4096));
        let bytes = snapshot.map(|file| fs::read(file).unwrap()).unwrap_or_default();
        let length = random.random_range(0..=bytes.len());
        fs::write(half, &bytes[..length]).unwrap();
    })
    .await;
}

#[tokio::test]
async fn sto_02_a_foreign_database_is_put_aside() {
    let mut number = 0;
    let foreign = tempfile::tempdir().unwrap();
    {
        let database = sled::open(foreign.path()).unwrap();
        // It even has keys that look like larder's.
        database.insert(b"E-key", b"theirs").unwrap();
        database.insert(b"Xylophone", b"theirs").unwrap();
        database.flush().unwrap();
    }
    for seed in 0..TIMES {
        let house = TestDisk::new();
        copy(foreign.path(), &house.layout().database());
        assert_eq!(found_whole(&house, seed).await, 0);
        assert_eq!(house.metric("larder_store_recovered_total"), 1);
        number += 1;
    }
    assert_eq!(number, TIMES);
}

#[tokio::test]
async fn sto_02_what_another_version_wrote_is_removed_and_larders_own_is_begun_anew() {
    let template = template().await;
    for (seed, version) in ["v0", "v1", "v3", "v99"].into_iter().enumerate() {
        let house = TestDisk::new();
        copy(&template.cache(), &house.cache());
        fs::rename(house.cache().join("v5"), house.cache().join(version)).unwrap();
        fs::create_dir(house.cache().join("not-a-version")).unwrap();
        let aside = house.cache().parent().unwrap().join("quarantine-2026-11-01T00:00:00Z");
        fs::create_dir(&aside).unwrap();
        assert_eq!(found_whole(&house, seed as u64).await, 0);
        assert_eq!(house.metric("larder_store_recovered_total"), 0, "that is no fault");
        assert!(!house.cache().join(version).exists());
        assert!(house.cache().join("not-a-version").exists());
        assert!(!aside.exists(), "what was put aside may be of that version");
    }
}

#[tokio::test]
async fn a_damaged_body_is_a_miss_and_is_removed() {
    let template = template().await;
    let files = template.files();
    let disk = template.open().await;
    overwrite(&files[0], 100, |byte| !byte, 1);
    let missing = (0..ENTRIES_OF).filter(|n| body(&disk, &format!("/{n}")).is_none()).count();
    assert_eq!(missing, 1);
    disk.flush().await;
    assert_eq!(template.errors("read"), 1);
    assert_eq!(disk.totals().entries, ENTRIES_OF as u64 - 1);
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
    let missing = (0..ENTRIES_OF).filter(|n| body(&disk, &format!("/{n}")).is_none()).count();
    assert_eq!(missing, 2);
    disk.flush().await;
    assert_eq!(template.errors("read"), 2);
    assert_eq!(template.files(), files[2..]);
    disk.close().await;
}

#[tokio::test]
async fn a_damaged_entry_is_a_miss_and_is_removed() {
    let house = TestDisk::new();
    let disk = house.open().await;
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    let database = disk.shared.open.load_full().unwrap();
    let place = keys::entry(&keys::place(&key("/x"), VariantId::SOLE));
    let mut value = database.get(&place).unwrap().unwrap().to_vec();
    value[30] ^= 4;
    database.insert(&place, value).unwrap();
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    disk.flush().await;
    assert_eq!((house.errors("read"), counts(&database)[0]), (1, 0));
    drop(database);
    disk.close().await;
}

#[tokio::test]
async fn only_the_newest_quarantine_is_kept() {
    let house = TestDisk::new();
    let quarantines = || {
        let names = fs::read_dir(house.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("quarantine-")).collect::<Vec<_>>()
    };
    for day in 0..3 {
        house.keeper().database.insert(b"F", b"another's".to_vec()).unwrap();
        house.clock.advance(Duration::from_secs(86_400));
        let disk = house.open().await;
        assert_eq!(disk.condition(), Health::Good);
        disk.close().await;
        let time = humantime::format_rfc3339_seconds(house.clock.now());
        assert_eq!(quarantines(), [format!("quarantine-{time}")], "day {day}");
        assert!(house.dir.path().join(&quarantines()[0]).join("db").exists());
    }
    assert_eq!(house.metric("larder_store_recovered_total"), 3);
}

#[tokio::test]
async fn where_nothing_can_be_opened_memory_goes_on_alone_until_it_can() {
    let house = TestDisk::new();
    // A file where a directory must be.
    fs::write(house.cache(), b"").unwrap();
    let disk = house.open().await;
    let Health::MemoryOnly(why) = disk.condition() else { panic!("it is {:?}", disk.condition()) };
    assert!(!why.is_empty());
    assert!(house.errors("open") >= 1);
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    fs::remove_file(house.cache()).unwrap();
    // The ladder is tried again by a timer: nothing tells of it but the condition.
    while disk.condition() != Health::Good {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "x");
    disk.close().await;
}

#[tokio::test]
async fn an_opening_that_hangs_is_given_up_and_begun_anew() {
    let mut house = TestDisk::new();
    let disk = house.open().await;
    disk.close().await;
    let file = fs::File::open(house.layout().database().join("db")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    house.means.open_within = Duration::from_millis(300);
    let disk = house.open().await;
    assert_eq!(disk.condition(), Health::Good);
    assert_eq!(house.metric("larder_store_recovered_total"), 1);
    put(&disk, "/x", &stored("x"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "x");
    disk.close().await;
}
