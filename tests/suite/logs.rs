//! Request logs: they contain no secrets, and their volume is limited.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use larder::clock::Clock;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, TIMEOUT, eventually, text};

/// Every kind of secret, in the order of ADM-07, including the passwords of larder's own users.
const SECRETS: [&str; 10] = [
    "S1bearerS1",
    "S2cookieS2",
    "S3tokenS3",
    "S4apikeyS4",
    "S5userinfoS5",
    "S6malformedS6",
    "S7proxyS7",
    "S8setcookieS8",
    "S9originheadS9",
    "S10customS10",
];

/// Sends bytes on a new connection and returns everything that it receives.
async fn exchange(addr: SocketAddr, bytes: &str) -> String {
    let mut client = Client::connect(addr).await;
    client.send(bytes).await;
    let rest = timeout(TIMEOUT, client.read_to_end()).await.expect("the connection ends");
    text(&rest)
}

/// Well-formed, refused and malformed requests, with secrets in every possible place.
fn requests(proxy_user: &str) -> Vec<String> {
    let user = format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(proxy_user));
    let secrets = "Authorization: Bearer S1bearerS1\r\nCookie: sid=S2cookieS2\r\n\
                   X-Custom-Token: S10customS10\r\n";
    let query = "token=S3tokenS3&api_key=S4apikeyS4";
    let get = |target: &str, fields: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: api.example.test\r\n{user}{secrets}{fields}Connection: close\r\n\r\n"
        )
    };
    let raw = |head: &str| format!("{head}\r\n{user}{secrets}\r\n");
    let wrong = STANDARD.encode("ann:S7proxyS7wrong");
    vec![
        // Stored, passed through, and with each kind of origin failure.
        get(&format!("http://api.example.test/stored?{query}"), ""),
        get(&format!("http://api.example.test/stored?{query}"), ""),
        get(&format!("http://api.example.test/passed/by?{query}"), ""),
        get(&format!("http://api.example.test/stored/garbage?{query}"), ""),
        get(&format!("http://api.example.test/passed/garbage?{query}"), ""),
        get(&format!("http://api.example.test/stored/closed?{query}"), ""),
        get(&format!("http://api.example.test/passed/closed?{query}"), ""),
        get(&format!("http://api.example.test/stored/cut?{query}"), ""),
        get(&format!("http://dead.example.test/x?{query}"), ""),
        get(&format!("http://169.254.169.254/x?{query}"), ""),
        // User information, in every kind of target.
        get("http://user:S5userinfoS5@api.example.test/x", ""),
        get("http://S5userinfoS5@api.example.test/x", ""),
        raw("CONNECT user:S5userinfoS5@api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443"),
        raw("CONNECT dead.example.test:1 HTTP/1.1\r\nHost: dead.example.test:1"),
        // Malformed, with the secret in every part of a head.
        raw("S6malformedS6"),
        raw("GET http://api.example.test/S6malformedS6 x HTTP/1.1"),
        raw("S6malformedS6 http://api.example.test/ HTTP/9.9"),
        raw("GET S6malformedS6://api.example.test/ HTTP/1.1"),
        raw("GET http://api.example.test/ HTTP/1.1\r\nHost: S6malformedS6 x\r\n S6malformedS6"),
        raw("GET http://api.example.test/ HTTP/1.1\r\nHost: a\r\nS6malformedS6 without a colon"),
        raw("GET http://api.example.test/ HTTP/1.1\r\nHost: a\r\nA\0: S6malformedS6"),
        raw("POST http://api.example.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: S6malformedS6"),
        raw("POST http://api.example.test/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: S6malformedS6"),
        get("http://api.example.test/x", &format!("X: {}\r\n", "S6malformedS6".repeat(8000))),
        // A chunked body that breaks after the head was accepted.
        format!(
            "POST http://api.example.test/passed HTTP/1.1\r\nHost: api.example.test\r\n{user}\
             {secrets}Transfer-Encoding: chunked\r\n\r\nS6malformedS6\r\n\r\n"
        ),
        // Users that larder does not know.
        format!(
            "GET http://api.example.test/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {wrong}\r\n\r\n"
        ),
        "GET http://api.example.test/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Bearer S7proxyS7\r\n\r\n"
            .to_owned(),
        format!("GET http://api.example.test/?{query} HTTP/1.1\r\nHost: a\r\n{secrets}\r\n"),
    ]
}

async fn origin() -> Origin {
    Origin::start(|seen| match seen.target.as_str() {
        target if target.contains("/garbage") => MockResponse::raw(
            "HTTP/1.1 200 OK\r\nS9originheadS9 without a colon\r\nSet-Cookie: S8setcookieS8\r\n\r\n",
        ),
        target if target.contains("/closed") => MockResponse::closed(),
        target if target.contains("/cut") => {
            MockResponse::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nSet-Cookie: S8setcookieS8\r\n\r\nx")
                .then([crate::origin::Step::Close])
        }
        _ => MockResponse::new(200, &["Cache-Control: max-age=60"], "plain"),
    })
    .await
}

#[tokio::test]
async fn adm_07_no_secret_reaches_log_metrics_or_errors_at_any_level() {
    for format in ["json", "pretty"] {
        let origin = origin().await;
        let files = ConfigDir::with(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             log: {{ format: {format}, level: trace }}\n\
             defaults: {{ retry: {{ backoff: {{ initial: 10ms }} }} }}\naccess: {{ users_file: users }}\n\
             resolve: {{ api.example.test: \"{}\", dead.example.test: \"127.0.0.1:1\" }}\n\
             routes:\n  - {{ name: api, match: {{ host: api.example.test, path: /stored/** }} }}\n  \
             - {{ name: dead, match: {{ host: dead.example.test, path: /stored/** }} }}\n",
            origin.addr
        ));
        let users = files.directory.path().join("users");
        fs::write(&users, "ann:S7proxyS7\n").unwrap();
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
        let mut larder = Process::start(&["run".as_ref(), files.config.as_os_str()]);
        let (addr, admin) = (larder.addr().await, larder.admin().await);
        let mut answers = String::new();
        for request in requests("ann:S7proxyS7") {
            answers.push_str(&exchange(addr, &request).await);
        }
        let metrics = exchange(admin, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
        assert!(metrics.contains("larder_denied_total{reason="), "{metrics}");
        assert!(origin.calls() > 3, "the well-formed requests reached the origin");
        larder.signal("TERM");
        larder.wait_for_exit().await;
        let log = larder.err.text();
        assert!(log.contains("Request completed") && log.contains("refused"), "it was logged: {log}");
        let encoded = STANDARD.encode("ann:S7proxyS7");
        for secret in SECRETS.into_iter().chain([encoded.as_str()]) {
            assert!(!metrics.contains(secret), "{secret} in metrics");
            // The client may see the cookie that the origin sets.
            let for_client = secret == "S8setcookieS8";
            assert!(for_client || !answers.contains(secret), "{secret} in answers: {answers}");
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} in the {format} log");
        }
    }
}

/// ADM-06 over real sockets: one line per event for any path and any field, also for the `trace`
/// messages of other crates.
#[tokio::test]
async fn adm_06_no_request_forges_corrupts_or_inflates_log_lines() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    for (format, level) in [("json", "debug"), ("json", "trace"), ("pretty", "trace")] {
        let yaml = format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             log: {{ format: {format}, level: {level} }}\n\
             resolve: {{ api.example.test: \"{}\" }}\n",
            origin.addr
        );
        let (mut larder, _files) = Process::run(&yaml).await;
        let addr = larder.addr().await;
        for request in hostile_requests() {
            let mut client = Client::connect(addr).await;
            // A head that is too long is refused before all of it was sent.
            let _refused = client.stream.write_all(request.as_bytes()).await;
            timeout(TIMEOUT, client.read_to_end()).await.expect("the connection ends");
        }
        larder.signal("TERM");
        larder.wait_for_exit().await;
        let lines = larder.err.all();
        assert!(lines.len() >= 10, "{lines:?}");
        for line in lines {
            if format == "json" {
                let parsed: Result<serde_json::Value, _> = serde_json::from_str(&line);
                assert!(parsed.is_ok(), "{line}");
            }
            assert!(!line.trim_start().starts_with("forged"), "{line}");
            let separators = ['\u{2028}', '\u{2029}'];
            assert!(!line.chars().any(|c| c.is_control() || separators.contains(&c)), "{line:?}");
            assert!(line.len() <= 8 << 10, "{} bytes: {line:.200}", line.len());
        }
    }
}

/// A larder as a process with a complete JSON log, and its origin.
async fn larder_with_debug_log() -> (Process, ConfigDir, Origin) {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         log: {{ format: json, level: debug }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr
    );
    let (larder, files) = Process::run(&yaml).await;
    (larder, files, origin)
}

/// The line of a miss has the bytes that its fill received from the origin; the line of a hit has
/// 0.
#[tokio::test]
async fn a_log_line_has_the_bytes_that_came_from_the_origin() {
    let (mut larder, _files, _origin) = larder_with_debug_log().await;
    let addr = larder.addr().await;
    for method in ["GET", "GET", "DELETE"] {
        let mut client = Client::connect(addr).await;
        client.send_request(method, "http://api.example.test/x", &[]).await;
        assert_eq!(client.response(method).await.expect("a response").text(), "hello");
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let lines = larder.err.all();
    let byte_counts = |result: &str| {
        let lines = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
        let mut answered = lines.filter(|line: &serde_json::Value| line["message"] == "Request completed");
        let line = answered.find(|line| line["result"] == result).expect("it is there");
        (line["client_bytes"].as_u64(), line["upstream_bytes"].as_u64())
    };
    assert_eq!(byte_counts("miss"), (Some(5), Some(5)));
    assert_eq!(byte_counts("hit"), (Some(5), Some(0)));
    assert_eq!(byte_counts("bypass"), (Some(5), Some(5)));
}

/// A key field that changes with every request prevents every hit; a warning names it once.
#[tokio::test]
async fn a_key_field_that_prevents_hits_is_logged_once_without_its_values() {
    let (mut larder, _files, _origin) = larder_with_debug_log().await;
    let mut client = Client::connect(larder.addr().await).await;
    for n in 0..40 {
        let field = format!("X-Correlation-Thing: once-{n}");
        let url = "http://api.example.test/x";
        assert_eq!(client.get(url, &[&field, "X-Account: same"]).await.status, 200);
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let lines = larder.err.all();
    let count_at = |level: &str| {
        let matches_level = |line: &&String| line.contains("x-correlation-thing") && line.contains(level);
        lines.iter().filter(matches_level).count()
    };
    assert_eq!((count_at("\"warn\""), count_at("\"debug\"")), (1, 39));
    let is_warning = |line: &&String| line.contains("warn") && line.contains("x-correlation-thing");
    let warning = lines.iter().find(is_warning).expect("one");
    assert!(warning.contains("key.ignore_headers") && warning.contains("api"), "{warning}");
    assert!(!lines.iter().any(|line| line.contains("x-account") || line.contains("once-")));
}

/// The hostile texts of ADM-06, each in every place that a client controls.
fn hostile_requests() -> Vec<String> {
    let get = |target: &str, fields: &str| {
        format!(
            "GET http://api.example.test{target} HTTP/1.1\r\nHost: api.example.test\r\n{fields}\
             Connection: close\r\n\r\n"
        )
    };
    let hostile = ["%0d%0aforged", "\u{1b}[2J", "\u{2028}forged", "\u{85}x", "\u{202e}x", "\r\nforged"];
    let mut all = Vec::new();
    for text in hostile {
        all.push(get(&format!("/{text}"), ""));
        all.push(get("/x", &format!("User-Agent: {text}\r\n")));
        all.push(get("/x", &format!("X-Any: {text}\r\nX-{text}: 1\r\n")));
    }
    let megabyte = "x".repeat(1 << 20);
    all.push(get("/x", &format!("User-Agent: {megabyte}\r\n")));
    all.push(get(&format!("/{megabyte}"), ""));
    let long = "x".repeat(60 << 10);
    all.push(get("/x", &format!("User-Agent: {long}\r\n")));
    all.push(get(&format!("/{long}"), ""));
    all
}

/// OVL-11: a refusal is cheap, and the log grows slowly.
#[tokio::test]
async fn ovl_11_thousands_of_malformed_requests_are_counted_in_few_log_lines() {
    const CONNECTIONS: usize = 3000;
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n",
        origin.addr
    );
    let (mut larder, _files) = Process::run(&yaml).await;
    let (addr, admin) = (larder.addr().await, larder.admin().await);
    let begun = Clock::system().instant();
    let mut senders = JoinSet::new();
    for sender in 0..20 {
        senders.spawn(async move {
            for _ in (sender..CONNECTIONS).step_by(20) {
                let answer = exchange(addr, "GET / HTTP/1.1\r\nno colon here\r\n\r\n").await;
                assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
    let page = exchange(admin, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let denied = page.lines().filter(|line| line.starts_with("larder_denied_total{"));
    let denied: usize = denied.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
    assert_eq!(denied, CONNECTIONS, "all are counted");
    let took = Clock::system().instant().duration_since(begun);
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let windows = usize::try_from(took.as_secs()).unwrap() + 2;
    let lines = larder.err.all();
    let refused = lines.iter().filter(|line| line.contains("Request refused")).count();
    assert!((1..=10 * windows).contains(&refused), "{refused} lines in {took:?}");
    assert!(lines.len() < refused + 10, "no flood of other lines: {} lines", lines.len());
    assert!(took < Duration::from_secs(60), "{took:?}");
    eventually("the end", || larder.child.id().is_none()).await;
}
