//! Tests of the contents of `/metrics` after events.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;

use super::*;
use crate::decide::ForwardReason;
use crate::policy::Mode;
use crate::telemetry::event::ResultKind;

fn metrics(routes: usize) -> Metrics {
    let routes: Vec<Arc<str>> = (0..routes).map(|n| Arc::from(format!("route-{n}"))).collect();
    let routes = [routes, vec![Arc::from("none")]].concat();
    Metrics::new(&routes, &[Arc::from("discord"), Arc::from("none")])
}

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(&["route-0".into()], &["discord".into()])
}

fn request_event(route: usize, result: ResultKind) -> RequestEvent<'static> {
    RequestEvent {
        route,
        result,
        forward_reason: None,
        method: &Method::GET,
        host: "api.example.test",
        port: 80,
        path: "/",
        status: Some(StatusCode::OK),
        cache_status: None,
        error: None,
        duration: Duration::from_micros(80),
        client_bytes: 100,
        upstream_bytes: 0,
        filled_bytes: 0,
        is_own_error: false,
    }
}

/// The value of exactly this series; `None` if it does not exist.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_hit_counts_once_with_its_duration_and_bytes() {
    let metrics = metrics(1);
    metrics.record(&request_event(0, ResultKind::Hit));
    let page = metrics.render();
    assert_eq!(value(&page, r#"larder_requests_total{result="hit",route="route-0"}"#), Some(1.0));
    assert_eq!(value(&page, r#"larder_requests_total{result="miss",route="route-0"}"#), Some(0.0));
    assert_eq!(value(&page, "larder_client_bytes_total"), Some(100.0));
    assert_eq!(value(&page, "larder_upstream_bytes_total"), Some(0.0));
    let bucket = |le: &str| {
        let labels = format!(r#"{{result="hit",route="route-0",le="{le}"}}"#);
        value(&page, &format!("larder_request_duration_seconds_bucket{labels}"))
    };
    assert_eq!(bucket("0.00005"), Some(0.0));
    assert_eq!(bucket("0.0001"), Some(1.0));
    assert_eq!(bucket("60"), Some(1.0));
}

#[test]
fn a_waiter_counts_as_coalesced_in_both_families() {
    let metrics = metrics(1);
    let waiter = RequestEvent {
        forward_reason: Some(ForwardReason::UriMiss),
        ..request_event(0, ResultKind::Coalesced)
    };
    metrics.record(&waiter);
    let page = metrics.render();
    let requests = r#"larder_requests_total{result="coalesced",route="route-0"}"#;
    assert_eq!(value(&page, requests), Some(1.0));
    assert_eq!(value(&page, r#"larder_coalesced_requests_total{route="route-0"}"#), Some(1.0));
    let misses = r#"larder_misses_total{reason="uri-miss",route="route-0"}"#;
    assert_eq!(value(&page, misses), Some(1.0));
}

#[test]
fn an_index_past_the_last_route_counts_as_none() {
    let metrics = metrics(2);
    metrics.record(&request_event(2, ResultKind::Tunnel));
    metrics.record(&request_event(usize::MAX, ResultKind::Tunnel));
    let series = r#"larder_requests_total{result="tunnel",route="none"}"#;
    assert_eq!(value(&metrics.render(), series), Some(2.0));
}

fn call(status: StatusCode) -> UpstreamEvent<'static> {
    let duration = Duration::from_millis(1);
    UpstreamEvent { upstream: 0, route: 0, host: "h", port: 443, outcome: Ok(status), duration }
}

#[test]
fn every_metric_family_appears_after_its_first_event() {
    let telemetry = telemetry();
    let metrics = &telemetry.metrics;
    let missed =
        RequestEvent { forward_reason: Some(ForwardReason::Stale), ..request_event(0, ResultKind::Miss) };
    metrics.record(&missed);
    metrics.upstream_call(&call(StatusCode::OK));
    telemetry.mode(Mode::Cache);
    telemetry.insecure(["u"].into_iter());
    metrics.upstream_retry(0, "closed");
    telemetry.denied("client");
    telemetry.not_stored(0, "set-cookie");
    metrics.stale_served(0, "stale-if-error");
    telemetry.refresh(0, "stale-while-revalidate", "stored");
    telemetry.invalidated("unsafe-method", 2);
    telemetry.store_entries("memory", 3);
    telemetry.store_bytes("memory", 4);
    telemetry.evicted("memory", 5);
    metrics.store_error("write");
    metrics.accept_error();
    let page = metrics.render();
    let families: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"))
        .collect();
    let expected = [
        "larder_accept_errors_total",
        "larder_build_info",
        "larder_client_bytes_total",
        "larder_coalesced_requests_total",
        "larder_config_last_reload_successful",
        "larder_config_reload_failures_total",
        "larder_denied_total",
        "larder_entries",
        "larder_error_bytes_total",
        "larder_evictions_total",
        "larder_fast_hits_total",
        "larder_invalidations_total",
        "larder_misses_total",
        "larder_mode",
        "larder_not_stored_total",
        "larder_refreshes_total",
        "larder_request_duration_seconds",
        "larder_requests_total",
        "larder_stale_served_total",
        "larder_store_bytes",
        "larder_store_errors_total",
        "larder_store_recovered_total",
        "larder_store_state",
        "larder_upstream_bytes_total",
        "larder_upstream_insecure",
        "larder_upstream_request_duration_seconds",
        "larder_upstream_requests_total",
        "larder_upstream_retries_total",
    ];
    assert_eq!(families, BTreeSet::from(expected));
    assert_eq!(value(&page, r#"larder_entries{tier="memory"}"#), Some(3.0));
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_reports_its_memory() {
    let page = metrics(1).render();
    assert!(value(&page, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 0.0));
}

#[test]
fn unregistered_statuses_of_an_origin_do_not_create_many_series() {
    let metrics = metrics(1);
    for code in 100..1000 {
        let status = StatusCode::from_u16(code).unwrap();
        metrics.upstream_call(&call(status));
    }
    let page = metrics.render();
    let series = |line: &&str| line.starts_with("larder_upstream_requests_total{");
    assert!(page.lines().filter(series).count() < 80);
    let other = r#"larder_upstream_requests_total{code="other",route="route-0",upstream="discord"}"#;
    assert_eq!(value(&page, other), Some(400.0));
}

#[test]
fn a_hundred_busy_routes_make_a_page_below_a_megabyte() {
    let metrics = metrics(100);
    for route in 0..=100 {
        for result in [ResultKind::Hit, ResultKind::Miss, ResultKind::Stale, ResultKind::Error] {
            metrics.record(&request_event(route, result));
        }
    }
    assert!(metrics.render().len() < 1_000_000);
}

#[test]
fn exactly_one_mode_is_set_and_failed_reloads_are_counted() {
    let telemetry = telemetry();
    telemetry.mode(Mode::Cache);
    telemetry.mode(Mode::Offline);
    telemetry.reloaded(true);
    telemetry.reloaded(false);
    let page = telemetry.render();
    assert_eq!(value(&page, r#"larder_mode{mode="cache"}"#), Some(0.0));
    assert_eq!(value(&page, r#"larder_mode{mode="offline"}"#), Some(1.0));
    assert_eq!(value(&page, "larder_config_last_reload_successful"), Some(0.0));
    assert_eq!(value(&page, "larder_config_reload_failures_total"), Some(1.0));
    telemetry.reloaded(true);
    let page = telemetry.render();
    assert_eq!(value(&page, "larder_config_last_reload_successful"), Some(1.0));
    assert_eq!(value(&page, "larder_config_reload_failures_total"), Some(1.0));
}

#[test]
fn limited_calls_are_counted_by_upstream_and_cause() {
    let telemetry = telemetry();
    telemetry.rate_limited(0, "shared-limit");
    telemetry.refused_call(0, "budget");
    telemetry.waited(0, "rate-limit", Duration::from_millis(1500));
    telemetry.waited(0, "rate-limit", Duration::from_millis(500));
    let page = telemetry.render();
    for (series, expected) in [
        (r#"larder_upstream_rate_limited_total{class="shared-limit",upstream="discord"}"#, 1.0),
        (r#"larder_upstream_refused_total{cause="budget",upstream="discord"}"#, 1.0),
        (r#"larder_upstream_waits_total{cause="rate-limit",upstream="discord"}"#, 2.0),
        (r#"larder_upstream_wait_seconds_total{cause="rate-limit",upstream="discord"}"#, 2.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}");
    }
}
