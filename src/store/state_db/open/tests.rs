//! The definition of damage.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::store::generations::{Change, PurgeScope};
use crate::store::state_db::{OpenError, StateDb};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn system_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[test]
fn a_system_error_is_no_damage_in_whatever_form_it_comes() {
    // EIO, EACCES, EMFILE, ENOSPC, EROFS, EDQUOT.
    for number in [5, 13, 24, 28, 30, 122] {
        let cloned = sled::Error::Io(system_error(number)).clone();
        let nested = sled::Error::ReportableBug(format!("a thread gave up: {}", system_error(number)));
        let panic = catch_unwind(|| panic!("called `unwrap` on {:?}", system_error(number))).unwrap_err();
        let faults = [
            Fault::from(system_error(number)),
            Fault::from(sled::Error::Io(system_error(number))),
            Fault::from(cloned),
            Fault::from(nested),
            Fault::from_panic(&*panic),
        ];
        for fault in faults {
            assert!(matches!(fault, Fault::Unavailable(_)), "{number}: {fault:?}");
        }
    }
    let short = io::Error::new(io::ErrorKind::UnexpectedEof, "failed to fill the buffer");
    let panic = catch_unwind(|| panic!("expected page missing")).unwrap_err();
    let silent = catch_unwind(|| std::panic::panic_any(7)).unwrap_err();
    let damage = [
        Fault::from(short),
        Fault::from(sled::Error::Corruption { at: None, bt: () }),
        Fault::from(sled::Error::ReportableBug("a segment of no kind".to_owned())),
        Fault::from(sled::Error::Unsupported("created with version 0.33".to_owned())),
        Fault::from_panic(&*panic),
        Fault::from_panic(&*silent),
    ];
    for fault in damage {
        assert!(matches!(fault, Fault::Damaged(_)), "{fault:?}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn with_one_purge(dir: &Path) -> Generation {
    let generation =
        Generation { hard: Epoch::from_raw(70), soft: Epoch::default(), ..Generation::default() };
    let (state, _) = StateDb::open(dir, at(1)).unwrap();
    state.persist(Change { scope: PurgeScope::Target(7), generation });
    state.flush().await.unwrap();
    state.close();
    generation
}

#[tokio::test]
async fn a_state_that_cannot_be_opened_now_stays_where_it_is_and_is_used_later() {
    let dir = tempfile::tempdir().unwrap();
    let generation = with_one_purge(dir.path()).await;
    let (file, moved) = (dir.path().join("db/db"), dir.path().join("away"));
    // Permissions do not restrict every user who runs tests; a directory in the file's place stops all.
    fs::rename(&file, &moved).unwrap();
    fs::create_dir(&file).unwrap();
    let refused = StateDb::open(dir.path(), at(2)).err().expect("a directory is no file");
    assert!(matches!(refused, OpenError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("left as it is"), "{refused}");
    fs::remove_dir(&file).unwrap();
    fs::rename(&moved, &file).unwrap();
    let (_state, all) = StateDb::open(dir.path(), at(3)).unwrap();
    assert_eq!(all.targets[&7], generation);
    assert_eq!(all.all.hard, Epoch::at(at(1)), "the old state was opened");
    assert_eq!(names(dir.path()), ["db"], "nothing was set aside");
}

#[tokio::test]
async fn a_half_written_snapshot_of_a_full_disk_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let generation = with_one_purge(dir.path()).await;
    let left = dir.path().join("db/snap.7FFFFFFFFFFFFFFF.generating");
    for half in [&b""[..], b"half of a summary of a database"] {
        fs::write(&left, half).unwrap();
        let (state, all) = StateDb::open(dir.path(), at(2)).unwrap();
        assert_eq!(all.targets[&7], generation);
        state.close();
        assert!(!left.exists());
    }
    assert_eq!(names(dir.path()), ["db"], "nothing was set aside");
}

#[test]
fn without_free_space_no_database_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("room")).unwrap();
    let refused = StateDb::open(dir.path(), at(1)).err().expect("there is no room");
    assert!(matches!(refused, OpenError::Unavailable { .. }), "{refused}");
    assert_eq!(names(dir.path()), ["room"]);
}

#[tokio::test]
async fn a_state_that_never_became_complete_is_recreated_and_no_damage() {
    for content in ["complete but for the marker", "cut", "nothing"] {
        let dir = tempfile::tempdir().unwrap();
        with_one_purge(dir.path()).await;
        match content {
            "cut" => fs::write(dir.path().join("db/db"), [0; 100]).unwrap(),
            "nothing" => fs::remove_dir_all(dir.path().join("db")).unwrap(),
            _ => {}
        }
        fs::write(dir.path().join("db.unfinished"), "").unwrap();
        let (state, all) = StateDb::open(dir.path(), at(9)).unwrap();
        assert!(all.targets.is_empty(), "{content}");
        assert_eq!(all.all.hard, Epoch::at(at(9)), "{content}: what a cache holds is unusable");
        assert_eq!(names(dir.path()), ["db"], "{content}");
        state.close();
        let (_state, all) = StateDb::open(dir.path(), at(10)).unwrap();
        assert_eq!(all.all.hard, Epoch::at(at(9)), "{content}: this one stays");
    }
}

#[test]
fn a_state_that_cannot_be_created_leaves_nothing_that_counts_as_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db.unfinished")).unwrap();
    let refused = StateDb::open(dir.path(), at(1)).err().expect("a directory is no marker");
    assert!(matches!(refused, OpenError::Unavailable { .. }), "{refused}");
    assert_eq!(names(dir.path()), ["db.unfinished"]);
    fs::remove_dir(dir.path().join("db.unfinished")).unwrap();
    StateDb::open(dir.path(), at(2)).unwrap();
}
