//! HTTP/2 with clients: limits on abuse, and no cut response looks whole.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::concurrent::bounded;
use crate::intercepted::{API, InterceptionSetup, get, send};
use crate::larder_under_test::route;
use crate::origin::{Gate, MockResponse, Origin, Step, chunk};
use crate::resident_memory::resident;
use crate::tls_origin::{TestCa, TlsOrigin};

const SOON: Duration = Duration::from_secs(10);

const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The field block of `GET https://api.example.test/N` without compression (RFC 7541 §6.2.2, Appendix A).
fn get_fields(path: &str) -> Vec<u8> {
    let mut fields = vec![0x82, 0x87];
    for (index, value) in [(0x01, API), (0x04, path)] {
        fields.push(index);
        fields.push(u8::try_from(value.len()).expect("it is short"));
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}

/// A connection on which the test writes the frames.
async fn raw(scene: &InterceptionSetup) -> TlsStream<TcpStream> {
    let client = scene.client(&["h2"]);
    let mut stream = client.connect(&format!("{API}:443"), API).await.expect("a handshake");
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&hello).await.expect("larder reads");
    stream
}

/// Reads until larder closes.
async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut received = Vec::new();
    // A reset is an end as well.
    let _reset = timeout(SOON, stream.read_to_end(&mut received)).await.expect("it ends");
    received
}

/// CVE-2023-44487.
#[tokio::test]
async fn a_client_that_resets_request_after_request_is_disconnected() {
    let hung = Origin::always(MockResponse::hang()).await;
    let scene = InterceptionSetup::start(hung, &route(&["ttl: 1h"])).await;
    let mut stream = raw(&scene).await;
    let mut sent = 0;
    for at in 0..20_000_u32 {
        let id = at * 2 + 1;
        let fields = get_fields(&format!("/{at}"));
        let mut both = frame(HEADERS, END_HEADERS | END_STREAM, id, &fields);
        both.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        if timeout(SOON, stream.write_all(&both)).await.expect("it is read").is_err() {
            break;
        }
        sent += 1;
    }
    read_to_end(&mut stream).await;
    assert!(sent < 20_000, "the connection was not ended");
    assert!(scene.origin.calls() < 500, "{} calls", scene.origin.calls());
    // Other clients are still served.
    scene.origin.set_script(|_| MockResponse::new(200, &[], "kept"));
    assert_eq!(get(&mut scene.h2().await, &format!("https://{API}/x")).await.0, 200);
}

#[tokio::test]
async fn repeated_origin_failures_do_not_end_the_clients_connection() {
    let scene =
        InterceptionSetup::start(Origin::always(MockResponse::closed()).await, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    for _ in 0..150 {
        let request = Request::post(format!("https://{API}/x"));
        assert_eq!(send(&mut h2, request, None).await.0, 502);
    }
}

/// CVE-2024-27316 and similar: a head without an end.
#[tokio::test]
async fn a_flood_of_continuations_is_cut_off_before_it_fills_memory() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let before = resident();
    let mut stream = raw(&scene).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &get_fields("/x"))).await.expect("larder reads");
    // Each frame has a new field: `x0000001: aaa…`.
    let mut sent = 0;
    for at in 0..4_000 {
        let mut field = vec![0x00, 8];
        field.extend_from_slice(format!("x{at:07}").as_bytes());
        field.extend_from_slice(&[0x7f, 0x81, 0x7d]);
        field.extend(std::iter::repeat_n(b'a', 127 + 16_001));
        if timeout(SOON, stream.write_all(&frame(CONTINUATION, 0, 1, &field))).await.expect("read").is_err() {
            break;
        }
        sent += 1;
    }
    read_to_end(&mut stream).await;
    assert!(sent < 4_000, "the connection was not ended");
    assert!(resident().saturating_sub(before) < 16 << 20, "the head was buffered");
    assert_eq!(scene.origin.calls(), 0);
}

#[tokio::test]
async fn a_head_without_an_end_is_cut_off_and_idle_connections_are_not() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let yaml = format!("limits: {{ head_timeout: 300ms, idle: 60s }}\n{}", route(&["ttl: 1h"]));
    let scene = InterceptionSetup::start(origin, &yaml).await;
    let mut idle = scene.h2().await;
    assert_eq!(get(&mut idle, &format!("https://{API}/x")).await.0, 200);
    let mut half_a_head = raw(&scene).await;
    half_a_head.write_all(&frame(HEADERS, END_STREAM, 1, &get_fields("/x"))).await.expect("it reads");
    let mut half_a_frame = raw(&scene).await;
    half_a_frame.write_all(&[0, 0, 20, HEADERS]).await.expect("it reads");
    read_to_end(&mut half_a_head).await;
    read_to_end(&mut half_a_frame).await;
    assert_eq!(get(&mut idle, &format!("https://{API}/x")).await.0, 200);
    // A connection without the HTTP/2 preface is closed as well.
    let client = scene.client(&["h2"]);
    let mut silent = client.connect(&format!("{API}:443"), API).await.expect("a handshake");
    read_to_end(&mut silent).await;
}

#[tokio::test]
async fn an_idle_connection_ends_after_the_idle_timeout() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let yaml = format!("limits: {{ idle: 200ms }}\n{}", route(&["ttl: 1h"]));
    let scene = InterceptionSetup::start(origin, &yaml).await;
    read_to_end(&mut raw(&scene).await).await;
}

#[tokio::test]
async fn many_malformed_requests_end_a_connection() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let contradicts_itself = || {
        Request::get(format!("https://{API}/x")).header("content-length", "1").header("content-length", "2")
    };
    let names_a_user = || Request::get(format!("https://user@{API}/x"));
    for malformed in [&contradicts_itself as &dyn Fn() -> _, &names_a_user] {
        let mut h2 = scene.h2().await;
        let mut requests = 0;
        while let Ok(ready) = bounded(h2.clone().ready()).await {
            h2 = ready;
            let request = malformed().body(()).expect("a request");
            let (answer, _) = h2.send_request(request, true).expect("a stream");
            if let Ok(answer) = bounded(answer).await {
                assert_eq!(answer.status(), 400);
            }
            requests += 1;
            assert!(requests < 200, "the connection was not ended");
        }
    }
    assert_eq!(scene.origin.calls(), 0);
}

/// pingora would end the stream as if the body were whole.
#[tokio::test]
async fn a_cut_body_ends_in_a_reset_and_never_in_end_stream() {
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let length = format!("{head}Content-Length: 100\r\n\r\nhalf");
    for (name, bytes) in
        [("chunked", [chunked.as_bytes(), &chunk(b"half")].concat()), ("length", length.into_bytes())]
    {
        for path in ["/kept", "/passed"] {
            let bytes = bytes.clone();
            let origin = Origin::start(move |_| MockResponse(vec![Step::Write(bytes.clone()), Step::Close]));
            let yaml = route(&["ttl: 1h"]).replace("/**", "/kept");
            let scene = InterceptionSetup::start(origin.await, &yaml).await;
            let mut h2 = scene.h2().await;
            let request = Request::get(format!("https://{API}{path}")).body(()).expect("one");
            let (answer, _) = h2.send_request(request, true).expect("a stream");
            let answer = timeout(SOON, answer).await.expect("in time");
            // An error in place of the head is correct as well.
            let Ok(answer) = answer else { continue };
            if answer.status() != 200 {
                continue;
            }
            let mut body = answer.into_body();
            let ended = loop {
                match timeout(SOON, body.data()).await.expect("in time") {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            };
            assert!(ended.is_err(), "{name} {path}: a cut body ended as if it were whole");
        }
    }
}

/// An interception whose origin responds once the gate is open.
async fn held_setup() -> (Gate, InterceptionSetup) {
    let gate = Gate::new();
    let origin_gate = gate.clone();
    let origin = Origin::start(move |_| MockResponse::new(200, &[], "kept").after(&origin_gate)).await;
    (gate, InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await)
}

#[tokio::test]
async fn a_cancelled_stream_does_not_keep_the_response_from_a_waiter() {
    let (gate, scene) = held_setup().await;
    let mut h2 = scene.h2().await;
    let url = format!("https://{API}/x");
    let (leader, mut stream) =
        h2.send_request(Request::get(&url).body(()).expect("a request"), true).expect("a stream");
    let waiter = get(&mut h2, &url);
    scene.larder.wait_for_waiters(2).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(leader);
    scene.larder.wait_for_waiters(1).await;
    gate.open();
    assert_eq!(bounded(waiter).await.2, b"kept");
    assert_eq!(scene.origin.calls(), 1);
}

#[tokio::test]
async fn a_shutdown_finishes_open_streams_and_accepts_no_new_ones() {
    let (gate, scene) = held_setup().await;
    let mut h2 = scene.h2().await;
    let open_stream = get(&mut h2, &format!("https://{API}/x"));
    scene.larder.wait_for_waiters(1).await;
    let InterceptionSetup { larder, origin, .. } = scene;
    let stopping = tokio::spawn(larder.server.stop());
    // GOAWAY: the client opens no further stream.
    bounded(async {
        while h2.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open();
    assert_eq!(bounded(open_stream).await.2, b"kept");
    drop(h2);
    assert!(bounded(stopping).await.expect("it ends"), "nothing was cut");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn each_stream_is_served_by_the_configuration_in_force_when_it_begins() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    let url = format!("https://{API}/x");
    get(&mut h2, &url).await;
    assert!(get(&mut h2, &url).await.1.contains("; hit"));
    scene.reload(&format!("defaults: {{ mode: bypass }}\n{}", route(&["ttl: 1h"]))).await;
    let answer = get(&mut h2, &url).await;
    assert!(answer.1.contains("fwd=bypass"), "{}", answer.1);
}

#[tokio::test]
async fn access_that_a_reload_revokes_ends_for_open_connections_too() {
    let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    let url = format!("https://{API}/x");
    assert_eq!(get(&mut h2, &url).await.0, 200);
    let others = "access: { clients: [192.0.2.0/24] }\n";
    scene.reload(&format!("{others}{}", route(&["ttl: 1h"]))).await;
    assert_eq!(get(&mut h2, &url).await.0, 403);
}

/// gRPC sends the status of a call in the trailers of its response.
#[tokio::test]
async fn trailers_pass_from_http_2_to_http_2() {
    let authority = TestCa::new();
    let tls = TlsOrigin::with_trailers(&authority).await;
    let unused_origin = Origin::always(MockResponse::new(500, &[], "")).await;
    let scene =
        InterceptionSetup::start_with_tls_origin(tls, authority, unused_origin, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    let request = Request::post(format!("https://{API}/package.Service/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (answer, mut stream) =
        h2.send_request(request.body(()).expect("a request"), false).expect("a stream");
    stream.send_data(Bytes::from_static(b"message"), true).expect("it is taken");
    let answer = bounded(answer).await.expect("a response");
    assert_eq!(answer.status(), 200);
    let mut read = answer.into_body();
    let mut body = Vec::new();
    while let Some(piece) = bounded(read.data()).await {
        body.extend_from_slice(&piece.expect("a whole body"));
    }
    assert_eq!(body, b"message");
    let trailers = bounded(read.trailers()).await.expect("in order").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn request_and_response_bodies_of_streams_pass_unchanged() {
    let origin = Origin::always(MockResponse::chunked(200, &[], &[b"a", b"b"])).await;
    let scene = InterceptionSetup::start(origin, &route(&["ttl: 1h"])).await;
    let mut h2 = scene.h2().await;
    let request = Request::post(format!("https://{API}/x")).body(()).expect("a request");
    let (answer, mut stream) = h2.send_request(request, false).expect("a stream");
    stream.send_data(Bytes::from_static(b"first "), false).expect("it is taken");
    stream.send_data(Bytes::from_static(b"last"), true).expect("it is taken");
    let answer = timeout(SOON, answer).await.expect("in time").expect("a response");
    assert_eq!(answer.status(), 200);
    let mut read = answer.into_body();
    let mut body = Vec::new();
    while let Some(piece) = read.data().await {
        body.extend_from_slice(&piece.expect("a whole body"));
    }
    assert_eq!(body, b"ab");
    assert_eq!(scene.origin.requests()[0].body, b"first last");
    let head = Request::head(format!("https://{API}/x"));
    assert_eq!(send(&mut h2, head, None).await.0, 200);
}
