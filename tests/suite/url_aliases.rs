//! One resource with several URLs: upgraded to `https`, through the mount, with an explicit port, with a dot
//! behind its host. All of them share one key, one purge, one invalidation and one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Response};
use crate::intercepted;
use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::tls_client::TlsClient;
use crate::tls_origin::{TestCa, TlsOrigin};

const HOST: &str = "api.example.test";

/// The URLs that a client of the proxy or of the mount uses for the resource.
const ALIASES: [&str; 6] = [
    "http://api.example.test/x",
    "/api/x",
    "http://api.example.test:80/x",
    "http://api.example.test./x",
    "http://API.EXAMPLE.TEST/x",
    "http://api.example.test/%78",
];

struct Scene {
    larder: Larder,
    origin: Origin,
    version: Arc<AtomicUsize>,
    _tls: TlsOrigin,
}

impl Scene {
    async fn start() -> Self {
        let version = Arc::new(AtomicUsize::new(1));
        let now = Arc::clone(&version);
        let origin = Origin::start(move |seen| match seen.method.as_str() {
            // The origin behind the upgrade names itself by the URL that the client requested.
            "POST" => MockResponse::new(201, &["Location: http://api.example.test/x"], "made"),
            _ => MockResponse::new(200, &[], format!("v{}", now.load(Ordering::Relaxed))),
        })
        .await;
        let authority = TestCa::new();
        let tls = TlsOrigin::in_front_of(&authority, origin.addr).await;
        let larder = Larder::bare(&format!(
            "resolve: {{ {HOST}: '{}' }}\n\
             upstreams:\n  api:\n    hosts: ['https://{HOST}']\n    mount: /api\n    \
             tls: {{ extra_roots: ['{}'] }}\n{}",
            tls.addr,
            authority.root().display(),
            route(&["ttl: 1h"]),
        ))
        .await;
        Self { larder, origin, version, _tls: tls }
    }

    async fn request(&self, method: &str, alias: &str) -> Response {
        let mut client = self.larder.client().await;
        if alias.starts_with('/') {
            client.send(format!("{method} {alias} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            return client.response(method).await.expect("a response");
        }
        client.send_request(method, alias, &[]).await;
        client.response(method).await.expect("a response")
    }

    async fn tunnel(&self) -> Client<TlsStream<TcpStream>> {
        TlsClient::for_larder(&self.larder, &["http/1.1"]).http1(HOST).await
    }

    fn change_version(&self) -> String {
        format!("v{}", self.version.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().contains("; hit")
}

#[tokio::test]
async fn every_url_of_a_resource_finds_the_response_stored_under_another() {
    let scene = Scene::start().await;
    let first = scene.request("GET", ALIASES[0]).await;
    assert_eq!((first.status, is_hit(&first)), (200, false));
    for alias in ALIASES {
        let again = scene.request("GET", alias).await;
        assert!(is_hit(&again), "{alias}: {}", again.cache_status());
    }
    let answer = intercepted::http1_get(&mut scene.tunnel().await, "/x", HOST).await;
    assert!(is_hit(&answer), "https://: {}", answer.cache_status());
    assert_eq!(scene.origin.calls(), 1);
}

#[tokio::test]
async fn a_change_through_one_url_invalidates_all_urls_of_the_resource() {
    let scene = Scene::start().await;
    // The last write goes to another URL, and the origin's `Location` says that it changed this one.
    let writes = [("PUT", "/api/x"), ("PUT", ALIASES[0]), ("DELETE", ALIASES[3]), ("POST", "/api/all")];
    for (method, url) in writes {
        scene.request("GET", ALIASES[0]).await;
        let now = scene.change_version();
        scene.request(method, url).await;
        for alias in ALIASES {
            assert_eq!(scene.request("GET", alias).await.text(), now, "{alias} after {method} {url}");
        }
        let answer = intercepted::http1_get(&mut scene.tunnel().await, "/x", HOST).await;
        assert_eq!(answer.text(), now, "https:// after {method} {url}");
    }
}

#[tokio::test]
async fn a_purge_of_any_url_of_a_resource_removes_it() {
    let scene = Scene::start().await;
    let admin = scene.larder.server.admin_addr().expect("it is on");
    for url in ["http://api.example.test/x", "https://api.example.test/%78", "http://api.example.test.:80/x"]
    {
        scene.request("GET", "/api/x").await;
        let now = scene.change_version();
        let body = format!("{{\"url\":\"{url}\"}}");
        let mut client = Client::connect(admin).await;
        client
            .send(format!(
                "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let purged = client.response("POST").await.expect("a response");
        assert_eq!((purged.status, purged.text().contains('1')), (200, true), "{}", purged.text());
        assert_eq!(scene.request("GET", "/api/x").await.text(), now, "the mount after a purge of {url}");
        assert_eq!(scene.request("GET", ALIASES[0]).await.text(), now, "{url}");
    }
}
