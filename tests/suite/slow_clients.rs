//! Clients that send or read slowly: larder never blames the origin for it, and no other client has to wait.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::intercepted::{self, API as HOST, H2, InterceptionSetup};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::tls_origin::{TestCa, TlsOrigin};

const LIMITS: &str = "limits: { body_idle: 600ms, body_min_rate: 100B/s }\n";

/// Begins a `POST` with a body of `length` bytes.
async fn begin_post(larder: &Larder, path: &str, length: usize, fields: &str) -> Client {
    let mut client = larder.client().await;
    let head = format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\n{fields}");
    client.send(format!("{head}Content-Length: {length}\r\n\r\nx")).await;
    client
}

#[tokio::test]
async fn a_client_that_stalls_or_drips_gets_408_and_the_origin_is_not_blamed() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let breaker = "upstreams: { api: { hosts: [api.example.test], timeouts: { first_byte: 300ms }, \
                       breaker: { failures: 3, within: 30s, open_for: 30s } } }\n";
        let yaml = format!("{LIMITS}{breaker}{}", route(&["ttl: 1h"]));
        let larder = Larder::start(&origin, &yaml).await;
        for drips in [false, false, true, true] {
            let mut client = begin_post(&larder, "/w", 10_000, "").await;
            let dripping = async {
                // A byte each tenth of a second: never silent, and far too slow.
                loop {
                    sleep(Duration::from_millis(100)).await;
                    if drips {
                        client.send("x").await;
                    }
                }
            };
            let _over_the_limit = timeout(Duration::from_millis(900), dripping).await;
            let answer = client.response("POST").await.expect("a response");
            assert_eq!(answer.status, 408, "drips: {drips}");
            assert!(answer.text().contains("limits.body_min_rate"), "{}", answer.text());
        }
        // No cooldown is active and no breaker is open, because the origin has not failed.
        assert_eq!(larder.get("/x").await.text(), "ok");
        let mut other = larder.client().await;
        other.send_request("POST", &format!("{API}/w"), &["Content-Length: 0"]).await;
        assert_eq!(other.response("POST").await.expect("a response").text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_long_steady_upload_and_a_silent_grpc_stream_are_not_cut() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let larder = Larder::start(&origin, &format!("{LIMITS}{}", route(&["ttl: 1h"]))).await;
        let mut steady = begin_post(&larder, "/w", 1 + 15 * 30, "").await;
        let mut grpc = begin_post(&larder, "/w", 2, "Content-Type: application/grpc+proto\r\n").await;
        for _ in 0..15 {
            sleep(Duration::from_millis(100)).await;
            steady.send([b'x'; 30]).await;
        }
        assert_eq!(steady.response("POST").await.expect("a response").text(), "ok");
        // This client has sent nothing for more than twice the limit.
        grpc.send("x").await;
        assert_eq!(grpc.response("POST").await.expect("a response").text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_slow_upload_that_probes_a_cooldown_delays_no_other_request() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => MockResponse::new(429, &["Retry-After: 1", "Connection: close"], "later"),
            _ => MockResponse::new(200, &[], "ok"),
        })
        .await;
        let upstream = "upstreams: { api: { hosts: [api.example.test], rate_limit: { max_wait: 9s } } }\n";
        let larder = Larder::start(&origin, &format!("{upstream}{}", route(&["ttl: 1h"]))).await;
        assert_eq!(larder.get("/x").await.status, 429);
        larder.clock.advance(Duration::from_secs(2));
        let mut slow = begin_post(&larder, "/w", 2, "").await;
        larder.wait_until("it is under way", |_| origin.connections() == 2).await;
        let cold = timeout(Duration::from_secs(5), larder.get("/y")).await.expect("soon");
        assert_eq!(cold.text(), "ok");
        slow.send("x").await;
        assert_eq!(slow.response("POST").await.expect("a response").text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_gives_up_waiting_for_a_body_is_not_blamed() {
    bounded(async {
        let (listener, addr) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let addr = listener.local_addr().expect("it has one");
            (listener, addr)
        };
        // The origin reads a head, waits briefly for the body, and closes. It sends 200 to a request without
        // a body.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut seen).await.unwrap_or_default() == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&seen).into_owned();
                    let ok = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"[..];
                    let late = &b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"[..];
                    if head.contains("POST /408") {
                        sleep(Duration::from_millis(400)).await;
                        let _gone = stream.write_all(late).await;
                    } else if head.starts_with("POST") {
                        sleep(Duration::from_millis(400)).await;
                    } else {
                        let _gone = stream.write_all(ok).await;
                    }
                });
            }
        });
        let breaker = "upstreams: { api: { hosts: [api.example.test], \
                       breaker: { failures: 2, within: 30s, open_for: 30s } } }\n";
        let resolve = format!("resolve: {{ api.example.test: '{addr}' }}\n");
        let yaml = format!("{resolve}{breaker}{}", route(&["ttl: 1h"]));
        let larder = Larder::bare(&yaml).await;
        for (path, fields) in [
            ("/close", ""),
            ("/408", ""),
            ("/close", "Expect: 100-continue\r\n"),
            ("/408", "Expect: 100-continue\r\n"),
            ("/close", ""),
        ] {
            let mut client = larder.client().await;
            let head = format!("POST {API}{path} HTTP/1.1\r\nHost: x\r\n{fields}");
            client.send(format!("{head}Content-Length: 1000\r\n\r\nx")).await;
            let answer = client.response("POST").await.expect("a response");
            assert_eq!(answer.status, 408, "{path} {fields}");
        }
        assert_eq!(larder.get("/x").await.text(), "ok", "no breaker is open");
    })
    .await;
}

#[tokio::test]
async fn larder_sends_100_continue_where_an_origin_does_not() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let larder = Larder::start(&origin, &route(&["ttl: 1h"])).await;
        let mut client = larder.client().await;
        let head = format!("POST {API}/w HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n");
        client.send(format!("{head}Content-Length: 2\r\n\r\n")).await;
        assert_eq!(client.next_response("POST").await.expect("a 100").status, 100);
        client.send("hi").await;
        assert_eq!(client.response("POST").await.expect("a response").text(), "ok");
    })
    .await;
}

/// Begins an upload on a connection with several streams.
fn upload(h2: &mut H2, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::post(format!("https://{}{path}", intercepted::API));
    h2.send_request(request.body(()).expect("a request"), false).expect("a stream")
}

async fn outcome_of(answer: ResponseFuture) -> (u16, Vec<u8>) {
    let answer = answer.await.expect("a response");
    let (status, mut read) = (answer.status().as_u16(), answer.into_body());
    let mut body = Vec::new();
    while let Some(piece) = read.data().await {
        body.extend_from_slice(&piece.expect("a whole body"));
    }
    (status, body)
}

async fn with_limits() -> InterceptionSetup {
    let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
    InterceptionSetup::start(origin, &format!("{LIMITS}{}", route(&["ttl: 1h"]))).await
}

/// A client that sends one upload after the other is not silent meanwhile: the later uploads wait for the
/// earlier ones on the connection, not for the client.
#[tokio::test]
async fn uploads_behind_others_on_one_connection_are_not_cut() {
    bounded(async {
        let scene = with_limits().await;
        let mut h2 = scene.h2().await;
        let mut uploads: Vec<_> = (0..3).map(|at| upload(&mut h2, &format!("/{at}"))).collect();
        for (_, body) in &mut uploads {
            for piece in 0..9 {
                sleep(Duration::from_millis(100)).await;
                body.send_data(Bytes::from_static(&[b'x'; 30]), piece == 8).expect("it is taken");
            }
        }
        for (at, (answer, _)) in uploads.into_iter().enumerate() {
            assert_eq!(outcome_of(answer).await, (200, b"ok".to_vec()), "upload {at}");
        }
    })
    .await;
}

#[tokio::test]
async fn uploads_on_a_silent_or_dripping_connection_get_408() {
    bounded(async {
        let scene = with_limits().await;
        for drips in [false, true] {
            let mut h2 = scene.h2().await;
            let (first, mut body) = upload(&mut h2, "/1");
            let (second, _waits) = upload(&mut h2, "/2");
            let dripping = async {
                loop {
                    sleep(Duration::from_millis(100)).await;
                    if drips && body.send_data(Bytes::from_static(b"x"), false).is_err() {
                        std::future::pending::<()>().await;
                    }
                    // Frames other than body data do not count as progress.
                    body.reserve_capacity(0);
                }
            };
            let both = async { (outcome_of(first).await.0, outcome_of(second).await.0) };
            let statuses = tokio::select! {
                both = both => both,
                () = dripping => unreachable!("it never ends"),
            };
            assert_eq!(statuses, (408, 408), "drips: {drips}");
        }
    })
    .await;
}

/// An origin that reads only the head of a `POST /unread`.
async fn origin_without_reads() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("it has one");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !seen.ends_with(b"0\r\n\r\n") {
                    if seen.starts_with(b"POST /unread") {
                        std::future::pending::<()>().await;
                    }
                    if stream.read_buf(&mut seen).await.unwrap_or_default() == 0 {
                        return;
                    }
                }
                let ok = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..];
                let _gone = stream.write_all(ok).await;
            });
        }
    });
    addr
}

/// The origin does not read the first upload, so the client can send no more of it, and none of the second
/// one behind it.
#[tokio::test]
async fn an_upload_behind_one_that_the_origin_does_not_read_is_not_cut() {
    bounded(async {
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, origin_without_reads().await).await;
        let unused = Origin::always(MockResponse::closed()).await;
        let yaml = format!("{LIMITS}tls: {{ intercept: [{}] }}\n", intercepted::API);
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &yaml).await;
        let mut h2 = scene.h2().await;
        let (first, mut body) = upload(&mut h2, "/unread");
        let (mut second, mut waits) = upload(&mut h2, "/2");
        // More than the buffers between client and origin take.
        body.send_data(Bytes::from(vec![b'x'; 64 << 20]), true).expect("it is taken");
        let cut = timeout(Duration::from_secs(3), &mut second).await;
        assert!(cut.is_err(), "{cut:?}");
        // The first upload ends, so the client can send the second.
        body.send_reset(h2::Reason::CANCEL);
        drop(first);
        waits.send_data(Bytes::from_static(b"x"), true).expect("it is taken");
        assert_eq!(outcome_of(second).await.0, 200);
    })
    .await;
}

/// A call that waits for its own client takes no slot from other calls, however active the connection of
/// that client is.
#[tokio::test]
async fn an_upload_that_waits_for_its_client_delays_no_other_request() {
    bounded(async {
        let origin = Origin::start(|seen| match seen.index {
            0 => MockResponse::new(429, &["Retry-After: 1", "Connection: close"], "later"),
            _ => MockResponse::new(200, &[], "ok"),
        })
        .await;
        let upstream = ", rate_limit: { max_wait: 9s, in_flight: 1 }";
        let scene = InterceptionSetup::start_with_upstream(
            origin,
            upstream,
            &format!("{LIMITS}{}", route(&["ttl: 1h"])),
        )
        .await;
        let mut h2 = scene.h2().await;
        let url = |path: &str| format!("https://{}{path}", intercepted::API);
        assert_eq!(intercepted::get(&mut h2, &url("/x")).await.0, 429);
        scene.larder.clock.advance(Duration::from_secs(2));
        let (waits, mut last) = upload(&mut h2, "/waits");
        last.send_data(Bytes::from_static(b"x"), false).expect("it is taken");
        let calls = async {
            while scene.origin.connections() < 2 {
                tokio::task::yield_now().await;
            }
            let mut other = scene.h2().await;
            let cold = intercepted::get(&mut other, &url("/y")).await;
            assert_eq!((cold.0, cold.2), (200, b"ok".to_vec()));
        };
        calls.await;
        let (flows, mut body) = upload(&mut h2, "/flows");
        for at in 0..12 {
            sleep(Duration::from_millis(100)).await;
            body.send_data(Bytes::from_static(&[b'x'; 600]), false).expect("it is taken");
            let cold = intercepted::get(&mut scene.h2().await, &url(&format!("/{at}"))).await;
            assert_eq!(cold.0, 200);
        }
        for body in [&mut body, &mut last] {
            body.send_data(Bytes::from_static(b"x"), true).expect("it is taken");
        }
        assert_eq!((outcome_of(flows).await.0, outcome_of(waits).await.0), (200, 200));
    })
    .await;
}

/// An origin that responds as soon as it has read a head: 503 to a POST, 200 to everything else.
async fn origin_that_responds_early() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let (status, body) = if head.starts_with(b"POST") {
                    ("503 Service Unavailable", "no body came")
                } else {
                    ("200 OK", "fine")
                };
                let fields = format!("Connection: close\r\nContent-Length: {}", body.len());
                let answer = format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}");
                let _gone = stream.write_all(answer.as_bytes()).await;
                // Closing at once with unread data would reset the connection.
                let _ended = stream.read_to_end(&mut head).await;
            });
        }
    });
    addr
}

/// Servers send an error of their own when the application fails to read a body.
#[tokio::test]
async fn an_error_response_to_half_an_upload_is_not_blamed_on_the_origin() {
    bounded(async {
        let origin = origin_that_responds_early().await;
        let yaml = format!(
            "resolve: {{ api.example.test: '{origin}' }}\n\
             upstreams: {{ api: {{ hosts: [api.example.test], \
             breaker: {{ failures: 3, within: 30s, open_for: 30s }} }} }}\n"
        );
        let larder = Larder::bare(&format!("{yaml}{}", route(&["ttl: 1h"]))).await;
        for n in 0..5 {
            let mut client = begin_post(&larder, &format!("/w{n}"), 10_000, "").await;
            let answer = client.response("POST").await.expect("a response");
            assert_eq!((answer.status, answer.text().as_str()), (503, "no body came"));
        }
        assert_eq!(larder.get("/x").await.text(), "fine");
        // Errors in response to whole uploads do count.
        for n in 0..3 {
            let mut client = begin_post(&larder, &format!("/w{n}"), 1, "").await;
            assert_eq!(client.response("POST").await.expect("a response").text(), "no body came");
        }
        assert_eq!(larder.get("/y").await.status, 503);
    })
    .await;
}

/// Each slow upload occupies a slot of the ban guard, but only until another call waits for the slot.
#[tokio::test]
async fn slow_uploads_give_up_their_ban_guard_slots_to_waiting_calls() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let guard = "upstreams: { api: { hosts: [api.example.test], rate_limit: { max_wait: 5s }, \
                     ban_guard: { limit: 4/10m, trip_at: 0.75, statuses: [401] } } }\n";
        let larder = Larder::start(&origin, &format!("{guard}{}", route(&["ttl: 1h"]))).await;
        let mut slow = Vec::new();
        for n in 0..3 {
            slow.push(begin_post(&larder, &format!("/w{n}"), 10_000, "").await);
        }
        larder.wait_until("they are under way", |_| origin.connections() == 3).await;
        for n in 0..2 {
            let path = format!("/{n}");
            let mut answer = pin!(larder.get(&path));
            let answer = loop {
                tokio::select! {
                    answer = &mut answer => break answer,
                    // A slow call becomes stalled after a while, and keeps its slot for one more second.
                    () = sleep(Duration::from_millis(50)) => {
                        larder.clock.advance(Duration::from_millis(200));
                    }
                }
            };
            assert_eq!(answer.text(), "ok");
        }
        let gave_way = slow[0].response("POST").await.expect("a response");
        assert_eq!(gave_way.status, 408);
        assert!(gave_way.text().contains("ban_guard"), "{}", gave_way.text());
        // The other uploads continue.
        slow[2].send("x".repeat(9_999)).await;
        assert_eq!(slow[2].response("POST").await.expect("a response").text(), "ok");
    })
    .await;
}

/// Far more than the socket buffers between client and origin take.
const LONG: usize = 24 << 20;

/// Each stalled client occupies buffers for as long as larder waits for it: a minute, if there is enough
/// memory.
async fn stalled_clients_are_dropped(host: &str, route_label: &str) {
    bounded(async {
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: {LONG}\r\n\r\n");
        let body = Step::Repeat(&[b'x'; 4096], LONG >> 12);
        let long = MockResponse::raw(head).then([body]);
        let origin = Origin::always(long).await;
        let to = format!("'{}'", origin.addr);
        let resolve = format!("resolve: {{ api.example.test: {to}, other.example.test: {to} }}\n");
        let limits = "limits: { in_flight: 64KiB }\nstore: { disk: off, max_object: 16KiB }\n";
        let larder = Larder::bare(&format!("{resolve}{limits}{}", route(&["ttl: 1h"]))).await;
        let mut stalled = Vec::new();
        for n in 0..12 {
            let mut client = larder.client().await;
            client.send_request("GET", &format!("{host}/{n}"), &[]).await;
            stalled.push(client);
        }
        let broken = format!("larder_requests_total{{result=\"error\",route=\"{route_label}\"}}");
        while larder.metric(&broken) < 4.0 {
            sleep(Duration::from_millis(20)).await;
        }
        // A client that reads steadily gets the whole body.
        let answer = larder.client().await.get(&format!("{host}/taken"), &[]).await;
        assert_eq!(answer.body.len(), LONG);
    })
    .await;
}

#[tokio::test]
async fn stalled_readers_of_a_cached_route_are_dropped_when_memory_is_short() {
    stalled_clients_are_dropped(API, "api").await;
}

#[tokio::test]
async fn stalled_readers_of_passed_bodies_are_dropped_when_memory_is_short() {
    stalled_clients_are_dropped("http://other.example.test", "none").await;
}

/// Larder passes small responses to the connection at once, and they wait there. A response that never ends
/// keeps the connection open.
#[tokio::test]
async fn an_unread_http_2_connection_is_dropped_when_memory_is_short() {
    const ANSWERS: usize = 90;
    bounded(async {
        let gate = Gate::new();
        let wait = gate.clone();
        let origin = Origin::start(move |seen| {
            if seen.target == "/quiet" {
                let fields = ["Content-Type: text/event-stream"];
                return MockResponse::chunked_open(200, &fields, &[b"x"]).then([Step::Hang]);
            }
            MockResponse::new(200, &["Cache-Control: no-store"], vec![b'x'; 60_000]).after(&wait)
        })
        .await;
        let limits = "limits: { in_flight: 64KiB }\nstore: { disk: off, max_object: 16KiB }\n";
        let scene = InterceptionSetup::start(origin, &format!("{limits}{}", route(&["ttl: 1h"]))).await;
        let stream = scene.client(&["h2"]).connect(&format!("{HOST}:443"), HOST).await;
        let (mut h2, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Bytes>(stream.expect("a handshake"))
            .await
            .expect("an HTTP/2 handshake");
        let mut connection = std::pin::pin!(connection);
        let paths = (0..ANSWERS).map(|n| format!("/{n}")).chain(["/quiet".to_owned()]);
        let get = |path| Request::get(format!("https://{HOST}{path}"));
        let requests: Vec<_> = paths.map(|path| intercepted::head(&mut h2, get(path))).collect();
        tokio::select! {
            _ended = &mut connection => panic!("it is open"),
            () = await_calls(&scene, ANSWERS + 1) => {}
        }
        // From here on the client reads nothing.
        gate.open();
        let taken = scene.larder.server.connections_taken();
        while scene.larder.server.connections_taken() == taken {
            sleep(Duration::from_millis(20)).await;
        }
        drop(requests);
    })
    .await;
}

async fn await_calls(scene: &InterceptionSetup, calls: usize) {
    while scene.origin.calls() < calls {
        sleep(Duration::from_millis(10)).await;
    }
}

/// The client's end of a connection, which reads at most 32 KiB per millisecond.
struct SlowReader {
    stream: TlsStream<TcpStream>,
    pause: Pin<Box<Sleep>>,
}

impl AsyncRead for SlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pause.as_mut().poll(cx));
        let mut few = vec![0; buf.remaining().min(32 * 1024)];
        let mut few = ReadBuf::new(&mut few);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        buf.put_slice(few.filled());
        self.pause.set(sleep(Duration::from_millis(1)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SlowReader {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// More responses than the connection accepts at once, to a client that reads steadily: no response waits for
/// the end of another.
#[tokio::test]
async fn every_response_progresses_on_a_slow_http_2_connection() {
    const STREAMS: usize = 40;
    bounded(async {
        let long = MockResponse::raw(
            "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 8388608\r\n\r\n",
        );
        let body = Step::Repeat(&[b'x'; 4096], 2048);
        let scene =
            InterceptionSetup::start(Origin::always(long.then([body])).await, &route(&["ttl: 1h"])).await;
        let stream = scene.client(&["h2"]).connect(&format!("{HOST}:443"), HOST).await;
        let pause = Box::pin(sleep(Duration::ZERO));
        let slow_reader = SlowReader { stream: stream.expect("a handshake"), pause };
        let (mut h2, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Bytes>(slow_reader)
            .await
            .expect("an HTTP/2 handshake");
        let driver = tokio::spawn(connection);
        let read = Arc::new([const { AtomicUsize::new(0) }; STREAMS]);
        for n in 0..STREAMS {
            let request = Request::post(format!("https://{HOST}/{n}"));
            let (answer, _end) = intercepted::head(&mut h2, request);
            let read = Arc::clone(&read);
            tokio::spawn(async move {
                let mut body = answer.await.expect("a response").into_body();
                while let Some(Ok(piece)) = body.data().await {
                    read[n].fetch_add(piece.len(), Ordering::Relaxed);
                }
            });
        }
        let all = || read.iter().map(|one| one.load(Ordering::Relaxed));
        while all().sum::<usize>() < STREAMS << 18 {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(all().min() > Some(1 << 15), "{:?}", all().collect::<Vec<_>>());
        driver.abort();
    })
    .await;
}
