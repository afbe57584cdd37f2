//! A parent proxy: it answers absolute-form requests itself, and tunnels `CONNECT` and SOCKS 5 to one origin.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The request that the proxy got before it forwarded any byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRequest {
    /// The method, or `SOCKS`.
    pub method: String,
    /// The target of the request.
    pub target: String,
    /// All field lines of the head, or user and password of SOCKS.
    pub head: String,
}

/// The behaviour of the proxy.
#[derive(Clone, Copy)]
pub struct Script {
    /// Where tunnels lead.
    pub onward: SocketAddr,
    /// The response to `CONNECT`; another status than 200 ends the connection.
    pub to_connect: &'static str,
    /// The response to other requests.
    pub to_requests: &'static str,
}

impl Script {
    /// Tunnels lead to `onward`; the proxy answers other requests itself.
    pub fn tunnelling_to(onward: SocketAddr) -> Self {
        let to_requests = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nby the parent";
        Self { onward, to_connect: "HTTP/1.1 200 OK\r\nX: y\r\n\r\n", to_requests }
    }
}

/// A running proxy; it ends with the test.
pub struct Parent {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<ParentRequest>>>,
    task: JoinHandle<()>,
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Parent {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move { serve(stream, script, &seen).await });
            }
        });
        Self { addr, requests, task }
    }

    /// All requests for a way through.
    pub fn requests(&self) -> Vec<ParentRequest> {
        self.requests.lock().clone()
    }

    /// Method and target of each.
    pub fn lines(&self) -> Vec<String> {
        self.requests.lock().iter().map(|one| format!("{} {}", one.method, one.target)).collect()
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: &Mutex<Vec<ParentRequest>>) -> Option<()> {
    loop {
        let first = stream.read_u8().await.ok()?;
        if first == 5 {
            let request = socks(&mut stream).await?;
            seen.lock().push(request);
            return tunnel(stream, script.onward).await;
        }
        let mut head = vec![first];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let is_tunnel = method == "CONNECT";
        seen.lock().push(ParentRequest { method, target, head: head.clone() });
        let response = if is_tunnel { script.to_connect } else { script.to_requests };
        stream.write_all(response.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        if is_tunnel && !response.contains(" 200 ") {
            return None;
        }
        if is_tunnel {
            return tunnel(stream, script.onward).await;
        }
    }
}

async fn tunnel(mut stream: TcpStream, onward: SocketAddr) -> Option<()> {
    let mut onward = TcpStream::connect(onward).await.ok()?;
    copy_bidirectional(&mut stream, &mut onward).await.ok().map(|_| ())
}

/// RFC 1928 with RFC 1929, after the version byte: requires user and password if the client offers them.
async fn socks(stream: &mut TcpStream) -> Option<ParentRequest> {
    let mut methods = vec![0; usize::from(stream.read_u8().await.ok()?)];
    stream.read_exact(&mut methods).await.ok()?;
    let mut head = String::new();
    if methods.contains(&2) {
        stream.write_all(&[5, 2]).await.ok()?;
        let _version = stream.read_u8().await.ok()?;
        for end in [":", ""] {
            let mut text = vec![0; usize::from(stream.read_u8().await.ok()?)];
            stream.read_exact(&mut text).await.ok()?;
            head += &(String::from_utf8(text).ok()? + end);
        }
        stream.write_all(&[1, 0]).await.ok()?;
    } else {
        stream.write_all(&[5, 0]).await.ok()?;
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request).await.ok()?;
    let host = if request[3] == 3 {
        let mut name = vec![0; usize::from(stream.read_u8().await.ok()?)];
        stream.read_exact(&mut name).await.ok()?;
        String::from_utf8(name).ok()?
    } else {
        let mut ip = [0; 4];
        stream.read_exact(&mut ip).await.ok()?;
        std::net::Ipv4Addr::from(ip).to_string()
    };
    let port = stream.read_u16().await.ok()?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    Some(ParentRequest { method: "SOCKS".to_owned(), target: format!("{host}:{port}"), head })
}
