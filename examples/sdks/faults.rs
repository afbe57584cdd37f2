//! An API that serves the calls of the SDKs, until it is dead, hangs, limits or fails them.
//!
//! Owns: its responses, and the count of its calls. Never touches: the SDKs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::client::Failure;
use crate::loopback::{listen, path_of, read_head};

/// The behaviour of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// It closes each connection without a response.
    Dead,
    /// It accepts requests and never responds.
    Hung,
    /// 429 with `Retry-After: 1`.
    Limited,
    /// 503 without `Retry-After`.
    Failing,
}

impl Fault {
    /// The faults, in the order of the table.
    pub(crate) const ALL: [Self; 4] = [Self::Dead, Self::Hung, Self::Limited, Self::Failing];

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dead => "dead",
            Self::Hung => "hung",
            Self::Limited => "429",
            Self::Failing => "503",
        }
    }
}

/// An API that serves until the example ends.
pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    fault: Mutex<Fault>,
    calls: AtomicUsize,
}

impl Api {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let state = Arc::new(State { fault: Mutex::new(Fault::None), calls: AtomicUsize::new(0) });
        let serving = Arc::clone(&state);
        let addr = listen(move |stream| serve(stream, Arc::clone(&serving))).await?;
        Ok(Self { addr, state })
    }

    /// Sets the fault, and the count of calls to zero.
    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
        self.state.calls.store(0, Ordering::SeqCst);
    }

    /// The number of calls since the fault was set.
    pub(crate) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }
}

/// Serves HTTP/1.1 requests one after the other.
async fn serve(stream: TcpStream, state: Arc<State>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = read_head(&mut stream).await?;
        state.calls.fetch_add(1, Ordering::SeqCst);
        let fault = *state.fault.lock();
        let response = match fault {
            Fault::None => success(path_of(&head)?),
            Fault::Dead => return None,
            Fault::Hung => {
                // The client's own timeout closes the connection.
                let _closed = stream.read(&mut [0]).await;
                return None;
            }
            Fault::Limited => {
                let body = r#"{"message":"You are being rate limited.","retry_after":1.0,"global":false}"#;
                json("429 Too Many Requests", "Retry-After: 1\r\nVia: 1.1 api\r\n", body)
            }
            Fault::Failing => json("503 Service Unavailable", "", r#"{"message":"down"}"#),
        };
        stream.get_mut().write_all(response.as_bytes()).await.ok()?;
        if head.to_ascii_lowercase().contains("\r\nconnection: close\r\n") {
            return None;
        }
    }
}

/// The response that the call of each SDK expects.
fn success(path: &str) -> String {
    let body = match path {
        _ if path.starts_with("/v1/models") => {
            r#"{"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null}"#
        }
        "/v1/balance" => r#"{"object":"balance","available":[],"pending":[],"livemode":false}"#,
        "/users/octocat" => r#"{"login":"octocat","id":1,"url":"/users/octocat"}"#,
        "/api/users.list" => r#"{"ok":true,"members":[]}"#,
        "/api/v10/users/@me" => r#"{"id":"1","username":"bot","discriminator":"0","avatar":null,"bot":true}"#,
        "/" => return s3(),
        "/api/v10/oauth2/applications/@me" => {
            r#"{"id":"1","name":"app","icon":null,"description":"","bot_public":true,"verify_key":"",
                "bot_require_code_grant":false,"owner":{"id":"2","username":"me","discriminator":"0","avatar":null}}"#
        }
        _ => "{}",
    };
    json("200 OK", "", body)
}

fn s3() -> String {
    let body = "<?xml version=\"1.0\"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn json(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
