//! The fake over real sockets.

use super::*;
use crate::fake::client::{SeenResponse, send};
use crate::fake::faults::Fault;

const QUOTES: &str = "/v2/cryptocurrency/quotes/latest";

/// A fake with a manual clock that is set to this time.
async fn fake_at(time: &str, options: Options) -> (Fake, Clock) {
    let clock = Clock::manual(humantime::parse_rfc3339(time).unwrap());
    let options = Options { clock: clock.clone(), ..options };
    (start("127.0.0.1:0".parse().unwrap(), options).await.unwrap(), clock)
}

async fn fake(options: Options) -> (Fake, Clock) {
    fake_at("2026-10-31T23:00:00Z", options).await
}

async fn get(fake: &Fake, path: &str) -> SeenResponse {
    send(fake.addr, "GET", path, "X-CMC_PRO_API_KEY: k\r\n", "").await
}

/// The HTTP status, and the `error_code` and `credit_count` of the body.
fn outcome(seen: &SeenResponse) -> (&str, u64, u64) {
    let status = &seen.json()["status"];
    let number = |name: &str| status[name].as_u64().unwrap();
    (seen.status(), number("error_code"), number("credit_count"))
}

#[tokio::test]
async fn quotes_by_id_are_keyed_by_id_and_cost_one_credit() {
    let (fake, _clock) = fake(Options::default()).await;
    let seen = get(&fake, &format!("{QUOTES}?id=1,1027,74")).await;
    assert_eq!(outcome(&seen), ("200", 0, 1));
    let body = seen.json();
    assert_eq!(body["status"]["timestamp"], "2026-10-31T23:00:00.000Z");
    assert!(body["status"]["error_message"].is_null());
    let data = body["data"].as_object().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["1", "1027", "74"]);
    assert_eq!(data["1027"]["symbol"], "ETH");
    assert!(data["1"]["quote"]["USD"]["price"].as_f64().unwrap() > 50_000.0);
    assert_eq!(data["1"]["quote"]["USD"]["last_updated"], "2026-10-31T23:00:00.000Z");
    assert_eq!(seen.field("etag"), None, "the real API sends no validators");
}

#[tokio::test]
async fn the_two_versions_differ_as_those_of_the_real_api() {
    let (fake, _clock) = fake(Options::default()).await;
    let two = get(&fake, &format!("{QUOTES}?symbol=btc")).await.json();
    assert_eq!(two["data"]["BTC"][0]["id"], 1, "a symbol may mean several coins");
    assert!(two["data"]["BTC"][0]["tags"][0]["name"].is_string());
    let one = get(&fake, "/v1/cryptocurrency/quotes/latest?symbol=BTC").await.json();
    assert_eq!(one["data"]["BTC"]["id"], 1);
    assert!(one["data"]["BTC"]["tags"][0].is_string());
    let slug = get(&fake, &format!("{QUOTES}?slug=bitcoin")).await.json();
    assert_eq!(slug["data"]["1"]["slug"], "bitcoin");
}

#[tokio::test]
async fn prices_change_with_the_minutes_of_the_fakes_clock() {
    let (fake, clock) = fake(Options::default()).await;
    let quotes = format!("{QUOTES}?id=1");
    let price = |seen: SeenResponse| seen.json()["data"]["1"]["quote"]["USD"]["price"].clone();
    let first = price(get(&fake, &quotes).await);
    clock.advance(Duration::from_secs(59));
    assert_eq!(price(get(&fake, &quotes).await), first);
    clock.advance(Duration::from_secs(1));
    assert_ne!(price(get(&fake, &quotes).await), first);
}

#[tokio::test]
async fn a_credit_is_billed_per_200_ids_and_per_additional_currency() {
    let (fake, _clock) = fake(Options::default()).await;
    let list = |count: u32| (1..=count).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    for (query, credits) in [
        (format!("id={}", list(200)), 1),
        (format!("id={},1027", list(200)), 2),
        (format!("id={},1,2,3", list(200)), 1),
        ("id=1&convert=USD,EUR".to_owned(), 2),
    ] {
        let seen = get(&fake, &format!("{QUOTES}?{query}")).await;
        assert_eq!(outcome(&seen), ("200", 0, credits), "{query}");
    }
    assert_eq!(outcome(&get(&fake, "/v1/global-metrics/quotes/latest").await), ("200", 0, 1));
    assert_eq!(outcome(&get(&fake, "/v1/key/info").await), ("200", 0, 0));
    let bill = fake.bill();
    assert_eq!((bill.calls, bill.credits), (5, 7));
    assert!((bill.price - 7.0 * 0.00167).abs() < 1e-12);
}

#[tokio::test]
async fn listings_are_pages_by_rank() {
    let (fake, _clock) = fake(Options::default()).await;
    let seen = get(&fake, "/v1/cryptocurrency/listings/latest?start=2&limit=3").await;
    assert_eq!(outcome(&seen), ("200", 0, 1));
    let body = seen.json();
    let ranks: Vec<_> =
        body["data"].as_array().unwrap().iter().map(|coin| coin["cmc_rank"].clone()).collect();
    assert_eq!(ranks, [2, 3, 4]);
    assert_eq!(body["status"]["total_count"], 205);
    let far = get(&fake, "/v1/cryptocurrency/listings/latest?start=900").await;
    assert_eq!(far.json()["data"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn the_global_figures_are_the_sums_over_all_coins() {
    let (fake, _clock) = fake(Options::default()).await;
    let global = get(&fake, "/v1/global-metrics/quotes/latest").await.json();
    let total = global["data"]["quote"]["USD"]["total_market_cap"].as_f64().unwrap();
    let listed = get(&fake, "/v1/cryptocurrency/listings/latest?limit=5000").await.json();
    let caps = listed["data"].as_array().unwrap().iter();
    let sum: f64 = caps.map(|coin| coin["quote"]["USD"]["market_cap"].as_f64().unwrap()).sum();
    assert!((total / sum - 1.0).abs() < 1e-6, "{total} {sum}");
}

#[tokio::test]
async fn a_valid_key_is_required() {
    let options = Options { key: Some("k".to_owned()), ..Options::default() };
    let (fake, _clock) = fake(options).await;
    let path = format!("{QUOTES}?id=1");
    let missing = send(fake.addr, "GET", &path, "", "").await;
    assert_eq!(outcome(&missing), ("401", 1002, 0));
    let wrong = send(fake.addr, "GET", &path, "X-CMC_PRO_API_KEY: x\r\n", "").await;
    assert_eq!(outcome(&wrong), ("401", 1001, 0));
    assert_eq!(wrong.json()["status"]["error_message"], "This API Key is invalid.");
    assert_eq!(get(&fake, &path).await.status(), "200");
    let in_query = send(fake.addr, "GET", &format!("{path}&CMC_PRO_API_KEY=k"), "", "").await;
    assert_eq!(in_query.status(), "200");
    assert_eq!(fake.bill().credits, 2, "refused calls cost nothing");
}

#[tokio::test]
async fn each_limit_has_its_code_and_no_retry_after() {
    let quotes = format!("{QUOTES}?id=1");
    let table = [
        (Plan { minute: Some(2), ..Plan::default() }, 1008),
        (Plan { day: Some(2), ..Plan::default() }, 1009),
        (Plan { month: Some(2), ..Plan::default() }, 1010),
        (Plan { address: Some(2), ..Plan::default() }, 1011),
    ];
    for (plan, code) in table {
        let (fake, _clock) = fake(Options { plan, ..Options::default() }).await;
        for _ in 0..2 {
            assert_eq!(outcome(&get(&fake, &quotes).await), ("200", 0, 1));
        }
        let seen = get(&fake, &quotes).await;
        assert_eq!(outcome(&seen), ("429", u64::from(code), 0));
        assert_eq!(seen.field("retry-after"), None);
        let limits = get(&fake, "/_fake/limits").await.json();
        assert_eq!(limits[code.to_string()], 1);
        assert_eq!(fake.refused().into_iter().collect::<Vec<_>>(), [(code, 1)]);
    }
}

#[tokio::test]
async fn limits_end_with_the_minute_the_utc_day_and_the_utc_month() {
    let quotes = format!("{QUOTES}?id=1");
    let hour = Duration::from_secs(3_600);
    let table = [
        (Plan { minute: Some(1), ..Plan::default() }, "2026-10-30T12:00:00Z", ONE_MINUTE),
        (Plan { day: Some(1), ..Plan::default() }, "2026-10-30T23:00:00Z", hour),
        (Plan { month: Some(1), ..Plan::default() }, "2026-10-31T23:00:00Z", hour),
        (Plan { address: Some(1), ..Plan::default() }, "2026-10-30T12:00:00Z", ONE_MINUTE),
    ];
    for (plan, start, time) in table {
        let (fake, clock) = fake_at(start, Options { plan, ..Options::default() }).await;
        assert_eq!(get(&fake, &quotes).await.status(), "200");
        clock.advance(time.saturating_sub(Duration::from_secs(1)));
        assert_eq!(get(&fake, &quotes).await.status(), "429", "{plan:?}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(get(&fake, &quotes).await.status(), "200", "{plan:?}");
    }
}

#[tokio::test]
async fn the_bill_is_by_utc_day_and_month() {
    let (fake, clock) = fake(Options { price_per_credit: 0.5, ..Options::default() }).await;
    let quotes = format!("{QUOTES}?id=1");
    get(&fake, &quotes).await;
    clock.advance(Duration::from_secs(3_600));
    get(&fake, &quotes).await;
    get(&fake, &format!("{QUOTES}?id=unknown")).await;
    let bill = get(&fake, "/_fake/bill").await.json();
    assert_eq!(bill["by_day"], json!({ "2026-10-31": 1, "2026-11-01": 1 }));
    assert_eq!(bill["by_month"], json!({ "2026-10": 1, "2026-11": 1 }));
    assert_eq!((bill["price"].as_f64(), &bill["currency"]), (Some(1.0), &json!("USD")));
    fake.reset();
    assert_eq!(fake.bill().credits, 0);
}

#[tokio::test]
async fn key_info_returns_the_remaining_quota() {
    let plan = Plan { minute: Some(30), month: Some(10_000), ..Plan::default() };
    let (fake, _clock) = fake(Options { plan, ..Options::default() }).await;
    get(&fake, &format!("{QUOTES}?id=1")).await;
    let info = get(&fake, "/v1/key/info").await.json();
    assert_eq!(info["data"]["plan"]["rate_limit_minute"], 30);
    assert_eq!(info["data"]["plan"]["credit_limit_monthly_reset"], "In 1 hours, 0 minutes");
    let unlimited = start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
    let made = get(&unlimited, "/v1/key/info").await.json()["data"]["usage"].clone();
    assert_eq!(made["current_minute"], json!({ "requests_made": 1, "requests_left": null }));
    let usage = &info["data"]["usage"];
    assert_eq!(usage["current_minute"], json!({ "requests_made": 2, "requests_left": 28 }));
    assert_eq!(usage["current_month"], json!({ "credits_used": 1, "credits_left": 9_999 }));
}

#[tokio::test]
async fn invalid_parameters_are_refused_and_cost_nothing() {
    let (fake, _clock) = fake(Options::default()).await;
    for (query, part) in [
        ("", "at least one of"),
        ("?id=1&slug=bitcoin", "exclusive peers"),
        ("?id=999999", "999999"),
        ("?id=1,999999&skip_invalid=false", "999999"),
        ("?id=1&convert=XXX", "XXX"),
    ] {
        let seen = get(&fake, &format!("{QUOTES}{query}")).await;
        assert_eq!(outcome(&seen), ("400", 400, 0), "{query}");
        let message = seen.json()["status"]["error_message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{query}: {message}");
    }
    assert_eq!(outcome(&get(&fake, &format!("{QUOTES}?id=1,999999")).await), ("200", 0, 1));
    assert_eq!(outcome(&get(&fake, "/v9/nothing").await), ("404", 404, 0));
    assert_eq!(fake.bill().credits, 1);
}

#[tokio::test]
async fn with_errors_as_200_only_the_body_contains_the_error() {
    let plan = Plan { minute: Some(1), ..Plan::default() };
    let (fake, _clock) = fake(Options { plan, errors_as_200: true, ..Options::default() }).await;
    let quotes = format!("{QUOTES}?id=1");
    assert_eq!(outcome(&get(&fake, &quotes).await), ("200", 0, 1));
    assert_eq!(outcome(&get(&fake, &quotes).await), ("200", 1008, 0));
    fake.behave(Faults::always(Fault::RateLimited(RateLimited {
        code: Some(1010),
        ..RateLimited::default()
    })));
    assert_eq!(outcome(&get(&fake, &quotes).await), ("200", 1010, 0));
    fake.behave(Faults::always(Fault::Status(StatusCode::SERVICE_UNAVAILABLE)));
    assert_eq!(get(&fake, &quotes).await.status(), "503", "the status of a script is kept");
}

#[tokio::test]
async fn scripted_errors_have_the_format_of_this_api() {
    let (fake, _clock) = fake(Options::default()).await;
    let quotes = format!("{QUOTES}?id=1");
    fake.behave(Faults::always(Fault::RateLimited(RateLimited::default())));
    let limited = get(&fake, &quotes).await;
    assert_eq!((outcome(&limited), limited.field("retry-after")), (("429", 1008, 0), None));
    fake.behave(Faults::always(Fault::rate_limited(2)));
    assert_eq!(get(&fake, &quotes).await.field("retry-after"), Some("2"));
    fake.behave(Faults::always(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)));
    assert_eq!(outcome(&get(&fake, &quotes).await), ("500", 500, 0));
    assert!(fake.refused().is_empty(), "its own limits refused no call");
}

#[tokio::test]
async fn with_validators_unchanged_data_is_a_304_and_free() {
    let (fake, clock) = fake(Options { validators: true, ..Options::default() }).await;
    let quotes = format!("{QUOTES}?id=1");
    let first = get(&fake, &quotes).await;
    let etag = first.field("etag").unwrap().to_owned();
    let fields = format!("X-CMC_PRO_API_KEY: k\r\nIf-None-Match: {etag}\r\n");
    clock.advance(Duration::from_secs(30));
    let again = send(fake.addr, "GET", &quotes, &fields, "").await;
    assert_eq!((again.status(), again.body.as_str()), ("304", ""));
    clock.advance(Duration::from_secs(30));
    assert_eq!(send(fake.addr, "GET", &quotes, &fields, "").await.status(), "200");
    assert_eq!(fake.bill().credits, 2);
}

#[tokio::test]
async fn calls_are_counted_by_endpoint_and_status() {
    let (fake, _clock) = fake(Options::default()).await;
    get(&fake, &format!("{QUOTES}?id=1")).await;
    get(&fake, QUOTES).await;
    let calls = fake.calls();
    assert_eq!(calls.by_endpoint["GET /v2/cryptocurrency/quotes/latest"], 2);
    assert_eq!((calls.by_status[&200], calls.by_status[&400]), (1, 1));
    assert_eq!(fake.calls_by_second().len(), 1);
}
