//! HTTP/2 origins, frame by frame: only whole bodies are stored, unprocessed requests are sent
//! again, and `Expect: 100-continue` works.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::End;
use crate::concurrent::bounded;
use crate::intercepted::{API, InterceptionSetup, h2_over};
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Action, TestCa, TlsOrigin};

const SIZES: [usize; 5] = [1, 7, 16_384, 20_000, 100_000];

/// One route below `/kept`; all other requests pass through. `http` URLs are forwarded as `https`.
fn yaml(origin: &TlsOrigin, authority: &TestCa, store: &str) -> String {
    format!(
        "resolve: {{ '{API}:443': '{}' }}\n{store}\
         upstreams: {{ api: {{ hosts: ['https://{API}'], tls: {{ extra_roots: ['{}'] }} }} }}\n\
         routes: [{{ name: api, match: {{ host: {API}, path: '/kept/**' }}, ttl: 30m }}]\n",
        origin.addr,
        authority.root().display(),
    )
}

async fn larder_before(origin: &TlsOrigin, authority: &TestCa) -> Larder {
    Larder::bare(&yaml(origin, authority, "")).await
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + u8::try_from(at % 26).expect("it is small")).collect()
}

/// The body in frames of at most 16,000 bytes, then an empty one that ends the stream.
fn with_an_empty_end(id: u32, body: &[u8], length: Option<usize>) -> Vec<Action> {
    let mut acts = vec![Action::head(id, 200, length, false)];
    acts.extend(body.chunks(16_000).map(|piece| Action::data(id, piece, false)));
    acts.push(Action::data(id, b"", true));
    acts
}

/// Node, Go, lighttpd and proxies end bodies in this way (RFC 9113 §6.1).
#[tokio::test]
async fn a_body_that_ends_in_an_empty_frame_is_whole_and_survives_restarts() {
    bounded(async {
        let authority = TestCa::new();
        for announces in [true, false] {
            let origin = TlsOrigin::scripted(&authority, move |call, _, id| {
                let body = body(SIZES[call % SIZES.len()]);
                with_an_empty_end(id, &body, announces.then_some(body.len()))
            })
            .await;
            let directory = tempfile::tempdir().unwrap();
            let store = format!("store: {{ path: '{}' }}\n", directory.path().display());
            let file = yaml(&origin, &authority, &store);
            let mut larder = Larder::bare(&file).await;
            for when in ["miss", "hit", "after a restart"] {
                if when == "after a restart" {
                    larder.server.stop().await;
                    larder = Larder::bare(&file).await;
                }
                for (at, size) in SIZES.into_iter().enumerate() {
                    let answer = larder.get(&format!("/kept/{at}")).await;
                    assert_eq!(answer.end, End::Complete, "{when} {size}");
                    assert!(answer.body == body(size), "{when}: {} of {size}", answer.body.len());
                    let hit = answer.cache_status().starts_with("larder; hit");
                    assert_eq!(hit, when != "miss", "{when} {size}");
                }
            }
            assert_eq!(origin.calls(), SIZES.len(), "announced: {announces}");
            for size in SIZES {
                assert!(larder.get("/passed").await.body == body(size), "passed through {size}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_contradicts_its_content_length_is_cut_and_never_stored() {
    bounded(async {
        let authority = TestCa::new();
        for (announced, sent, reset) in [(10, 5, false), (10, 5, true), (5, 10, false)] {
            let origin = TlsOrigin::scripted(&authority, move |_, _, id| {
                let last = if reset {
                    Action::reset(id, Reason::INTERNAL_ERROR)
                } else {
                    Action::data(id, b"", true)
                };
                vec![
                    Action::head(id, 200, Some(announced), false),
                    Action::data(id, &body(sent), false),
                    last,
                ]
            })
            .await;
            let larder = larder_before(&origin, &authority).await;
            for path in ["/kept/x", "/passed"] {
                for call in 1..3 {
                    let answer = larder.get(path).await;
                    let whole = answer.status == 200 && answer.end == End::Complete;
                    assert!(!whole, "{path} {call}: {sent} of {announced}");
                    assert!(!answer.cache_status().starts_with("larder; hit"), "{path} {call}");
                }
            }
            assert_eq!(origin.calls(), 4, "{sent} of {announced}");
        }
    })
    .await;
}

fn refused(id: u32) -> Vec<Action> {
    vec![Action::reset(id, Reason::REFUSED_STREAM)]
}

/// A GOAWAY whose last stream is below the stream of the request.
fn goaway(id: u32) -> Vec<Action> {
    vec![Action::goaway(id.saturating_sub(2), Reason::NO_ERROR), Action::Close]
}

async fn ask(larder: &Larder, method: &str, path: &str) -> crate::client::Response {
    let mut client = larder.client().await;
    let url = format!("http://{API}{path}");
    if method == "POST" {
        client.send_request("POST", &url, &["Content-Length: 4"]).await;
        client.send("body").await;
    } else {
        client.send_request(method, &url, &[]).await;
    }
    client.response(method).await.expect("a response")
}

/// RFC 9113 §8.7: a request that the origin reports as not processed is safe to repeat, for any method.
#[tokio::test]
async fn a_request_that_the_origin_did_not_process_is_sent_again() {
    bounded(async {
        let authority = TestCa::new();
        for (name, refuse) in [("refused", refused as fn(u32) -> Vec<Action>), ("goaway", goaway)] {
            for first in [0, 1] {
                for (method, path) in
                    [("GET", "/kept/x"), ("GET", "/none"), ("POST", "/kept/x"), ("POST", "/none")]
                {
                    let origin = TlsOrigin::scripted(&authority, move |call, _, id| {
                        if (first..first + 2).contains(&call) {
                            refuse(id)
                        } else {
                            vec![Action::head(id, 200, Some(2), false), Action::data(id, b"ok", true)]
                        }
                    })
                    .await;
                    let larder = larder_before(&origin, &authority).await;
                    for _ in 0..first {
                        ask(&larder, method, "/warm").await;
                    }
                    let answer = ask(&larder, method, path).await;
                    let case = format!("{name} from call {first}: {method} {path}");
                    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{case}");
                    assert_eq!(origin.calls(), first + 3, "{case}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_refuses_every_stream_is_called_three_times() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::scripted(&authority, |_, _, id| refused(id)).await;
        let larder = larder_before(&origin, &authority).await;
        for (method, path) in [("GET", "/kept/x"), ("POST", "/none")] {
            let before = origin.calls();
            let answer = ask(&larder, method, path).await;
            assert_eq!(answer.status, 502, "{method}");
            assert!(answer.text().contains("\"not-processed\""), "{}", answer.text());
            assert_eq!(origin.calls() - before, 3, "{method}");
        }
    })
    .await;
}

/// nginx refuses an upload in this way: the response, then a reset with `NO_ERROR` (RFC 9113 §8.1).
#[tokio::test]
async fn after_an_early_response_a_kept_alive_connection_stays_open() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::scripted(&authority, |_, _, id| {
            vec![
                Action::head(id, 413, Some(5), false),
                Action::data(id, b"large", true),
                Action::reset(id, Reason::NO_ERROR),
            ]
        })
        .await;
        let larder = larder_before(&origin, &authority).await;
        for size in [10, 2_000_000] {
            let mut client = larder.client().await;
            client
                .send_request("POST", &format!("http://{API}/up"), &[&format!("Content-Length: {size}")])
                .await;
            let (mut read, mut write) = tokio::io::split(client.stream);
            let upload = tokio::spawn(async move {
                // Larder may stop reading before all of it is sent.
                let _sent = write.write_all(&vec![b'x'; size]).await;
                write
            });
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"large") {
                assert!(read.read_buf(&mut bytes).await.unwrap() > 0, "{size}: {bytes:?}");
            }
            let head = String::from_utf8_lossy(&bytes).to_lowercase();
            assert!(head.starts_with("http/1.1 413 "), "{head}");
            if head.contains("connection: keep-alive") {
                let mut write = upload.await.unwrap();
                let again =
                    format!("POST http://{API}/up HTTP/1.1\r\nHost: {API}\r\nContent-Length: 0\r\n\r\n");
                write.write_all(again.as_bytes()).await.unwrap();
                assert!(read.read_buf(&mut bytes).await.unwrap() > 0, "{size}: closed despite keep-alive");
            }
        }
    })
    .await;
}

/// Java's client waits for `100 Continue` without a timeout.
#[tokio::test]
async fn a_waiting_client_gets_100_continue_if_either_side_uses_http_2() {
    bounded(Box::pin(async {
        let authority = TestCa::new();
        let tls = TlsOrigin::with_trailers(&authority).await;
        let unused_origin = Origin::always(MockResponse::closed()).await;
        let intercept = format!("tls: {{ intercept: [{API}] }}\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused_origin, &intercept).await;
        // HTTP/1.1 to HTTP/2.
        let mut client = scene.client(&["http/1.1"]).http1(API).await;
        client
            .send(format!(
                "POST /up HTTP/1.1\r\nHost: {API}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            ))
            .await;
        assert_eq!(client.next_response("POST").await.unwrap().status, 100);
        client.send("body").await;
        assert_eq!(client.response("POST").await.unwrap().text(), "body");
        // HTTP/2 to HTTP/2.
        assert_eq!(body_after_continue(&scene.larder).await, b"body");
    }))
    .await;
    bounded(async {
        // HTTP/2 to an HTTP/1.1 origin that sends `100 Continue` itself.
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = behind.local_addr().unwrap();
        let origin_task = tokio::spawn(async move {
            let (mut stream, _) = behind.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            assert!(String::from_utf8_lossy(&head).to_lowercase().contains("expect: 100-continue"));
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
            stream.write_all(&[&answer[..], &body].concat()).await.unwrap();
        });
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, addr).await;
        let unused_origin = Origin::always(MockResponse::closed()).await;
        let intercept = format!("tls: {{ intercept: [{API}] }}\n");
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused_origin, &intercept).await;
        assert_eq!(body_after_continue(&scene.larder).await, b"body");
        origin_task.await.unwrap();
    })
    .await;
}

/// Sends a body over HTTP/2 after `100 Continue` and returns the response's body.
async fn body_after_continue(larder: &Larder) -> Vec<u8> {
    let client = TlsClient::for_larder(larder, &["h2"]);
    let stream = client.connect(&format!("{API}:443"), API).await.expect("a handshake");
    let mut h2 = h2_over(stream).await;
    let request = http::Request::post(format!("https://{API}/up"))
        .header("expect", "100-continue")
        .header("content-length", "4")
        .body(())
        .unwrap();
    let (mut answer, mut upload) = h2.send_request(request, false).unwrap();
    let interim = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
    assert_eq!(interim.unwrap().unwrap().status(), StatusCode::CONTINUE);
    upload.send_data("body".into(), true).unwrap();
    let mut read = answer.await.unwrap().into_body();
    let mut body = Vec::new();
    while let Some(piece) = read.data().await {
        body.extend_from_slice(&piece.unwrap());
    }
    body
}

#[tokio::test]
async fn early_hints_of_an_http_2_origin_reach_clients_of_both_versions() {
    bounded(Box::pin(async {
        let authority = TestCa::new();
        let tls = TlsOrigin::scripted(&authority, |_, _, id| {
            vec![
                Action::head(id, 103, None, false),
                Action::head(id, 200, Some(2), false),
                Action::data(id, b"ok", true),
            ]
        })
        .await;
        let route = "routes: [{ name: api, match: { host: api.example.test, path: /kept }, ttl: 1h }]\n";
        let unused_origin = Origin::always(MockResponse::closed()).await;
        let scene = InterceptionSetup::start_with_tls_origin(tls, authority, unused_origin, route).await;
        for path in ["/kept", "/passed"] {
            let mut client = scene.client(&["http/1.1"]).http1(API).await;
            client
                .send(format!("GET {path} HTTP/1.1\r\nHost: {API}\r\nCache-Control: no-cache\r\n\r\n"))
                .await;
            assert_eq!(client.next_response("GET").await.unwrap().status, 103, "{path}");
            assert_eq!(client.next_response("GET").await.unwrap().status, 200, "{path}");
            let mut h2 = scene.h2().await;
            let request = http::Request::get(format!("https://{API}{path}"))
                .header("cache-control", "no-cache")
                .body(())
                .unwrap();
            let (mut answer, _) = h2.send_request(request, true).unwrap();
            let hint = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
            assert_eq!(hint.unwrap().unwrap().status().as_u16(), 103, "{path}");
            assert_eq!(answer.await.unwrap().status(), 200, "{path}");
        }
    }))
    .await;
}

/// The origin sends GOAWAY on every eleventh stream of a connection; none of a hundred calls is lost.
#[tokio::test]
async fn calls_survive_connections_that_end_again_and_again() {
    bounded(async {
        let authority = TestCa::new();
        let connections: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&connections);
        let origin = TlsOrigin::scripted(&authority, move |_, connection, id| {
            let mut acts = vec![Action::head(id, 200, Some(2), false), Action::data(id, b"ok", true)];
            if id >= 20 {
                acts.push(Action::goaway(id, Reason::NO_ERROR));
                count.fetch_max(connection + 1, Ordering::SeqCst);
            }
            acts
        })
        .await;
        let larder = larder_before(&origin, &authority).await;
        for call in 0..100 {
            assert_eq!(ask(&larder, "GET", "/none").await.status, 200, "{call}");
        }
        assert!(connections.load(Ordering::SeqCst) > 5);
    })
    .await;
}
