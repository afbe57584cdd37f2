//! Memory and disk as one store.

mod ledger;
mod lost;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::key::KeyBuilder;
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::lock::Lock;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn open(dir: &Path) -> Arc<TieredStore> {
    sized(dir, 1 << 30)
}

fn sized(dir: &Path, disk: u64) -> Arc<TieredStore> {
    told(dir, disk, &Telemetry::new(&[], &[]))
}

fn told(dir: &Path, disk: u64, account: &Arc<Telemetry>) -> Arc<TieredStore> {
    let settings = Settings {
        path: dir.to_owned(),
        memory: 64 << 20,
        disk,
        max_object: 8 << 20,
        sweep_every: Duration::from_secs(60),
        secret: Secret::from_bytes([7; 32]),
    };
    TieredStore::open(settings, Clock::by_hand(NOW), account)
}

static RING: LazyLock<KeyBuilder> =
    LazyLock::new(|| KeyBuilder::new([7; 32], &[], Redactor::default()));

fn key(path: &str) -> CacheKey {
    let target = Target::absolute(&format!("http://api.example{path}")).unwrap();
    RING.key(&ProxyRequest::get(target), &Policy::origin())
}

fn answer(body: impl Into<Bytes>) -> StoredResponse {
    let sole = (VaryFields::default(), VariantId::SOLE);
    let times = (NOW, NOW);
    StoredResponse::new(StatusCode::OK, &HeaderMap::new(), body.into(), sole, times, Duration::ZERO)
}

fn put(tiers: &TieredStore, path: &str, body: impl Into<Bytes>) {
    let stored = answer(body);
    let key = key(path);
    let watch = tiers.watch(key.target_id());
    tiers.put(&key, Arc::new(stored.asked_as(watch.asked)), watch.mark, None);
}

async fn found(tiers: &TieredStore, path: &str) -> Option<Arc<StoredResponse>> {
    let (key, variant) = (key(path), |_: &VaryFields| VariantId::SOLE);
    let wanted = StoreQuery { key: &key, variant: &variant };
    let found = match tiers.get(wanted) {
        Lookup::Deeper => tiers.load(wanted).await,
        found @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing) => found,
    };
    match found {
        Lookup::Found(stored) => Some(stored),
        Lookup::OtherVariants(_) | Lookup::Nothing => None,
        Lookup::Deeper => panic!("nothing is deeper than the disk"),
    }
}

/// What a larder of another format left, beside what is nobody's of larder's.
fn leave_old(dir: &Path) {
    for at in
        ["cache/v1/db", "cache/v3/body/00", "cache/doomed-00", "quarantine-2026-01-01T00:00:00Z"]
    {
        let at = dir.join(at);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("file"), b"S3CRET").unwrap();
    }
    fs::create_dir_all(dir.join("cache/mine")).unwrap();
}

/// Files are removed behind the caller's back, on a thread that nothing waits for.
async fn gone(dir: &Path) {
    let old = |name: &str| {
        let begins = ["v1", "v3", "doomed-", "quarantine-"];
        begins.iter().any(|begins| name.starts_with(begins))
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
    panic!("it stays");
}

/// The disk opens behind the caller's back.
async fn opened(tiers: &TieredStore, path: &str) -> Arc<StoredResponse> {
    for _ in 0..5000 {
        if let Some(stored) = found(tiers, path).await {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never found: {path}");
}

/// The disk is open, and nothing of it is in memory yet.
async fn opened_disk(tiers: &TieredStore) {
    for _ in 0..5000 {
        if let Some(deep) = tiers.deep.load_full() {
            return deep.disk.opened().await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never opened");
}

async fn paths(tiers: &TieredStore, limit: usize) -> Vec<Vec<(u128, bool, bool)>> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = tiers.list(after, limit, None).await;
        let Some(last) = page.last() else { return pages };
        after = Some(last.place);
        pages.push(page.iter().map(|l| (l.place.target, l.in_memory, l.on_disk)).collect());
    }
}

#[tokio::test]
async fn a_larder_beside_another_serves_from_memory_until_the_store_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    put(&first, "/old", "of the first");
    put(&first, "/purged-by-the-second", "of the first");
    let second = open(dir.path());
    let Health::MemoryOnly(why) = second.condition() else { panic!("it is locked") };
    assert!(why.contains(&std::process::id().to_string()), "{why}");
    assert!(second.flush().await.is_err(), "no purge lasts yet");
    put(&second, "/new", "of the second");
    assert!(found(&second, "/new").await.is_some());
    assert!(found(&second, "/old").await.is_none());
    let purged = PurgeScope::Target(key("/purged-by-the-second").target_id());
    second.invalidate(purged, PurgeKind::Hard);
    let purged = PurgeScope::Target(key("/purged-by-the-first").target_id());
    put(&first, "/purged-by-the-first", "of the first");
    first.invalidate(purged, PurgeKind::Hard);
    first.release().await;
    assert!(found(&first, "/old").await.is_some(), "memory goes on");
    assert_eq!(opened(&second, "/old").await.body, "of the first");
    assert_eq!(second.condition(), Health::Good);
    second.flush().await.unwrap();
    for purged in ["/purged-by-the-first", "/purged-by-the-second"] {
        assert!(found(&second, purged).await.is_none(), "{purged}");
    }
    assert!(found(&second, "/new").await.is_some());
    second.release().await;
}

#[tokio::test]
async fn many_who_want_the_same_large_body_get_one_copy_of_it() {
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
    for one in all.collect::<Vec<_>>() {
        copies.push(one.await.unwrap());
    }
    assert!(copies.iter().all(|copy| Arc::ptr_eq(copy, &copies[0])));
    assert_eq!(copies[0].body.len(), 5 << 20);
    again.release().await;
}

#[tokio::test]
async fn a_listing_shows_each_answer_once_whichever_tier_has_it() {
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
async fn a_soft_purge_outdates_what_is_on_disk() {
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
async fn what_is_invalidated_and_nowhere_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    put(&tiers, "/kept", "x");
    opened(&tiers, "/kept").await;
    // As many as larder remembers, and more: nobody has any of them.
    for n in 0..70_000_u128 {
        tiers.invalidate(PurgeScope::Target(n), PurgeKind::Hard);
    }
    assert!(found(&tiers, "/kept").await.is_some());
    tiers.flush().await.unwrap();
    tiers.release().await;
    drop(tiers);
    let again = open(dir.path());
    assert_eq!(opened(&again, "/kept").await.body, "x");
    // On disk alone it is there all the same.
    again.release().await;
    drop(again);
    let again = open(dir.path());
    let target = key("/kept").target_id();
    opened_disk(&again).await;
    again.invalidate(PurgeScope::Target(target), PurgeKind::Hard);
    assert!(found(&again, "/kept").await.is_none());
    again.release().await;
}

#[tokio::test]
async fn what_is_asked_for_while_it_is_invalidated_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    for disk in [0, 1 << 30] {
        let tiers = sized(dir.path(), disk);
        let key = key("/x");
        let watch = tiers.watch(key.target_id());
        // Nothing is stored of it, and its answer is on its way.
        tiers.invalidate(PurgeScope::Target(key.target_id()), PurgeKind::Hard);
        tiers.put(&key, Arc::new(answer("old")), watch.mark, None);
        assert!(found(&tiers, "/x").await.is_none(), "{disk}");
        drop(watch);
        put(&tiers, "/x", "new");
        assert!(found(&tiers, "/x").await.is_some(), "{disk}");
        tiers.release().await;
    }
}

#[tokio::test]
async fn what_was_stored_and_then_invalidated_without_end_costs_others_no_hit() {
    // No disk, and one that this larder will never open.
    let file = tempfile::NamedTempFile::new().unwrap();
    for (path, disk) in [(Path::new("unused"), 0), (file.path(), 1 << 30)] {
        let tiers = sized(path, disk);
        put(&tiers, "/kept", "x");
        for n in 0..70_000 {
            let path = format!("/{n}");
            put(&tiers, &path, "x");
            tiers.invalidate(PurgeScope::Target(key(&path).target_id()), PurgeKind::Hard);
            if n % 2 == 0 {
                put(&tiers, &path, "new");
            }
            if n % 500 == 0 {
                // It is in use: it does not give way to what is not.
                assert!(found(&tiers, "/kept").await.is_some(), "{n}");
            }
        }
        assert!(found(&tiers, "/kept").await.is_some(), "{disk}");
        assert!(found(&tiers, "/69998").await.is_some());
        assert!(found(&tiers, "/69999").await.is_none());
    }
}

/// What an earlier format holds may be secrets in the clear.
#[tokio::test]
async fn without_a_disk_tier_what_another_format_left_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    leave_old(dir.path());
    for kept in ["cache/v5/db", "state/db"] {
        fs::create_dir_all(dir.path().join(kept)).unwrap();
    }
    let _memory = sized(dir.path(), 0);
    gone(dir.path()).await;
    for kept in ["cache/v5/db", "state/db", "cache/mine"] {
        assert!(dir.path().join(kept).exists(), "{kept}");
    }
}

#[tokio::test]
async fn without_a_disk_tier_nothing_is_made_and_nothing_of_a_running_larder_touched() {
    let dir = tempfile::tempdir().unwrap();
    let _memory = sized(dir.path(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    leave_old(dir.path());
    let _other = Lock::try_take(dir.path(), NOW).unwrap();
    let _memory = sized(dir.path(), 0);
    assert!(dir.path().join("cache/v1/db/file").exists(), "the one that holds it sees to it");
}

/// What was purged is not known then, so the disk stays closed; what another format left goes all the same.
#[tokio::test]
async fn where_the_state_cannot_be_opened_what_another_format_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    leave_old(dir.path());
    fs::write(dir.path().join("state"), b"a file where a directory must be").unwrap();
    let memory = open(dir.path());
    assert!(matches!(memory.condition(), Health::MemoryOnly(_)));
    gone(dir.path()).await;
}

/// What `larder_store_state` says.
fn state(account: &Telemetry) -> u8 {
    let page = account.render();
    let line = page.lines().find_map(|line| line.strip_prefix("larder_store_state "));
    line.expect("it is there").parse().unwrap()
}

#[tokio::test]
async fn the_metric_of_the_store_says_what_readyz_does_from_the_lock_to_the_release() {
    let dir = tempfile::tempdir().unwrap();
    let account = || Telemetry::new(&[], &[]);
    let (first_account, second_account, third_account) = (account(), account(), account());
    let first = told(dir.path(), 1 << 30, &first_account);
    let second = told(dir.path(), 1 << 30, &second_account);
    assert_eq!((state(&first_account), state(&second_account)), (0, 1), "one of them waits");
    first.release().await;
    opened_disk(&second).await;
    assert_eq!((state(&first_account), state(&second_account)), (1, 0), "the other has let go");
    let _memory = told(dir.path(), 0, &third_account);
    assert_eq!(state(&third_account), 0, "memory alone by choice");
    second.release().await;
}

#[tokio::test]
async fn the_metric_of_the_store_follows_a_state_that_falls_ill_and_heals() {
    let (dir, account) = (tempfile::tempdir().unwrap(), Telemetry::new(&[], &[]));
    let tiers = told(dir.path(), 1 << 30, &account);
    opened_disk(&tiers).await;
    assert_eq!(state(&account), 0);
    tiers.deep.load_full().unwrap().state.fall_ill("no space left on device");
    assert!(matches!(tiers.condition(), Health::MemoryOnly(_)));
    assert_eq!(state(&account), 1);
    // A disk tier that is opened anew meanwhile does not make it well.
    tiers.invalidate(PurgeScope::All, PurgeKind::Hard);
    tiers.deep.load_full().unwrap().disk.flush().await;
    tiers.deep.load_full().unwrap().state.fall_ill("no space left on device");
    assert_eq!(state(&account), 1);
    tiers.flush().await.unwrap();
    assert_eq!((tiers.condition(), state(&account)), (Health::Good, 0));
    tiers.release().await;
}
