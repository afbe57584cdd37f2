//! The API: each resource has a version, which writes and time change.
//!
//! Owns: its responses, their delay, and whether a write gets a response. Never touches: larder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::client::Failure;
use crate::loopback::{listen, read_head};
use crate::model::{Model, RESOURCES, Representation, Resource};

/// Starts the API on loopback; it runs until the process ends.
pub(crate) async fn start(model: Arc<Model>, seed: u64) -> Result<SocketAddr, Failure> {
    let mut number = seed;
    let serve = move |stream| {
        number = number.wrapping_add(1);
        serve_connection(stream, Arc::clone(&model), StdRng::seed_from_u64(number))
    };
    listen(serve).await
}

/// Changes random resources over time.
pub(crate) async fn drift(model: Arc<Model>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(!seed);
    loop {
        sleep(Duration::from_millis(rng.random_range(1..40))).await;
        let number = rng.random_range(0..RESOURCES);
        model.change(Resource { shared: rng.random(), number });
    }
}

async fn serve_connection(stream: TcpStream, model: Arc<Model>, mut rng: StdRng) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = read_head(&mut stream).await?;
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let resource = Resource::parse(&path)?;
        let delay = if rng.random_bool(0.05) { 1_200 } else { 15 };
        let delay = Duration::from_millis(rng.random_range(0..delay));
        let response = if method == "PUT" {
            put_response(&model, resource, &mut rng)
        } else {
            Some(get_response(&model, resource, &head))
        };
        sleep(delay).await;
        let response = response?;
        stream.get_mut().write_all(&response.0).await.ok()?;
        if method != "HEAD" {
            stream.get_mut().write_all(&response.1).await.ok()?;
        }
    }
}

/// The response to a GET or HEAD, with the version at its arrival.
fn get_response(model: &Model, resource: Resource, head: &str) -> (Vec<u8>, Vec<u8>) {
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let language = if field("accept-language").as_deref() == Some("de") { "de" } else { "en" };
    let user = field("authorization").and_then(|value| value.strip_prefix("Bearer u")?.parse().ok());
    let representation = Representation {
        resource,
        language: resource.varies().then_some(language),
        user: user.filter(|_| !resource.shared),
    };
    let (call, version) = model.record_call(resource);
    let tag = format!("\"{language}-{user:?}-{version}\"", user = representation.user);
    let vary = if resource.varies() { "Vary: Accept-Language\r\n" } else { "" };
    let fields = format!("ETag: {tag}\r\n{vary}");
    if field("if-none-match").as_deref() == Some(&tag) {
        return (format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n").into_bytes(), Vec::new());
    }
    let body = representation.body(version, call);
    let length = body.len();
    (format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n").into_bytes(), body)
}

/// The response to a write; `None`: no response, although the write is done.
fn put_response(model: &Model, resource: Resource, rng: &mut StdRng) -> Option<(Vec<u8>, Vec<u8>)> {
    let response = |status: &str, version: u64| {
        let body = version.to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        Some((head.into_bytes(), body.into_bytes()))
    };
    match rng.random_range(0..10) {
        0..6 => response("200 OK", model.change(resource)),
        6 => response("409 Conflict", model.version(resource)),
        7 => response("504 Gateway Timeout", model.change(resource)),
        8 => response("504 Gateway Timeout", model.version(resource)),
        _ => {
            model.change(resource);
            None
        }
    }
}
