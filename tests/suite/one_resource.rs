//! One resource, however it is asked for: upgraded to `https`, by the mount, with its port written out,
//! with a dot behind its host. One key, one purge, one invalidation, one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Response};
use crate::intercepted;
use crate::larder_under_test::{Larder, route};
use crate::origin::{Answer, Origin};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Authority, TlsOrigin};

const HOST: &str = "api.example.test";

/// How a client of the proxy or the mount writes it.
const WAYS: [&str; 6] = [
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
            // The origin behind the upgrade names itself as it was first asked for.
            "POST" => Answer::new(201, &["Location: http://api.example.test/x"], "made"),
            _ => Answer::new(200, &[], format!("v{}", now.load(Ordering::Relaxed))),
        })
        .await;
        let authority = Authority::new();
        let tls = TlsOrigin::before(&authority, origin.addr).await;
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

    async fn ask(&self, method: &str, way: &str) -> Response {
        let mut client = self.larder.client().await;
        if way.starts_with('/') {
            client.send(format!("{method} {way} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            return client.answer(method).await.expect("an answer");
        }
        client.ask(method, way, &[]).await;
        client.answer(method).await.expect("an answer")
    }

    async fn tunnel(&self) -> Client<TlsStream<TcpStream>> {
        TlsClient::of(&self.larder, &["http/1.1"]).http1(HOST).await
    }

    fn changes(&self) -> String {
        format!("v{}", self.version.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().contains("; hit")
}

#[tokio::test]
async fn every_way_to_a_resource_finds_what_another_stored() {
    let scene = Scene::start().await;
    let first = scene.ask("GET", WAYS[0]).await;
    assert_eq!((first.status, is_hit(&first)), (200, false));
    for way in WAYS {
        let again = scene.ask("GET", way).await;
        assert!(is_hit(&again), "{way}: {}", again.cache_status());
    }
    let answer = intercepted::ask(&mut scene.tunnel().await, "/x", HOST).await;
    assert!(is_hit(&answer), "https://: {}", answer.cache_status());
    assert_eq!(scene.origin.calls(), 1);
}

#[tokio::test]
async fn a_change_by_one_way_counts_for_all() {
    let scene = Scene::start().await;
    // The last one is made elsewhere, and the origin says that it changed this.
    let writes = [("PUT", "/api/x"), ("PUT", WAYS[0]), ("DELETE", WAYS[3]), ("POST", "/api/all")];
    for (method, by) in writes {
        scene.ask("GET", WAYS[0]).await;
        let now = scene.changes();
        scene.ask(method, by).await;
        for way in WAYS {
            assert_eq!(scene.ask("GET", way).await.text(), now, "{way} after {method} {by}");
        }
        let answer = intercepted::ask(&mut scene.tunnel().await, "/x", HOST).await;
        assert_eq!(answer.text(), now, "https:// after {method} {by}");
    }
}

#[tokio::test]
async fn a_purge_of_any_of_its_urls_reaches_it() {
    let scene = Scene::start().await;
    let admin = scene.larder.server.admin_addr().expect("it is on");
    for url in [
        "http://api.example.test/x",
        "https://api.example.test/%78",
        "http://api.example.test.:80/x",
    ] {
        scene.ask("GET", "/api/x").await;
        let now = scene.changes();
        let body = format!("{{\"url\":\"{url}\"}}");
        let mut client = Client::connect(admin).await;
        client
            .send(format!(
                "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let purged = client.answer("POST").await.expect("an answer");
        assert_eq!((purged.status, purged.text().contains('1')), (200, true), "{}", purged.text());
        assert_eq!(
            scene.ask("GET", "/api/x").await.text(),
            now,
            "the mount after a purge of {url}"
        );
        assert_eq!(scene.ask("GET", WAYS[0]).await.text(), now, "{url}");
    }
}
