//! What the store thread does when a write fails or the volume is full, without the thread.

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

fn thread(dir: &std::path::Path, measure: free_space::Measure) -> Worker {
    let settings = Settings {
        dir: dir.join("cache"),
        bytes: 1 << 30,
        waiting: 1 << 20,
        sweep_every: Duration::from_secs(60),
        secret: crate::store::state_db::Secret::from_bytes([7; 32]),
    };
    let second = Duration::from_secs(20);
    let means = Hooks { measure, open_within: second, retry_every: second };
    let shared = Shared::new(
        settings,
        means,
        Clock::system(),
        Telemetry::new(&[], &[]),
        Box::new(crate::store::disk::tests::NoObserver),
    );
    let mut thread = Worker::new(shared);
    thread.climb(RecoveryStep::AsItIs);
    thread
}

fn note(thread: &mut Worker, keys: std::ops::Range<u8>) {
    thread.attempt(|keeper, _| {
        for n in keys {
            let place = EntryId { target: 0, id: n.into(), variant: VariantId::SOLE };
            keeper.index_expiry(&place, ExpiresAt::FOREVER, EntrySize { file: 9000, value: 10 })?;
        }
        keeper.database.flush()
    });
}

fn recovered(thread: &Worker) -> bool {
    thread.shared.account.render().contains("larder_store_recovered_total 1\n")
}

fn fails(thread: &mut Worker) {
    let failed: Option<()> = thread.attempt(|_, _| Err(Fault::Closed));
    assert_eq!(failed, None);
}

#[test]
fn what_fails_soon_after_its_opening_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path(), |_| None);
    note(&mut thread, 0..5);
    assert_eq!(thread.shared.sizes.totals().entries, 5);
    fails(&mut thread);
    assert!(thread.open.is_some() && recovered(&thread));
    assert_eq!(thread.shared.sizes.totals().entries, 0);
}

/// A process without descriptors says nothing about what lies on disk.
#[test]
fn what_fails_for_want_of_descriptors_is_tried_again_later_and_put_aside_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path(), |_| None);
    note(&mut thread, 0..5);
    for _ in 0..3 {
        let lacks = std::io::Error::from(rustix::io::Errno::MFILE);
        let failed: Option<()> = thread.attempt(|_, _| Err(Fault::Io(lacks)));
        assert!(failed.is_none() && thread.open.is_none() && !recovered(&thread));
        assert!(thread.timers.retry > clock::monotonic(), "not at once");
        thread.timers.retry = clock::monotonic();
        thread.look_after(true);
        assert_eq!(thread.shared.sizes.totals().entries, 5);
    }
}

#[test]
fn what_worked_for_long_is_opened_once_more_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path(), |_| None);
    note(&mut thread, 0..5);
    thread.opened = thread.opened.checked_sub(TRIAL).unwrap();
    fails(&mut thread);
    assert!(thread.open.is_some() && !recovered(&thread));
    assert_eq!(thread.shared.sizes.totals().entries, 5);
}

#[test]
fn a_panic_of_the_engine_goes_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path(), |_| None);
    let failed: Option<()> = thread.attempt(|_, _| panic!("as the engine does"));
    assert_eq!(failed, None);
    assert!(thread.open.is_some() && recovered(&thread));
}

#[test]
fn on_a_full_volume_it_evicts_then_begins_anew_then_waits() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let dir = tempfile::tempdir().unwrap();
    let volume =
        |_: &std::path::Path| Some(FsUsage { total: 1 << 40, free: FREE.load(Ordering::Relaxed) });
    let mut thread = thread(dir.path(), volume);
    note(&mut thread, 0..10);
    let entries = |thread: &Worker| thread.shared.sizes.totals().entries;
    assert_eq!(thread.shared.condition(), Health::Good);
    thread.look_for_room();
    assert_eq!(entries(&thread), 5);
    assert!(matches!(thread.shared.condition(), Health::MemoryOnly(why) if why.contains("full")));
    thread.look_for_room();
    assert_eq!(entries(&thread), 0);
    assert_ne!(thread.shared.condition(), Health::Good, "it is open anew, and nothing is written");
    note(&mut thread, 0..3);
    thread.look_for_room();
    assert_eq!(entries(&thread), 3, "more would not help");
    assert!(thread.shortage.is_on());
    FREE.store(1 << 39, Ordering::Relaxed);
    thread.look_for_room();
    assert!(!thread.shortage.is_on());
    assert_eq!(thread.shared.condition(), Health::Good);
    assert!(!recovered(&thread), "that is no fault");
}
