//! The admin listener over real sockets: health, metrics and access control.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::Client;
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, TIMEOUT, text};

/// Sends `request` byte for byte and returns everything until the connection closes.
async fn exchange(larder: &Larder, request: &str) -> String {
    let admin = larder.server.admin_addr().expect("the admin listener is on");
    let mut client = Client::connect(admin).await;
    client.send(request).await;
    text(&client.read_to_end().await)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn health_and_metrics_are_served_by_address_and_as_localhost() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/x").await;
    larder.get("/x").await;
    let port = larder.server.admin_addr().unwrap().port();
    for host in [format!("127.0.0.1:{port}"), "localhost".to_owned(), "[::1]:1".to_owned()] {
        let fields = format!("Host: {host}\r\n");
        let health = exchange(&larder, &get("/healthz", &fields)).await;
        assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("ok\n"), "{health}");
        let metrics = exchange(&larder, &get("/metrics", &fields)).await;
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        for line in [
            "larder_requests_total{result=\"hit\",route=\"api\"} 1\n",
            "larder_requests_total{result=\"miss\",route=\"api\"} 1\n",
            "larder_entries{tier=\"memory\"} 1\n",
            "larder_build_info{",
            "process_resident_memory_bytes ",
        ] {
            assert!(metrics.contains(line), "{line} in {metrics}");
        }
    }
}

/// The text format: each family has HELP and TYPE, each sample a number.
#[tokio::test]
async fn the_metrics_page_is_valid_exposition_text() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/\"quoted\"\\back").await;
    let page = exchange(&larder, &get("/metrics", "Host: localhost\r\n")).await;
    let page = page.split("\r\n\r\n").nth(1).expect("a body");
    let page = page.replace("\r\n", "\n");
    let families: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 10, "{page}");
    for family in families {
        let name = family.split(' ').next().unwrap();
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        assert!(name.starts_with("larder_") || name.starts_with("process_"), "{name}");
    }
    for sample in page.lines().filter(|line| line.contains("{route=") || line.contains("} ")) {
        let value = sample.rsplit(' ').next().unwrap();
        assert!(sample.starts_with('#') || value.parse::<f64>().is_ok(), "{sample}");
    }
}

#[tokio::test]
async fn adm_03_a_request_with_a_foreign_host_name_gets_no_data() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    for path in ["/healthz", "/metrics", "/v1/purge", "/"] {
        for fields in [
            "Host: evil.example\r\n",
            "Host: 127.0.0.1.nip.io\r\n",
            "Host: localhost.evil.example\r\n",
            "Host: localhost\r\nHost: evil.example\r\n",
            "Host:\r\n",
            "",
        ] {
            let answer = exchange(&larder, &get(path, fields)).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "421"].contains(&status), "{path} {fields}: {answer}");
            assert!(!answer.contains("larder_requests") && !answer.contains("ok\n"), "{answer}");
        }
        let absolute = get(&format!("http://evil.example{path}"), "Host: localhost\r\n");
        let answer = exchange(&larder, &absolute).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    }
}

#[tokio::test]
async fn an_unknown_admin_request_gets_an_error_in_json() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    for request in [
        get("/v1/nothing", "Host: localhost\r\n"),
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
            .to_owned(),
        format!("GET {API}/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    ] {
        let answer = exchange(&larder, &request).await;
        assert!(answer.contains("{\"larder_error\":{\"class\":"), "{answer}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(origin.calls(), 0, "the admin listener is not a proxy");
}

#[tokio::test]
async fn a_larder_that_accepts_requests_is_ready() {
    let larder = Larder::bare("").await;
    let answer = exchange(&larder, &get("/readyz", "Host: localhost\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("{\"details\":{},\"ready\":true}"), "{answer}");
}

/// ADM-08: more slow connections than the admin listener accepts.
#[tokio::test]
async fn adm_08_a_full_admin_listener_does_not_affect_the_proxy() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let admin = larder.server.admin_addr().unwrap();
    let mut slow = Vec::new();
    for _ in 0..80 {
        let mut client = Client::connect(admin).await;
        client.send("POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Le").await;
        slow.push(client);
    }
    for _ in 0..3 {
        assert_eq!(larder.get("/x").await.text(), "hello");
    }
    drop(slow);
    let health = exchange(&larder, &get("/healthz", "Host: localhost\r\n")).await;
    assert!(health.ends_with("ok\n"), "their slots are free again: {health}");
}

/// An orchestrator kills a healthy larder if its health check gets no response.
#[tokio::test]
async fn a_health_check_succeeds_beside_many_silent_and_slow_connections() {
    let larder = Larder::bare("").await;
    let admin = larder.server.admin_addr().unwrap();
    let body = "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 20\r\n\r\n{";
    for bytes in ["", "GET /healthz HTTP/1.1\r\nHo", body] {
        let mut connections = Vec::new();
        for _ in 0..100 {
            let mut client = Client::connect(admin).await;
            client.send(bytes).await;
            connections.push(client);
        }
        let check = get("/healthz", "Host: localhost\r\n");
        let health = timeout(Duration::from_secs(4), exchange(&larder, &check)).await;
        let health = health.expect("well before the other connections time out");
        assert!(health.ends_with("ok\n"), "{bytes:?}: {health}");
        // The listener has closed the oldest connection to make room.
        let mut first = connections.swap_remove(0);
        assert!(timeout(TIMEOUT, first.is_closed()).await.expect("it is closed"), "{bytes:?}");
    }
}

/// ADM-02, with the real program: the token from the file grants access, and no form of it is logged.
#[tokio::test]
async fn adm_02_the_token_grants_access_and_is_in_no_log_at_any_level() {
    let config_dir = ConfigDir::with(
        "version: 1\nlisten: 127.0.0.1:0\nlog: { level: trace }\n\
         admin: { listen: 127.0.0.1:0, token_file: token }\nstore: { disk: off }\n",
    );
    let token = "s3cret-s3cret-s3cret";
    let file = config_dir.directory.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut larder = Process::start(&["run".as_ref(), config_dir.config.as_os_str()]);
    let admin = larder.admin().await;
    for (path, field, status) in [
        ("/v1/mode".to_owned(), String::new(), "401"),
        (format!("/v1/mode?token={token}"), String::new(), "401"),
        ("/v1/mode".to_owned(), format!("Authorization: Bearer {token}\r\n"), "200"),
        ("/v1/mode".to_owned(), format!("Authorization: Bearer {token}x\r\n"), "401"),
        ("/v1/mode".to_owned(), format!("Authorization: {token} {token}\r\n"), "401"),
        (format!("/{token}"), format!("X-Token: {token}\r\n"), "401"),
        ("/v1/mode".to_owned(), format!("{token} without a colon\r\n"), "400"),
    ] {
        let mut client = Client::connect(admin).await;
        client.send(get(&path, &format!("Host: localhost\r\n{field}"))).await;
        let answer = text(&client.read_to_end().await);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {field}: {answer}");
        assert!(!answer.contains("s3cret"), "{answer}");
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let log = larder.err.text();
    assert!(log.contains("Request refused") && log.contains("token_required"), "{log}");
    let line = log.lines().find(|line| line.contains("s3cret"));
    assert_eq!(line, None);
}

#[tokio::test]
async fn the_admin_listener_can_be_off() {
    let larder = Larder::bare("admin: off\n").await;
    assert_eq!(larder.server.admin_addr(), None);
}

#[tokio::test]
async fn a_stop_closes_the_admin_listener() {
    let larder = Larder::bare("").await;
    let admin = larder.server.admin_addr().unwrap();
    assert!(larder.server.stop().await);
    assert!(tokio::net::TcpStream::connect(admin).await.is_err());
}
