//! An API that counts how often each path is asked for.
//!
//! Owns: its one answer and its counts. Never touches: larder; TLS stands in front of it (`tls`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Failure;

/// It answers as long as the example runs.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

/// What every answer says.
pub(crate) const BODY: &str = "an answer of the origin";

impl Origin {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let counts = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&counts)));
            }
        });
        Ok(Self { addr, asked })
    }

    /// How often this path was asked for.
    pub(crate) fn calls(&self, path: &str) -> usize {
        self.asked.lock().get(path).copied().unwrap_or_default()
    }
}

/// HTTP/1.1, one request after the other; none has a body.
async fn converse(stream: TcpStream, counts: Arc<Mutex<HashMap<String, usize>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (stream.read_line(&mut head).await.ok()? > 0).then_some(())?;
        }
        let path = head.split(' ').nth(1)?.to_owned();
        *counts.lock().entry(path).or_default() += 1;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
        stream.get_mut().write_all(answer.as_bytes()).await.ok()?;
        if head.to_ascii_lowercase().contains("\r\nconnection: close\r\n") {
            return None;
        }
    }
}
