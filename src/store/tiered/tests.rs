//! Memory and disk as one store.

mod costs;
mod lost_writes;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::*;
use crate::key::KeyBuilder;
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::invalidation_feed::Invalidation;
use crate::store::lock::Lock;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn open(dir: &Path) -> Arc<TieredStore> {
    open_sized(dir, 1 << 30)
}

fn open_sized(dir: &Path, disk: u64) -> Arc<TieredStore> {
    open_with(dir, disk, &Telemetry::new(&[], &[]))
}

fn open_with(dir: &Path, disk: u64, telemetry: &Arc<Telemetry>) -> Arc<TieredStore> {
    let settings = Settings {
        path: dir.to_owned(),
        memory: 64 << 20,
        disk,
        max_object: 8 << 20,
        sweep_every: Duration::from_secs(60),
        takes_over: false,
        secret: Secret::from_bytes([7; 32]),
    };
    TieredStore::open(settings, Clock::manual(NOW), telemetry)
}

static KEYS: LazyLock<KeyBuilder> = LazyLock::new(|| KeyBuilder::new([7; 32], &[], Redactor::default()));

fn key(path: &str) -> CacheKey {
    let target = Target::absolute(&format!("http://api.example{path}")).unwrap();
    KEYS.key(&ProxyRequest::get(target), &Policy::origin())
}

fn response(body: impl Into<Bytes>) -> StoredResponse {
    let sole = (VaryFields::default(), VariantId::SOLE);
    let times = (NOW, NOW);
    StoredResponse::new(StatusCode::OK, &HeaderMap::new(), body.into(), sole, times)
}

fn put(store: &TieredStore, path: &str, body: impl Into<Bytes>) {
    let stored = response(body);
    let key = key(path);
    let watch = store.watch(key.target_id());
    store.put(&key, Arc::new(stored.with_order(watch.order)), watch.epoch, None);
}

async fn found(store: &TieredStore, path: &str) -> Option<Arc<StoredResponse>> {
    let (key, variant) = (key(path), |_: &VaryFields| VariantId::SOLE);
    let query = StoreQuery { key: &key, variant: &variant };
    let found = match store.get(query) {
        Lookup::CheckDisk(in_memory) => store.load(query, in_memory).await,
        found @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing) => found,
    };
    match found {
        Lookup::Found(stored) => Some(stored),
        Lookup::OtherVariants(_) | Lookup::Nothing => None,
        Lookup::CheckDisk(_) => panic!("nothing is deeper than the disk"),
    }
}

/// Creates files as a larder of another format leaves them, beside a file that is not larder's.
fn leave_old(dir: &Path) {
    for path in ["cache/v1/db", "cache/v3/body/00", "cache/doomed-00", "quarantine-2026-01-01T00:00:00Z"] {
        let path = dir.join(path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), b"S3CRET").unwrap();
    }
    fs::create_dir_all(dir.join("cache/mine")).unwrap();
}

/// Files are removed in the background, on a thread that is not awaited.
async fn until_removed(dir: &Path) {
    let old = |name: &str| {
        let prefixes = ["v1", "v3", "doomed-", "quarantine-"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let left = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| old(name.to_str().unwrap())).count()
    };
    for _ in 0..5000 {
        if left(&dir.join("cache")) + left(dir) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the files are not removed");
}

/// The disk opens in the background.
async fn opened(store: &TieredStore, path: &str) -> Arc<StoredResponse> {
    for _ in 0..5000 {
        if let Some(stored) = found(store, path).await {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never found: {path}");
}

/// Waits until the disk is open; none of its entries is in memory yet.
async fn wait_until_disk_open(store: &TieredStore) {
    for _ in 0..5000 {
        if let Some(disk_tier) = store.disk_tier.load_full() {
            return disk_tier.disk.wait_until_open().await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never opened");
}

async fn paths(store: &TieredStore, limit: usize) -> Vec<Vec<(u128, bool, bool)>> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(after, limit, None).await;
        let Some(last) = page.last() else { return pages };
        after = Some(last.id);
        pages.push(page.iter().map(|l| (l.id.target, l.in_memory, l.on_disk)).collect());
    }
}

#[tokio::test]
async fn a_second_larder_runs_memory_only_until_the_store_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    put(&first, "/old", "of the first");
    put(&first, "/purged-by-the-second", "of the first");
    let second = open(dir.path());
    let Health::MemoryOnly(reason) = second.health() else { panic!("it is locked") };
    assert!(reason.contains(&std::process::id().to_string()), "{reason}");
    assert!(second.flush().await.is_err(), "no purge is persisted yet");
    put(&second, "/new", "of the second");
    assert!(found(&second, "/new").await.is_some());
    assert!(found(&second, "/old").await.is_none());
    let purged = PurgeScope::Target(key("/purged-by-the-second").target_id());
    second.invalidate(purged, PurgeKind::Hard);
    let purged = PurgeScope::Target(key("/purged-by-the-first").target_id());
    put(&first, "/purged-by-the-first", "of the first");
    first.invalidate(purged, PurgeKind::Hard);
    first.release().await;
    assert!(found(&first, "/old").await.is_some(), "memory keeps working");
    assert_eq!(opened(&second, "/old").await.body, "of the first");
    assert_eq!(second.health(), Health::Good);
    second.flush().await.unwrap();
    for purged in ["/purged-by-the-first", "/purged-by-the-second"] {
        assert!(found(&second, purged).await.is_none(), "{purged}");
    }
    assert!(found(&second, "/new").await.is_some());
    second.release().await;
}

#[tokio::test]
async fn many_requests_for_one_large_body_get_one_copy_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    put(&first, "/large", vec![7; 5 << 20]);
    put(&first, "/small", "small");
    first.release().await;
    drop(first);
    let again = open(dir.path());
    opened(&again, "/small").await;
    let all = (0..50).map(|_| {
        let again = Arc::clone(&again);
        tokio::spawn(async move { found(&again, "/large").await.expect("it is on disk") })
    });
    let mut copies = Vec::new();
    for copy in all.collect::<Vec<_>>() {
        copies.push(copy.await.unwrap());
    }
    assert!(copies.iter().all(|copy| Arc::ptr_eq(copy, &copies[0])));
    assert_eq!(copies[0].body.len(), 5 << 20);
    again.release().await;
}

#[tokio::test]
async fn a_listing_shows_each_entry_once_whichever_tier_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    for n in 0..10 {
        put(&first, &format!("/{n}"), "x");
    }
    first.release().await;
    drop(first);
    let again = open(dir.path());
    opened(&again, "/0").await;
    put(&again, "/in-memory", "x");
    let gone = key("/9").target_id();
    again.invalidate(PurgeScope::Target(gone), PurgeKind::Hard);
    for limit in [1, 3, 100] {
        let pages = paths(&again, limit).await;
        assert!(pages.iter().all(|page| page.len() <= limit));
        let all: Vec<_> = pages.into_iter().flatten().collect();
        assert_eq!(all.len(), 10, "nine of the first, and one in memory");
        assert!(all.is_sorted_by_key(|(target, _, _)| *target));
        assert!(all.iter().all(|(target, memory, disk)| *target != gone && (*memory || *disk)));
    }
    let one = again.list(None, 10, Some(key("/0").target_id())).await;
    assert_eq!(one.len(), 1);
    assert!(one[0].in_memory && one[0].on_disk);
    again.release().await;
}

#[tokio::test]
async fn a_soft_purge_makes_entries_on_disk_stale() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    put(&first, "/x", "x");
    first.invalidate(PurgeScope::All, PurgeKind::Soft);
    first.flush().await.unwrap();
    first.release().await;
    drop(first);
    let again = open(dir.path());
    assert!(opened(&again, "/x").await.outdated.is_some());
    put(&again, "/x", "new");
    assert!(found(&again, "/x").await.unwrap().outdated.is_none());
    again.release().await;
}

#[tokio::test]
async fn invalidations_of_targets_without_entries_are_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/kept", "x");
    opened(&store, "/kept").await;
    // More targets than larder remembers; none of them has an entry.
    for n in 0..70_000_u128 {
        store.invalidate(PurgeScope::Target(n), PurgeKind::Hard);
    }
    assert!(found(&store, "/kept").await.is_some());
    store.flush().await.unwrap();
    store.release().await;
    drop(store);
    let again = open(dir.path());
    assert_eq!(opened(&again, "/kept").await.body, "x");
    // The same with an entry that is on disk only.
    again.release().await;
    drop(again);
    let again = open(dir.path());
    let target = key("/kept").target_id();
    wait_until_disk_open(&again).await;
    again.invalidate(PurgeScope::Target(target), PurgeKind::Hard);
    assert!(found(&again, "/kept").await.is_none());
    again.release().await;
}

#[tokio::test]
async fn a_response_invalidated_during_its_request_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    for disk in [0, 1 << 30] {
        let store = open_sized(dir.path(), disk);
        let key = key("/x");
        let watch = store.watch(key.target_id());
        // No entry of it is stored, and a response is pending.
        store.invalidate(PurgeScope::Target(key.target_id()), PurgeKind::Hard);
        store.put(&key, Arc::new(response("old")), watch.epoch, None);
        assert!(found(&store, "/x").await.is_none(), "{disk}");
        drop(watch);
        put(&store, "/x", "new");
        assert!(found(&store, "/x").await.is_some(), "{disk}");
        store.release().await;
    }
}

#[tokio::test]
async fn endless_puts_and_invalidations_cost_other_targets_no_hit() {
    // No disk, and one that this larder will never open.
    let file = tempfile::NamedTempFile::new().unwrap();
    for (path, disk) in [(Path::new("unused"), 0), (file.path(), 1 << 30)] {
        let store = open_sized(path, disk);
        put(&store, "/kept", "x");
        for n in 0..70_000 {
            let path = format!("/{n}");
            put(&store, &path, "x");
            store.invalidate(PurgeScope::Target(key(&path).target_id()), PurgeKind::Hard);
            if n % 2 == 0 {
                put(&store, &path, "new");
            }
            if n % 500 == 0 {
                // The entry is in use: it is not evicted by others.
                assert!(found(&store, "/kept").await.is_some(), "{n}");
            }
        }
        assert!(found(&store, "/kept").await.is_some(), "{disk}");
        assert!(found(&store, "/69998").await.is_some());
        assert!(found(&store, "/69999").await.is_none());
    }
}

/// Files of an earlier format may contain secrets in the clear.
#[tokio::test]
async fn without_a_disk_tier_only_files_of_another_format_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    leave_old(dir.path());
    for kept in ["cache/v5/db", "state/db"] {
        fs::create_dir_all(dir.path().join(kept)).unwrap();
    }
    let _memory = open_sized(dir.path(), 0);
    until_removed(dir.path()).await;
    for kept in ["cache/v5/db", "state/db", "cache/mine"] {
        assert!(dir.path().join(kept).exists(), "{kept}");
    }
}

#[tokio::test]
async fn without_a_disk_tier_nothing_of_a_running_larder_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let _memory = open_sized(dir.path(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    leave_old(dir.path());
    let _other = Lock::try_take(dir.path(), NOW).unwrap();
    let _memory = open_sized(dir.path(), 0);
    assert!(dir.path().join("cache/v1/db/file").exists(), "the larder that has locked it removes them");
}

/// The purges are unknown then, so the disk stays closed; files of another format are removed all the same.
#[tokio::test]
async fn without_a_readable_state_files_of_another_format_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    leave_old(dir.path());
    fs::write(dir.path().join("state"), b"a file where a directory must be").unwrap();
    let memory = open(dir.path());
    assert!(matches!(memory.health(), Health::MemoryOnly(_)));
    until_removed(dir.path()).await;
}

/// The value of `larder_store_state`.
fn state(telemetry: &Telemetry) -> u8 {
    let page = telemetry.render();
    let line = page.lines().find_map(|line| line.strip_prefix("larder_store_state "));
    line.expect("it is there").parse().unwrap()
}

#[tokio::test]
async fn the_store_metric_equals_readyz_from_the_lock_to_the_release() {
    let dir = tempfile::tempdir().unwrap();
    let telemetry = || Telemetry::new(&[], &[]);
    let (first_telemetry, second_telemetry, third_telemetry) = (telemetry(), telemetry(), telemetry());
    let first = open_with(dir.path(), 1 << 30, &first_telemetry);
    let second = open_with(dir.path(), 1 << 30, &second_telemetry);
    assert_eq!((state(&first_telemetry), state(&second_telemetry)), (0, 1), "one of them waits");
    first.release().await;
    wait_until_disk_open(&second).await;
    assert_eq!((state(&first_telemetry), state(&second_telemetry)), (1, 0), "the other has released it");
    let _memory = open_with(dir.path(), 0, &third_telemetry);
    assert_eq!(state(&third_telemetry), 0, "memory-only by configuration");
    second.release().await;
}

#[tokio::test]
async fn the_store_metric_follows_a_state_that_fails_and_recovers() {
    let (dir, telemetry) = (tempfile::tempdir().unwrap(), Telemetry::new(&[], &[]));
    let store = open_with(dir.path(), 1 << 30, &telemetry);
    wait_until_disk_open(&store).await;
    assert_eq!(state(&telemetry), 0);
    store.disk_tier.load_full().unwrap().state.fail_writes("no space left on device");
    assert!(matches!(store.health(), Health::MemoryOnly(_)));
    assert_eq!(state(&telemetry), 1);
    // Opening the disk tier again meanwhile does not make the state healthy.
    store.invalidate(PurgeScope::All, PurgeKind::Hard);
    store.disk_tier.load_full().unwrap().disk.flush().await;
    store.disk_tier.load_full().unwrap().state.fail_writes("no space left on device");
    assert_eq!(state(&telemetry), 1);
    store.flush().await.unwrap();
    assert_eq!((store.health(), state(&telemetry)), (Health::Good, 0));
    store.release().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_local_invalidations_and_a_purge_waits_for_it() {
    let store = open_sized(Path::new("unused"), 0);
    let mut subscription = store.invalidation_feed().subscribe();
    put(&store, "/a", "1");
    store.invalidate_unreported(PurgeScope::All, PurgeKind::Hard);
    store.invalidate(PurgeScope::All, PurgeKind::Soft);
    let stored = PurgeScope::Target(key("/a").target_id());
    for (number, scope, kind) in [(1, stored, PurgeKind::Superseded), (2, PurgeScope::All, PurgeKind::Soft)] {
        let expected = Invalidation { number, scope, kind };
        assert_eq!(subscription.recv().await, Some(expected));
        store.invalidation_feed().confirm(number);
        assert_eq!(is_acknowledged(&store).await, number == 2, "{kind:?}");
    }
    store.invalidate(PurgeScope::All, PurgeKind::Hard);
    assert!(!is_acknowledged(&store).await);
    let state = timeout(Duration::from_millis(1), store.flush_state()).await;
    assert_eq!(state, Ok(Ok(())), "limits wait for the disk alone");
    drop(subscription);
    assert!(is_acknowledged(&store).await, "no subscriber is left");
}

async fn is_acknowledged(store: &TieredStore) -> bool {
    timeout(Duration::from_millis(1), store.flush()).await.is_ok()
}
