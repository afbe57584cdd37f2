//! An API that counts the calls for each path.
//!
//! Owns: its response and its counts. Never touches: larder; `tls` adds TLS in front of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::client::Failure;
use crate::loopback::{listen, path_of, read_head};

/// An API that serves until the example ends.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    counts: Arc<Mutex<HashMap<String, usize>>>,
}

/// The body of every response.
pub(crate) const BODY: &str = "a response of the origin";

impl Origin {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let serving_counts = Arc::clone(&counts);
        let serve = move |stream| serve_connection(stream, Arc::clone(&serving_counts));
        Ok(Self { addr: listen(serve).await?, counts })
    }

    /// The number of calls for this path.
    pub(crate) fn calls(&self, path: &str) -> usize {
        self.counts.lock().get(path).copied().unwrap_or_default()
    }
}

/// Serves HTTP/1.1 requests without bodies, one after the other.
async fn serve_connection(stream: TcpStream, counts: Arc<Mutex<HashMap<String, usize>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = read_head(&mut stream).await?;
        let path = path_of(&head)?.to_owned();
        *counts.lock().entry(path).or_default() += 1;
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
        stream.get_mut().write_all(response.as_bytes()).await.ok()?;
        if head.to_ascii_lowercase().contains("\r\nconnection: close\r\n") {
            return None;
        }
    }
}
