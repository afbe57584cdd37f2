//! The state across restarts and damage.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use super::*;
use crate::clock::Clock;
use crate::store::generations::Generations;
use crate::store::generations::{PurgeKind, Validity};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn change(target: u128, hard: u64, soft: u64) -> Change {
    let generation =
        Generation { hard: Epoch::from_raw(hard), soft: Epoch::from_raw(soft), ..Generation::default() };
    Change { scope: PurgeScope::Target(target), generation }
}

#[test]
fn a_state_is_private_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (open, _) = StateDb::open(&state, at(1)).unwrap();
    open.close();
    for made in [&state, &state.join("db")] {
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700, "{}", made.display());
    }
}

#[tokio::test]
async fn flushed_changes_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (state, all) = StateDb::open(dir.path(), at(1)).unwrap();
    assert_eq!(all.all.hard, Epoch::at(at(1)), "what a cache holds from before is unusable");
    assert!(all.targets.is_empty());
    state.persist(change(7, 70, 0));
    state.persist(change(8, 0, 80));
    state.persist(Change { scope: PurgeScope::All, ..change(0, 5, 6) });
    state.flush().await.unwrap();
    state.close();
    let (state, all) = StateDb::open(dir.path(), at(2)).unwrap();
    assert_eq!(all.all, change(0, 5, 6).generation);
    assert_eq!(all.targets[&7], change(7, 70, 0).generation);
    assert_eq!(all.targets[&8], change(8, 0, 80).generation);
    // Replacing removes all others.
    let latest = Epoch::from_raw(99);
    let targets = [(9, change(9, 1, 1).generation)].into();
    state.replace(Snapshot { targets, latest, ..Snapshot::default() });
    state.flush().await.unwrap();
    state.close();
    let (_state, all) = StateDb::open(dir.path(), at(3)).unwrap();
    assert_eq!(all.targets.keys().copied().collect::<Vec<_>>(), [9]);
    assert_eq!(all.latest, latest);
}

/// An earlier larder reads rows of sixteen bytes, and ignores other prefixes.
#[tokio::test]
async fn superseded_entries_are_softly_invalidated_for_an_earlier_larder() {
    let dir = tempfile::tempdir().unwrap();
    let superseded = Generation { superseded: Epoch::from_raw(90), ..change(7, 70, 80).generation };
    let (state, _) = StateDb::open(dir.path(), at(1)).unwrap();
    for scope in [PurgeScope::Target(7), PurgeScope::All] {
        state.persist(Change { scope, generation: superseded });
    }
    state.flush().await.unwrap();
    state.close();
    let (state, all) = StateDb::open(dir.path(), at(2)).unwrap();
    let known = Generation { soft: superseded.superseded, ..superseded };
    assert_eq!([all.targets[&7], all.all], [known, known]);
    state.replace(Snapshot::default());
    state.flush().await.unwrap();
    state.close();
    let db = sled::open(dir.path().join("db")).unwrap();
    let rows = |kind: &[u8]| db.scan_prefix(kind).values().map(|row| row.unwrap().len()).collect();
    assert_eq!((rows(b"g"), rows(b"s")), (vec![16], vec![8]));
}

#[tokio::test]
async fn a_damaged_state_is_set_aside_and_everything_counts_as_purged() {
    let dir = tempfile::tempdir().unwrap();
    let before = Generations::new(at(10)).current_epoch();
    let (state, _) = StateDb::open(dir.path(), at(10)).unwrap();
    state.persist(change(7, 70, 0));
    state.flush().await.unwrap();
    state.close();
    fs::write(dir.path().join("db/db"), vec![0x5a; 1 << 20]).unwrap();
    let (state, all) = StateDb::open(dir.path(), at(20)).unwrap();
    let generations = Generations::new(at(20));
    generations.adopt(all, at(20));
    assert_eq!(generations.validity(1, before), Validity::Gone);
    assert!(dir.path().join("damaged-20").is_dir());
    state.flush().await.unwrap();
    state.close();
    // Again, within the same second.
    fs::write(dir.path().join("db/db"), vec![0x5a; 1 << 20]).unwrap();
    let (state, _) = StateDb::open(dir.path(), at(20)).unwrap();
    state.flush().await.unwrap();
    assert!(dir.path().join("damaged-20-again").is_dir());
}

#[tokio::test]
async fn a_later_larders_state_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = sled::open(dir.path().join("db")).unwrap();
        db.insert(b"format", &(FORMAT + 1).to_be_bytes()).unwrap();
        db.flush().unwrap();
    }
    let refused = StateDb::open(dir.path(), at(1)).err().expect("a later larder wrote it");
    assert!(refused.to_string().contains("later larder"), "{refused}");
    let kept: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept, ["db"]);
}

#[test]
fn a_secret_is_created_once_and_private_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let made = Secret::load_or_create(&state).unwrap().derived("x");
    assert_eq!(Secret::load_or_create(&state).unwrap().derived("x"), made);
    assert_ne!(Secret::load_or_create(&state).unwrap().derived("y"), made);
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    let file = state.join("secret");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Secret::load_or_create(&state), Err(SecretError::Open(_))));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // A damaged secret does not prevent a start.
    for damage in [&b"short\n"[..], b"\xff\xfe", b"", &[b'g'; 64]] {
        fs::write(&file, damage).unwrap();
        let new = Secret::load_or_create(&state).unwrap().derived("x");
        assert_ne!(new, made);
        assert_eq!(Secret::load_or_create(&state).unwrap().derived("x"), new);
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 5, "each was set aside");
}

#[test]
fn a_hundred_larders_that_start_at_once_agree_on_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secrets: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| Secret::load_or_create(dir.path()).unwrap().derived("x")))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
}

#[tokio::test]
async fn an_invalidation_survives_a_kill_after_its_flush() {
    let dir = tempfile::tempdir().unwrap();
    let generations = Generations::new(at(10));
    let before = generations.current_epoch();
    let (state, all) = StateDb::open(dir.path(), at(10)).unwrap();
    state.replace(generations.adopt(all, at(10)));
    state.persist(generations.invalidate(PurgeScope::Target(7), PurgeKind::Hard, at(11)));
    state.flush().await.unwrap();
    // A copy of the directory at this moment is the state after a kill.
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("db")).unwrap();
    copy_files(&dir.path().join("db"), &copy.path().join("db"));
    let (_again, all) = StateDb::open(copy.path(), at(12)).unwrap();
    let restarted = Generations::new(at(12));
    restarted.adopt(all, at(12));
    assert_eq!(restarted.validity(7, before), Validity::Gone);
}

fn row(key: &[u8], value: Option<&[u8]>) -> StateRow {
    StateRow { key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
}

/// Returns these rows once, then none.
fn once(rows: Vec<StateRow>) -> impl Fn() -> Vec<StateRow> + Send + 'static {
    let rows = Mutex::new(rows);
    move || std::mem::take(&mut *rows.lock())
}

#[tokio::test]
async fn changed_cost_rows_survive_a_restart_and_removed_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = StateDb::open(dir.path(), at(1)).unwrap();
    assert_eq!(state.take_cost_rows(), Rows::new());
    state.persist(change(7, 70, 0));
    state.watch_cost_rows(once(vec![row(b"a", Some(b"1")), row(b"b", Some(b"2")), row(b"", Some(b""))]));
    state.close();
    let (state, all) = StateDb::open(dir.path(), at(2)).unwrap();
    assert_eq!(all.targets.len(), 1, "the two kinds of rows are separate");
    let kept = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
    assert_eq!(state.take_cost_rows(), [kept(b"", b""), kept(b"a", b"1"), kept(b"b", b"2")]);
    assert_eq!(state.take_cost_rows(), Rows::new(), "it is returned once");
    state.watch_cost_rows(once(vec![row(b"a", Some(b"3")), row(b"b", None)]));
    state.close();
    let (state, _) = StateDb::open(dir.path(), at(3)).unwrap();
    assert_eq!(state.take_cost_rows(), [kept(b"", b""), kept(b"a", b"3")]);
}

#[tokio::test]
async fn cost_rows_are_collected_with_and_without_purges() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = StateDb::open(dir.path(), at(1)).unwrap();
    let (calls, called) = std::sync::mpsc::channel();
    state.watch_cost_rows(move || {
        let _gone = calls.send(());
        Vec::new()
    });
    let timeout = Duration::from_secs(20);
    called.recv_timeout(timeout).unwrap();
    called.recv_timeout(timeout).unwrap();
    // The state is never idle until it collects rows again.
    while called.try_recv().is_err() {
        state.persist(change(7, 70, 0));
        state.flush().await.unwrap();
    }
}

#[tokio::test]
async fn rows_of_limits_are_on_disk_after_a_flush_or_a_nudge() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = StateDb::open(dir.path(), at(1)).unwrap();
    state.watch_cost_rows(once(vec![row(b"a", Some(b"1"))]));
    let (calls, called) = std::sync::mpsc::channel();
    state.watch_rows(RowOwner::Limits, move || {
        let _gone = calls.send(Clock::system().instant());
        vec![row(b"a", Some(b"2"))]
    });
    state.flush().await.unwrap();
    assert!(called.try_recv().is_ok(), "rows were collected before the flush ended");
    let started = Clock::system().instant();
    for _ in 0..20 {
        while called.try_recv().is_ok() {}
        state.nudge();
        called.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    // Without nudges it would be three times a second.
    let took = Clock::system().instant() - started;
    assert!(took < Duration::from_secs(4), "{took:?}");
    state.close();
    let (state, _) = StateDb::open(dir.path(), at(2)).unwrap();
    assert_eq!(state.take_cost_rows(), [(b"a".to_vec(), b"1".to_vec())]);
    assert_eq!(state.take_rows(RowOwner::Limits), [(b"a".to_vec(), b"2".to_vec())]);
    assert_eq!(state.take_rows(RowOwner::Limits), Rows::new(), "they are returned once");
}

#[tokio::test]
async fn a_damaged_state_leaves_no_rows_and_keeps_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = StateDb::open(dir.path(), at(10)).unwrap();
    state.watch_cost_rows(once(vec![row(b"a", Some(b"1"))]));
    state.close();
    fs::write(dir.path().join("db/db"), vec![0x5a; 1 << 20]).unwrap();
    let (state, _) = StateDb::open(dir.path(), at(20)).unwrap();
    assert_eq!(state.take_cost_rows(), Rows::new());
    state.watch_cost_rows(once(vec![row(b"b", Some(b"2"))]));
    state.close();
    let (state, _) = StateDb::open(dir.path(), at(30)).unwrap();
    assert_eq!(state.take_cost_rows(), [(b"b".to_vec(), b"2".to_vec())]);
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            fs::create_dir(to.join(entry.file_name())).unwrap();
            copy_files(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
