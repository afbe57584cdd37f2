//! The origin: every response to a GET has a new number; the response to a POST contains the number of the
//! last response before it, which is thereby outdated.
//!
//! Owns: the numbering of responses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::content;

/// A running origin; it ends with the process.
pub struct Origin {
    pub addr: SocketAddr,
    last: Arc<AtomicU64>,
}

impl Origin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let last = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&last);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let last = Arc::clone(&counter);
                thread::spawn(move || serve(stream, &last));
            }
        });
        Self { addr, last }
    }

    /// The number of the newest response.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }
}

/// Serves one connection until larder closes it.
fn serve(stream: TcpStream, last: &AtomicU64) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let (method, n) = request(&mut stream)?;
        let body = if method == "GET" {
            content::body(n, last.fetch_add(1, Ordering::SeqCst) + 1)
        } else {
            // All responses up to this number are outdated.
            last.load(Ordering::SeqCst).to_string().into_bytes()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=86400\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}

fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let mut first = String::new();
    stream.read_line(&mut first).ok()?;
    let mut parts = first.split(' ');
    let (method, path) = (parts.next()?.to_owned(), parts.next()?);
    let n = path.rsplit('/').next()?.parse().ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut stream.take(length), &mut std::io::sink()).ok()?;
    Some((method, n))
}
