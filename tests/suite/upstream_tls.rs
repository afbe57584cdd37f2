//! TLS to origins: which certificates larder trusts, which certificate it presents, and how it reports
//! failures.

use std::path::Path;
use std::time::Duration;

use larder::admin::api::ReloadError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::client::{Client, End, Response};
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, program};
use crate::tls_client::TlsClient;
use crate::tls_origin::{Certificate, ClientFiles, ClientRequirements, Protocols, TestCa, TlsOrigin};

/// Everything on `api.example.test` goes to `addr` over TLS and is stored for a minute. `tls` contains more
/// TLS settings.
fn yaml(addr: std::net::SocketAddr, authority: &TestCa, tls: &str) -> String {
    format!(
        "resolve: {{ api.example.test: \"{addr}\" }}\n\
         upstreams: {{ up: {{ hosts: [\"https://api.example.test\"], timeouts: {{ connect: 20s }}, \
         tls: {{ extra_roots: [\"{}\"]{tls} }} }} }}\n{}",
        authority.root().display(),
        route(&["ttl: 1m", "stale_if_error: { for: 1h, on: [connect, timeout] }"])
    )
}

fn tls_yaml(origin: &TlsOrigin, authority: &TestCa, tls: &str) -> String {
    yaml(origin.addr, authority, tls)
}

fn client_cert(files: &ClientFiles) -> String {
    let ClientFiles { cert, key, .. } = files;
    format!(", client_cert: {{ cert: \"{}\", key: \"{}\" }}", cert.display(), key.display())
}

/// Sends a request that passes through.
async fn post(larder: &Larder) -> Response {
    let mut client = larder.client().await;
    client.send_request("POST", &format!("{API}/p"), &[]).await;
    client.response("POST").await.expect("a response")
}

/// How a fault is reported: its token in metrics and `detail`, its class in the JSON error, its error type of
/// RFC 9209, and a part of its message.
type FaultReport = (&'static str, &'static str, &'static str, &'static str);

const EXPIRED: FaultReport = ("tls-expired", "tls_certificate_error", "tls_certificate_error", "has expired");
const NOT_YET: FaultReport =
    ("tls-not-yet-valid", "tls_certificate_error", "tls_certificate_error", "not valid yet");
const ISSUER: FaultReport = (
    "tls-unknown-issuer",
    "tls_certificate_error",
    "tls_certificate_error",
    "add its root to upstreams.NAME.tls.extra_roots",
);
const SELF_SIGNED: FaultReport =
    ("tls-self-signed", "tls_certificate_error", "tls_certificate_error", "self-signed");
const NAME: FaultReport =
    ("tls-wrong-name", "tls_certificate_error", "tls_certificate_error", "for other names");
const CLIENT: FaultReport =
    ("tls-client-certificate", "tls_handshake_error", "tls_alert_received", "upstreams.NAME.tls.client_cert");
const ALERT: FaultReport =
    ("tls-alert", "tls_handshake_error", "tls_alert_received", "aborted the TLS handshake");
const HANDSHAKE: FaultReport =
    ("tls-handshake", "tls_handshake_error", "tls_protocol_error", "whether it speaks TLS");

/// Each kind of bad certificate, and how it is reported.
const BAD: [(Certificate, FaultReport); 5] = [
    (Certificate::Expired, EXPIRED),
    (Certificate::NotYetValid, NOT_YET),
    (Certificate::SelfSigned, ISSUER),
    (Certificate::SelfSignedCa, SELF_SIGNED),
    (Certificate::OtherName, NAME),
];

/// Asserts that cached and passed requests report the same fault, and that nothing is stored.
async fn assert_refused(larder: &Larder, expected: FaultReport) {
    let (token, class, proxy_status, reason) = expected;
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
        format!("larder_upstream_requests_total{{code=\"{token}\",route=\"{route}\",upstream=\"up\"}}")
    };
    larder.wait_for_metric(&calls("api"), 2.0).await;
    larder.wait_for_metric(&calls("none"), 1.0).await;
}

#[tokio::test]
async fn a_bad_certificate_is_a_502_that_states_the_reason() {
    bounded(async {
        let authority = TestCa::new();
        for speaks in [Protocols::H1, Protocols::H2] {
            for (certificate, expected) in BAD {
                let origin = TlsOrigin::start(&authority, certificate, speaks, "stolen").await;
                let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
                assert_refused(&larder, expected).await;
                assert_eq!((origin.attempts(), origin.calls()), (3, 0), "no call is retried");
            }
        }
        for other in [TestCa::new(), TestCa::named("Other Root")] {
            let origin = TlsOrigin::start(&other, Certificate::Good, Protocols::H1, "stolen").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
            assert_refused(&larder, ISSUER).await;
        }
    })
    .await;
}

/// The behaviour of a port that completes no TLS handshake.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Garbage,
    Http,
    Close,
    Alert,
    Silence,
}

/// A port that reads the start of a handshake and then behaves as `instead`, as long as the test runs.
async fn no_tls(instead: Instead) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 16384];
            assert!(stream.read(&mut hello).await.unwrap() > 0);
            let reply: &[u8] = match instead {
                Instead::Garbage => &[0xa5; 512],
                Instead::Http => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
                // Fatal, handshake_failure (RFC 8446 §6).
                Instead::Alert => &[21, 3, 3, 0, 2, 2, 40],
                Instead::Close | Instead::Silence => b"",
            };
            stream.write_all(reply).await.unwrap();
            if matches!(instead, Instead::Silence) {
                silent.push(stream);
            }
        }
    });
    addr
}

#[tokio::test]
async fn anything_but_a_tls_handshake_is_a_502_at_once() {
    bounded(async {
        let authority = TestCa::new();
        for (instead, expected) in [
            (Instead::Garbage, HANDSHAKE),
            (Instead::Http, HANDSHAKE),
            (Instead::Close, HANDSHAKE),
            (Instead::Alert, ALERT),
        ] {
            let addr = no_tls(instead).await;
            let larder = Larder::bare(&yaml(addr, &authority, "")).await;
            let refused = tokio::time::timeout(Duration::from_secs(5), assert_refused(&larder, expected));
            assert!(refused.await.is_ok(), "{instead:?}: it waits for timeouts.connect, 20s");
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_at_the_connect_timeout() {
    bounded(async {
        let authority = TestCa::new();
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

/// A stored response survives every fault of TLS.
#[tokio::test]
async fn a_stale_response_is_served_on_a_tls_fault() {
    bounded(async {
        let authority = TestCa::new();
        let good = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "good").await;
        let mut bad = Vec::new();
        let mut origins = Vec::new();
        for (certificate, expected) in BAD {
            let origin = TlsOrigin::start(&authority, certificate, Protocols::H1, "bad").await;
            bad.push((origin.addr, expected));
            origins.push(origin);
        }
        let client_auth = ClientRequirements { client_certificate: true, ..ClientRequirements::NONE };
        let requiring =
            TlsOrigin::with_requirements(&authority, Certificate::Good, Protocols::H1, client_auth, "bad")
                .await;
        bad.push((requiring.addr, CLIENT));
        bad.push((no_tls(Instead::Garbage).await, HANDSHAKE));
        bad.push((no_tls(Instead::Close).await, HANDSHAKE));
        bad.push((no_tls(Instead::Alert).await, ALERT));
        let switch = Switch::start(good.addr).await;
        let larder = Larder::bare(&yaml(switch.addr, &authority, "")).await;
        assert_eq!(larder.get("/x").await.text(), "good");
        larder.clock.advance(Duration::from_secs(61));
        for (addr, (token, ..)) in bad {
            switch.switch_to(addr);
            let answer = larder.get("/x").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{token}");
            let detail = format!("detail=\"stale-if-error/{token}\"");
            assert!(answer.cache_status().ends_with(&detail), "{token}: {}", answer.cache_status());
        }
        switch.switch_to(good.addr);
        let answer = larder.get("/x").await;
        assert!(answer.cache_status().contains("stored"), "{}", answer.cache_status());
    })
    .await;
}

/// With TLS 1.2 the rejection arrives in the handshake, with TLS 1.3 while larder waits for the response.
#[tokio::test]
async fn the_client_certificate_is_sent_to_an_origin_that_requests_it() {
    bounded(async {
        let authority = TestCa::new();
        let right = authority.client("larder");
        let (namesake, other) = (TestCa::new(), TestCa::named("Other Root"));
        let wrong = [namesake.client("mallory"), other.client("mallory")];
        for version in rustls::ALL_VERSIONS {
            let versions = std::slice::from_ref(version);
            for speaks in [Protocols::H1, Protocols::H2] {
                let client_auth = ClientRequirements { client_certificate: true, versions };
                let origin =
                    TlsOrigin::with_requirements(&authority, Certificate::Good, speaks, client_auth, "known")
                        .await;
                let with = client_cert(&right);
                let larder = Larder::bare(&tls_yaml(&origin, &authority, &with)).await;
                assert_eq!(larder.get("/x").await.text(), "known", "{speaks:?} {version:?}");
                assert_eq!(post(&larder).await.text(), "known", "{speaks:?} {version:?}");
                assert_eq!(origin.client_certificates(), vec![Some(right.der.clone())]);
                for without in [String::new(), client_cert(&wrong[0]), client_cert(&wrong[1])] {
                    let larder = Larder::bare(&tls_yaml(&origin, &authority, &without)).await;
                    assert_refused(&larder, CLIENT).await;
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
        let authority = TestCa::new();
        for (certificate, _) in BAD {
            let origin = TlsOrigin::start(&authority, certificate, Protocols::H1, "taken").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, ", insecure: true")).await;
            assert_eq!(larder.get("/x").await.text(), "taken", "{certificate:?}");
            assert_eq!(post(&larder).await.text(), "taken", "{certificate:?}");
        }
    })
    .await;
}

/// Once `insecure` is removed, connections that were accepted before are no longer used.
#[tokio::test]
async fn an_insecure_upstream_is_reported_until_it_is_secure_again() {
    bounded(async {
        let authority = TestCa::new();
        let metric = "larder_upstream_insecure{upstream=\"up\"}";
        for speaks in [Protocols::H1, Protocols::H2] {
            let origin = TlsOrigin::start(&authority, Certificate::Expired, speaks, "taken").await;
            let trusting = tls_yaml(&origin, &authority, ", insecure: true");
            let larder = Larder::bare(&trusting).await;
            assert_eq!(larder.get("/x").await.text(), "taken");
            larder.wait_for_metric(metric, 1.0).await;
            let verifying = tls_yaml(&origin, &authority, "");
            let reloaded = larder.reload_bare(&verifying).await.unwrap();
            assert!(reloaded.warnings.iter().all(|note| !note.contains("insecure")));
            assert!(!larder.server.telemetry().render().contains("larder_upstream_insecure{"));
            for answer in [larder.get("/y").await, post(&larder).await] {
                assert_eq!(answer.status, 502, "{speaks:?}");
                assert!(answer.text().contains(EXPIRED.3), "{}", answer.text());
            }
            let reloaded = larder.reload_bare(&trusting).await.unwrap();
            let note = reloaded.warnings.iter().find(|note| note.contains("tls.insecure"));
            assert!(note.unwrap().contains("any certificate is accepted"), "{note:?}");
            assert_eq!(larder.get("/z").await.text(), "taken");
            larder.wait_for_metric(metric, 1.0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn upstreams_at_one_address_share_no_connection() {
    bounded(async {
        let authority = TestCa::new();
        let (first, second) = (authority.client("first"), authority.client("second"));
        let client_auth = ClientRequirements { client_certificate: true, ..ClientRequirements::NONE };
        for speaks in [Protocols::H1, Protocols::H2] {
            let origin =
                TlsOrigin::with_requirements(&authority, Certificate::Good, speaks, client_auth, "known").await;
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
            assert_eq!(origin.client_certificates(), expected, "{speaks:?}: one connection per upstream, and each is reused");
        }
    })
    .await;
}

/// Other hosts at the same address are still verified.
#[tokio::test]
async fn an_insecure_upstream_makes_no_other_upstream_insecure() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::start(&authority, Certificate::OtherName, Protocols::H1, "x").await;
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
async fn a_certificate_must_match_the_address_of_a_host_without_a_name() {
    bounded(async {
        let authority = TestCa::new();
        for (certificate, status) in [(Certificate::Good, 200), (Certificate::OtherName, 502)] {
            let origin = TlsOrigin::start(&authority, certificate, Protocols::H1, "x").await;
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
async fn a_renewed_client_certificate_is_used_from_the_next_reload_on() {
    bounded(async {
        let authority = TestCa::new();
        let client_auth = ClientRequirements { client_certificate: true, ..ClientRequirements::NONE };
        let origin =
            TlsOrigin::with_requirements(&authority, Certificate::Good, Protocols::H1, client_auth, "known")
                .await;
        let old = authority.client("larder");
        let yaml = tls_yaml(&origin, &authority, &client_cert(&old));
        let larder = Larder::bare(&yaml).await;
        assert_eq!(larder.get("/1").await.text(), "known");
        let new = authority.client("larder");
        larder.reload_bare(&yaml).await.unwrap();
        assert_eq!(larder.get("/2").await.text(), "known");
        assert_eq!(origin.client_certificates(), [Some(old.der), Some(new.der)]);
        // An invalid pair is rejected, and the old one stays in use.
        std::fs::copy(&new.cert, &new.key).unwrap();
        let ReloadError { report } = larder.reload_bare(&yaml).await.unwrap_err();
        assert!(report.contains("upstreams.up.tls.client_cert.key: the file contains no private key"));
        assert_eq!(larder.get("/3").await.text(), "known");
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

/// Settings that a process needs to run beside others.
const FREE_PORTS: &str =
    "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\nstore: { disk: off }\n";

/// A larder process whose environment names these system roots.
fn with_system_roots(config_dir: &ConfigDir, roots: &Path) -> Process {
    let mut command = Command::new(program());
    command.arg("run").arg(&config_dir.config);
    // Roots that the environment of the tests names would be trusted, too.
    let bundles =
        ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"];
    let certificates = ["SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "DENO_CERT", "NIX_SSL_CERT_FILE"];
    for name in bundles.into_iter().chain(certificates) {
        command.env_remove(name);
    }
    command.env("SSL_CERT_FILE", roots);
    Process::from_command(command)
}

#[tokio::test]
async fn hosts_without_extra_roots_are_verified_against_the_system_roots() {
    bounded(async {
        let (authority, other) = (TestCa::new(), TestCa::named("Other Root"));
        for speaks in [Protocols::H1, Protocols::H2] {
            let origin = TlsOrigin::start(&authority, Certificate::Good, speaks, "x").await;
            let yaml = "resolve: { api.example.test: \"ADDR\" }\n\
                        routes: [{ name: all, match: { host: \"*\" }, ttl: 1m }]\n";
            let config_dir =
                ConfigDir::with(&format!("{FREE_PORTS}{}", yaml.replace("ADDR", &origin.addr.to_string())));
            for (roots, status) in [(authority.root(), 200), (other.root(), 502)] {
                let larder = with_system_roots(&config_dir, &roots);
                let addr = larder.addr().await;
                for n in 0..2 {
                    let mut client = Client::connect(addr).await;
                    let url = format!("https://api.example.test/{n}");
                    assert_eq!(client.get(&url, &[]).await.status, status, "{speaks:?}");
                }
            }
            // No call was made where the roots did not match.
            assert_eq!(origin.calls(), 2);
            assert!(origin.connections() <= 2);
        }
    })
    .await;
}

#[tokio::test]
async fn unusable_system_roots_are_reported_without_a_panic() {
    bounded(async {
        let config_dir = ConfigDir::with(FREE_PORTS);
        let broken = tempfile::NamedTempFile::new().unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(broken.path(), pem).unwrap();
        for roots in [broken.path(), Path::new("/no/such/bundle.pem")] {
            let mut larder = with_system_roots(&config_dir, roots);
            let line = larder.err.wait_for_line("root certificates").await;
            assert!(line.contains("set SSL_CERT_FILE to a valid bundle"), "{line}");
            assert_eq!(larder.wait_for_exit().await.code(), Some(1), "{}", larder.err.text());
            assert!(!larder.err.text().contains("panicked"), "{}", larder.err.text());
        }
    })
    .await;
}

#[tokio::test]
async fn a_system_without_root_certificates_is_reported() {
    bounded(async {
        let none = tempfile::NamedTempFile::new().unwrap();
        let config_dir = ConfigDir::with(FREE_PORTS);
        let larder = with_system_roots(&config_dir, none.path());
        larder.err.wait_for_line("No root certificate found").await;
        // rustls builds no verifier without a root, not even one that verifies nothing.
        let insecure = "upstreams: { up: { hosts: [api.example.test], tls: { insecure: true } } }\n";
        let config_dir = ConfigDir::with(&format!("{FREE_PORTS}{insecure}"));
        let mut larder = with_system_roots(&config_dir, none.path());
        let line = larder.err.wait_for_line("upstreams.up.tls.insecure").await;
        assert!(line.contains("specify any in extra_roots"), "{line}");
        assert_eq!(larder.wait_for_exit().await.code(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn the_configuration_that_larder_shows_contains_no_private_key() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "x").await;
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
        let authority = TestCa::new();
        for (speaks, more) in [(Protocols::H1, ""), (Protocols::H2, ""), (Protocols::H1, ", http2: false")] {
            let origin = TlsOrigin::start(&authority, Certificate::Good, speaks, "secure").await;
            let larder = Larder::bare(&tls_yaml(&origin, &authority, more)).await;
            for n in 0..5 {
                let answer = larder.get(&format!("/{n}")).await;
                let seen = (answer.status, answer.text(), answer.end);
                assert_eq!(seen, (200, "secure".to_owned(), End::Complete), "{speaks:?}");
                assert!(larder.get(&format!("/{n}")).await.cache_status().starts_with("larder; hit"));
            }
            assert_eq!((origin.calls(), origin.connections()), (5, 1), "{speaks:?}: pooled");
            // Passed requests use the same connections.
            for _ in 0..5 {
                let mut client = larder.client().await;
                client.send_request("POST", &format!("{API}/p"), &[]).await;
                assert_eq!(client.response("POST").await.unwrap().text(), "secure", "{speaks:?}");
            }
            assert_eq!((origin.calls(), origin.connections()), (10, 1), "{speaks:?}: pooled");
        }
    })
    .await;
}

/// pingora's pool lost one of five connections between two calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_in_a_row_from_new_clients_use_one_connection() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "secure").await;
        let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
        for n in 0..120 {
            assert_eq!(larder.get(&format!("/{n}")).await.text(), "secure");
        }
        assert_eq!((origin.calls(), origin.connections()), (120, 1));
    })
    .await;
}

#[tokio::test]
async fn h2_carries_many_calls_on_one_connection() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H2, "secure").await;
        let larder = Larder::bare(&tls_yaml(&origin, &authority, "")).await;
        larder.get("/warm").await;
        let mut crowd = Vec::new();
        for n in 0..30 {
            crowd.push(ConcurrentRequests::send_plain(&larder, 1, &format!("/{n}")).await);
        }
        for one in crowd {
            assert_eq!(one.responses().await[0].text(), "secure");
        }
        assert_eq!((origin.calls(), origin.connections()), (31, 1));
    })
    .await;
}

/// CCH-09: each scheme has its own stored response.
#[tokio::test]
async fn cch_09_http_and_https_share_nothing() {
    bounded(async {
        let authority = TestCa::new();
        let secure = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "secure").await;
        let plain = Origin::always(MockResponse::new(200, &[], "plain")).await;
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
            for (url, body) in
                [("http://api.example.test/x", "plain"), ("https://api.example.test/x", "secure")]
            {
                let answer = larder.client().await.get(url, &[]).await;
                assert_eq!(answer.text(), body, "{}", answer.cache_status());
                assert_eq!(answer.cache_status().starts_with("larder; hit"), hit);
            }
        }
    })
    .await;
}

/// A port that forwards to one address and later to another. On a switch, it closes the connections that it
/// carries.
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

    fn switch_to(&self, addr: std::net::SocketAddr) {
        self.to.send_replace(addr);
    }
}

/// Where larder does not use HTTP/2 to an upstream, its clients do not use it either, because HTTP/2 carries
/// many requests on one connection.
#[tokio::test]
async fn clients_get_http_2_to_an_http_1_upstream_only_if_they_need_it() {
    bounded(async {
        let authority = TestCa::new();
        let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::Both, "ok").await;
        for (tls, offered, agreed) in [
            ("", &["h2", "http/1.1"][..], &b"h2"[..]),
            (", http2: false", &["h2", "http/1.1"], b"http/1.1"),
            (", http2: false", &["http/1.1"], b"http/1.1"),
            (", http2: false", &["h2"], b"h2"),
        ] {
            let larder = Larder::bare(&tls_yaml(&origin, &authority, tls)).await;
            let client = TlsClient::for_larder(&larder, offered);
            let stream = client.connect("api.example.test:443", "api.example.test").await;
            let stream = stream.expect("a handshake");
            let found = stream.get_ref().1.alpn_protocol();
            assert_eq!(found, Some(agreed), "{tls} {offered:?}");
        }
    })
    .await;
}
