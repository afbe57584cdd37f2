//! A larder that intercepts TLS to an API, with requests over HTTP/1.1 and HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Response};
use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::tls_client::TlsClient;
use crate::tls_origin::{TestCa, TlsOrigin};

/// The host name of the API.
pub const API: &str = "api.example.test";

const TIMEOUT: Duration = Duration::from_secs(10);

/// A larder with one route for an API whose origin uses TLS.
pub struct InterceptionSetup {
    pub larder: Larder,
    pub origin: Origin,
    tls: TlsOrigin,
    pub authority: TestCa,
}

impl InterceptionSetup {
    pub async fn start(origin: Origin, yaml: &str) -> Self {
        Self::start_with_upstream(origin, "", yaml).await
    }

    /// The same with further keys for the API's upstream, each after a comma.
    pub async fn start_with_upstream(origin: Origin, upstream: &str, yaml: &str) -> Self {
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, origin.addr).await;
        let larder = Larder::bare(&file(&tls, &authority, upstream, yaml)).await;
        Self { larder, origin, tls, authority }
    }

    /// The same with another TLS origin, whose certificates `authority` has issued.
    pub async fn start_with_tls_origin(
        tls: TlsOrigin,
        authority: TestCa,
        origin: Origin,
        yaml: &str,
    ) -> Self {
        let larder = Larder::bare(&file(&tls, &authority, "", yaml)).await;
        Self { larder, origin, tls, authority }
    }

    /// One route with a `ttl` of an hour.
    pub async fn caching(response: MockResponse) -> Self {
        Self::start(Origin::always(response).await, &route(&["ttl: 1h"])).await
    }

    pub fn client(&self, protocols: &[&str]) -> TlsClient {
        TlsClient::for_larder(&self.larder, protocols)
    }

    /// Writes another configuration and reloads it.
    pub async fn reload(&self, yaml: &str) {
        let file = file(&self.tls, &self.authority, "", yaml);
        self.larder.reload_bare(&file).await.expect("it is valid");
    }

    /// A TLS connection to the API of a client that offers both versions and prefers HTTP/2.
    pub async fn connect_any_version(&self) -> TlsStream<TcpStream> {
        let client = self.client(&["h2", "http/1.1"]);
        client.connect(&format!("{API}:443"), API).await.expect("a handshake")
    }

    /// An HTTP/2 connection to the API.
    pub async fn h2(&self) -> H2 {
        let stream = self.client(&["h2"]).connect(&format!("{API}:443"), API).await;
        h2_over(stream.expect("a handshake")).await
    }
}

/// A configuration in which two names resolve to the origin and its certificate is trusted, and then `yaml`.
fn file(tls: &TlsOrigin, authority: &TestCa, upstream: &str, yaml: &str) -> String {
    format!(
        "resolve: {{ '{API}': '{addr}', other.example.test: '{addr}' }}\n\
         upstreams: {{ api: {{ hosts: [{API}], tls: {{ extra_roots: ['{}'] }}{upstream} }} }}\n{yaml}",
        authority.root().display(),
        addr = tls.addr,
    )
}

/// Sends a `GET` in origin form over HTTP/1.1 and reads the response.
pub async fn http1_get(client: &mut Client<TlsStream<TcpStream>>, target: &str, host: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    timeout(TIMEOUT, client.response("GET")).await.expect("in time").expect("a response")
}

/// Whether HTTP/2 was negotiated.
pub fn is_h2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// An HTTP/2 connection.
pub type H2 = h2::client::SendRequest<Bytes>;

/// Starts HTTP/2 on `stream`, which must have negotiated it.
pub async fn h2_over(stream: TlsStream<TcpStream>) -> H2 {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (sender, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender.ready().await.expect("it is open")
}

/// Sends a request without a body; its response head to come, and its stream.
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

/// Sends a request and reads its response: status, `Cache-Status` and body.
pub fn send(
    h2: &mut H2,
    request: http::request::Builder,
    body: Option<&'static str>,
) -> impl Future<Output = (u16, String, Vec<u8>)> + use<> {
    let request = request.body(()).expect("a request");
    let (response, mut stream) = h2.send_request(request, body.is_none()).expect("a stream");
    async move {
        if let Some(body) = body {
            stream.send_data(Bytes::from(body), true).expect("it is accepted");
        }
        let response = timeout(TIMEOUT, response).await.expect("in time").expect("a response");
        let field = response.headers().get("cache-status").and_then(|value| value.to_str().ok());
        let (status, field) = (response.status().as_u16(), field.unwrap_or_default().to_owned());
        let mut response_body = response.into_body();
        let mut body = Vec::new();
        while let Some(piece) = response_body.data().await {
            body.extend_from_slice(&piece.expect("a whole body"));
        }
        (status, field, body)
    }
}
