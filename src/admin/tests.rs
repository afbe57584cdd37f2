//! The admin listener as a client sees it, over a real socket, in front of a larder that is played.

mod api;
mod doors;

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
use crate::upstream::status::{CooldownStatus, LimitStatus, UpstreamStatus};

const TOKEN: &str = "s3cret-s3cret-s3cret";

/// A larder that does what the test says and takes down what it was asked.
struct MockApi {
    asked: Mutex<Vec<String>>,
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
            asked: Mutex::default(),
            ready: Mutex::new(Readiness { ready: true, details: Vec::new() }),
            ca: Mutex::new(Some("-----BEGIN CERTIFICATE-----\n".to_owned())),
            reload: Mutex::new(Ok(ReloadResult { routes: 3, notes: vec!["a note".to_owned()] })),
            purge: Mutex::new(Ok(PurgeResult { count: 7, sent_as: None })),
            mode: Mutex::new(Mode::Cache),
            next: Mutex::new(None),
        })
    }

    fn take_down(&self, what: String) {
        self.asked.lock().push(what);
    }

    /// What it was asked to do since the last time this was asked.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

#[async_trait]
impl AdminApi for MockApi {
    fn ready(&self) -> Readiness {
        self.ready.lock().clone()
    }

    fn pac(&self, asked: Option<&str>) -> String {
        format!("asked for {}", asked.unwrap_or_default())
    }

    fn config(&self) -> Value {
        serde_json::json!({ "listen": ["127.0.0.1:8080"] })
    }

    fn ca(&self) -> Option<String> {
        self.ca.lock().clone()
    }

    async fn reload(&self) -> Result<ReloadResult, ReloadError> {
        self.take_down("reload".to_owned());
        self.reload.lock().clone()
    }

    fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    fn set_mode(&self, mode: Mode) {
        self.take_down(format!("mode {}", mode.token()));
        *self.mode.lock() = mode;
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError> {
        self.take_down(format!("{purge:?}"));
        self.purge.lock().clone()
    }

    async fn entries(&self, asked: &ListQuery) -> Page {
        self.take_down(format!("{asked:?}"));
        let headers = asked.details.then(|| {
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
            holds: vec![CooldownStatus {
                reach: "bucket",
                cause: "rate-limited",
                firm: true,
                left: Duration::from_micros(1_500_400),
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
        let spent = |calls, credits| PeriodUsage {
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
        let standing = BudgetStatus { used: 9.0, share: 0.9, spent: false, warn: true, ends_in };
        vec![CostReport {
            upstream: "coins".into(),
            currency: "USD".to_owned(),
            per_credit: 0.1,
            today: spent(2, 3.0),
            month: spent(7, 9.0),
            budget: Some((budget, standing)),
        }]
    }
}

struct Desktop {
    addr: SocketAddr,
    account: Arc<Telemetry>,
    larder: Arc<MockApi>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// A listener on this host that says what it listens on, which may be another address.
async fn admin_as(listen: &str, allow: &[&str], token: Option<&str>) -> Desktop {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let account = Telemetry::new(&[], &[]);
    let larder = MockApi::new();
    let rules = Admin {
        listen: listen.parse().unwrap(),
        token: token.map(|token| Token::parse(token.as_bytes()).unwrap()),
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let (stop, stopping) = watch::channel(false);
    let controls = Arc::clone(&larder) as Arc<dyn AdminApi>;
    let serving = serve(listener, &rules, controls, Arc::clone(&account), stopping);
    Desktop { addr, account, larder, stop, serving: tokio::spawn(serving) }
}

/// The usual one: on loopback, without a token.
async fn admin() -> Desktop {
    admin_as("127.0.0.1:9901", &[], None).await
}

impl Desktop {
    /// What is answered to these bytes, until the connection ends. A client that is refused while
    /// it still sends may find the connection reset.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let mut answer = Vec::new();
        if stream.write_all(request).await.is_ok() {
            let _reset = stream.read_to_end(&mut answer).await;
        }
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str, host: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.ask(head.as_bytes()).await
    }

    /// Status and JSON of the answer to a request with these field lines and this body.
    async fn say(&self, line: &str, fields: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{fields}\r\n"
        );
        let answer = self.ask(format!("{head}{body}").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), serde_json::from_str(body).expect("JSON"))
    }

    /// The same with what every operator's request has.
    async fn operate(&self, line: &str, body: &str) -> (u16, Value) {
        self.say(line, "Content-Type: application/json\r\n", body).await
    }
}

/// The class of a problem.
fn class(answer: &Value) -> &str {
    answer["larder_error"]["class"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn health_is_ok() {
    let admin = admin().await;
    let answer = admin.get("/healthz", "localhost").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn metrics_are_what_was_recorded() {
    let admin = admin().await;
    admin.account.refused(&RejectEvent { class: "malformed", client: None });
    let answer = admin.get("/metrics", "127.0.0.1:9901").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nlarder_denied_total{reason=\"malformed\"} 1\n"), "{answer}");
}

#[tokio::test]
async fn readiness_is_a_status_with_its_details_in_json() {
    let admin = admin().await;
    let (status, answer) = admin.say("GET /readyz", "", "").await;
    assert_eq!((status, answer.to_string().as_str()), (200, r#"{"details":{},"ready":true}"#));
    let details = vec![
        ("store", "memory only: the disk is full".to_owned()),
        ("store", "locked by another larder".to_owned()),
        ("state", "quarantined".to_owned()),
    ];
    *admin.larder.ready.lock() = Readiness { ready: false, details };
    let (status, answer) = admin.say("GET /readyz", "", "").await;
    assert_eq!((status, &answer["ready"]), (503, &Value::Bool(false)));
    let store = &answer["details"]["store"];
    assert_eq!(store, "memory only: the disk is full; locked by another larder");
    assert_eq!(answer["details"]["state"], "quarantined");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_asked_wrongly_is_a_problem_in_json() {
    let admin = admin().await;
    let (status, answer) = admin.say("GET /nothing", "", "").await;
    assert_eq!((status, class(&answer)), (404, "not_found"));
    let head = "PUT /v1/purge HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let answer = admin.ask(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nallow: POST\r\n"), "{answer}");
    assert!(answer.contains("{\"larder_error\":{\"class\":\"method_not_allowed\""), "{answer}");
    assert!(admin.larder.asked().is_empty());
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
    let Desktop { stop, serving, .. } = admin().await;
    drop(stop);
    serving.await.unwrap();
}
