//! Answers that never reach the disk leave no older version there that could come back.

use std::sync::mpsc;

use super::*;

/// What is there after a restart in order.
async fn after_a_restart(dir: &Path, tiers: Arc<TieredStore>, path: &str) -> Option<Bytes> {
    tiers.release().await;
    drop(tiers);
    let next = open(dir);
    opened_disk(&next).await;
    found(&next, path).await.map(|stored| stored.body.clone())
}

async fn flushed(tiers: &TieredStore) {
    tiers.deep.load_full().expect("the store is open").disk.flush().await;
}

#[tokio::test]
async fn what_finds_no_room_in_the_queue_leaves_nothing_older_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    opened_disk(&tiers).await;
    put(&tiers, "/x", "v1");
    put(&tiers, "/other", "v1");
    flushed(&tiers).await;
    // More waits than may.
    let (go, wait) = mpsc::channel();
    tiers.stall(wait);
    for n in 0..40 {
        put(&tiers, &format!("/large/{n}"), vec![7; 1 << 20]);
    }
    put(&tiers, "/x", vec![2; 1 << 20]);
    let seen = found(&tiers, "/x").await.expect("memory has it");
    assert_eq!(seen.body.len(), 1 << 20);
    drop(go);
    flushed(&tiers).await;
    assert_eq!(after_a_restart(dir.path(), tiers, "/x").await, None);
    let next = open(dir.path());
    opened_disk(&next).await;
    assert!(found(&next, "/other").await.is_some(), "it costs nobody else a hit");
}

#[tokio::test]
async fn what_is_kept_while_another_larder_holds_the_disk_is_on_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    opened_disk(&first).await;
    put(&first, "/x", "v1");
    put(&first, "/y", "v1");
    flushed(&first).await;
    let second = open(dir.path());
    put(&second, "/x", "v2");
    first.release().await;
    drop(first);
    opened_disk(&second).await;
    assert_eq!(found(&second, "/x").await.expect("it has it").body, "v2");
    assert_eq!(opened(&second, "/y").await.body, "v1");
    flushed(&second).await;
    assert_eq!(after_a_restart(dir.path(), second, "/x").await, Some("v2".into()));
}

/// The database fails, and the process ends before it can be asked again.
#[tokio::test]
async fn what_is_kept_while_the_disk_is_out_of_order_leaves_nothing_older_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    opened_disk(&tiers).await;
    put(&tiers, "/x", "v1");
    flushed(&tiers).await;
    let deep = tiers.deep.load_full().unwrap();
    deep.disk.close().await;
    put(&tiers, "/x", "v2");
    deep.state.flush().await.unwrap();
    drop(deep);
    assert_eq!(after_a_restart(dir.path(), tiers, "/x").await, None);
}

/// Memory may let go of it before that.
#[tokio::test]
async fn what_waits_to_be_written_is_found_before_what_it_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    opened_disk(&tiers).await;
    put(&tiers, "/x", "v1");
    flushed(&tiers).await;
    let (go, wait) = mpsc::channel();
    tiers.stall(wait);
    put(&tiers, "/x", "v2");
    tiers.memory.clear();
    assert_eq!(found(&tiers, "/x").await.expect("it waits").body, "v2");
    drop(go);
    flushed(&tiers).await;
    tiers.memory.clear();
    assert_eq!(found(&tiers, "/x").await.expect("it is on disk").body, "v2");
}

/// It is neither on disk yet nor the one to keep.
#[tokio::test]
async fn what_finds_no_room_behind_its_predecessor_leaves_nothing_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    opened_disk(&tiers).await;
    let (go, wait) = mpsc::channel();
    tiers.stall(wait);
    put(&tiers, "/x", "v1");
    for n in 0..40 {
        put(&tiers, &format!("/large/{n}"), vec![7; 1 << 20]);
    }
    put(&tiers, "/x", vec![2; 1 << 20]);
    drop(go);
    flushed(&tiers).await;
    tiers.memory.clear();
    assert!(found(&tiers, "/x").await.is_none());
    assert_eq!(after_a_restart(dir.path(), tiers, "/x").await, None);
}

/// Nobody has to look for anything.
#[tokio::test]
async fn what_was_kept_while_another_larder_held_the_disk_is_written_as_soon_as_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    opened_disk(&first).await;
    put(&first, "/x", "v1");
    flushed(&first).await;
    let second = open(dir.path());
    put(&second, "/x", "v2");
    first.release().await;
    drop(first);
    opened_disk(&second).await;
    flushed(&second).await;
    second.memory.clear();
    assert_eq!(found(&second, "/x").await.expect("it is on disk").body, "v2");
    second.release().await;
}

#[tokio::test]
async fn a_soft_purge_of_everything_does_not_make_an_unknowing_disk_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let tiers = open(dir.path());
    opened_disk(&tiers).await;
    put(&tiers, "/x", "v1");
    flushed(&tiers).await;
    let deep = tiers.deep.load_full().unwrap();
    deep.disk.close().await;
    put(&tiers, "/x", "v2");
    tiers.invalidate(PurgeScope::All, PurgeKind::Soft);
    deep.state.flush().await.unwrap();
    drop(deep);
    assert_eq!(after_a_restart(dir.path(), tiers, "/x").await, None);
}
