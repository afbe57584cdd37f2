//! The admin listener over real sockets: health, metrics, and who may not ask.

use crate::client::Client;
use crate::larder_under_test::{API, Larder};
use crate::origin::{Answer, Origin};
use crate::process::text;

/// One request, byte for byte, and everything that comes back.
async fn ask(larder: &Larder, request: &str) -> String {
    let admin = larder.server.admin_addr().expect("the admin listener is on");
    let mut client = Client::connect(admin).await;
    client.send(request).await;
    text(&client.rest().await)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn health_and_metrics_are_answered_by_address_and_as_localhost() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/x").await;
    larder.get("/x").await;
    let port = larder.server.admin_addr().unwrap().port();
    for host in [format!("127.0.0.1:{port}"), "localhost".to_owned(), "[::1]:1".to_owned()] {
        let fields = format!("Host: {host}\r\n");
        let health = ask(&larder, &get("/healthz", &fields)).await;
        assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("ok\n"), "{health}");
        let metrics = ask(&larder, &get("/metrics", &fields)).await;
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
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    larder.get("/\"quoted\"\\back").await;
    let page = ask(&larder, &get("/metrics", "Host: localhost\r\n")).await;
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
async fn adm_03_a_name_that_some_dns_answers_gets_no_data() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
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
            let answer = ask(&larder, &get(path, fields)).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "421"].contains(&status), "{path} {fields}: {answer}");
            assert!(!answer.contains("larder_requests") && !answer.contains("ok\n"), "{answer}");
        }
        let absolute = get(&format!("http://evil.example{path}"), "Host: localhost\r\n");
        let answer = ask(&larder, &absolute).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    }
}

#[tokio::test]
async fn what_the_admin_listener_does_not_know_is_a_problem_in_json() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    for request in [
        get("/v1/nothing", "Host: localhost\r\n"),
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
            .to_owned(),
        format!("GET {API}/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    ] {
        let answer = ask(&larder, &request).await;
        assert!(answer.contains("{\"larder_error\":{\"class\":"), "{answer}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(origin.calls(), 0, "the admin listener is not a proxy");
}

#[tokio::test]
async fn the_admin_listener_can_be_off() {
    let larder = Larder::bare("admin: off\n").await;
    assert_eq!(larder.server.admin_addr(), None);
}

/// A stop closes the admin listener as well.
#[tokio::test]
async fn a_stop_closes_the_admin_listener() {
    let larder = Larder::bare("").await;
    let admin = larder.server.admin_addr().unwrap();
    assert!(larder.server.stop().await);
    assert!(tokio::net::TcpStream::connect(admin).await.is_err());
}
