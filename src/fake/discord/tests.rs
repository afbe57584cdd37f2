//! The fake over real sockets.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::fake::client::{get, send};
use crate::fake::faults::Fault;
use crate::fake::rate::Rate;
use crate::fake::script::Phase;

const ROLES: &str = "/api/v10/guilds/1/roles";

async fn fake() -> Fake {
    start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap()
}

#[tokio::test]
async fn roles_come_with_a_validator_and_limits_and_without_cache_control() {
    let fake = fake().await;
    let seen = get(fake.addr, ROLES).await;
    assert_eq!(seen.status(), "200");
    assert_eq!(seen.json().as_array().unwrap().len(), 10);
    assert_eq!(seen.field("content-type"), Some("application/json"));
    assert_eq!(seen.field("cache-control"), None);
    assert_eq!(seen.field("x-ratelimit-remaining"), Some("49"));
    let etag = seen.field("etag").unwrap();
    let again = send(fake.addr, "GET", ROLES, &format!("If-None-Match: {etag}\r\n"), "").await;
    assert_eq!((again.status(), again.body.as_str()), ("304", ""));
}

#[tokio::test]
async fn an_option_adds_cache_control() {
    let cache_control = Some(HeaderValue::from_static("max-age=60"));
    let options = Options { cache_control, ..Options::default() };
    let fake = start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    assert_eq!(get(fake.addr, ROLES).await.field("cache-control"), Some("max-age=60"));
}

#[tokio::test]
async fn endpoints_about_the_caller_require_credentials() {
    let fake = fake().await;
    let path = "/api/v10/users/@me/guilds";
    assert_eq!(get(fake.addr, path).await.status(), "401");
    let a = send(fake.addr, "GET", path, "Authorization: Bearer a\r\n", "").await;
    let b = send(fake.addr, "GET", path, "Authorization: Bearer b\r\n", "").await;
    assert_eq!((a.status(), b.status()), ("200", "200"));
    assert_ne!(a.body, b.body);
}

#[tokio::test]
async fn a_write_changes_what_is_read_until_a_reset() {
    let fake = fake().await;
    let member = "/api/v10/guilds/1/members/7";
    let before = get(fake.addr, member).await.body;
    let changed = send(fake.addr, "PATCH", member, "", r#"{"nick": "N"}"#).await;
    assert_eq!(changed.json()["nick"], "N");
    assert_eq!(get(fake.addr, member).await.json()["nick"], "N");
    assert_eq!(send(fake.addr, "DELETE", member, "", "").await.status(), "204");
    assert_eq!(get(fake.addr, member).await.status(), "404");
    fake.reset();
    assert_eq!(get(fake.addr, member).await.body, before);
}

#[tokio::test]
async fn calls_are_counted_by_endpoint_with_the_bytes_of_their_bodies() {
    let fake = fake().await;
    let roles = get(fake.addr, ROLES).await;
    let member = get(fake.addr, "/api/v10/guilds/1/members/7").await;
    get(fake.addr, "/api/v10/guilds/1/members/8?x=1").await;
    send(fake.addr, "HEAD", ROLES, "", "").await;
    let calls = fake.calls();
    assert_eq!(calls.total, 4);
    assert_eq!(calls.by_endpoint["GET /guilds/{guild}/roles"], 2);
    assert_eq!(calls.by_endpoint["GET /guilds/{guild}/members/{user}"], 2);
    assert!(calls.bytes > (roles.body.len() + member.body.len()) as u64);
    assert!(calls.bytes < (roles.body.len() * 2 + member.body.len()) as u64);
    let counts = get(fake.addr, "/_fake/calls").await.json();
    assert_eq!(counts["total"], 4, "requests for the counts are not counted");
    assert_eq!(counts["bytes"], calls.bytes);
    assert_eq!(send(fake.addr, "POST", "/_fake/reset", "", "").await.status(), "204");
    assert_eq!(fake.calls(), CallLog::default());
}

#[tokio::test]
async fn a_status_fault_affects_the_set_number_of_calls() {
    let fake = fake().await;
    fake.behave(Faults::next(2, Fault::Status(StatusCode::SERVICE_UNAVAILABLE)));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(get(fake.addr, ROLES).await.status().to_owned());
    }
    assert_eq!(statuses, ["503", "503", "200"]);
}

#[tokio::test]
async fn a_rate_limit_fault_is_set_and_cleared_over_http() {
    let fake = fake().await;
    let limit = r#"{"fault": {"rate_limited": {"retry_after": 3}}}"#;
    assert_eq!(send(fake.addr, "POST", "/_fake/behave", "", limit).await.status(), "204");
    let seen = get(fake.addr, ROLES).await;
    assert_eq!((seen.status(), seen.field("retry-after")), ("429", Some("3")));
    assert_eq!(seen.json()["message"], "You are being rate limited.");
    assert_eq!(send(fake.addr, "POST", "/_fake/behave", "", "{}").await.status(), "204");
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
}

#[tokio::test]
async fn an_invalid_fault_is_rejected_with_an_example() {
    let fake = fake().await;
    let seen = send(fake.addr, "POST", "/_fake/behave", "", r#"{"fault": "flood"}"#).await;
    assert_eq!(seen.status(), "400");
    let example = seen.json()["for_example"].as_str().unwrap().to_owned();
    assert_eq!(send(fake.addr, "POST", "/_fake/behave", "", &example).await.status(), "204");
}

#[tokio::test]
async fn a_closed_connection_delivers_no_byte() {
    let fake = fake().await;
    fake.behave(Faults::always(Fault::Close));
    let seen = get(fake.addr, ROLES).await;
    assert_eq!((seen.head.as_str(), seen.body.as_str()), ("", ""));
    assert_eq!(fake.calls().total, 1);
}

#[tokio::test]
async fn a_cut_body_has_half_of_the_announced_length() {
    let fake = fake().await;
    fake.behave(Faults::always(Fault::Cut));
    let seen = get(fake.addr, ROLES).await;
    assert_eq!(seen.status(), "200");
    let announced: usize = seen.field("content-length").unwrap().parse().unwrap();
    assert_eq!(seen.body.len(), announced / 2);
    assert_eq!(fake.calls().bytes, seen.body.len() as u64);
}

#[tokio::test]
async fn latency_is_the_minimum_time_of_a_response() {
    let fake = fake().await;
    let latency = Duration::from_millis(30);
    fake.behave(Faults { latency, ..Faults::default() });
    let start = Clock::system().instant();
    get(fake.addr, ROLES).await;
    assert!(Clock::system().instant().duration_since(start) >= latency);
}

#[tokio::test]
async fn the_date_field_is_that_of_the_fakes_clock() {
    let (fake, clock) = limited(Limits::default()).await;
    clock.advance(Duration::from_secs(3_600));
    let seen = get(fake.addr, ROLES).await;
    assert_eq!(seen.field("date"), Some("Thu, 01 Jan 1970 01:16:40 GMT"));
}

#[tokio::test]
async fn latency_runs_by_the_fakes_clock() {
    let clock = Clock::manual(START);
    let latency = Duration::from_secs(3_600);
    let behaviour = Faults { latency, ..Faults::default() };
    let options = Options { behaviour, clock: clock.clone(), ..Options::default() };
    let fake = start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let request = tokio::spawn(get(fake.addr, ROLES));
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(latency);
    assert_eq!(request.await.unwrap().status(), "200");
}

#[tokio::test]
async fn a_stopped_fake_releases_its_port() {
    let first = fake().await;
    let addr = first.addr;
    let Err(error) = start(addr, Options::default()).await else { panic!("two on one port") };
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    first.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
    start(addr, Options::default()).await.unwrap().stop().await;
}

const START: SystemTime = SystemTime::UNIX_EPOCH;

/// A fake that enforces these limits, with a manual clock.
async fn limited(limits: Limits) -> (Fake, Clock) {
    let clock = Clock::manual(START + Duration::from_secs(1_000));
    let options = Options { limits: Some(limits), clock: clock.clone(), ..Options::default() };
    (start("127.0.0.1:0".parse().unwrap(), options).await.unwrap(), clock)
}

fn per_second(limit: u64) -> Rate {
    Rate { limit, window: Duration::from_secs(1) }
}

#[tokio::test]
async fn a_bucket_counts_down_and_its_window_begins_with_the_first_call() {
    let (fake, clock) = limited(Limits { route: per_second(2), ..Limits::default() }).await;
    let first = get(fake.addr, ROLES).await;
    assert_eq!(first.field("x-ratelimit-limit"), Some("2"));
    assert_eq!(first.field("x-ratelimit-remaining"), Some("1"));
    assert_eq!(first.field("x-ratelimit-reset"), Some("1001.000"));
    assert_eq!(first.field("x-ratelimit-reset-after"), Some("1.000"));
    clock.advance(Duration::from_millis(600));
    let second = get(fake.addr, ROLES).await;
    assert_eq!(second.field("x-ratelimit-remaining"), Some("0"));
    assert_eq!(second.field("x-ratelimit-reset-after"), Some("0.400"));
    assert!(!fake.exceeded().any());
    let third = get(fake.addr, ROLES).await;
    assert_eq!((third.status(), third.field("retry-after")), ("429", Some("1")));
    assert_eq!(third.field("x-ratelimit-scope"), Some("user"));
    assert_eq!(third.field("x-ratelimit-bucket"), first.field("x-ratelimit-bucket"));
    assert_eq!(third.json()["retry_after"], 0.4);
    assert_eq!((fake.exceeded().user, fake.exceeded().any()), (1, true));
    clock.advance(Duration::from_millis(400));
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
}

#[tokio::test]
async fn guilds_and_callers_have_their_own_windows_under_one_bucket_name() {
    let (fake, _clock) = limited(Limits { route: per_second(1), ..Limits::default() }).await;
    let one = get(fake.addr, ROLES).await;
    let two = get(fake.addr, "/api/v10/guilds/2/roles").await;
    assert_eq!((one.status(), two.status()), ("200", "200"));
    assert_eq!(one.field("x-ratelimit-bucket"), two.field("x-ratelimit-bucket"));
    let bot = send(fake.addr, "GET", ROLES, "Authorization: Bot a\r\n", "").await;
    assert_eq!(bot.status(), "200");
    let member = get(fake.addr, "/api/v10/guilds/1/members/7").await;
    assert_eq!(member.status(), "200");
    assert_ne!(one.field("x-ratelimit-bucket"), member.field("x-ratelimit-bucket"));
    assert_eq!(get(fake.addr, ROLES).await.status(), "429");
}

#[tokio::test]
async fn the_global_limit_covers_all_routes_of_a_caller_and_has_no_bucket() {
    let (fake, _clock) = limited(Limits { global: per_second(1), ..Limits::default() }).await;
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
    let seen = get(fake.addr, "/api/v10/guilds/2/members/7").await;
    assert_eq!((seen.status(), seen.field("x-ratelimit-global")), ("429", Some("true")));
    assert_eq!(seen.field("x-ratelimit-scope"), Some("global"));
    assert_eq!(seen.field("x-ratelimit-bucket"), None);
    assert_eq!(seen.json()["global"], true);
    let other = send(fake.addr, "GET", ROLES, "Authorization: Bot a\r\n", "").await;
    assert_eq!(other.status(), "200", "another caller has a limit of its own");
    assert_eq!(fake.exceeded().global, 1);
}

#[tokio::test]
async fn a_shared_limit_covers_all_callers_and_counts_towards_no_ban() {
    let shared = limits::Shared { resource: "1".to_owned(), rate: per_second(1) };
    let (fake, _clock) = limited(Limits { shared: vec![shared], ..Limits::default() }).await;
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
    let seen = send(fake.addr, "GET", ROLES, "Authorization: Bot a\r\n", "").await;
    assert_eq!((seen.status(), seen.field("x-ratelimit-scope")), ("429", Some("shared")));
    assert_eq!(get(fake.addr, "/api/v10/guilds/2/roles").await.status(), "200");
    let exceeded = fake.exceeded();
    assert_eq!((exceeded.shared, exceeded.invalid), (1, 0));
}

#[tokio::test]
async fn too_many_errors_in_any_ten_minutes_cause_a_ban() {
    let after = "2/10m".parse().unwrap();
    let ban = Some(limits::Ban { after, length: Duration::from_secs(60) });
    let (fake, clock) = limited(Limits { ban, ..Limits::default() }).await;
    let me = "/api/v10/users/@me";
    for wait in [0, 300, 299] {
        clock.advance(Duration::from_secs(wait));
        assert_eq!(get(fake.addr, ROLES).await.status(), "200");
        assert_eq!(get(fake.addr, me).await.status(), "401");
    }
    assert_eq!(get(fake.addr, ROLES).await.status(), "403");
    let exceeded = fake.exceeded();
    assert_eq!((exceeded.invalid, exceeded.bans, exceeded.banned), (3, 1, 1));
    clock.advance(Duration::from_secs(59));
    let banned = get(fake.addr, ROLES).await;
    assert_eq!((banned.status(), banned.field("retry-after")), ("403", Some("1")));
    assert_eq!(banned.field("x-ratelimit-limit"), None);
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
    let limits = get(fake.addr, "/_fake/limits").await.json();
    assert_eq!((limits["bans"].as_u64(), limits["banned"].as_u64()), (Some(1), Some(2)));
}

#[tokio::test]
async fn errors_outside_the_window_cause_no_ban() {
    let after = "2/10m".parse().unwrap();
    let ban = Some(limits::Ban { after, length: Duration::from_secs(60) });
    let (fake, clock) = limited(Limits { ban, ..Limits::default() }).await;
    for _ in 0..10 {
        assert_eq!(get(fake.addr, "/api/v10/users/@me").await.status(), "401");
        clock.advance(Duration::from_secs(300));
    }
    assert_eq!((fake.exceeded().invalid, fake.exceeded().bans), (10, 0));
}

#[tokio::test]
async fn a_scripted_storm_counts_towards_a_ban_and_exceeds_no_limit() {
    let (fake, _clock) = limited(Limits::default()).await;
    fake.behave(Faults::next(3, Fault::rate_limited(1)));
    for _ in 0..3 {
        assert_eq!(get(fake.addr, ROLES).await.status(), "429");
    }
    assert_eq!(fake.exceeded(), Exceeded { invalid: 3, ..Exceeded::default() });
    assert!(!fake.exceeded().any());
}

#[tokio::test]
async fn script_phases_follow_the_clock_and_calls_are_counted_by_phase() {
    let clock = Clock::manual(START + Duration::from_secs(1_000));
    let minute = Duration::from_secs(60);
    let phases = vec![Phase::storm(minute, Some(1)), Phase::outage(minute)];
    let script = Some(Script::try_from(phases).unwrap());
    let options = Options { script, clock: clock.clone(), ..Options::default() };
    let fake = start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    for status in ["429", "503", "200"] {
        assert_eq!(get(fake.addr, ROLES).await.status(), status);
        assert_eq!(get(fake.addr, ROLES).await.status(), status);
        clock.advance(minute);
    }
    let calls = fake.calls();
    let phases: Vec<_> = calls.by_phase.iter().map(|(name, calls)| (&**name, *calls)).collect();
    assert_eq!(phases, [("afterwards", 2), ("outage", 2), ("storm", 2)]);
    assert_eq!(calls.by_status[&503], 2);
    let seconds: Vec<_> = fake.calls_by_second().into_iter().collect();
    assert_eq!(seconds, [(1_000, 2), (1_060, 2), (1_120, 2)]);
    assert_eq!(get(fake.addr, "/_fake/seconds").await.json()["1060"], 2);
    fake.reset();
    assert_eq!(get(fake.addr, ROLES).await.status(), "429", "a reset restarts the script");
}

#[tokio::test]
async fn a_script_is_set_over_http_and_an_invalid_one_is_rejected() {
    let fake = fake().await;
    let script = r#"[{"calls": 1, "fault": {"rate_limited": {}}}, {"fault": {"status": 500}}]"#;
    assert_eq!(send(fake.addr, "POST", "/_fake/script", "", script).await.status(), "204");
    let limited = get(fake.addr, ROLES).await;
    assert_eq!((limited.status(), limited.field("retry-after")), ("429", None));
    assert_eq!(limited.field("x-ratelimit-reset-after"), None);
    assert_eq!(get(fake.addr, ROLES).await.status(), "500");
    let wrong = send(fake.addr, "POST", "/_fake/script", "", r#"[{"for": "soon"}]"#).await;
    assert_eq!(wrong.status(), "400");
    let example = wrong.json()["for_example"].as_str().unwrap().to_owned();
    assert_eq!(send(fake.addr, "POST", "/_fake/script", "", &example).await.status(), "204");
}

#[tokio::test]
async fn refusing_connections_forever_is_rejected_over_http() {
    let fake = fake().await;
    let refuse = r#"{"fault": "refuse"}"#;
    let seen = send(fake.addr, "POST", "/_fake/behave", "", refuse).await;
    assert_eq!(seen.status(), "400");
    assert!(seen.json()["error"].as_str().unwrap().contains("/_fake/script"), "{}", seen.body);
    let list = format!("[{refuse}]");
    assert_eq!(send(fake.addr, "POST", "/_fake/script", "", &list).await.status(), "400");
}

/// Waits until a connection to the fake ends as `wanted`; the listener follows its script within moments.
async fn wait_until_connecting(addr: SocketAddr, wanted: Option<io::ErrorKind>) {
    let eventually = async {
        loop {
            let seen = TcpStream::connect(addr).await.err().map(|error| error.kind());
            if seen == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), eventually).await.unwrap();
}

#[tokio::test]
async fn connections_are_refused_during_the_phase_that_refuses_them() {
    let clock = Clock::manual(START);
    let minute = Duration::from_secs(60);
    let phases =
        vec![Phase::lasting("calm", minute, None), Phase::lasting("down", minute, Some(Fault::Refuse))];
    let script = Some(Script::try_from(phases).unwrap());
    let options = Options { script, clock: clock.clone(), ..Options::default() };
    let fake = start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
    clock.advance(minute);
    wait_until_connecting(fake.addr, Some(io::ErrorKind::ConnectionRefused)).await;
    clock.advance(minute);
    wait_until_connecting(fake.addr, None).await;
    assert_eq!(get(fake.addr, ROLES).await.status(), "200");
    let mut open = TcpStream::connect(fake.addr).await.unwrap();
    fake.behave(Faults::always(Fault::Refuse));
    wait_until_connecting(fake.addr, Some(io::ErrorKind::ConnectionRefused)).await;
    open.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap_or_default();
    let mut response = Vec::new();
    open.read_to_end(&mut response).await.unwrap_or_default();
    assert!(response.is_empty(), "an open connection is closed at its next call");
    fake.behave(Faults::default());
    wait_until_connecting(fake.addr, None).await;
}

#[tokio::test]
async fn the_response_to_an_unknown_probe_lists_the_probes() {
    let fake = fake().await;
    let seen = get(fake.addr, "/_fake/bill").await;
    assert_eq!(seen.status(), "404");
    assert!(seen.body.contains("/_fake/limits"), "{}", seen.body);
}
