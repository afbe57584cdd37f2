//! The admin listener as a client sees it, over a real socket.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::account::Refusal;

struct Admin {
    addr: SocketAddr,
    account: Arc<Account>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

async fn admin() -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let account = Account::new(&[], &[]);
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, Arc::clone(&account), stopping));
    Admin { addr, account, stop, serving }
}

/// What is answered to these bytes, until the connection ends.
async fn ask(admin: &Admin, request: &str) -> String {
    let mut stream = TcpStream::connect(admin.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(admin: &Admin, path: &str, host: &str) -> String {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn health_is_ok() {
    let admin = admin().await;
    let answer = get(&admin, "/healthz", "localhost").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn metrics_are_what_was_recorded() {
    let admin = admin().await;
    admin.account.refused(&Refusal { class: "malformed", client: None });
    let answer = get(&admin, "/metrics", "127.0.0.1:9901").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nlarder_denied_total{reason=\"malformed\"} 1\n"), "{answer}");
}

#[tokio::test]
async fn everything_else_is_not_found_in_json() {
    let admin = admin().await;
    let post = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Length: 2\r\n\r\nhi";
    for answer in [get(&admin, "/v1/entries", "localhost").await, ask(&admin, post).await] {
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("{\"larder_error\":{\"class\":\"not_found\""), "{answer}");
    }
}

#[tokio::test]
async fn adm_03_a_rebound_name_gets_nothing_from_any_path() {
    let admin = admin().await;
    for path in ["/healthz", "/metrics", "/nothing"] {
        for host in ["evil.example", "127.0.0.1.nip.io"] {
            let answer = get(&admin, path, host).await;
            assert!(answer.starts_with("HTTP/1.1 421 "), "{path} {host}: {answer}");
            assert!(answer.contains("\"class\":\"misdirected\""), "{answer}");
            assert!(!answer.contains("larder_requests"), "{answer}");
        }
    }
    let answer = ask(&admin, "GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 421 "), "{answer}");
}

#[tokio::test]
async fn a_stop_ends_it_though_a_connection_is_idle() {
    let admin = admin().await;
    let mut idle = TcpStream::connect(admin.addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    admin.stop.send(true).unwrap();
    admin.serving.await.unwrap();
}

#[tokio::test]
async fn it_ends_when_nobody_is_left_to_stop_it() {
    let Admin { stop, serving, .. } = admin().await;
    drop(stop);
    serving.await.unwrap();
}
