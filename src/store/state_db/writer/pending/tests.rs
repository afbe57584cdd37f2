//! What cannot be written for a while is on disk once it can be.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::*;
use crate::store::generations::{Epoch, Generation};
use crate::store::state_db::StateDb;
use crate::store::state_db::writer::note;

fn opened(dir: &Path) -> WriterState {
    StateDb::open(dir, SystemTime::UNIX_EPOCH).unwrap().0.close();
    let db = again(&dir.join("db")).unwrap();
    WriterState::new(dir.join("db"), db, std::iter::empty())
}

fn change(target: u128) -> Change {
    let generation =
        Generation { hard: Epoch::from_raw(70), soft: Epoch::default(), ..Generation::default() };
    Change { reach: PurgeScope::Target(target), generation }
}

fn targets(dir: &Path) -> Vec<u128> {
    let (state, all) = StateDb::open(dir, SystemTime::UNIX_EPOCH).unwrap();
    state.close();
    let mut targets: Vec<u128> = all.targets.into_keys().collect();
    targets.sort_unstable();
    targets
}

#[test]
fn what_failed_and_what_came_meanwhile_is_written_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = opened(dir.path());
    kept.keep(change(1));
    kept.write(true).unwrap();
    kept.keep(change(2));
    kept.write(false).unwrap();
    kept.lose("no room");
    kept.keep(change(3));
    let told = kept.write(true);
    assert_eq!(told, Err("no room".to_owned()), "it is not tried again at once");
    // No room: not even for this file.
    fs::create_dir(dir.path().join("room")).unwrap();
    kept.try_now();
    assert!(kept.write(true).unwrap_err().contains("directory"));
    fs::remove_dir(dir.path().join("room")).unwrap();
    kept.try_now();
    kept.write(true).unwrap();
    kept.keep(change(4));
    kept.write(true).unwrap();
    drop(kept);
    assert_eq!(targets(dir.path()), [1, 2, 3, 4]);
}

#[test]
fn what_was_forgotten_while_nothing_could_be_written_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = opened(dir.path());
    kept.keep(change(1));
    kept.keep(change(2));
    kept.write(true).unwrap();
    kept.keep(change(3));
    kept.lose("no room");
    kept.replace(&Snapshot { targets: [(2, change(2).generation)].into(), ..Snapshot::default() });
    assert_eq!(kept.unwritten.len(), 3, "no more than what is kept, and the newest mark");
    kept.keep(change(4));
    kept.try_now();
    kept.write(true).unwrap();
    drop(kept);
    assert_eq!(targets(dir.path()), [2, 4]);
}

#[test]
fn rows_are_not_asked_for_while_they_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = opened(dir.path());
    let (told, asked) = mpsc::channel();
    let row = |value: &[u8]| UsageRow { key: b"a".to_vec(), value: Some(value.to_vec()) };
    kept.watched.push((
        b"c",
        Box::new(move || {
            told.send(()).unwrap();
            vec![row(b"1")]
        }),
    ));
    kept.lose("no room");
    kept.write(true).unwrap_err();
    assert!(asked.try_recv().is_err());
    kept.try_now();
    kept.write(true).unwrap();
    assert!(asked.try_recv().is_ok());
    drop(kept);
    let (state, _) = StateDb::open(dir.path(), SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(state.ledger(), [(b"a".to_vec(), b"1".to_vec())]);
}

#[test]
fn an_illness_ends_with_its_cause() {
    let ill = Mutex::new(None);
    assert!(note(Err("no room".to_owned()), &ill).is_err());
    assert_eq!(ill.lock().as_deref(), Some("no room"));
    assert!(note(Ok(()), &ill).is_ok());
    assert_eq!(*ill.lock(), None);
}
