//! Both directions of an exchange at once: simultaneous bodies, early responses, clients that disconnect
//! during their upload; and calls that need a separate connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::concurrent::bounded;
use crate::intercepted::{API, InterceptionSetup, get};
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};
use crate::tls_origin::{Action, TestCa, TlsOrigin};

/// More bytes than the buffers of the sockets hold.
const LONG: usize = 48 * 1024 * 1024;

/// A larder that passes every request through to `origin`.
async fn larder_for(origin: SocketAddr, more: &str) -> Larder {
    Larder::bare(&format!("resolve: {{ '{API}': '{origin}' }}\n{more}")).await
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Accepts the next connection and reads a request head.
async fn accept_head(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
    }
    stream
}

fn post(path: &str, fields: &str) -> String {
    format!("POST http://{API}{path} HTTP/1.1\r\nHost: {API}\r\n{fields}\r\n")
}

/// A client may send its entire body before it reads; an origin may send and receive at once.
#[tokio::test]
async fn an_upload_continues_while_its_response_is_unread() {
    bounded(async {
        let (listener, addr) = listener().await;
        let origin = tokio::spawn(async move {
            let (mut read, mut write) = accept_head(&listener).await.into_split();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
            let written = async {
                write.write_all(head.as_bytes()).await.unwrap();
                write.write_all(&vec![b'x'; LONG]).await.unwrap();
            };
            let mut sink = tokio::io::sink();
            let received = tokio::io::copy(&mut read, &mut sink);
            // The upload ends when the connection ends.
            tokio::join!(written, received).1
        });
        let larder = larder_for(addr, "").await;
        let mut stream = TcpStream::connect(larder.addr()).await.unwrap();
        let head = post("/", &format!("Content-Length: {LONG}\r\n"));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'y'; LONG]).await.unwrap();
        let mut read = 0;
        let mut buffer = vec![0; 64 * 1024];
        while read < LONG {
            let piece = stream.read(&mut buffer).await.unwrap();
            assert!(piece > 0, "after {read} bytes");
            read += piece;
        }
        drop(stream);
        drop(larder);
        origin.abort();
    })
    .await;
}

/// An origin that reads nothing leaves a body unread. Larder still detects a reset of the client; an orderly
/// end would stay behind the unread bytes.
#[tokio::test]
async fn a_client_disconnect_is_detected_while_its_body_is_unread() {
    bounded(async {
        let (listener, addr) = listener().await;
        let larder = larder_for(addr, "").await;
        let mut stream = TcpStream::connect(larder.addr()).await.unwrap();
        let head = post("/", &format!("Content-Length: {LONG}\r\n"));
        stream.write_all(head.as_bytes()).await.unwrap();
        let sending = async { while stream.write(&[b'x'; 8192]).await.is_ok() {} };
        let accepting = async {
            let stream = accept_head(&listener).await;
            // The buffers are full after a while without a read.
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream
        };
        let reached = tokio::select! {
            () = sending => panic!("larder closed the connection"),
            stream = accepting => stream,
        };
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        larder.wait_for_metric(r#"larder_requests_total{result="error",route="none"}"#, 1.0).await;
        drop(reached);
    })
    .await;
}

/// The client waits for `100 Continue`, so the origin must send the next message.
#[tokio::test]
async fn an_origin_without_a_response_or_a_100_continue_is_a_timeout() {
    bounded(async {
        let (listener, addr) = listener().await;
        let more = format!("upstreams: {{ api: {{ hosts: [{API}], timeouts: {{ first_byte: 200ms }} }} }}\n");
        let larder = larder_for(addr, &more).await;
        let mut client = larder.client().await;
        client.send(post("/", "Content-Length: 4\r\nExpect: 100-continue\r\n")).await;
        let connection = accept_head(&listener).await;
        assert_eq!(client.response("POST").await.unwrap().status, 504);
        drop(connection);
    })
    .await;
}

/// RFC 9113 §8.6: HTTP/2 has no upgrade, and most origins support both versions.
#[tokio::test]
async fn a_web_socket_uses_http_1_if_the_origin_supports_both_versions() {
    bounded(Box::pin(async {
        let authority = TestCa::new();
        let tls = TlsOrigin::scripted(&authority, |_, _, id| vec![Action::head(id, 200, None, true)]);
        let tls = tls.await;
        let unused = Origin::always(MockResponse::closed()).await;
        let route = format!("routes: [{{ name: api, match: {{ host: {API} }}, ttl: 1h }}]\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &route).await;
        // An HTTP/2 connection exists already.
        assert_eq!(get(&mut scene.h2().await, &format!("https://{API}/")).await.0, 200);
        let mut client = scene.client(&["http/1.1"]).http1(API).await;
        client
            .send(format!(
                "GET /ws HTTP/1.1\r\nHost: {API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            ))
            .await;
        let switched = client.next_response("GET").await.unwrap();
        assert_eq!((switched.status, switched.field("upgrade")), (101, Some("websocket")));
        client.send("there and back").await;
        let mut back = [0; 14];
        client.stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"there and back");
    }))
    .await;
}

#[tokio::test]
async fn after_http_1_1_required_an_origin_is_called_over_http_1() {
    bounded(async {
        let authority = TestCa::new();
        let origin =
            TlsOrigin::scripted(&authority, |_, _, id| vec![Action::reset(id, Reason::HTTP_1_1_REQUIRED)])
                .await;
        let yaml = format!(
            "resolve: {{ '{API}:443': '{}' }}\n\
             upstreams: {{ api: {{ hosts: ['https://{API}'], tls: {{ extra_roots: ['{}'] }} }} }}\n\
             routes: [{{ name: api, match: {{ host: {API}, path: '/kept/**' }}, ttl: 30m }}]\n",
            origin.addr,
            authority.root().display(),
        );
        let larder = Larder::bare(&yaml).await;
        for path in ["/passed", "/kept/x", "/passed"] {
            let answer = larder.get(path).await;
            assert_eq!((answer.status, answer.text()), (200, "http/1.1".to_owned()), "{path}");
        }
        assert_eq!(origin.calls(), 1, "of HTTP/2");
    })
    .await;
}

/// A call beyond the stream limit of a connection would wait for the responses of other calls.
#[tokio::test]
async fn no_call_waits_for_a_stream_on_a_full_connection() {
    bounded(Box::pin(async {
        let authority = TestCa::new();
        let release = Arc::new(Notify::new());
        let tls = TlsOrigin::one_stream_at_a_time(&authority, Arc::clone(&release)).await;
        let unused = Origin::always(MockResponse::closed()).await;
        let intercept = format!("tls: {{ intercept: [{API}] }}\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &intercept).await;
        let mut client = scene.h2().await;
        assert_eq!(get(&mut client, &format!("https://{API}/first")).await.0, 200);
        let blocked = tokio::spawn(get(&mut client, &format!("https://{API}/held")));
        assert_eq!(get(&mut client, &format!("https://{API}/free")).await.0, 200);
        release.notify_one();
        assert_eq!(blocked.await.unwrap().0, 200);
    }))
    .await;
}

/// Some clients lose the response they have received if their stream is reset while they still send.
#[tokio::test]
async fn an_early_response_over_http_2_does_not_reset_the_upload() {
    bounded(Box::pin(async {
        let (listener, addr) = listener().await;
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, addr).await;
        tokio::spawn(async move {
            loop {
                let mut stream = accept_head(&listener).await;
                let answer = b"HTTP/1.1 401 x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
                stream.write_all(answer).await.unwrap();
            }
        });
        let unused = Origin::always(MockResponse::closed()).await;
        let intercept = format!("tls: {{ intercept: [{API}] }}\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &intercept).await;
        let mut client = scene.h2().await;
        let request = http::Request::post(format!("https://{API}/up")).body(()).unwrap();
        let (answer, mut upload) = client.send_request(request, false).unwrap();
        upload.send_data("begun".into(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.status(), 401);
        let mut body = Vec::new();
        while let Some(piece) = answer.body_mut().data().await {
            body.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(body, b"no");
        // A reset sent with the end of the response would have arrived before the next response.
        assert_eq!(get(&mut client, &format!("https://{API}/next")).await.0, 401);
        let reset = poll_fn(|cx| Poll::Ready(upload.poll_reset(cx).is_ready())).await;
        assert!(!reset, "the stream was reset during the upload");
        upload.send_data("and ended".into(), true).unwrap();
    }))
    .await;
}

/// RFC 9112 §2.2: old clients send an empty line after a body.
#[tokio::test]
async fn an_empty_line_between_requests_begins_no_request() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let larder = larder_for(origin.addr, "limits: { head_timeout: 100ms }\n").await;
        let mut client = larder.client().await;
        for call in 0..3 {
            client.send(format!("GET http://{API}/ HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
            assert_eq!(client.response("GET").await.unwrap().text(), "ok", "{call}");
            client.send("\r\n").await;
            let unsolicited = timeout(Duration::from_millis(300), client.stream.read_u8()).await;
            assert!(unsolicited.is_err(), "{call}");
        }
    })
    .await;
}

/// RFC 9110 §7.6.2: `Max-Forwards: 0` ends `OPTIONS` and `TRACE` at larder.
#[tokio::test]
async fn a_request_with_max_forwards_zero_gets_a_response_from_larder() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "from the origin")).await;
        let larder = larder_for(origin.addr, "").await;
        for (method, hops, status, calls) in
            [("OPTIONS", 0, 200, 0), ("TRACE", 0, 501, 0), ("OPTIONS", 1, 200, 1), ("GET", 0, 200, 2)]
        {
            let mut client = larder.client().await;
            let field = format!("Max-Forwards: {hops}");
            client.send_request(method, &format!("http://{API}/"), &[&field]).await;
            let answer = client.response(method).await.unwrap();
            assert_eq!((answer.status, origin.calls()), (status, calls), "{method} {hops}");
        }
        let forwarded = origin.requests();
        let hops: Vec<_> = forwarded.iter().map(|request| request.field("max-forwards")).collect();
        assert_eq!(hops, [Some("0"), Some("0")]);
    })
    .await;
}

/// An interim response has no body, and repeated equal lengths are forwarded as one.
#[tokio::test]
async fn a_length_is_sent_once_and_not_on_interim_responses() {
    bounded(async {
        let origin = Origin::always(MockResponse::raw(
            "HTTP/1.1 103 x\r\nContent-Length: 9\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 x\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\n",
        ))
        .await;
        let larder = larder_for(origin.addr, "").await;
        let mut client = larder.client().await;
        client.send_request("HEAD", &format!("http://{API}/"), &[]).await;
        let hint = client.next_response("HEAD").await.unwrap();
        assert_eq!((hint.status, hint.field("content-length")), (103, None));
        let answer = client.next_response("HEAD").await.unwrap();
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("2")));
    })
    .await;
}

/// With TLS the last records may wait for socket buffer space: larder writes them as soon as there is space,
/// not only when the origin sends more.
#[tokio::test]
async fn buffered_bytes_reach_a_slow_client_while_its_origin_pauses() {
    const HALF: usize = 900_000;
    bounded(Box::pin(async {
        let (listener, addr) = listener().await;
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, addr).await;
        tokio::spawn(async move {
            loop {
                let mut stream = accept_head(&listener).await;
                let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", 2 * HALF);
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&vec![b'x'; HALF]).await.unwrap();
                // The rest never comes.
                tokio::spawn(async move { stream.read_u8().await });
            }
        });
        let unused = Origin::always(MockResponse::closed()).await;
        let intercept = format!("tls: {{ intercept: [{API}] }}\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &intercept).await;
        for pause in [0, 5, 20] {
            let mut client = scene.client(&["http/1.1"]).http1(API).await;
            client.send(format!("GET /{pause} HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
            // The client reads late, when the socket buffers are full.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (mut read, mut buffer) = (0, vec![0; 16 * 1024]);
            while read < HALF {
                let piece = client.stream.read(&mut buffer);
                let piece = timeout(Duration::from_secs(10), piece).await;
                read += piece.unwrap_or_else(|_| panic!("{read} of {HALF} bytes")).unwrap();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }))
    .await;
}

/// RFC 9113 §8.6.
#[tokio::test]
async fn a_101_over_http_2_is_refused() {
    bounded(Box::pin(async {
        let authority = TestCa::new();
        let tls = TlsOrigin::scripted(&authority, |_, _, id| vec![Action::head(id, 101, None, true)]);
        let tls = tls.await;
        let unused = Origin::always(MockResponse::closed()).await;
        let route = format!("routes: [{{ name: api, match: {{ host: {API}, path: /kept }}, ttl: 1h }}]\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused, &route).await;
        for path in ["/kept", "/passed"] {
            assert_eq!(get(&mut scene.h2().await, &format!("https://{API}{path}")).await.0, 502);
            let mut client = scene.client(&["http/1.1"]).http1(API).await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {API}\r\n\r\n")).await;
            assert_eq!(client.response("GET").await.unwrap().status, 502, "{path}");
        }
    }))
    .await;
}

/// Most servers continue to read for a while, so a client that writes before it reads gets its response.
#[tokio::test]
async fn an_early_response_reaches_a_client_that_sends_its_whole_body_first() {
    bounded(async {
        let (listener, origin) = listener().await;
        tokio::spawn(async move {
            loop {
                let mut stream = accept_head(&listener).await;
                let early = "HTTP/1.1 413 Long\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
                stream.write_all(early.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let larder = larder_for(origin, "").await;
        let piece = vec![b'x'; 1 << 16];
        // An origin that responds early, and an address without an origin.
        for (host, status) in [(API, 413), ("127.0.0.1:1", 502)] {
            for _ in 0..3 {
                let mut client = larder.client().await;
                let line = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
                client.send(format!("{line}Content-Length: {LONG}\r\n\r\n")).await;
                for _ in 0..LONG >> 16 {
                    client.send(&piece).await;
                }
                let answer = client.response("POST").await.expect("an answer");
                assert_eq!(answer.status, status);
            }
        }
    })
    .await;
}
