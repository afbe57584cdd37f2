//! Changes that cannot be written for a while are on disk once they can be.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::*;
use crate::store::generations::{Epoch, Generation};
use crate::store::state_db::StateDb;
use crate::store::state_db::writer::record_outcome;

fn opened(dir: &Path) -> WriterState {
    StateDb::open(dir, SystemTime::UNIX_EPOCH).unwrap().0.close();
    let db = reopen(&dir.join("db")).unwrap();
    WriterState::new(dir.join("db"), db, std::iter::empty())
}

fn change(target: u128) -> Change {
    let generation =
        Generation { hard: Epoch::from_raw(70), soft: Epoch::default(), ..Generation::default() };
    Change { scope: PurgeScope::Target(target), generation }
}

fn targets(dir: &Path) -> Vec<u128> {
    let (state, all) = StateDb::open(dir, SystemTime::UNIX_EPOCH).unwrap();
    state.close();
    let mut targets: Vec<u128> = all.targets.into_keys().collect();
    targets.sort_unstable();
    targets
}

#[test]
fn failed_and_later_changes_are_written_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = opened(dir.path());
    state.stage(change(1));
    state.write(true).unwrap();
    state.stage(change(2));
    state.write(false).unwrap();
    state.lose("no room");
    state.stage(change(3));
    let result = state.write(true);
    assert_eq!(result, Err("no room".to_owned()), "it is not tried again at once");
    // No space: not even for this file.
    fs::create_dir(dir.path().join("room")).unwrap();
    state.try_now();
    assert!(state.write(true).unwrap_err().contains("directory"));
    fs::remove_dir(dir.path().join("room")).unwrap();
    state.try_now();
    state.write(true).unwrap();
    state.stage(change(4));
    state.write(true).unwrap();
    drop(state);
    assert_eq!(targets(dir.path()), [1, 2, 3, 4]);
}

#[test]
fn targets_removed_during_a_write_failure_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = opened(dir.path());
    state.stage(change(1));
    state.stage(change(2));
    state.write(true).unwrap();
    state.stage(change(3));
    state.lose("no room");
    state.replace(&Snapshot { targets: [(2, change(2).generation)].into(), ..Snapshot::default() });
    assert_eq!(state.unwritten.len(), 3, "only the remaining rows, and the newest epoch");
    state.stage(change(4));
    state.try_now();
    state.write(true).unwrap();
    drop(state);
    assert_eq!(targets(dir.path()), [2, 4]);
}

#[test]
fn rows_are_not_collected_while_they_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = opened(dir.path());
    let (calls, called) = mpsc::channel();
    let row = |value: &[u8]| StateRow { key: b"a".to_vec(), value: Some(value.to_vec()) };
    state.watched.push((
        b"c",
        Box::new(move || {
            calls.send(()).unwrap();
            vec![row(b"1")]
        }),
    ));
    state.lose("no room");
    state.write(true).unwrap_err();
    assert!(called.try_recv().is_err());
    state.try_now();
    state.write(true).unwrap();
    assert!(called.try_recv().is_ok());
    drop(state);
    let (state, _) = StateDb::open(dir.path(), SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(state.take_cost_rows(), [(b"a".to_vec(), b"1".to_vec())]);
}

#[test]
fn a_write_failure_ends_with_its_cause() {
    let failure = Mutex::new(None);
    assert!(record_outcome(Err("no room".to_owned()), &failure).is_err());
    assert_eq!(failure.lock().as_deref(), Some("no room"));
    assert!(record_outcome(Ok(()), &failure).is_ok());
    assert_eq!(*failure.lock(), None);
}
