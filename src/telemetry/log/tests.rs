//! Tests of the written log lines.

use std::sync::Arc;

use http::Method;

use super::*;
use crate::config::{LogFormat, LogLevel};
use crate::decide::ForwardReason;
use crate::telemetry::log::captured::CapturedLog;
use crate::telemetry::{RejectEvent, RequestEvent, ResultKind, RetryEvent, Telemetry, UpstreamEvent};

/// The log that `act` writes.
fn logged(format: LogFormat, level: LogLevel, act: impl FnOnce()) -> String {
    let written = CapturedLog::default();
    let writer = written.clone();
    let subscriber = subscriber(&config::Log { format, level }, move || writer.clone());
    // The bridge is installed once per process and forwards to the subscriber of the thread.
    bridge(LogLevel::Trace);
    tracing::subscriber::with_default(subscriber, act);
    written.text()
}

fn as_json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(&[Arc::from("roles")], &[Arc::from("discord")])
}

fn request_event(path: &str) -> RequestEvent<'_> {
    RequestEvent {
        route: 0,
        result: ResultKind::Miss,
        forward_reason: Some(ForwardReason::UriMiss),
        method: &Method::GET,
        host: "discord.example.test",
        port: 443,
        path,
        status: Some(http::StatusCode::OK),
        cache_status: Some("larder; fwd=uri-miss; stored"),
        error: None,
        duration: std::time::Duration::from_millis(2),
        client_bytes: 10,
        upstream_bytes: 9,
        filled_bytes: 3,
        is_own_error: false,
    }
}

#[test]
fn a_request_is_one_json_line_at_debug_and_none_at_info() {
    let act = || telemetry().record(&request_event("/api/v10/guilds/1/roles"));
    let text = logged(LogFormat::Json, LogLevel::Debug, act);
    let line = as_json(&text);
    assert_eq!(line["level"], "debug");
    assert_eq!(line["message"], "Request completed");
    assert_eq!(line["route"], "roles");
    assert_eq!(line["result"], "miss");
    assert_eq!(line["reason"], "uri-miss");
    assert_eq!(line["status"], 200);
    assert_eq!(line["upstream_bytes"], 12, "bytes of the call and of the fill that the request started");
    assert_eq!(line["path"], "/api/v10/guilds/1/roles");
    assert_eq!(line.get("error"), None);
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    let act = || telemetry().record(&request_event("/"));
    assert_eq!(logged(LogFormat::Json, LogLevel::Info, act), "");
}

#[test]
fn the_pretty_format_is_one_line_with_the_fields_after_the_message() {
    let act = || telemetry().record(&request_event("/a b"));
    let text = logged(LogFormat::Pretty, LogLevel::Debug, act);
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains(" DEBUG Request completed route=roles result=miss"), "{text}");
    assert!(text.contains("path=\"/a b\""), "{text}");
}

#[test]
fn a_query_is_not_logged_at_any_level() {
    let act = || telemetry().record(&request_event("/a?token=S3&api_key=S4"));
    let text = logged(LogFormat::Json, LogLevel::Trace, act);
    assert_eq!(as_json(&text)["path"], "/a");
}

#[test]
fn no_secret_of_a_request_reaches_the_log_at_trace() {
    let act = || {
        tracing::trace!(url = "http://u:S5@h.test/?token=S3", "Trying");
        tracing::debug!(head = ?"Authorization: Bearer S1\r\nCookie: S2", "Read");
        tracing::debug!(api_key = "S4", note = "Cookie: S2", "Read");
        tracing::error!("cannot parse Cookie: S2");
        let raw = "GET /x?token=S3 HTTP/1.1\\r\\nAuthorization: S1\\r\\nX: S6";
        tracing_log::log::error!(
            target: "pingora_proxy",
            "Fail to proxy:  Downstream InvalidHTTPHeader context: buf: {raw}, status: 400, GET \
             /x?token=S3, Host: u:S5@h.test"
        );
        tracing_log::log::debug!(target: "pingora_core::protocols", "header: {raw}");
        tracing::warn!(target: "h2::codec", headers = "S1", "frame");
    };
    for format in [LogFormat::Json, LogFormat::Pretty] {
        let text = logged(format, LogLevel::Trace, act);
        for secret in ["S1", "S2", "S3", "S4", "S5", "S6"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("Fail to proxy:  Downstream InvalidHTTPHeader"), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }
}

#[test]
fn pingora_lines_keep_their_target_and_are_never_errors() {
    let act = || tracing_log::log::error!(target: "pingora_core::listeners", "Accept failed");
    let line = as_json(&logged(LogFormat::Json, LogLevel::Warn, act));
    assert_eq!(line["target"], "pingora_core::listeners");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["message"], "Accept failed");
}

#[test]
fn adm_06_hostile_characters_never_forge_lines_or_reach_a_terminal() {
    let hostile = "/\r\n{\"level\":\"error\"}\u{1b}[2J\u{2028}\u{9b}31m";
    for format in [LogFormat::Json, LogFormat::Pretty] {
        let text = logged(format, LogLevel::Debug, || telemetry().record(&request_event(hostile)));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        let raw = |c: char| c.is_control() && c != '\n' || c == '\u{2028}';
        assert!(!text.contains(raw), "{text:?}");
    }
}

#[test]
fn an_event_with_a_megabyte_per_field_is_one_line_of_8_kib() {
    let huge = "\u{1b}".repeat(1 << 20);
    let act = || tracing::error!(a = %huge, b = %huge, c = %huge, d = %huge, e = 1, "{huge}");
    for format in [LogFormat::Json, LogFormat::Pretty] {
        let text = logged(format, LogLevel::Error, act);
        assert!(text.len() <= 8 * 1024, "{} bytes", text.len());
        assert_eq!(text.lines().count(), 1);
    }
    let line = as_json(&logged(LogFormat::Json, LogLevel::Error, act));
    assert!(line["message"].as_str().is_some_and(|message| message.ends_with('…')));
}

#[test]
fn ovl_11_many_refusals_are_few_lines_and_all_are_counted() {
    let telemetry = telemetry();
    let act = || {
        for _ in 0..5_000 {
            telemetry.refused(&RejectEvent { class: "malformed", client: None });
        }
    };
    let text = logged(LogFormat::Json, LogLevel::Info, act);
    // Ten lines per second, one of them reserved for accept errors; the loop takes seconds at worst. Without
    // a limit there would be 5,000.
    assert!((9..=100).contains(&text.lines().count()), "{} lines", text.lines().count());
    assert!(telemetry.render().contains("larder_denied_total{reason=\"malformed\"} 5000"));
}

#[test]
fn a_flood_of_pingora_lines_is_limited_too() {
    let act = || {
        for _ in 0..1_000 {
            tracing_log::log::error!(target: "pingora_proxy", "Fail to proxy: x");
        }
    };
    let text = logged(LogFormat::Json, LogLevel::Info, act);
    assert!((10..=100).contains(&text.lines().count()), "{} lines", text.lines().count());
}

#[test]
fn a_failed_call_is_logged_with_upstream_route_and_class() {
    let call = UpstreamEvent {
        upstream: 0,
        route: 1,
        host: "discord.example",
        port: 8443,
        outcome: Err("connect-refused"),
        duration: std::time::Duration::from_millis(1),
    };
    let act = || telemetry().upstream_call(&call);
    let line = as_json(&logged(LogFormat::Json, LogLevel::Info, act));
    assert_eq!(line["message"], "Call to origin failed");
    assert_eq!(line["upstream"], "discord");
    assert_eq!(line["route"], "none");
    assert_eq!((&line["host"], &line["port"]), (&"discord.example".into(), &8443.into()));
    assert_eq!(line["error"], "connect-refused");
}

#[test]
fn pingora_warnings_are_logged_at_debug_only() {
    let act = || tracing_log::log::warn!(target: "pingora_core::connectors", "not reusable");
    for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info] {
        assert_eq!(logged(LogFormat::Json, level, act), "");
        let fails = || tracing_log::log::error!(target: "pingora_core::connectors", "no reusable stream");
        assert_eq!(logged(LogFormat::Json, level, fails), "", "it contains neither origin nor cause");
    }
    let line = as_json(&logged(LogFormat::Json, LogLevel::Debug, act));
    assert_eq!(line["level"], "debug");
}

#[test]
fn retries_and_stale_if_error_responses_are_logged_with_their_cause() {
    let wait = std::time::Duration::from_millis(2500);
    let (host, port) = ("discord.example", 443);
    let retry = RetryEvent { upstream: 0, route: 0, host, port, cause: "rate-limited", wait };
    let act = || {
        let telemetry = telemetry();
        telemetry.upstream_retry(&retry);
        telemetry.stale_served(0, "timeout");
        telemetry.stale_served(0, "stale-while-revalidate");
    };
    let text = logged(LogFormat::Json, LogLevel::Info, act);
    let lines: Vec<_> = text.lines().map(as_json).collect();
    assert_eq!(lines.len(), 2, "a stale response with a background refresh has no line: {text}");
    let summary = |line: &serde_json::Value| {
        let field = |name: &str| line[name].as_str().map(str::to_owned);
        (field("message"), field("route"), field("reason"), line["wait"].as_f64())
    };
    let expected = |message: &str, cause: &str, wait| {
        (Some(message.to_owned()), Some("roles".to_owned()), Some(cause.to_owned()), wait)
    };
    assert_eq!(summary(&lines[0]), expected("Call to origin retried", "rate-limited", Some(2.5)));
    assert_eq!(lines[0]["upstream"], "discord");
    assert_eq!(summary(&lines[1]), expected("Stale response served", "timeout", None));
    assert_eq!(logged(LogFormat::Json, LogLevel::Warn, act), "");
}

/// OVL-11: many retries and stale responses leave a part of the rate limit to more severe events.
#[test]
fn ovl_11_many_stale_responses_never_hide_a_failure() {
    let act = || {
        let telemetry = telemetry();
        for _ in 0..1000 {
            telemetry.stale_served(0, "rate-limited");
        }
        let duration = std::time::Duration::ZERO;
        let outcome = Err("connect");
        let (host, port) = ("h", 443);
        telemetry.upstream_call(&UpstreamEvent { upstream: 0, route: 0, host, port, outcome, duration });
    };
    let text = logged(LogFormat::Json, LogLevel::Info, act);
    assert!(text.contains("Call to origin failed"), "{text}");
    // Four lines per second and the failure; without a limit there would be 1,001.
    assert!(text.lines().count() < 50, "{} lines", text.lines().count());
}

#[test]
fn the_requests_of_a_minute_are_one_line_and_none_without_requests() {
    let act = || {
        let telemetry = telemetry();
        let before = telemetry.log_traffic(&telemetry.traffic());
        let hit = RequestEvent { result: ResultKind::Hit, forward_reason: None, ..request_event("/") };
        for event in [request_event("/"), hit, hit, RequestEvent { route: 1, ..hit }] {
            telemetry.record(&event);
        }
        telemetry.refresh(0, "stale-while-revalidate", "confirmed");
        let before = telemetry.log_traffic(&before);
        telemetry.log_traffic(&before);
    };
    let text = logged(LogFormat::Json, LogLevel::Info, act);
    assert_eq!(text.lines().count(), 1, "{text}");
    let line = as_json(&text);
    assert_eq!(line["message"], "Requests of the last minute");
    let counts =
        ["calls", "hits", "to_api", "failed", "tunnels", "saved_bytes"].map(|name| line[name].as_u64());
    assert_eq!(counts, [4, 3, 2, 0, 0, 4].map(Some), "{text}");
    assert_eq!((&line["routes"], &line["misses"]), (&"roles 2/3, none 1/1".into(), &"uri-miss 1".into()));
}
