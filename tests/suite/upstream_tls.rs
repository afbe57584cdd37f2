//! TLS to origins: whom larder trusts there, who it is to them, and what it says when that fails.

use std::path::Path;
use std::time::Duration;

use larder::admin::api::ReloadError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::client::{Client, End, Response};
use crate::crowd::{Crowd, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin};
use crate::process::{House, Process, program};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Asks, Authority, Certificate, ClientFiles, Speaks, TlsOrigin};

/// Everything on `api.example.test` by TLS to `addr`, kept for a minute; `tls` is what else it says.
fn yaml(addr: std::net::SocketAddr, authority: &Authority, tls: &str) -> String {
    format!(
        "resolve: {{ api.example.test: \"{addr}\" }}\n\
         upstreams: {{ up: {{ hosts: [\"https://api.example.test\"], timeouts: {{ connect: 20s }}, \
         tls: {{ extra_roots: [\"{}\"]{tls} }} }} }}\n{}",
        authority.root().display(),
        route(&["ttl: 1m", "stale_if_error: { for: 1h, on: [connect, timeout] }"])
    )
}

fn tls_yaml(origin: &TlsOrigin, authority: &Authority, tls: &str) -> String {
    yaml(origin.addr, authority, tls)
}

fn client_cert(files: &ClientFiles) -> String {
    let ClientFiles { cert, key, .. } = files;
    format!(", client_cert: {{ cert: \"{}\", key: \"{}\" }}", cert.display(), key.display())
}

/// A request that passes through.
async fn post(larder: &Larder) -> Response {
    let mut client = larder.client().await;
    client.ask("POST", &format!("{API}/p"), &[]).await;
    client.answer("POST").await.expect("an answer")
}

/// What a fault is called: in metrics and `detail`, to clients, by RFC 9209; and a word of its reason.
type Said = (&'static str, &'static str, &'static str, &'static str);

const EXPIRED: Said =
    ("tls-expired", "tls_certificate_error", "tls_certificate_error", "has expired");
const NOT_YET: Said =
    ("tls-not-yet-valid", "tls_certificate_error", "tls_certificate_error", "not valid yet");
const ISSUER: Said = (
    "tls-unknown-issuer",
    "tls_certificate_error",
    "tls_certificate_error",
    "add its root to upstreams.NAME.tls.extra_roots",
);
const SELF_SIGNED: Said =
    ("tls-self-signed", "tls_certificate_error", "tls_certificate_error", "self-signed");
const NAME: Said =
    ("tls-wrong-name", "tls_certificate_error", "tls_certificate_error", "for other names");
const CLIENT: Said = (
    "tls-client-certificate",
    "tls_handshake_error",
    "tls_alert_received",
    "upstreams.NAME.tls.client_cert",
);
const ALERT: Said =
    ("tls-alert", "tls_handshake_error", "tls_alert_received", "broke the TLS handshake off");
const HANDSHAKE: Said =
    ("tls-handshake", "tls_handshake_error", "tls_protocol_error", "whether it speaks TLS");

/// Each certificate that is not good, and what is said of it.
const BAD: [(Certificate, Said); 5] = [
    (Certificate::Expired, EXPIRED),
    (Certificate::NotYetValid, NOT_YET),
    (Certificate::SelfSigned, ISSUER),
    (Certificate::OfAuthority, SELF_SIGNED),
    (Certificate::OtherName, NAME),
];

/// Both ways out say the same, and nothing is stored.
async fn refuses(larder: &Larder, said: Said) {
    let (token, class, proxy_status, reason) = said;
    for answer in [larder.get("/x").await, larder.get("/x").await, post(larder).await] {
        let text = answer.text();
        assert_eq!(answer.status, 502, "{token}: {text}");
        assert!(text.contains(&format!("\"class\":\"{class}\"")), "{token}: {text}");
        assert!(text.contains(reason), "{token}: {text}");
        let status = answer.field("proxy-status").unwrap();
        assert!(status.contains(&format!("error={proxy_status};")), "{token}: {status}");
    }
    let kept = larder.get_with("/x", &["Cache-Control: only-if-cached"]).await;
    assert_eq!(kept.status, 504, "{token}: nothing is stored");
    let calls = |route: &str| {
        format!(
            "larder_upstream_requests_total{{code=\"{token}\",route=\"{route}\",upstream=\"up\"}}"
        )
    };
    larder.counts(&calls("api"), 2.0).await;
    larder.counts(&calls("none"), 1.0).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_a_502_that_says_why() {
    bounded(async {
        let authority = Authority::new();
        for speaks in [Speaks::H1, Speaks::H2] {
            for (certificate, said) in BAD {
                let origin = TlsOrigin::start(&authority, certificate, speaks, "stolen").await;
                let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
                refuses(&larder, said).await;
                assert_eq!((origin.attempts(), origin.calls()), (3, 0), "no call is tried again");
            }
        }
        for other in [Authority::new(), Authority::named("Other Root")] {
            let origin = TlsOrigin::start(&other, Certificate::Good, Speaks::H1, "stolen").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
            refuses(&larder, ISSUER).await;
        }
    })
    .await;
}

/// What waits behind a port instead of TLS.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Garbage,
    Http,
    Close,
    Alert,
    Silence,
}

/// A port that reads what a handshake begins with and does something else, as long as the test runs.
async fn no_tls(instead: Instead) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 16384];
            assert!(stream.read(&mut hello).await.unwrap() > 0);
            let says: &[u8] = match instead {
                Instead::Garbage => &[0xa5; 512],
                Instead::Http => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
                // Fatal, handshake_failure (RFC 8446 §6).
                Instead::Alert => &[21, 3, 3, 0, 2, 2, 40],
                Instead::Close | Instead::Silence => b"",
            };
            stream.write_all(says).await.unwrap();
            if matches!(instead, Instead::Silence) {
                silent.push(stream);
            }
        }
    });
    addr
}

#[tokio::test]
async fn whatever_is_no_handshake_is_a_502_at_once() {
    bounded(async {
        let authority = Authority::new();
        for (instead, said) in [
            (Instead::Garbage, HANDSHAKE),
            (Instead::Http, HANDSHAKE),
            (Instead::Close, HANDSHAKE),
            (Instead::Alert, ALERT),
        ] {
            let addr = no_tls(instead).await;
            let larder = Larder::bare(&yaml(addr, &authority, "")).await;
            let refused = tokio::time::timeout(Duration::from_secs(5), refuses(&larder, said));
            assert!(refused.await.is_ok(), "{instead:?}: it waits for timeouts.connect, 20s");
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_at_the_connect_timeout() {
    bounded(async {
        let authority = Authority::new();
        let addr = no_tls(Instead::Silence).await;
        let yaml = yaml(addr, &authority, "").replace("connect: 20s", "connect: 300ms");
        let larder = Larder::bare(&yaml).await;
        for answer in [larder.get("/x").await, post(&larder).await] {
            assert_eq!(answer.status, 504, "{}", answer.text());
            assert!(answer.text().contains("\"class\":\"connect-timeout\""), "{}", answer.text());
        }
    })
    .await;
}

/// Whatever TLS turns into, what is stored outlives it.
#[tokio::test]
async fn a_tls_fault_is_hidden_by_what_is_stale() {
    bounded(async {
        let authority = Authority::new();
        let good = TlsOrigin::start(&authority, Certificate::Good, Speaks::H1, "good").await;
        let mut bad = Vec::new();
        let mut origins = Vec::new();
        for (certificate, said) in BAD {
            let origin = TlsOrigin::start(&authority, certificate, Speaks::H1, "bad").await;
            bad.push((origin.addr, said));
            origins.push(origin);
        }
        let asks = Asks { for_certificate: true, ..Asks::NOTHING };
        let asking =
            TlsOrigin::asking(&authority, Certificate::Good, Speaks::H1, asks, "bad").await;
        bad.push((asking.addr, CLIENT));
        bad.push((no_tls(Instead::Garbage).await, HANDSHAKE));
        bad.push((no_tls(Instead::Close).await, HANDSHAKE));
        bad.push((no_tls(Instead::Alert).await, ALERT));
        let switch = Switch::start(good.addr).await;
        let larder = Larder::bare(&yaml(switch.addr, &authority, "")).await;
        assert_eq!(larder.get("/x").await.text(), "good");
        larder.clock.advance(Duration::from_secs(61));
        for (addr, (token, ..)) in bad {
            switch.lead_to(addr);
            let answer = larder.get("/x").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{token}");
            let detail = format!("detail=\"stale-if-error/{token}\"");
            assert!(answer.cache_status().ends_with(&detail), "{token}: {}", answer.cache_status());
        }
        switch.lead_to(good.addr);
        let answer = larder.get("/x").await;
        assert!(answer.cache_status().contains("stored"), "{}", answer.cache_status());
    })
    .await;
}

/// TLS 1.2 tells larder in the handshake, TLS 1.3 where it awaits its answer.
#[tokio::test]
async fn an_origin_that_asks_who_calls_is_shown_the_client_certificate() {
    bounded(async {
        let authority = Authority::new();
        let right = authority.client("larder");
        let (namesake, other) = (Authority::new(), Authority::named("Other Root"));
        let wrong = [namesake.client("mallory"), other.client("mallory")];
        for version in rustls::ALL_VERSIONS {
            let versions = std::slice::from_ref(version);
            for speaks in [Speaks::H1, Speaks::H2] {
                let asks = Asks { for_certificate: true, versions };
                let origin =
                    TlsOrigin::asking(&authority, Certificate::Good, speaks, asks, "known").await;
                let with = client_cert(&right);
                let larder = Larder::bare(&tls_yaml(&origin, &authority, &with)).await;
                assert_eq!(larder.get("/x").await.text(), "known", "{speaks:?} {version:?}");
                assert_eq!(post(&larder).await.text(), "known", "{speaks:?} {version:?}");
                assert_eq!(origin.clients(), vec![Some(right.der.clone())]);
                for without in [String::new(), client_cert(&wrong[0]), client_cert(&wrong[1])] {
                    let larder = Larder::bare(&tls_yaml(&origin, &authority, &without)).await;
                    refuses(&larder, CLIENT).await;
                }
                assert_eq!((origin.connections(), origin.calls()), (1, 2));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_insecure_upstream_takes_any_certificate() {
    bounded(async {
        let authority = Authority::new();
        for (certificate, _) in BAD {
            let origin = TlsOrigin::start(&authority, certificate, Speaks::H1, "taken").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, ", insecure: true")).await;
            assert_eq!(larder.get("/x").await.text(), "taken", "{certificate:?}");
            assert_eq!(post(&larder).await.text(), "taken", "{certificate:?}");
        }
    })
    .await;
}

/// Taken back, what was accepted before is not used any more.
#[tokio::test]
async fn an_insecure_upstream_is_told_until_it_is_secure_again() {
    bounded(async {
        let authority = Authority::new();
        let metric = "larder_upstream_insecure{upstream=\"up\"}";
        for speaks in [Speaks::H1, Speaks::H2] {
            let origin = TlsOrigin::start(&authority, Certificate::Expired, speaks, "taken").await;
            let trusting = tls_yaml(&origin, &authority, ", insecure: true");
            let larder = Larder::bare(&trusting).await;
            assert_eq!(larder.get("/x").await.text(), "taken");
            larder.counts(metric, 1.0).await;
            let looking = tls_yaml(&origin, &authority, "");
            let reloaded = larder.reload_bare(&looking).await.unwrap();
            assert!(reloaded.notes.iter().all(|note| !note.contains("insecure")));
            assert!(!larder.server.account().render().contains("larder_upstream_insecure{"));
            for answer in [larder.get("/y").await, post(&larder).await] {
                assert_eq!(answer.status, 502, "{speaks:?}");
                assert!(answer.text().contains(EXPIRED.3), "{}", answer.text());
            }
            let reloaded = larder.reload_bare(&trusting).await.unwrap();
            let note = reloaded.notes.iter().find(|note| note.contains("tls.insecure"));
            assert!(note.unwrap().contains("any certificate is accepted"), "{note:?}");
            assert_eq!(larder.get("/z").await.text(), "taken");
            larder.counts(metric, 1.0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn upstreams_at_one_address_share_no_connection() {
    bounded(async {
        let authority = Authority::new();
        let (first, second) = (authority.client("first"), authority.client("second"));
        let asks = Asks { for_certificate: true, ..Asks::NOTHING };
        for speaks in [Speaks::H1, Speaks::H2] {
            let origin =
                TlsOrigin::asking(&authority, Certificate::Good, speaks, asks, "known").await;
            let (root, addr) = (authority.root(), origin.addr);
            let up = |name: &str, host: &str, more: &str| {
                let root = root.display();
                format!("  {name}: {{ hosts: [{host}], tls: {{ extra_roots: [\"{root}\"]{more} }} }}\n")
            };
            let resolve = |host: &str| format!("  {host}: \"{addr}\"\n");
            let larder = Larder::bare(&format!(
                "resolve:\n{}{}upstreams:\n{}{}routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1m }}]\n",
                resolve("api.example.test"),
                resolve("two.example.test"),
                up("one", "api.example.test", &client_cert(&first)),
                up("two", "two.example.test", &client_cert(&second)),
            ))
            .await;
            for n in 0..3 {
                for host in ["api.example.test", "two.example.test"] {
                    let url = format!("https://{host}/{n}");
                    assert_eq!(larder.client().await.get(&url, &[]).await.text(), "known");
                }
            }
            assert_eq!(origin.calls(), 6);
            let expected = [Some(first.der.clone()), Some(second.der.clone())];
            assert_eq!(origin.clients(), expected, "{speaks:?}: each its own, and each reused");
        }
    })
    .await;
}

/// Hosts beside it are verified as ever.
#[tokio::test]
async fn an_insecure_upstream_makes_no_other_insecure() {
    bounded(async {
        let authority = Authority::new();
        let origin = TlsOrigin::start(&authority, Certificate::OtherName, Speaks::H1, "x").await;
        let (root, addr) = (authority.root(), origin.addr);
        let larder = Larder::bare(&format!(
            "resolve: {{ api.example.test: \"{addr}\", two.example.test: \"{addr}\" }}\n\
             upstreams:\n  one: {{ hosts: [api.example.test], tls: {{ insecure: true }} }}\n  \
             two: {{ hosts: [two.example.test], tls: {{ extra_roots: [\"{}\"] }} }}\n",
            root.display()
        ))
        .await;
        for (host, status) in [("api", 200), ("two", 502), ("api", 200), ("two", 502)] {
            let url = format!("https://{host}.example.test/");
            assert_eq!(larder.client().await.get(&url, &[]).await.status, status, "{host}");
        }
        let two = larder.metric("larder_upstream_insecure{upstream=\"two\"}");
        assert!(two.abs() < f64::EPSILON);
    })
    .await;
}

#[tokio::test]
async fn an_address_is_verified_as_one() {
    bounded(async {
        let authority = Authority::new();
        for (certificate, status) in [(Certificate::Good, 200), (Certificate::OtherName, 502)] {
            let origin = TlsOrigin::start(&authority, certificate, Speaks::H1, "x").await;
            let larder = Larder::bare(&format!(
                "upstreams: {{ up: {{ hosts: [127.0.0.1], tls: {{ extra_roots: [\"{}\"] }} }} }}\n\
                 routes: [{{ name: all, match: {{ host: \"*\" }}, ttl: 1m }}]\n",
                authority.root().display()
            ))
            .await;
            let answer = larder.client().await.get(&format!("https://{}/", origin.addr), &[]).await;
            assert_eq!(answer.status, status, "{certificate:?}: {}", answer.text());
            assert!(status == 200 || answer.text().contains(NAME.3), "{}", answer.text());
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_certificate_that_is_renewed_is_shown_from_the_next_reload_on() {
    bounded(async {
        let authority = Authority::new();
        let asks = Asks { for_certificate: true, ..Asks::NOTHING };
        let origin =
            TlsOrigin::asking(&authority, Certificate::Good, Speaks::H1, asks, "known").await;
        let old = authority.client("larder");
        let yaml = tls_yaml(&origin, &authority, &client_cert(&old));
        let larder = Larder::bare(&yaml).await;
        assert_eq!(larder.get("/1").await.text(), "known");
        let new = authority.client("larder");
        larder.reload_bare(&yaml).await.unwrap();
        assert_eq!(larder.get("/2").await.text(), "known");
        assert_eq!(origin.clients(), [Some(old.der), Some(new.der)]);
        // A pair that is none is kept out, and the old one stays.
        std::fs::copy(&new.cert, &new.key).unwrap();
        let ReloadError { report } = larder.reload_bare(&yaml).await.unwrap_err();
        assert!(report.contains("upstreams.up.tls.client_cert.key: the file holds no private key"));
        assert_eq!(larder.get("/3").await.text(), "known");
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

/// What a process needs to run beside others.
const ALONE: &str =
    "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\nstore: { disk: off }\n";

/// A larder of its own process whose environment names these roots.
fn with_system_roots(house: &House, roots: &Path) -> Process {
    let mut command = Command::new(program());
    command.arg("run").arg(&house.config).env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", roots);
    Process::of(command)
}

#[tokio::test]
async fn hosts_without_roots_of_their_own_are_verified_against_the_systems() {
    bounded(async {
        let (authority, other) = (Authority::new(), Authority::named("Other Root"));
        for speaks in [Speaks::H1, Speaks::H2] {
            let origin = TlsOrigin::start(&authority, Certificate::Good, speaks, "x").await;
            let yaml = "resolve: { api.example.test: \"ADDR\" }\n\
                        routes: [{ name: all, match: { host: \"*\" }, ttl: 1m }]\n";
            let house =
                House::with(&format!("{ALONE}{}", yaml.replace("ADDR", &origin.addr.to_string())));
            for (roots, status) in [(authority.root(), 200), (other.root(), 502)] {
                let larder = with_system_roots(&house, &roots);
                let addr = larder.addr().await;
                for n in 0..2 {
                    let mut client = Client::connect(addr).await;
                    let url = format!("https://api.example.test/{n}");
                    assert_eq!(client.get(&url, &[]).await.status, status, "{speaks:?}");
                }
            }
            // Nobody was let through whose roots are others'.
            assert_eq!(origin.calls(), 2);
            assert!(origin.connections() <= 2);
        }
    })
    .await;
}

#[tokio::test]
async fn roots_of_the_system_that_cannot_be_used_are_told_and_not_a_panic() {
    bounded(async {
        let house = House::with(ALONE);
        let broken = tempfile::NamedTempFile::new().unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(broken.path(), pem).unwrap();
        for roots in [broken.path(), Path::new("/no/such/bundle.pem")] {
            let mut larder = with_system_roots(&house, roots);
            let said = larder.err.line("root certificates").await;
            assert!(said.contains("let SSL_CERT_FILE name a bundle of good ones"), "{said}");
            assert_eq!(larder.ended().await.code(), Some(1), "{}", larder.err.text());
            assert!(!larder.err.text().contains("panicked"), "{}", larder.err.text());
        }
    })
    .await;
}

#[tokio::test]
async fn where_there_is_no_root_at_all_https_is_told_to_fail() {
    bounded(async {
        let none = tempfile::NamedTempFile::new().unwrap();
        let house = House::with(ALONE);
        let larder = with_system_roots(&house, none.path());
        larder.err.line("No root certificate found").await;
        // rustls makes no verifier without a root, not even one that verifies nothing.
        let insecure =
            "upstreams: { up: { hosts: [api.example.test], tls: { insecure: true } } }\n";
        let house = House::with(&format!("{ALONE}{insecure}"));
        let mut larder = with_system_roots(&house, none.path());
        let said = larder.err.line("upstreams.up.tls.insecure").await;
        assert!(said.contains("give any in extra_roots"), "{said}");
        assert_eq!(larder.ended().await.code(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn what_larder_shows_of_itself_has_no_key_in_it() {
    bounded(async {
        let authority = Authority::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Speaks::H1, "x").await;
        let files = authority.client("larder");
        let key = std::fs::read_to_string(&files.key).unwrap();
        let line = key.lines().nth(1).unwrap();
        let text = format!(
            "version: 1\nstore: {{ disk: off }}\n{}",
            tls_yaml(&origin, &authority, &client_cert(&files))
        );
        let config = larder::config::read(
            "test.yaml",
            &text,
            &larder::config::env::Env::default(),
            &larder::config::file_source::Disk,
        )
        .unwrap();
        let shown = larder::config::redacted::to_json(&config).to_string();
        assert!(shown.contains("\"client_cert\":true"), "{shown}");
        for page in [shown, format!("{config:?}")] {
            assert!(!page.contains(line), "{page}");
            assert!(!page.contains("PRIVATE"), "{page}");
        }
    })
    .await;
}

#[tokio::test]
async fn http_is_upgraded_to_verified_tls_over_pooled_h1_and_h2() {
    bounded(async {
        let authority = Authority::new();
        for (speaks, more) in [(Speaks::H1, ""), (Speaks::H2, ""), (Speaks::H1, ", http2: false")] {
            let origin = TlsOrigin::start(&authority, Certificate::Good, speaks, "secure").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, more)).await;
            for n in 0..5 {
                let answer = larder.get(&format!("/{n}")).await;
                let seen = (answer.status, answer.text(), answer.end);
                assert_eq!(seen, (200, "secure".to_owned(), End::Whole), "{speaks:?}");
                assert!(
                    larder.get(&format!("/{n}")).await.cache_status().starts_with("larder; hit")
                );
            }
            assert_eq!((origin.calls(), origin.connections()), (5, 1), "{speaks:?}: pooled");
            // What passes through goes over the same connections.
            for _ in 0..5 {
                let mut client = larder.client().await;
                client.ask("POST", &format!("{API}/p"), &[]).await;
                assert_eq!(client.answer("POST").await.unwrap().text(), "secure", "{speaks:?}");
            }
            assert_eq!((origin.calls(), origin.connections()), (10, 1), "{speaks:?}: pooled");
        }
    })
    .await;
}

#[tokio::test]
async fn h2_carries_many_calls_on_one_connection() {
    bounded(async {
        let authority = Authority::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Speaks::H2, "secure").await;
        let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
        larder.get("/warm").await;
        let mut crowd = Vec::new();
        for n in 0..30 {
            crowd.push(Crowd::plain(&larder, 1, &format!("/{n}")).await);
        }
        for one in crowd {
            assert_eq!(one.answers().await[0].text(), "secure");
        }
        assert_eq!((origin.calls(), origin.connections()), (31, 1));
    })
    .await;
}

/// CCH-09: a scheme of its own, an answer of its own.
#[tokio::test]
async fn cch_09_http_and_https_share_nothing() {
    bounded(async {
        let authority = Authority::new();
        let secure = TlsOrigin::start(&authority, Certificate::Good, Speaks::H1, "secure").await;
        let plain = Origin::always(Answer::new(200, &[], "plain")).await;
        let larder = Larder::bare(&format!(
            "resolve: {{ \"api.example.test:443\": \"{}\", \"api.example.test:80\": \"{}\" }}\n\
             upstreams: {{ up: {{ hosts: [api.example.test], tls: {{ extra_roots: [\"{}\"] }} }} }}\n{}",
            secure.addr,
            plain.addr,
            authority.root().display(),
            route(&["ttl: 1h", "scope: shared"])
        ))
        .await;
        for hit in [false, true] {
            for (url, body) in [("http://api.example.test/x", "plain"), ("https://api.example.test/x", "secure")] {
                let answer = larder.client().await.get(url, &[]).await;
                assert_eq!(answer.text(), body, "{}", answer.cache_status());
                assert_eq!(answer.cache_status().starts_with("larder; hit"), hit);
            }
        }
    })
    .await;
}

/// A port that leads to one address and later to another; what it carried before is closed.
struct Switch {
    addr: std::net::SocketAddr,
    to: tokio::sync::watch::Sender<std::net::SocketAddr>,
}

impl Switch {
    async fn start(first: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (to, target) = tokio::sync::watch::channel(first);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut target = target.clone();
                tokio::spawn(async move {
                    let to = *target.borrow_and_update();
                    let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = target.changed() => {}
                    }
                });
            }
        });
        Self { addr, to }
    }

    fn lead_to(&self, addr: std::net::SocketAddr) {
        self.to.send_replace(addr);
    }
}

/// What larder does not ask for there, its clients do not use either: many requests on one connection.
#[tokio::test]
async fn clients_of_an_upstream_without_http_2_are_offered_none_unless_they_speak_nothing_else() {
    bounded(async {
        let authority = Authority::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Speaks::Both, "ok").await;
        for (tls, offered, agreed) in [
            ("", &["h2", "http/1.1"][..], &b"h2"[..]),
            (", http2: false", &["h2", "http/1.1"], b"http/1.1"),
            (", http2: false", &["http/1.1"], b"http/1.1"),
            (", http2: false", &["h2"], b"h2"),
        ] {
            let larder = Larder::bare(&tls_yaml(&origin, &authority, tls)).await;
            let client = TlsClient::of(&larder, offered);
            let stream = client.connect("api.example.test:443", "api.example.test").await;
            let stream = stream.expect("a handshake");
            let found = stream.get_ref().1.alpn_protocol();
            assert_eq!(found, Some(agreed), "{tls} {offered:?}");
        }
    })
    .await;
}
