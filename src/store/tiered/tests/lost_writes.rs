//! Responses that are never written to disk: an older version there must not come back.

use std::sync::mpsc;

use super::*;

/// The body found after a clean restart.
async fn after_a_restart(dir: &Path, store: Arc<TieredStore>, path: &str) -> Option<Bytes> {
    store.release().await;
    drop(store);
    let next = open(dir);
    wait_until_disk_open(&next).await;
    found(&next, path).await.map(|stored| stored.body.clone())
}

async fn flushed(store: &TieredStore) {
    store.disk_tier.load_full().expect("the store is open").disk.flush().await;
}

#[tokio::test]
async fn a_response_dropped_by_a_full_queue_leaves_no_older_one_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    wait_until_disk_open(&store).await;
    put(&store, "/x", "v1");
    put(&store, "/other", "v1");
    flushed(&store).await;
    // More puts than fit the queue.
    let (resume, stalled) = mpsc::channel();
    store.stall(stalled);
    for n in 0..40 {
        put(&store, &format!("/large/{n}"), vec![7; 1 << 20]);
    }
    put(&store, "/x", vec![2; 1 << 20]);
    let seen = found(&store, "/x").await.expect("memory has it");
    assert_eq!(seen.body.len(), 1 << 20);
    drop(resume);
    flushed(&store).await;
    assert_eq!(after_a_restart(dir.path(), store, "/x").await, None);
    let next = open(dir.path());
    wait_until_disk_open(&next).await;
    assert!(found(&next, "/other").await.is_some(), "other entries are not affected");
}

#[tokio::test]
async fn responses_stored_before_the_disk_is_free_are_on_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    wait_until_disk_open(&first).await;
    put(&first, "/x", "v1");
    put(&first, "/y", "v1");
    flushed(&first).await;
    let second = open(dir.path());
    put(&second, "/x", "v2");
    first.release().await;
    drop(first);
    wait_until_disk_open(&second).await;
    assert_eq!(found(&second, "/x").await.expect("it has it").body, "v2");
    assert_eq!(opened(&second, "/y").await.body, "v1");
    flushed(&second).await;
    assert_eq!(after_a_restart(dir.path(), second, "/x").await, Some("v2".into()));
}

/// The database fails, and the process ends before it works again.
#[tokio::test]
async fn a_response_stored_during_a_disk_fault_leaves_no_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    wait_until_disk_open(&store).await;
    put(&store, "/x", "v1");
    flushed(&store).await;
    let disk_tier = store.disk_tier.load_full().unwrap();
    disk_tier.disk.close().await;
    put(&store, "/x", "v2");
    disk_tier.state.flush().await.unwrap();
    drop(disk_tier);
    assert_eq!(after_a_restart(dir.path(), store, "/x").await, None);
}

/// Memory may have evicted the response before it is written.
#[tokio::test]
async fn a_pending_write_is_found_before_the_entry_it_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    wait_until_disk_open(&store).await;
    put(&store, "/x", "v1");
    flushed(&store).await;
    let (resume, stalled) = mpsc::channel();
    store.stall(stalled);
    put(&store, "/x", "v2");
    store.memory.clear();
    assert_eq!(found(&store, "/x").await.expect("it waits").body, "v2");
    drop(resume);
    flushed(&store).await;
    store.memory.clear();
    assert_eq!(found(&store, "/x").await.expect("it is on disk").body, "v2");
}

/// The older one is neither on disk yet nor the newest.
#[tokio::test]
async fn a_dropped_response_also_removes_its_queued_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    wait_until_disk_open(&store).await;
    let (resume, stalled) = mpsc::channel();
    store.stall(stalled);
    put(&store, "/x", "v1");
    for n in 0..40 {
        put(&store, &format!("/large/{n}"), vec![7; 1 << 20]);
    }
    put(&store, "/x", vec![2; 1 << 20]);
    drop(resume);
    flushed(&store).await;
    store.memory.clear();
    assert!(found(&store, "/x").await.is_none());
    assert_eq!(after_a_restart(dir.path(), store, "/x").await, None);
}

/// This happens without any lookup.
#[tokio::test]
async fn responses_stored_before_the_disk_is_free_are_written_on_open() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    wait_until_disk_open(&first).await;
    put(&first, "/x", "v1");
    flushed(&first).await;
    let second = open(dir.path());
    put(&second, "/x", "v2");
    first.release().await;
    drop(first);
    wait_until_disk_open(&second).await;
    flushed(&second).await;
    second.memory.clear();
    assert_eq!(found(&second, "/x").await.expect("it is on disk").body, "v2");
    second.release().await;
}

#[tokio::test]
async fn after_a_disk_fault_a_soft_purge_does_not_make_the_disk_usable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    wait_until_disk_open(&store).await;
    put(&store, "/x", "v1");
    flushed(&store).await;
    let disk_tier = store.disk_tier.load_full().unwrap();
    disk_tier.disk.close().await;
    put(&store, "/x", "v2");
    store.invalidate(PurgeScope::All, PurgeKind::Soft);
    disk_tier.state.flush().await.unwrap();
    drop(disk_tier);
    assert_eq!(after_a_restart(dir.path(), store, "/x").await, None);
}
