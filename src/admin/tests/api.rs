//! Tests of the operations, and that none happens by accident (ADM-08).

use super::*;

#[tokio::test]
async fn a_purge_names_one_url_or_all_and_returns_a_count() {
    let admin = admin().await;
    let table = [
        (
            r#"{"url": "http://API.example:80/x?b=1#f"}"#,
            "Purge { target: Url(http://api.example/x?b=…), soft: false, dry_run: false }",
        ),
        (
            r#"{"key": "000000000000000000000000000000fF"}"#,
            "Purge { target: Key(255), soft: false, dry_run: false }",
        ),
        (r#"{"all": true}"#, "Purge { target: All, soft: false, dry_run: false }"),
        (
            r#"{"all": true, "soft": true, "dry_run": true}"#,
            "Purge { target: All, soft: true, dry_run: true }",
        ),
        (
            r#"{"url": "https://api.example/x", "all": false, "soft": true}"#,
            "Purge { target: Url(https://api.example/x), soft: true, dry_run: false }",
        ),
    ];
    for (body, purge) in table {
        let (status, response) = admin.operate("POST /v1/purge", body).await;
        assert_eq!((status, response.to_string().as_str()), (200, r#"{"count":7}"#), "{body}");
        assert_eq!(admin.larder.take_calls(), [purge], "{body}");
    }
}

#[tokio::test]
async fn adm_08_nothing_is_purged_by_accident() {
    let admin = admin().await;
    let bodies = [
        "",
        "{}",
        "[]",
        "null",
        "\"http://api.example/x\"",
        r#"{"all": false}"#,
        r#"{"all": "true"}"#,
        r#"{"all": 1}"#,
        r#"{"all": null}"#,
        r#"{"url": null}"#,
        r#"{"url": ["http://api.example/x"]}"#,
        r#"{"url": "http://api.example/x", "all": true}"#,
        r#"{"key": "00000000000000000000000000000001", "all": true}"#,
        r#"{"key": "00000000000000000000000000000001", "url": "http://api.example/x"}"#,
        r#"{"key": "1"}"#,
        r#"{"key": "+0000000000000000000000000000001"}"#,
        r#"{"key": ""}"#,
        r#"{"all": true, "all": true}"#,
        r#"{"all": true, "dryrun": true}"#,
        r#"{"all": true, "dry-run": true}"#,
        r#"{"ALL": true}"#,
        r#"{"all": true, "url_prefix": "http://api.example/"}"#,
        r#"{"all": true} {"all": true}"#,
        r#"{"all": true"#,
        "all=true",
    ];
    for body in bodies {
        let (status, response) = admin.operate("POST /v1/purge", body).await;
        assert_eq!((status, class(&response)), (400, "bad_request"), "{body}");
        assert!(response.to_string().contains("nothing was purged"), "{body}: {response}");
    }
    for url in ["", "*", "../", "/", "(a+)+$", ".*", "api.example/x", "ftp://api.example/", "http://"] {
        let body = serde_json::json!({ "url": url }).to_string();
        let (status, response) = admin.operate("POST /v1/purge", &body).await;
        assert_eq!((status, class(&response)), (400, "bad_url"), "{url}");
    }
    let (status, _) = admin.operate("POST /v1/purge?all=true", "{}").await;
    assert_eq!(status, 400, "the query is ignored");
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn adm_08_a_url_that_looks_like_a_pattern_is_one_literal_url() {
    let admin = admin().await;
    for path in ["/*", "/../x", "/(a+)+$", "/**", "/%2e%2e/", "/[a-z]{1,}"] {
        let body = serde_json::json!({ "url": format!("http://api.example{path}") }).to_string();
        let (status, _) = admin.operate("POST /v1/purge", &body).await;
        assert_eq!(status, 200, "{path}");
        let purged = format!("Url(http://api.example{path})");
        assert!(admin.larder.take_calls().concat().contains(&purged), "{path}");
    }
}

#[tokio::test]
async fn a_purge_that_is_not_durable_is_503_with_the_reason() {
    let admin = admin().await;
    *admin.larder.purge.lock() = Err(PurgeError { reason: "the disk is full".to_owned() });
    let (status, response) = admin.operate("POST /v1/purge", r#"{"all": true}"#).await;
    assert_eq!((status, class(&response)), (503, "not_durable"));
    assert_eq!(response["larder_error"]["why"], "the disk is full");
}

#[tokio::test]
async fn a_reload_returns_the_new_state_or_the_reason_for_its_refusal() {
    let admin = admin().await;
    for body in ["", "{}"] {
        let (status, response) = admin.operate("POST /v1/config/reload", body).await;
        let expected = r#"{"notes":["a warning"],"routes":3}"#;
        assert_eq!((status, response.to_string().as_str()), (200, expected));
        assert_eq!(admin.larder.take_calls(), ["reload"]);
    }
    let (status, _) = admin.operate("POST /v1/config/reload", r#"{"file": "other.yaml"}"#).await;
    assert_eq!((status, admin.larder.take_calls().len()), (400, 0));
    let report = "proxy.yaml:2:1: lisen: is not a known key\nproxy.yaml: 1 problem";
    *admin.larder.reload.lock() = Err(ReloadError { report: report.to_owned() });
    let (status, response) = admin.operate("POST /v1/config/reload", "").await;
    assert_eq!((status, class(&response)), (422, "not_reloaded"));
    assert_eq!(response["larder_error"]["report"], report);
}

#[tokio::test]
async fn the_mode_can_be_read_and_set() {
    let admin = admin().await;
    for mode in ["bypass", "offline", "cache"] {
        let body = format!(r#"{{"mode": "{mode}"}}"#);
        let (status, response) = admin.operate("PUT /v1/mode", &body).await;
        assert_eq!((status, response["mode"].as_str()), (200, Some(mode)));
        let (status, response) = admin.request("GET /v1/mode", "", "").await;
        assert_eq!((status, response["mode"].as_str()), (200, Some(mode)));
    }
    admin.larder.take_calls();
    for body in ["", "{}", r#"{"mode": "off"}"#, r#"{"mode": "Cache"}"#, r#"{"mode": "cache", "x": 1}"#] {
        let (status, response) = admin.operate("PUT /v1/mode", body).await;
        assert_eq!((status, class(&response)), (400, "bad_request"), "{body}");
    }
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn the_current_configuration_is_returned() {
    let admin = admin().await;
    let (status, response) = admin.request("GET /v1/config", "", "").await;
    assert_eq!((status, response.to_string().as_str()), (200, r#"{"listen":["127.0.0.1:8080"]}"#));
}

#[tokio::test]
async fn entries_come_in_pages_with_the_requested_details() {
    let admin = admin().await;
    *admin.larder.next.lock() = Some("c2".to_owned());
    let (status, response) = admin.request("GET /v1/entries", "", "").await;
    assert_eq!(status, 200);
    assert_eq!(response["next"], "c2");
    let entry = serde_json::json!({
        "url": "http://api.example/x", "key": "000000000000000000000000000000ab", "scope": "shared", "route": "coins", "status": 200,
        "stored": "2027-01-15T08:00:00.000Z", "age": 90, "ttl": -30, "bytes": 42,
        "vary": ["accept"], "tiers": ["memory", "disk"],
    });
    assert_eq!(response["entries"], serde_json::json!([entry]));
    let query = "cursor=c2&limit=1000&url=http%3A%2F%2Fapi.example%2Fx%3Fa%3D1&details=true";
    let (_, response) = admin.request(&format!("GET /v1/entries?{query}"), "", "").await;
    assert_eq!(response["entries"][0]["headers"], serde_json::json!({ "link": ["a", "b"] }));
    let calls = admin.larder.take_calls();
    assert!(calls[0].contains("after: None, limit: 100, url: None, key: None, details: false"), "{calls:?}");
    let second =
        "after: Some(\"c2\"), limit: 1000, url: Some(http://api.example/x?a=…), key: None, details: true";
    assert!(calls[1].contains(second), "{calls:?}");
    admin.request("GET /v1/entries?key=000000000000000000000000000000fF", "", "").await;
    assert!(admin.larder.take_calls()[0].contains("url: None, key: Some(255)"));
}

#[tokio::test]
async fn a_listing_with_invalid_parameters_is_refused() {
    let admin = admin().await;
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=ten",
        "ulr=http://api.example/",
        "url=*",
        "url=",
        "key=",
        "key=1",
        "key=+0000000000000000000000000000001",
        "key=00000000000000000000000000000001&url=http://api.example/",
        "details=yes",
        "limit=1&limit=2",
    ] {
        let (status, response) = admin.request(&format!("GET /v1/entries?{query}"), "", "").await;
        assert_eq!((status, class(&response)), (400, "bad_request"), "{query}");
    }
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn adm_08_ten_megabytes_are_refused_before_they_arrive() {
    let admin = admin().await;
    let url = format!("http://api.example/{}", "x".repeat(10 << 20));
    let body = serde_json::json!({ "url": url }).to_string();
    let announced = format!(
        "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The body is not sent: the response does not wait for it.
    let response = admin.send(announced.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    assert!(response.contains("\"class\":\"body_too_long\""), "{response}");
    // The whole body is sent: the client may get the response or a reset.
    let response = admin.send(format!("{announced}{body}").as_bytes()).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 413 "), "{response}");
    // A chunked body has no announced length.
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", body.len(), body);
    let head = "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = admin.send(format!("{head}{chunk}").as_bytes()).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 413 "), "{response}");
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_body_of_the_longest_size_is_read() {
    let admin = admin().await;
    let path_length = (64 << 10) - r#"{"url":"http://api.example/"}"#.len();
    for (longer, expected) in [(0, 200), (1, 413)] {
        let url = format!("http://api.example/{}", "x".repeat(path_length + longer));
        let body = serde_json::json!({ "url": url }).to_string();
        let (status, _) = admin.operate("POST /v1/purge", &body).await;
        assert_eq!(status, expected, "{longer}");
    }
}

/// ADM-08: the deadline of the connection applies; the paused clock advances as soon as all tasks wait.
#[tokio::test(start_paused = true)]
async fn adm_08_a_body_that_never_ends_times_out_without_effect() {
    let admin = admin().await;
    let head = "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 14\r\n\r\n{\"all\": ";
    let response = admin.send(head.as_bytes()).await;
    assert!(!response.starts_with("HTTP/1.1 2"), "{response}");
    assert_eq!(admin.larder.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn the_certificate_to_trust_is_served_if_tls_is_intercepted() {
    let admin = admin().await;
    let response = admin.get("/ca.pem", "localhost").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("content-type: application/x-pem-file\r\n"), "{response}");
    assert!(response.ends_with("-----BEGIN CERTIFICATE-----\n"), "{response}");
    *admin.larder.ca.lock() = None;
    let response = admin.get("/ca.pem", "localhost").await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
    assert!(response.contains("\"class\":\"nothing_intercepted\""), "{response}");
}

#[tokio::test]
async fn upstreams_are_listed_with_their_cooldowns_and_limits() {
    let admin = admin().await;
    let (status, response) = admin.request("GET /v1/upstreams", "", "").await;
    let expected = serde_json::json!({ "upstreams": [{
        "name": "coins", "configured": true, "in_flight": 2, "waiting": 1,
        "holds": [{
            "reach": "bucket", "cause": "rate-limited", "firm": true, "left": 1.5,
            "until_released": false, "probing": false, "count": 1,
        }],
        "breaker": null,
        "limits": [{ "name": "learned", "limit": 50, "window": 1.0, "left": 12 }],
        "ban_guard": { "count": 3, "trips_at": 8000 },
        "retries": { "count": 1, "allowed": 10 },
    }] });
    assert_eq!((status, response), (200, expected));
}

#[tokio::test]
async fn usage_is_returned_by_day_and_month_with_the_budget() {
    let admin = admin().await;
    let (status, response) = admin.request("GET /v1/cost", "", "").await;
    let usage = |calls, credits, cost| {
        serde_json::json!({
            "since": "2027-01-15T08:00:00.000Z", "ends_in": 3600, "calls": calls,
            "credits": credits, "cost": cost,
            "avoided": { "calls": 40, "credits": 40.0, "cost": 4.0 },
        })
    };
    let expected = serde_json::json!({ "upstreams": [{
        "name": "coins", "currency": "USD", "per_credit": 0.1,
        "today": usage(2, 3.0, 0.3), "month": usage(7, 9.0, 0.9),
        "budget": {
            "credits": 10.0, "period": "month", "warn_at": 0.8, "at_limit": "stale-only",
            "used": 9.0, "share": 0.9, "warns": true, "spent": false, "ends_in": 86_400,
        },
    }] });
    assert_eq!((status, response), (200, expected), "0.1 × 3 is 0.3");
}
