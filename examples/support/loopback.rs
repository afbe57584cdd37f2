//! A server on loopback, for the APIs of the examples.
//!
//! Owns: accepting connections, and reading request heads. Never touches: the responses.
#![allow(dead_code, reason = "each example uses a part")]

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Failure;

/// Runs `serve` for each connection until the example ends; returns the address.
pub(crate) async fn listen<F>(
    mut serve: impl FnMut(TcpStream) -> F + Send + 'static,
) -> Result<SocketAddr, Failure>
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_ok() {
                tokio::spawn(serve(stream));
            }
        }
    });
    Ok(addr)
}

/// Reads the head of the next request; `None` at the end of the connection.
pub(crate) async fn read_head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (stream.read_line(&mut head).await.ok()? > 0).then_some(())?;
    }
    Some(head)
}

/// The path of a request with this head, with its query.
pub(crate) fn path_of(head: &str) -> Option<&str> {
    head.split(' ').nth(1)
}
