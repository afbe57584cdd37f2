//! A TCP client for the tests of the fakes.
//!
//! Owns: one connection per request, read to its end. Never touches: the content of requests.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A response, read to the end of the connection.
pub(super) struct SeenResponse {
    pub(super) head: String,
    pub(super) body: String,
}

impl SeenResponse {
    pub(super) fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("none")
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(super) async fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    fields: &str,
    body: &str,
) -> SeenResponse {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or(("", ""));
    SeenResponse { head: head.to_owned(), body: body.to_owned() }
}

pub(super) async fn get(addr: SocketAddr, path: &str) -> SeenResponse {
    send(addr, "GET", path, "", "").await
}
