//! Tests of the admission by address, host name, token and page origin (ADM-02, ADM-03).

use super::*;

/// Every path with a method that it supports; those that change the state come last.
const PATHS: [(&str, &str); 11] = [
    ("GET /healthz", ""),
    ("GET /readyz", ""),
    ("GET /metrics", ""),
    ("GET /ca.pem", ""),
    ("GET /proxy.pac", ""),
    ("GET /v1/config", ""),
    ("GET /v1/mode", ""),
    ("GET /v1/entries", ""),
    ("PUT /v1/mode", r#"{"mode": "offline"}"#),
    ("POST /v1/config/reload", ""),
    ("POST /v1/purge", r#"{"all": true}"#),
];

const FIRST_OPERATOR_PATH: usize = 5;
const FIRST_MUTATING_PATH: usize = 8;

#[tokio::test]
async fn adm_03_a_rebound_host_name_is_refused_on_every_path() {
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for admin in [admin().await, admin_with("0.0.0.0:9901", &["10.0.0.0/8"], Some(TOKEN)).await] {
        for (line, body) in PATHS.into_iter().chain([("GET /nothing", ""), ("GET /v1", "")]) {
            for host in ["evil.example", "127.0.0.1.nip.io", "", "larder:9901"] {
                let length = body.len();
                let request = format!(
                    "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\
                     Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                let response = admin.send(request.as_bytes()).await;
                assert!(response.starts_with("HTTP/1.1 421 "), "{line} {host}: {response}");
                assert!(response.contains("\"class\":\"misdirected\""), "{response}");
                assert!(!response.contains("larder_requests"), "{response}");
            }
            let without_host = format!("{line} HTTP/1.0\r\n{token}\r\n");
            let response = admin.send(without_host.as_bytes()).await;
            assert!(response.starts_with("HTTP/1.0 421 "), "{line}: {response}");
        }
        assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
    }
}

/// ADM-02: checks the metrics and the responses, neither of which may contain a token.
#[tokio::test]
async fn adm_02_a_wrong_token_is_refused_on_every_path_of_operators() {
    let admin = admin_with("127.0.0.1:9901", &[], Some(TOKEN)).await;
    let json = "Content-Type: application/json\r\n";
    let wrong = [
        String::new(),
        "Authorization: Bearer s3cret-s3cret-s3crex\r\n".to_owned(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Proxy-Authorization: Bearer {TOKEN}\r\n"),
        format!("Cookie: token={TOKEN}\r\n"),
        format!("X-Forwarded-For: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}, Bearer {TOKEN}\r\n"),
        format!("Authorization: Bearer {}\r\n", "x".repeat(100_000)),
    ];
    for (line, body) in &PATHS[FIRST_OPERATOR_PATH..] {
        for fields in &wrong {
            let (status, response) = admin.request(line, &format!("{json}{fields}"), body).await;
            assert_eq!((status, class(&response)), (401, "token_required"), "{line} {fields:.60}");
            assert!(!response.to_string().contains("s3cret"), "{response}");
        }
        for query in ["token", "access_token", "authorization"] {
            let line = format!("{line}?{query}={TOKEN}");
            let (status, response) = admin.request(&line, json, body).await;
            assert_eq!((status, class(&response)), (401, "token_required"), "{line}");
            assert!(!response.to_string().contains("s3cret"), "{response}");
        }
    }
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
    let metrics = admin.get("/metrics", "localhost").await;
    assert!(metrics.contains("larder_denied_total{reason=\"token_required\"} 78\n"), "{metrics}");
    assert!(!metrics.contains("s3cret"), "{metrics}");
}

#[tokio::test]
async fn adm_02_a_token_of_a_megabyte_is_refused_early() {
    let admin = admin_with("127.0.0.1:9901", &[], Some(TOKEN)).await;
    let request = format!(
        "GET /v1/mode HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let response = admin.send(request.as_bytes()).await;
    // A client that still sends may get a reset instead of a response.
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response:.200}");
    assert!(admin.get("/healthz", "localhost").await.ends_with("ok\n"));
}

#[tokio::test]
async fn adm_02_the_right_token_is_accepted_on_every_path_of_operators() {
    let admin = admin_with("127.0.0.1:9901", &[], Some(TOKEN)).await;
    for (line, body) in &PATHS[FIRST_OPERATOR_PATH..] {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let fields = format!("Content-Type: application/json\r\nAuthorization: {scheme} {TOKEN}\r\n");
            let (status, response) = admin.request(line, &fields, body).await;
            assert_eq!(status, 200, "{line} {scheme}: {response}");
        }
    }
    let (status, response) =
        admin.request("GET /nothing", &format!("Authorization: Bearer {TOKEN}\r\n"), "").await;
    assert_eq!((status, class(&response)), (404, "not_found"));
}

#[tokio::test]
async fn a_401_contains_a_challenge() {
    let admin = admin_with("127.0.0.1:9901", &[], Some(TOKEN)).await;
    let response = admin.get("/v1/mode", "localhost").await;
    assert!(response.contains("\r\nwww-authenticate: Bearer realm=\"larder\"\r\n"), "{response}");
}

#[tokio::test]
async fn paths_for_probes_and_scrapers_need_no_token() {
    let admin = admin_with("0.0.0.0:9901", &[], Some(TOKEN)).await;
    for path in ["/healthz", "/readyz", "/metrics", "/ca.pem", "/proxy.pac"] {
        let response = admin.get(path, "localhost").await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{path}: {response}");
    }
    // All paths that are not known to be open need the token.
    for path in ["/", "/healthz/", "//v1/mode", "/metrics/../v1/mode", "/V1/mode", "/%761/mode"] {
        let response = admin.get(path, "localhost").await;
        assert!(response.starts_with("HTTP/1.1 401 "), "{path}: {response}");
    }
}

/// A web page can make a browser on this host send a form or a simple request to any address.
#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let admin = admin().await;
    let json = "Content-Type: application/json\r\n";
    let table = [
        ("", 415, "not_json"),
        ("Content-Type: text/plain\r\n", 415, "not_json"),
        ("Content-Type: text/plain; application/json\r\n", 415, "not_json"),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415, "not_json"),
        ("Content-Type: multipart/form-data; boundary=x\r\n", 415, "not_json"),
        ("Content-Type: application/json\r\nContent-Type: text/plain\r\n", 415, "not_json"),
        ("Content-Type: application/json\r\nOrigin: http://evil.example\r\n", 403, "foreign_page"),
        ("Content-Type: application/json\r\nOrigin: null\r\n", 403, "foreign_page"),
        ("Content-Type: application/json\r\nOrigin: http://localhost:3000\r\n", 403, "foreign_page"),
        ("Content-Type: application/json\r\nOrigin: https://localhost\r\n", 403, "foreign_page"),
        (
            "Content-Type: application/json\r\nOrigin: http://localhost\r\nOrigin: http://x\r\n",
            403,
            "foreign_page",
        ),
    ];
    for (line, body) in &PATHS[FIRST_MUTATING_PATH..] {
        for (fields, status, problem) in table {
            let (actual, response) = admin.request(line, fields, body).await;
            assert_eq!((actual, class(&response)), (status, problem), "{line} {fields}");
        }
    }
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
    // The preflight that a browser sends before JSON is refused.
    let (status, _) = admin.request("OPTIONS /v1/purge", "Origin: http://evil.example\r\n", "").await;
    assert_eq!(status, 403);
    let own = format!("{json}Origin: http://LOCALHOST\r\n");
    let (status, _) = admin.request("POST /v1/config/reload", &own, "").await;
    assert_eq!(status, 200, "pages of the listener itself are allowed");
    let (status, _) = admin
        .request("POST /v1/config/reload", "Content-Type: Application/JSON; charset=utf-8\r\n", "")
        .await;
    assert_eq!(status, 200);
}
