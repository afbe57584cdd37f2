//! Tests of the admin listener over a real socket, with a mock of the larder behind it.

mod admission;
mod api;

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::admin::api::{
    Entry, ListQuery, Page, Purge, PurgeError, PurgeResult, Readiness, ReloadError, ReloadResult,
};
use crate::config::token::Token;
use crate::policy::Mode;
use crate::policy::upstream::{CostBudget, OverBudgetAction, Period};
use crate::telemetry::RejectEvent;
use crate::telemetry::cost::{BudgetStatus, CostReport, PeriodUsage};
use crate::upstream::admission::status::{CooldownStatus, LimitStatus, UpstreamStatus};

const TOKEN: &str = "s3cret-s3cret-s3cret";

/// A mock larder that returns the results of the test and records the calls.
struct MockApi {
    calls: Mutex<Vec<String>>,
    ready: Mutex<Readiness>,
    ca: Mutex<Option<String>>,
    reload: Mutex<Result<ReloadResult, ReloadError>>,
    purge: Mutex<Result<PurgeResult, PurgeError>>,
    mode: Mutex<Mode>,
    next: Mutex<Option<String>>,
}

impl MockApi {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            ready: Mutex::new(Readiness { ready: true, details: Vec::new() }),
            ca: Mutex::new(Some("-----BEGIN CERTIFICATE-----\n".to_owned())),
            reload: Mutex::new(Ok(ReloadResult { routes: 3, warnings: vec!["a warning".to_owned()] })),
            purge: Mutex::new(Ok(PurgeResult { count: 7, sent_as: None })),
            mode: Mutex::new(Mode::Cache),
            next: Mutex::new(None),
        })
    }

    fn record(&self, call: String) {
        self.calls.lock().push(call);
    }

    /// Returns and clears the recorded calls.
    fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }
}

#[async_trait]
impl AdminApi for MockApi {
    fn ready(&self) -> Readiness {
        self.ready.lock().clone()
    }

    fn pac(&self, host: Option<&str>) -> String {
        format!("requested from {}", host.unwrap_or_default())
    }

    fn config(&self) -> Value {
        serde_json::json!({ "listen": ["127.0.0.1:8080"] })
    }

    fn ca(&self) -> Option<String> {
        self.ca.lock().clone()
    }

    async fn reload(&self) -> Result<ReloadResult, ReloadError> {
        self.record("reload".to_owned());
        self.reload.lock().clone()
    }

    fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    fn set_mode(&self, mode: Mode) {
        self.record(format!("mode {}", mode.token()));
        *self.mode.lock() = mode;
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError> {
        self.record(format!("{purge:?}"));
        self.purge.lock().clone()
    }

    async fn release(&self, upstream: &str) -> Option<usize> {
        self.record(format!("release {upstream}"));
        (upstream == "openai").then_some(2)
    }

    async fn entries(&self, query: &ListQuery) -> Page {
        self.record(format!("{query:?}"));
        let headers = query.details.then(|| {
            let mut fields = http::HeaderMap::new();
            fields.append("link", "a".parse().unwrap());
            fields.append("link", "b".parse().unwrap());
            fields
        });
        let entry = Entry {
            url: "http://api.example/x".to_owned(),
            key: 0xab,
            scope: "shared",
            route: Some("coins".to_owned()),
            status: 200,
            stored: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            age: Duration::from_millis(90_500),
            ttl: Some(-30),
            bytes: 42,
            vary: vec!["accept".to_owned()],
            tiers: vec!["memory", "disk"],
            headers,
        };
        Page { entries: vec![entry], next: self.next.lock().clone(), sent_as: None }
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        vec![UpstreamStatus {
            name: "coins".into(),
            configured: true,
            in_flight: 2,
            waiting: 1,
            cooldowns: vec![CooldownStatus {
                scope: "bucket",
                reason: "rate-limited",
                firm: true,
                left: Duration::from_micros(1_500_400),
                until_released: false,
                probing: false,
                count: 1,
            }],
            breaker: None,
            limits: vec![LimitStatus {
                name: "learned".to_owned(),
                limit: 50,
                window: Some(Duration::from_secs(1)),
                left: 12,
            }],
            ban_guard: Some((3, 8000)),
            retries: (1, 10),
        }]
    }

    fn cost(&self) -> Vec<CostReport> {
        let usage = |calls, credits| PeriodUsage {
            since: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            ends_in: Duration::from_millis(3_600_900),
            calls,
            credits,
            money: credits * 0.1,
            avoided_calls: 40,
            avoided_credits: 40.0,
            avoided_money: 4.0,
        };
        let budget = CostBudget {
            credits: 10.0,
            period: Period::Month,
            warn_at: 0.8,
            at_limit: OverBudgetAction::StaleOnly,
        };
        let ends_in = Duration::from_secs(86_400);
        let status = BudgetStatus { used: 9.0, share: 0.9, spent: false, warn: true, ends_in };
        vec![CostReport {
            upstream: "coins".into(),
            currency: "USD".to_owned(),
            per_credit: 0.1,
            today: usage(2, 3.0),
            month: usage(7, 9.0),
            budget: Some((budget, status)),
        }]
    }
}

struct TestServer {
    addr: SocketAddr,
    telemetry: Arc<Telemetry>,
    larder: Arc<MockApi>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// A listener on this host whose configuration has `listen`, which may be another address.
async fn admin_with(listen: &str, allow: &[&str], token: Option<&str>) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let telemetry = Telemetry::new(&[], &[]);
    let larder = MockApi::new();
    let rules = Admin {
        listen: listen.parse().unwrap(),
        token: token.map(|token| Token::parse(token.as_bytes()).unwrap()),
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let (stop, stopping) = watch::channel(false);
    let api = Arc::clone(&larder) as Arc<dyn AdminApi>;
    let serving = serve(listener, &rules, api, Arc::clone(&telemetry), stopping);
    TestServer { addr, telemetry, larder, stop, serving: tokio::spawn(serving) }
}

/// The default listener: on loopback, without a token.
async fn admin() -> TestServer {
    admin_with("127.0.0.1:9901", &[], None).await
}

impl TestServer {
    /// Sends these bytes and returns all bytes of the response until the connection ends. If a request
    /// is refused while the client still sends, the connection may be reset.
    async fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let mut response = Vec::new();
        if stream.write_all(request).await.is_ok() {
            let _reset = stream.read_to_end(&mut response).await;
        }
        String::from_utf8(response).unwrap()
    }

    async fn get(&self, path: &str, host: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.send(head.as_bytes()).await
    }

    /// Status and JSON of the response to a request with these field lines and this body.
    async fn request(&self, line: &str, fields: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{fields}\r\n"
        );
        let response = self.send(format!("{head}{body}").as_bytes()).await;
        let (head, body) = response.split_once("\r\n\r\n").expect("a response");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), serde_json::from_str(body).expect("JSON"))
    }

    /// As [`TestServer::request`], with the content type that every operation needs.
    async fn operate(&self, line: &str, body: &str) -> (u16, Value) {
        self.request(line, "Content-Type: application/json\r\n", body).await
    }
}

/// The class of an error response.
fn class(response: &Value) -> &str {
    response["larder_error"]["class"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn health_is_ok() {
    let admin = admin().await;
    let response = admin.get("/healthz", "localhost").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
}

#[tokio::test]
async fn metrics_contain_the_recorded_events() {
    let admin = admin().await;
    admin.telemetry.refused(&RejectEvent { class: "malformed", client: None });
    let response = admin.get("/metrics", "127.0.0.1:9901").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
    assert!(response.contains("\nlarder_denied_total{reason=\"malformed\"} 1\n"), "{response}");
}

#[tokio::test]
async fn readiness_is_a_status_with_its_details_in_json() {
    let admin = admin().await;
    let (status, response) = admin.request("GET /readyz", "", "").await;
    assert_eq!((status, response.to_string().as_str()), (200, r#"{"details":{},"ready":true}"#));
    let details = vec![
        ("store", "memory only: the disk is full".to_owned()),
        ("store", "locked by another larder".to_owned()),
        ("state", "quarantined".to_owned()),
    ];
    *admin.larder.ready.lock() = Readiness { ready: false, details };
    let (status, response) = admin.request("GET /readyz", "", "").await;
    assert_eq!((status, &response["ready"]), (503, &Value::Bool(false)));
    let store = &response["details"]["store"];
    assert_eq!(store, "memory only: the disk is full; locked by another larder");
    assert_eq!(response["details"]["state"], "quarantined");
}

#[tokio::test]
async fn an_unknown_path_or_a_wrong_method_is_an_error_in_json() {
    let admin = admin().await;
    let (status, response) = admin.request("GET /nothing", "", "").await;
    assert_eq!((status, class(&response)), (404, "not_found"));
    let head = "PUT /v1/purge HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let response = admin.send(head.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    assert!(response.contains("\r\nallow: POST\r\n"), "{response}");
    assert!(response.contains("{\"larder_error\":{\"class\":\"method_not_allowed\""), "{response}");
    assert!(admin.larder.take_calls().is_empty());
}

#[tokio::test]
async fn a_stop_ends_the_server_although_a_connection_is_idle() {
    let admin = admin().await;
    let mut idle = TcpStream::connect(admin.addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    admin.stop.send(true).unwrap();
    admin.serving.await.unwrap();
}

#[tokio::test]
async fn the_server_ends_when_its_stop_sender_is_dropped() {
    let TestServer { stop, serving, .. } = admin().await;
    drop(stop);
    serving.await.unwrap();
}
