//! A larder that intercepts an API whose origin speaks TLS, and what is asked of it in both versions.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Response};
use crate::larder_under_test::{Larder, route};
use crate::origin::{Answer, Origin};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Authority, TlsOrigin};

/// The name of the API.
pub const API: &str = "api.example.test";

const SOON: Duration = Duration::from_secs(10);

/// A larder with one route for the API, whose origin speaks TLS.
pub struct Scene {
    pub larder: Larder,
    pub origin: Origin,
    tls: TlsOrigin,
    pub authority: Authority,
}

impl Scene {
    pub async fn with(origin: Origin, yaml: &str) -> Self {
        Self::before(origin, "", yaml).await
    }

    /// The same with further keys of the API's upstream, a comma before each.
    pub async fn before(origin: Origin, upstream: &str, yaml: &str) -> Self {
        let authority = Authority::new();
        let tls = TlsOrigin::before(&authority, origin.addr).await;
        let larder = Larder::bare(&file(&tls, &authority, upstream, yaml)).await;
        Self { larder, origin, tls, authority }
    }

    /// The same before another origin, whose certificates `authority` makes.
    pub async fn at(tls: TlsOrigin, authority: Authority, origin: Origin, yaml: &str) -> Self {
        let larder = Larder::bare(&file(&tls, &authority, "", yaml)).await;
        Self { larder, origin, tls, authority }
    }

    /// One route that keeps everything for an hour.
    pub async fn keeping(answer: Answer) -> Self {
        Self::with(Origin::always(answer).await, &route(&["ttl: 1h"])).await
    }

    pub fn client(&self, protocols: &[&str]) -> TlsClient {
        TlsClient::of(&self.larder, protocols)
    }

    /// Another configuration, read again.
    pub async fn reload(&self, yaml: &str) {
        let file = file(&self.tls, &self.authority, "", yaml);
        self.larder.reload_bare(&file).await.expect("it is valid");
    }

    /// TLS with the API, for a client that speaks both versions and likes HTTP/2 better.
    pub async fn either(&self) -> TlsStream<TcpStream> {
        let client = self.client(&["h2", "http/1.1"]);
        client.connect(&format!("{API}:443"), API).await.expect("a handshake")
    }

    /// HTTP/2 to the API.
    pub async fn h2(&self) -> H2 {
        let stream = self.client(&["h2"]).connect(&format!("{API}:443"), API).await;
        h2_over(stream.expect("a handshake")).await
    }
}

/// Two names lead to the origin; larder trusts it, and `yaml` is the rest.
fn file(tls: &TlsOrigin, authority: &Authority, upstream: &str, yaml: &str) -> String {
    format!(
        "resolve: {{ '{API}': '{addr}', other.example.test: '{addr}' }}\n\
         upstreams: {{ api: {{ hosts: [{API}], tls: {{ extra_roots: ['{}'] }}{upstream} }} }}\n{yaml}",
        authority.root().display(),
        addr = tls.addr,
    )
}

/// A request in origin form.
pub async fn ask(client: &mut Client<TlsStream<TcpStream>>, target: &str, host: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    timeout(SOON, client.answer("GET")).await.expect("in time").expect("an answer")
}

/// Whether HTTP/2 was agreed on.
pub fn is_h2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// A connection of HTTP/2.
pub type H2 = h2::client::SendRequest<Bytes>;

/// HTTP/2 inside `stream`, on which it was agreed.
pub async fn h2_over(stream: TlsStream<TcpStream>) -> H2 {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (send, connection) = h2::client::handshake(stream).await.expect("larder speaks it");
    tokio::spawn(connection);
    send.ready().await.expect("it is open")
}

/// Sends a request that has no body: its answer's head, and the stream that it went over.
pub fn head(
    h2: &mut H2,
    request: http::request::Builder,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    h2.send_request(request.body(()).expect("a request"), true).expect("a stream")
}

/// [`send`] of a `GET`.
pub fn get(h2: &mut H2, url: &str) -> impl Future<Output = (u16, String, Vec<u8>)> + use<> {
    send(h2, Request::get(url), None)
}

/// Sends a request and reads its answer: status, `Cache-Status` and body.
pub fn send(
    h2: &mut H2,
    request: http::request::Builder,
    body: Option<&'static str>,
) -> impl Future<Output = (u16, String, Vec<u8>)> + use<> {
    let request = request.body(()).expect("a request");
    let (answer, mut stream) = h2.send_request(request, body.is_none()).expect("a stream");
    async move {
        if let Some(body) = body {
            stream.send_data(Bytes::from(body), true).expect("it is taken");
        }
        let answer = timeout(SOON, answer).await.expect("in time").expect("an answer");
        let field = answer.headers().get("cache-status").and_then(|value| value.to_str().ok());
        let (status, field) = (answer.status().as_u16(), field.unwrap_or_default().to_owned());
        let mut read = answer.into_body();
        let mut body = Vec::new();
        while let Some(piece) = read.data().await {
            body.extend_from_slice(&piece.expect("a whole body"));
        }
        (status, field, body)
    }
}
