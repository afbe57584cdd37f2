//! Who may ask: by address, by name, by token, by page (ADM-02, ADM-03).

use super::*;

/// Every path, with a method that it answers to; the ones that change something last.
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

const OPERATORS: usize = 5;
const MUTATING: usize = 8;

#[tokio::test]
async fn adm_03_a_rebound_name_gets_nothing_from_any_path() {
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for admin in [admin().await, admin_as("0.0.0.0:9901", &["10.0.0.0/8"], Some(TOKEN)).await] {
        for (line, body) in PATHS.into_iter().chain([("GET /nothing", ""), ("GET /v1", "")]) {
            for host in ["evil.example", "127.0.0.1.nip.io", "", "larder:9901"] {
                let length = body.len();
                let request = format!(
                    "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\
                     Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                let answer = admin.ask(request.as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 421 "), "{line} {host}: {answer}");
                assert!(answer.contains("\"class\":\"misdirected\""), "{answer}");
                assert!(!answer.contains("larder_requests"), "{answer}");
            }
            let nameless = format!("{line} HTTP/1.0\r\n{token}\r\n");
            let answer = admin.ask(nameless.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.0 421 "), "{line}: {answer}");
        }
        assert_eq!(admin.larder.asked(), Vec::<String>::new());
    }
}

/// ADM-02. Seen by the log, the metrics and the answers, none of which may show a token.
#[tokio::test]
async fn adm_02_no_wrong_token_opens_any_path_of_an_operator() {
    let admin = admin_as("127.0.0.1:9901", &[], Some(TOKEN)).await;
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
    for (line, body) in &PATHS[OPERATORS..] {
        for fields in &wrong {
            let (status, answer) = admin.say(line, &format!("{json}{fields}"), body).await;
            assert_eq!((status, class(&answer)), (401, "token_required"), "{line} {fields:.60}");
            assert!(!answer.to_string().contains("s3cret"), "{answer}");
        }
        for query in ["token", "access_token", "authorization"] {
            let line = format!("{line}?{query}={TOKEN}");
            let (status, answer) = admin.say(&line, json, body).await;
            assert_eq!((status, class(&answer)), (401, "token_required"), "{line}");
            assert!(!answer.to_string().contains("s3cret"), "{answer}");
        }
    }
    assert_eq!(admin.larder.asked(), Vec::<String>::new());
    let page = admin.get("/metrics", "localhost").await;
    assert!(page.contains("larder_denied_total{reason=\"token_required\"} 78\n"), "{page}");
    assert!(!page.contains("s3cret"), "{page}");
}

#[tokio::test]
async fn adm_02_a_token_of_a_megabyte_costs_nothing() {
    let admin = admin_as("127.0.0.1:9901", &[], Some(TOKEN)).await;
    let request = format!(
        "GET /v1/mode HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let answer = admin.ask(request.as_bytes()).await;
    // A client that still sends may find the connection reset instead of an answer.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer:.200}");
    assert!(admin.get("/healthz", "localhost").await.ends_with("ok\n"));
}

#[tokio::test]
async fn adm_02_the_right_token_opens_every_path_in_any_letter_case_of_bearer() {
    let admin = admin_as("127.0.0.1:9901", &[], Some(TOKEN)).await;
    for (line, body) in &PATHS[OPERATORS..] {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let fields =
                format!("Content-Type: application/json\r\nAuthorization: {scheme} {TOKEN}\r\n");
            let (status, answer) = admin.say(line, &fields, body).await;
            assert_eq!(status, 200, "{line} {scheme}: {answer}");
        }
    }
    let (status, answer) =
        admin.say("GET /nothing", &format!("Authorization: Bearer {TOKEN}\r\n"), "").await;
    assert_eq!((status, class(&answer)), (404, "not_found"));
}

#[tokio::test]
async fn a_401_says_how_to_ask() {
    let admin = admin_as("127.0.0.1:9901", &[], Some(TOKEN)).await;
    let answer = admin.get("/v1/mode", "localhost").await;
    assert!(answer.contains("\r\nwww-authenticate: Bearer realm=\"larder\"\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_read_by_probes_and_scrapers_needs_no_token() {
    let admin = admin_as("0.0.0.0:9901", &[], Some(TOKEN)).await;
    for path in ["/healthz", "/readyz", "/metrics", "/ca.pem", "/proxy.pac"] {
        let answer = admin.get(path, "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    // What is not known to be open is the operators'.
    for path in ["/", "/healthz/", "//v1/mode", "/metrics/../v1/mode", "/V1/mode", "/%761/mode"] {
        let answer = admin.get(path, "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
    }
}

/// A browser of this host may be talked into sending a form or a simple request anywhere.
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
        (
            "Content-Type: application/json\r\nOrigin: http://localhost:3000\r\n",
            403,
            "foreign_page",
        ),
        ("Content-Type: application/json\r\nOrigin: https://localhost\r\n", 403, "foreign_page"),
        (
            "Content-Type: application/json\r\nOrigin: http://localhost\r\nOrigin: http://x\r\n",
            403,
            "foreign_page",
        ),
    ];
    for (line, body) in &PATHS[MUTATING..] {
        for (fields, status, problem) in table {
            let (answered, answer) = admin.say(line, fields, body).await;
            assert_eq!((answered, class(&answer)), (status, problem), "{line} {fields}");
        }
    }
    assert_eq!(admin.larder.asked(), Vec::<String>::new());
    // What a browser asks before it sends JSON is not granted.
    let (status, _) = admin.say("OPTIONS /v1/purge", "Origin: http://evil.example\r\n", "").await;
    assert_eq!(status, 403);
    let own = format!("{json}Origin: http://LOCALHOST\r\n");
    let (status, _) = admin.say("POST /v1/config/reload", &own, "").await;
    assert_eq!(status, 200, "larder's own pages may");
    let (status, _) = admin
        .say("POST /v1/config/reload", "Content-Type: Application/JSON; charset=utf-8\r\n", "")
        .await;
    assert_eq!(status, 200);
}
