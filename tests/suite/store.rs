//! Stored responses survive the process: which of them the next larder finds on disk, and which it must not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Client, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::Process;

/// A larder whose store is in this directory.
async fn stored_in(origin: &Origin, dir: &Path, policy: &[&str]) -> Larder {
    let store = format!("store: {{ path: \"{}\", disk: 64MiB }}\n", dir.display());
    Larder::start(origin, &format!("{store}{}", route(policy))).await
}

/// The same, once its disk tier is open.
async fn with_open_disk(origin: &Origin, dir: &Path, policy: &[&str]) -> Larder {
    let larder = stored_in(origin, dir, policy).await;
    larder.wait_until("the disk is open", |larder| larder.metric(ON_DISK) > 0.0).await;
    larder
}

const ON_DISK: &str = "larder_entries{tier=\"disk\"}";

/// An origin whose responses contain the number of the call and have the length that the path specifies.
async fn counting() -> Origin {
    Origin::start(|seen| {
        let length = seen.target.trim_start_matches('/').split('?').next().unwrap();
        let length = length.parse::<usize>().unwrap_or(1);
        let line = format!("{} ", seen.index);
        let fields = ["Cache-Control: max-age=3600", "X-RateLimit-Remaining: 7"];
        MockResponse::new(200, &fields, line.repeat(length.div_ceil(line.len())))
    })
    .await
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().contains("; hit")
}

#[tokio::test]
async fn the_next_larder_finds_stored_responses_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let paths = ["/1", "/4000", "/5000", "/300000"];
    let larder = stored_in(&origin, dir.path(), &["ttl: origin"]).await;
    let mut before = Vec::new();
    for path in paths {
        before.push(larder.get(path).await);
    }
    larder.server.stop().await;
    let larder = with_open_disk(&origin, dir.path(), &["ttl: origin"]).await;
    larder.clock.advance(Duration::from_secs(90));
    for (path, before) in paths.into_iter().zip(before) {
        let answer = larder.get(path).await;
        assert!(is_hit(&answer), "{path}: {}", answer.cache_status());
        assert!(answer.body == before.body, "{path}: other bytes");
        assert_eq!(answer.field("age"), Some("90"), "{path}");
        assert_eq!(answer.field("x-ratelimit-remaining"), None, "{path}");
    }
    assert_eq!(origin.requests().len(), paths.len(), "nothing is fetched again");
    larder.server.stop().await;
}

#[tokio::test]
async fn the_first_request_after_a_restart_waits_for_the_disk_not_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    for round in 0..5 {
        let larder = stored_in(&origin, dir.path(), &["ttl: origin"]).await;
        let answer = larder.get("/1").await;
        assert_eq!(is_hit(&answer), round > 0, "{round}: {}", answer.cache_status());
        larder.server.stop().await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn no_user_gets_another_users_response_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = stored_in(&origin, dir.path(), &["ttl: 1h"]).await;
    let own = larder.get_with("/x", &["Authorization: Bearer one"]).await;
    larder.server.stop().await;
    let larder = with_open_disk(&origin, dir.path(), &["ttl: 1h"]).await;
    let other = larder.get_with("/x", &["Authorization: Bearer two"]).await;
    let anonymous = larder.get("/x").await;
    assert!(!is_hit(&other) && !is_hit(&anonymous));
    assert!(own.body != other.body && own.body != anonymous.body);
    let again = larder.get_with("/x", &["Authorization: Bearer one"]).await;
    assert!(is_hit(&again) && again.body == own.body, "{}", again.cache_status());
    larder.server.stop().await;
}

#[tokio::test]
async fn an_invalidated_response_stays_invalidated_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = stored_in(&origin, dir.path(), &["ttl: 1h"]).await;
    let outdated = larder.get("/x").await;
    larder.get("/other").await;
    let mut client = larder.client().await;
    client.send_request("POST", &format!("{API}/x"), &["Content-Length: 0"]).await;
    assert_eq!(client.response("POST").await.unwrap().status, 200);
    larder.server.stop().await;
    let larder = with_open_disk(&origin, dir.path(), &["ttl: 1h"]).await;
    let answer = larder.get("/x").await;
    assert!(!is_hit(&answer) && answer.body != outdated.body);
    assert!(is_hit(&larder.get("/other").await));
    larder.server.stop().await;
}

#[tokio::test]
async fn sto_07_an_entry_stored_under_a_wrong_clock_is_refetched_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let origin = counting().await;
    let larder = stored_in(&origin, dir.path(), &["ttl: 1h"]).await;
    larder.clock.advance(Duration::from_secs(10 * 365 * 86_400));
    larder.get("/x").await;
    larder.server.stop().await;
    // The next larder has the right time again.
    let larder = with_open_disk(&origin, dir.path(), &["ttl: 1h"]).await;
    let answer = larder.get("/x").await;
    assert!(!is_hit(&answer), "{}", answer.cache_status());
    let again = larder.get("/x").await;
    assert!(is_hit(&again) && again.body == answer.body, "the new one is stored");
    assert_eq!(again.field("age"), Some("0"));
    larder.server.stop().await;
    let larder = with_open_disk(&origin, dir.path(), &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.body, answer.body, "on disk too");
    larder.server.stop().await;
}

#[tokio::test]
async fn an_unusable_store_costs_no_response_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let origin = counting().await;
    let larder = stored_in(&origin, &file.join("below"), &["ttl: 1h"]).await;
    assert_eq!(larder.get("/x").await.status, 200);
    assert!(is_hit(&larder.get("/x").await), "larder runs memory-only");
    larder.wait_for_metric("larder_store_state", 1.0).await;
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
async fn sto_09_the_store_contains_no_secret_and_is_private_to_its_user() {
    bounded(async {
        let origin = counting().await;
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let (mut larder, _config_dir) = Process::run(&format!(
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
        assert!(larder.wait_for_exit().await.success());
        let mut seen_public = false;
        for file in files_below(&store) {
            let content = fs::read(&file).unwrap();
            let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
            assert!(!has(b"SECRET"), "{}", file.display());
            seen_public |= has(b"PUBLIC");
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
        }
        assert!(seen_public, "the test can read the contents of the files");
        assert_eq!(store.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    })
    .await;
}
