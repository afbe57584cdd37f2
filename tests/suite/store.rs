//! What is stored outlives the process: what the next larder finds on disk, and what it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Client, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin};
use crate::process::Process;

/// A larder whose store is in this directory.
async fn housed(origin: &Origin, dir: &Path, policy: &[&str]) -> Larder {
    let store = format!("store: {{ path: \"{}\", disk: 64MiB }}\n", dir.display());
    Larder::start(origin, &format!("{store}{}", route(policy))).await
}

/// The same once it can look into its disk.
async fn settled(origin: &Origin, dir: &Path, policy: &[&str]) -> Larder {
    let larder = housed(origin, dir, policy).await;
    larder.until("the disk is open", |larder| larder.metric(ON_DISK) > 0.0).await;
    larder
}

const ON_DISK: &str = "larder_entries{tier=\"disk\"}";

/// An origin whose answers say how many there were and are as long as their path says.
async fn counting() -> Origin {
    Origin::start(|seen| {
        let length = seen.target.trim_start_matches('/').split('?').next().unwrap();
        let length = length.parse::<usize>().unwrap_or(1);
        let line = format!("{} ", seen.index);
        let fields = ["Cache-Control: max-age=3600", "X-RateLimit-Remaining: 7"];
        Answer::new(200, &fields, line.repeat(length.div_ceil(line.len())))
    })
    .await
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().contains("; hit")
}

#[tokio::test]
async fn what_is_stored_is_found_by_the_next_larder_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let paths = ["/1", "/4000", "/5000", "/300000"];
    let larder = housed(&origin, dir.path(), &["ttl: origin"]).await;
    let mut before = Vec::new();
    for path in paths {
        before.push(larder.get(path).await);
    }
    larder.server.stop().await;
    let larder = settled(&origin, dir.path(), &["ttl: origin"]).await;
    larder.clock.advance(Duration::from_secs(90));
    for (path, before) in paths.into_iter().zip(before) {
        let answer = larder.get(path).await;
        assert!(is_hit(&answer), "{path}: {}", answer.cache_status());
        assert!(answer.body == before.body, "{path}: other bytes");
        assert_eq!(answer.field("age"), Some("90"), "{path}");
        assert_eq!(answer.field("x-ratelimit-remaining"), None, "{path}");
    }
    assert_eq!(origin.seen().len(), paths.len(), "nothing is asked for again");
    larder.server.stop().await;
}

#[tokio::test]
async fn the_first_request_after_a_restart_waits_for_the_disk_rather_than_for_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    for round in 0..5 {
        let larder = housed(&origin, dir.path(), &["ttl: origin"]).await;
        let answer = larder.get("/1").await;
        assert_eq!(is_hit(&answer), round > 0, "{round}: {}", answer.cache_status());
        larder.server.stop().await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn nobody_finds_another_users_answer_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = housed(&origin, dir.path(), &["ttl: 1h"]).await;
    let own = larder.get_with("/x", &["Authorization: Bearer one"]).await;
    larder.server.stop().await;
    let larder = settled(&origin, dir.path(), &["ttl: 1h"]).await;
    let other = larder.get_with("/x", &["Authorization: Bearer two"]).await;
    let nobody = larder.get("/x").await;
    assert!(!is_hit(&other) && !is_hit(&nobody));
    assert!(own.body != other.body && own.body != nobody.body);
    let again = larder.get_with("/x", &["Authorization: Bearer one"]).await;
    assert!(is_hit(&again) && again.body == own.body, "{}", again.cache_status());
    larder.server.stop().await;
}

#[tokio::test]
async fn what_a_change_invalidated_stays_so_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = housed(&origin, dir.path(), &["ttl: 1h"]).await;
    let outdated = larder.get("/x").await;
    larder.get("/other").await;
    let mut client = larder.client().await;
    client.ask("POST", &format!("{API}/x"), &["Content-Length: 0"]).await;
    assert_eq!(client.answer("POST").await.unwrap().status, 200);
    larder.server.stop().await;
    let larder = settled(&origin, dir.path(), &["ttl: 1h"]).await;
    let answer = larder.get("/x").await;
    assert!(!is_hit(&answer) && answer.body != outdated.body);
    assert!(is_hit(&larder.get("/other").await));
    larder.server.stop().await;
}

#[tokio::test]
async fn sto_07_what_was_stored_under_a_wrong_clock_is_neither_fresh_for_years_nor_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = housed(&origin, dir.path(), &["ttl: 1h"]).await;
    larder.clock.advance(Duration::from_secs(10 * 365 * 86_400));
    larder.get("/x").await;
    larder.server.stop().await;
    // The next one has the right time again.
    let larder = settled(&origin, dir.path(), &["ttl: 1h"]).await;
    let answer = larder.get("/x").await;
    assert!(!is_hit(&answer), "{}", answer.cache_status());
    let again = larder.get("/x").await;
    assert!(is_hit(&again) && again.body == answer.body, "the new one is stored");
    assert_eq!(again.field("age"), Some("0"));
    larder.server.stop().await;
    let larder = settled(&origin, dir.path(), &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.body, answer.body, "on disk too");
    larder.server.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_used_costs_no_answer_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let origin = counting().await;
    let larder = housed(&origin, &file.join("below"), &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.status, 200);
    assert!(is_hit(&larder.get("/x").await), "memory serves alone");
    larder.counts("larder_store_state", 1.0).await;
    larder.server.stop().await;
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn sto_09_no_secret_is_in_the_store_and_nobody_else_may_read_it() {
    bounded(async {
        let origin = counting().await;
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let (mut larder, _house) = Process::run(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             resolve: {{ api.example.test: \"{}\" }}\nstore: {{ path: \"{}\" }}\n{}",
            origin.addr,
            store.display(),
            route(&["ttl: 1h"]),
        ))
        .await;
        let mut client = Client::connect(larder.addr().await).await;
        for path in ["/10?page=PUBLIC&api_key=SECRET2", "/9000?page=PUBLIC&api_key=SECRET2"] {
            let fields = ["Authorization: Bearer SECRET1", "Cookie: id=SECRET3"];
            client.get(&format!("{API}{path}"), &fields).await;
            assert!(is_hit(&client.get(&format!("{API}{path}"), &fields).await));
        }
        larder.signal("TERM");
        assert!(larder.ended().await.success());
        let mut seen_public = false;
        for file in files_below(&store) {
            let content = fs::read(&file).unwrap();
            let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
            assert!(!has(b"SECRET"), "{}", file.display());
            seen_public |= has(b"PUBLIC");
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
        }
        assert!(seen_public, "the test can see what is in the files");
        assert_eq!(store.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    })
    .await;
}
