//! The worker when a write fails or the volume is full, without its thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::clock::Clock;
use crate::semantics::vary::VariantId;
use crate::store::disk::free_space::FsUsage;
use crate::store::disk::keys::ExpiresAt;
use crate::store::disk::usage::EntrySize;
use crate::store::disk::{Hooks, Settings};
use crate::store::{EntryId, Health};
use crate::telemetry::Telemetry;

fn worker(dir: &std::path::Path, measure: free_space::Measure) -> Worker {
    let settings = Settings {
        dir: dir.join("cache"),
        bytes: 1 << 30,
        waiting: 1 << 20,
        sweep_every: Duration::from_secs(60),
        secret: crate::store::state_db::Secret::from_bytes([7; 32]),
    };
    let second = Duration::from_secs(20);
    let hooks = Hooks { measure, open_within: second, retry_every: second };
    let shared = Shared::new(
        settings,
        hooks,
        Clock::system(),
        Telemetry::new(&[], &[]),
        Box::new(crate::store::disk::tests::NoObserver),
    );
    let mut worker = Worker::new(shared);
    worker.recover(RecoveryStep::AsItIs);
    worker
}

fn add_expiries(worker: &mut Worker, keys: std::ops::Range<u8>) {
    worker.attempt(|writer, _| {
        for n in keys {
            let entry_id = EntryId { target: 0, id: n.into(), variant: VariantId::SOLE };
            writer.index_expiry(&entry_id, ExpiresAt::FOREVER, EntrySize { file: 9000, value: 10 })?;
        }
        writer.database.flush()
    });
}

fn recovered(worker: &Worker) -> bool {
    worker.shared.telemetry.render().contains("larder_store_recovered_total 1\n")
}

fn fails(worker: &mut Worker) {
    let failed: Option<()> = worker.attempt(|_, _| Err(Fault::Closed));
    assert_eq!(failed, None);
}

#[test]
fn a_database_that_fails_soon_after_opening_is_recreated() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker(dir.path(), |_| None);
    add_expiries(&mut worker, 0..5);
    assert_eq!(worker.shared.usage.totals().entries, 5);
    fails(&mut worker);
    assert!(worker.open.is_some() && recovered(&worker));
    assert_eq!(worker.shared.usage.totals().entries, 0);
}

/// A lack of file descriptors is no sign of damage on disk.
#[test]
fn a_lack_of_descriptors_causes_a_retry_and_no_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker(dir.path(), |_| None);
    add_expiries(&mut worker, 0..5);
    for _ in 0..3 {
        let no_descriptors = std::io::Error::from(rustix::io::Errno::MFILE);
        let failed: Option<()> = worker.attempt(|_, _| Err(Fault::Io(no_descriptors)));
        assert!(failed.is_none() && worker.open.is_none() && !recovered(&worker));
        assert!(worker.timers.retry > Clock::system().instant(), "not at once");
        worker.timers.retry = Clock::system().instant();
        worker.run_due_tasks(true);
        assert_eq!(worker.shared.usage.totals().entries, 5);
    }
}

#[test]
fn a_database_that_worked_long_is_opened_again_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker(dir.path(), |_| None);
    add_expiries(&mut worker, 0..5);
    worker.opened = worker.opened.checked_sub(TRIAL).unwrap();
    fails(&mut worker);
    assert!(worker.open.is_some() && !recovered(&worker));
    assert_eq!(worker.shared.usage.totals().entries, 5);
}

#[test]
fn a_panic_of_the_engine_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker(dir.path(), |_| None);
    let failed: Option<()> = worker.attempt(|_, _| panic!("as the engine does"));
    assert_eq!(failed, None);
    assert!(worker.open.is_some() && recovered(&worker));
}

#[test]
fn on_a_full_volume_it_evicts_then_recreates_then_waits() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let dir = tempfile::tempdir().unwrap();
    let volume = |_: &std::path::Path| Some(FsUsage { total: 1 << 40, free: FREE.load(Ordering::Relaxed) });
    let mut worker = worker(dir.path(), volume);
    add_expiries(&mut worker, 0..10);
    let entries = |worker: &Worker| worker.shared.usage.totals().entries;
    assert_eq!(worker.shared.health(), Health::Good);
    worker.check_free_space();
    assert_eq!(entries(&worker), 5);
    assert!(matches!(worker.shared.health(), Health::MemoryOnly(reason) if reason.contains("full")));
    worker.check_free_space();
    assert_eq!(entries(&worker), 0);
    assert_ne!(worker.shared.health(), Health::Good, "it is open again, and nothing is written");
    add_expiries(&mut worker, 0..3);
    worker.check_free_space();
    assert_eq!(entries(&worker), 3, "more would not help");
    assert!(worker.pressure.is_active());
    FREE.store(1 << 39, Ordering::Relaxed);
    worker.check_free_space();
    assert!(!worker.pressure.is_active());
    assert_eq!(worker.shared.health(), Health::Good);
    assert!(!recovered(&worker), "that is no fault");
}
