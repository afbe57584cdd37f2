//! Characters that a URL may not contain and that clients send anyway (`curl -g`): by every access path the
//! origin receives the same target, as without larder, and one stored response serves all of them.

use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::intercepted::{self, InterceptionSetup};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};

/// The target as typed, which an origin receives over HTTP/1, the form for HTTP/2, and whether HTTP/2 can
/// carry the typed form.
const TARGETS: [(&str, &str, bool); 6] = [
    ("/a{b}|c\\d^e", "/a{b}|c\\d^e", true),
    ("/a\"b", "/a\"b", true),
    ("/a?q={b}|`c\\d^e", "/a?q={b}|`c\\d^e", true),
    ("/a<b>", "/a%3Cb%3E", false),
    ("/a`b", "/a%60b", false),
    ("/a?q=\"<b>\"", "/a?q=%22%3Cb%3E%22", false),
];

async fn send<S>(client: &mut Client<S>, method: &str, target: &str, host: &str) -> (u16, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let none = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{none}\r\n")).await;
    let answer = client.response(method).await.expect("a response");
    (answer.status, answer.cache_status().to_owned())
}

#[tokio::test]
async fn every_plaintext_access_path_sends_the_origin_the_same_target() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "kept")).await;
        let mount = "upstreams: { api: { hosts: [api.example.test], mount: { path: /api, \
                     to: \"http://api.example.test\" } } }\n";
        let larder = Larder::start(&origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await;
        for (typed, ..) in TARGETS {
            let (absolute, below) = (format!("{API}{typed}"), format!("/api{typed}"));
            let mut inside = larder.client().await;
            let (status, _) = send(&mut inside, "CONNECT", "api.example.test:80", "x").await;
            assert_eq!(status, 200);
            let before = origin.calls();
            for (n, (target, host)) in
                [(absolute.as_str(), "x"), (&below, "localhost"), (typed, "api.example.test")]
                    .into_iter()
                    .enumerate()
            {
                let mut straight = larder.client().await;
                let client = if target == typed { &mut inside } else { &mut straight };
                let (status, found) = send(client, "GET", target, host).await;
                assert_eq!((status, found.contains("; hit")), (200, n > 0), "{target} {found}");
                assert_eq!(send(client, "POST", target, host).await.0, 200, "{target}");
                assert_eq!(send(client, "GET", target, host).await.0, 200, "{target}");
            }
            let seen = origin.requests().split_off(before);
            assert_eq!(seen.len(), 7, "each write invalidates the stored response: {typed}");
            assert!(seen.iter().all(|seen| seen.target == typed), "{typed} {seen:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn every_http_version_inside_tls_sends_the_target_as_received() {
    let all = async {
        let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
        for (typed, encoded, carried) in TARGETS {
            let mut client = scene.client(&["http/1.1"]).http1(intercepted::API).await;
            let (status, _) = send(&mut client, "GET", typed, intercepted::API).await;
            assert_eq!(status, 200, "{typed}");
            assert_eq!(scene.origin.requests().last().unwrap().target, typed);
            // A client of HTTP/2 encodes what it cannot carry, which is another target.
            let url = format!("https://{}{encoded}", intercepted::API);
            let mut h2 = scene.h2().await;
            let (status, found, _) = intercepted::send(&mut h2, Request::get(url), None).await;
            assert_eq!((status, found.contains("; hit")), (200, carried), "{encoded} {found}");
            assert_eq!(scene.origin.requests().last().unwrap().target, encoded);
        }
    };
    // The future is large because it contains many TLS clients.
    Box::pin(bounded(all)).await;
}

/// RFC 9113 §8.3.1: a character that HTTP/2 cannot carry makes a request malformed, and its stream is reset.
/// The HTTP/2 library does this before larder receives the request.
#[tokio::test]
async fn an_http_2_stream_with_an_invalid_target_is_reset() {
    bounded(async {
        let scene = InterceptionSetup::caching(MockResponse::new(200, &[], "kept")).await;
        for (typed, ..) in TARGETS.into_iter().filter(|(.., carried)| !carried) {
            let client = scene.client(&["h2"]);
            let name = intercepted::API;
            let mut stream = client.connect(&format!("{name}:443"), name).await.unwrap();
            let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            hello.extend(frame(4, 0, &[]));
            let mut fields = vec![0x82, 0x87];
            for (index, value) in [(0x01, name), (0x04, typed)] {
                fields.extend([index, u8::try_from(value.len()).unwrap()]);
                fields.extend_from_slice(value.as_bytes());
            }
            // HEADERS with END_STREAM and END_HEADERS.
            hello.extend(frame(1, 5, &fields));
            stream.write_all(&hello).await.unwrap();
            let reset = timeout(Duration::from_secs(10), reset_of_the_first(&mut stream)).await;
            assert_eq!(reset.expect("in time"), Some(1), "PROTOCOL_ERROR: {typed}");
        }
        assert_eq!(scene.origin.calls(), 0);
    })
    .await;
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = u8::from(kind != 4);
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

/// The error code of the reset of stream 1, or `None` if the connection ended.
async fn reset_of_the_first(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.ok()?;
        if (head[3], head[8]) == (3, 1) {
            return Some(u32::from_be_bytes(payload.try_into().unwrap()));
        }
    }
}
