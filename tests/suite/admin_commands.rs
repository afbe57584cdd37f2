//! The commands that call the admin API of a running larder, run as separate processes: against a fake
//! admin API, for states that are hard to produce, and against a real larder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use larder::admin::{self, api};
use larder::config::{Admin, token::Token};
use larder::policy::Mode;
use larder::policy::upstream::{CostBudget, OverBudgetAction, Period};
use larder::telemetry::Telemetry;
use larder::telemetry::cost::{BudgetStatus, CostReport, PeriodUsage};
use larder::upstream::admission::status::{CooldownStatus, LimitStatus, UpstreamStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::larder_under_test::{API, Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{Process, TIMEOUT, program, text};

const TOKEN: &str = "s3cret-s3cret-s3cret";

/// An admin API with sample data; it fails if `fails` is set.
#[derive(Default)]
struct FakeAdminApi {
    fails: bool,
    stored: usize,
    mode: Mutex<Mode>,
    requests: Mutex<Vec<String>>,
}

#[async_trait]
impl api::AdminApi for FakeAdminApi {
    fn ready(&self) -> api::Readiness {
        api::Readiness { ready: true, details: Vec::new() }
    }

    fn pac(&self, _: Option<&str>) -> String {
        String::new()
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn ca(&self) -> Option<String> {
        None
    }

    async fn reload(&self) -> Result<api::ReloadResult, api::ReloadError> {
        if self.fails {
            let report = "proxy.yaml:2:1: lisen: is not a key\u{1b}[2J\nproxy.yaml: 1 problem";
            return Err(api::ReloadError { report: report.to_owned() });
        }
        Ok(api::ReloadResult { routes: 1, warnings: vec!["coins sets it aside".to_owned()] })
    }

    fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    fn set_mode(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    async fn purge(&self, purge: &api::Purge) -> Result<api::PurgeResult, api::PurgeError> {
        self.requests.lock().push(format!("{purge:?}"));
        if self.fails {
            return Err(api::PurgeError { reason: "the disk is full".to_owned() });
        }
        Ok(api::PurgeResult { count: 3, sent_as: None })
    }

    async fn release(&self, upstream: &str) -> Option<usize> {
        (upstream == "discord").then_some(1)
    }

    async fn entries(&self, query: &api::ListQuery) -> api::Page {
        self.requests.lock().push(format!("{query:?}"));
        let from = query.after.as_deref().map_or(0, |after| after.parse().expect("a cursor"));
        let to = self.stored.min(from + query.limit);
        let next = (to < self.stored).then(|| to.to_string());
        let entries = (from..to).map(|number| sample_entry(number, query.details)).collect();
        api::Page { entries, next, sent_as: None }
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        if self.stored == 0 {
            return Vec::new();
        }
        let report = |name: &str| UpstreamStatus {
            name: name.into(),
            configured: true,
            in_flight: 2,
            waiting: 0,
            cooldowns: Vec::new(),
            breaker: None,
            limits: Vec::new(),
            ban_guard: None,
            retries: (1, 10),
        };
        let cooldowns = vec![
            cooldown("bucket", "rate-limited", true, 1500, 1),
            cooldown("key", "timeout", false, 29_400, 3),
            CooldownStatus { probing: true, ..cooldown("upstream", "breaker", true, 0, 1) },
            cooldown("origin", "connect", true, 0, 1),
        ];
        let window = Some(Duration::from_secs(60));
        let limits = vec![LimitStatus { name: "configured".to_owned(), limit: 30, window, left: 12 }];
        vec![
            UpstreamStatus {
                cooldowns,
                limits,
                breaker: Some("open"),
                ban_guard: Some((3, 8000)),
                ..report("coins")
            },
            UpstreamStatus { configured: false, ..report("api.example:443") },
        ]
    }

    fn cost(&self) -> Vec<CostReport> {
        if self.stored == 0 {
            return Vec::new();
        }
        let ends_in = Duration::from_secs(90_000);
        let spent = |calls, credits| PeriodUsage {
            since: SystemTime::UNIX_EPOCH,
            ends_in,
            calls,
            credits,
            money: credits * 0.5,
            avoided_calls: 40,
            avoided_credits: 62.5,
            avoided_money: 31.25,
        };
        let budget = |at_limit| CostBudget { credits: 10.0, period: Period::Month, warn_at: 0.8, at_limit };
        let standing = |used: f64| BudgetStatus {
            used,
            share: used / 10.0,
            spent: used >= 10.0,
            warn: used >= 8.0,
            ends_in,
        };
        let spending = |name: &str, budget| CostReport {
            upstream: name.into(),
            currency: "USD".to_owned(),
            per_credit: 0.5,
            today: spent(2, 2.5),
            month: spent(7, 9.0),
            budget,
        };
        vec![
            spending("coins", Some((budget(OverBudgetAction::StaleOnly), standing(9.0)))),
            spending("maps", Some((budget(OverBudgetAction::Refuse), standing(12.5)))),
            spending("roles", None),
        ]
    }
}

fn cooldown(reach: &'static str, cause: &'static str, firm: bool, left: u64, count: usize) -> CooldownStatus {
    let left = Duration::from_millis(left);
    CooldownStatus { scope: reach, reason: cause, firm, left, until_released: false, probing: false, count }
}

fn sample_entry(number: usize, details: bool) -> api::Entry {
    let mut headers = http::HeaderMap::new();
    headers.append("link", "</a>".parse().unwrap());
    headers.append("link", "</b>\t\u{9b}x".parse().unwrap());
    api::Entry {
        url: format!("{API}/{number}"),
        key: 0xab,
        scope: if number == 0 { "shared" } else { "credential" },
        route: (number != 1).then(|| "coins".to_owned()),
        status: 200,
        stored: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        age: Duration::from_secs(90),
        ttl: [Some(1710), None, Some(-30)].get(number).copied().unwrap_or(Some(0)),
        bytes: 12 << 10,
        vary: vec!["accept".to_owned()],
        tiers: vec!["memory", "disk"],
        headers: details.then_some(headers),
    }
}

/// Starts an admin listener that serves `larder`; it stops when the sender is dropped.
async fn admin(
    larder: FakeAdminApi,
    token: Option<&str>,
) -> (SocketAddr, Arc<FakeAdminApi>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let token = token.map(|token| Token::parse(token.as_bytes()).unwrap());
    let rules = Admin { listen: addr, token, ..Admin::default() };
    let (stop, stopped) = watch::channel(false);
    let larder = Arc::new(larder);
    let controls = Arc::clone(&larder) as Arc<dyn api::AdminApi>;
    tokio::spawn(admin::serve(listener, &rules, controls, Telemetry::new(&[], &[]), stopped));
    (addr, larder, stop)
}

/// Runs a command in `directory`, with these environment variables and no others of larder's.
async fn run_in(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("LARDER_ADMIN").env_remove("LARDER_ADMIN_TOKEN");
    command.envs(variables.iter().copied());
    timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it starts")
}

/// Runs a command against this admin listener: exit code, standard output, standard error.
async fn run_at(addr: SocketAddr, arguments: &[&str]) -> (i32, String, String) {
    let nowhere = tempfile::tempdir().unwrap();
    let addr = addr.to_string();
    let output = run_in(arguments, &[("LARDER_ADMIN", addr.as_str())], nowhere.path()).await;
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn purge_prints_the_number_of_purged_responses() {
    let (addr, larder, _stop) = admin(FakeAdminApi::default(), None).await;
    let url = format!("{API}/x?a=1");
    let table: [(&[&str], String, &str); 5] = [
        (&["purge", &url], format!("purged 3 stored responses of {url}\n"), "soft: false, dry_run: false"),
        (&["purge", "--all"], "purged 3 stored responses\n".to_owned(), "All, soft: false, dry_run: false"),
        (
            &["purge", "--all", "--soft"],
            "made stale: 3 stored responses\n".to_owned(),
            "soft: true, dry_run: false",
        ),
        (
            &["purge", "--all", "--dry-run"],
            "would purge 3 stored responses\n".to_owned(),
            "soft: false, dry_run: true",
        ),
        (&["purge", "--all", "--json"], "{\n  \"count\": 3\n}\n".to_owned(), "All, soft: false"),
    ];
    for (arguments, expected, expected_request) in table {
        let (code, out, err) = run_at(addr, arguments).await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected.as_str(), ""), "{arguments:?}");
        let seen = std::mem::take(&mut *larder.requests.lock()).concat();
        assert!(seen.contains(expected_request), "{arguments:?}: {seen}");
    }
}

#[tokio::test]
async fn commands_with_invalid_arguments_are_usage_errors_and_send_no_request() {
    let (addr, larder, _stop) = admin(FakeAdminApi::default(), None).await;
    let url = format!("{API}/x");
    for arguments in [
        &["purge"][..],
        &["purge", "--soft"],
        &["purge", &url, "--all"],
        &["purge", "*"],
        &["purge", "api.example/x"],
        &["purge", ""],
        &["inspect", "coins"],
        &["ls", "--url", "*"],
        &["mode", "off"],
    ] {
        let (code, out, err) = run_at(addr, arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
    assert!(larder.requests.lock().is_empty());
}

#[tokio::test]
async fn a_refused_command_exits_with_1_and_prints_the_reason_and_report() {
    let (addr, _larder, _stop) = admin(FakeAdminApi { fails: true, ..FakeAdminApi::default() }, None).await;
    let (code, out, err) = run_at(addr, &["purge", "--all"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("larder purge: ") && err.ends_with(" (the disk is full)\n"), "{err}");
    let (code, out, err) = run_at(addr, &["reload"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let report = "\nproxy.yaml:2:1: lisen: is not a key\u{fffd}[2J\nproxy.yaml: 1 problem\n";
    assert!(err.ends_with(report), "control characters do not reach the terminal: {err:?}");
    let (code, out, _) = run_at(addr, &["reload", "--json"]).await;
    let problem: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &problem["larder_error"]["class"]), (1, &json!("not_reloaded")));
    assert!(problem["larder_error"]["report"].as_str().unwrap().contains("lisen"));
}

#[tokio::test]
async fn reload_and_mode_print_the_current_state() {
    let (addr, larder, _stop) = admin(FakeAdminApi::default(), None).await;
    let (code, out, _) = run_at(addr, &["reload"]).await;
    assert_eq!((code, out.as_str()), (0, "reloaded: 1 route\n  coins sets it aside\n"));
    assert_eq!(run_at(addr, &["mode"]).await.1, "cache\n");
    assert_eq!(run_at(addr, &["mode", "offline"]).await.1, "offline\n");
    assert_eq!(*larder.mode.lock(), Mode::Offline);
    assert_eq!(run_at(addr, &["mode", "--json"]).await.1, "{\n  \"mode\": \"offline\"\n}\n");
}

#[tokio::test]
async fn ls_prints_an_aligned_table_and_reads_as_many_pages_as_needed() {
    let (addr, larder, _stop) = admin(FakeAdminApi { stored: 3, ..FakeAdminApi::default() }, None).await;
    let (code, out, err) = run_at(addr, &["ls"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = format!(
        "STATUS  SCOPE       AGE     TTL        SIZE   TIERS        ROUTE  URL\n\
         200     shared      1m 30s  28m 30s    12KiB  memory,disk  coins  {API}/0\n\
         200     credential  1m 30s  no route   12KiB  memory,disk  -      {API}/1\n\
         200     credential  1m 30s  stale 30s  12KiB  memory,disk  coins  {API}/2\n"
    );
    assert_eq!(out, expected);
    let (_, out, _) = run_at(addr, &["ls", "--limit", "2"]).await;
    assert!(out.ends_with("… and more: larder ls --limit 20\n"), "{out}");
    larder.requests.lock().clear();
    let (many, larder, _stop) = admin(FakeAdminApi { stored: 2500, ..FakeAdminApi::default() }, None).await;
    let (_, out, _) = run_at(many, &["ls", "--limit", "2100", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2100);
    assert_eq!(listed["entries"][2099]["url"], format!("{API}/2099"));
    assert_eq!(listed["next"], "2100");
    assert_eq!(larder.requests.lock().len(), 3, "pages of a thousand");
    let url = format!("{API}/a?b=c&d=%2F");
    run_at(addr, &["ls", "--url", &url]).await;
}

#[tokio::test]
async fn a_url_reaches_larder_unchanged() {
    let (addr, larder, _stop) = admin(FakeAdminApi::default(), None).await;
    for path in ["/a?b=c&d=%2F+e", "/ü/%20", "/x?limit=1&details=true#fragment"] {
        let url = format!("{API}{path}");
        let expected = url.split('#').next().unwrap().to_owned();
        run_at(addr, &["purge", &url]).await;
        run_at(addr, &["inspect", &url]).await;
        let target = larder::semantics::target::Target::absolute(&expected).unwrap();
        for request in std::mem::take(&mut *larder.requests.lock()) {
            assert!(request.contains(&format!("{target:?}")), "{request}");
        }
    }
}

#[tokio::test]
async fn inspect_prints_every_response_of_a_url_with_its_fields() {
    let (addr, _larder, _stop) = admin(FakeAdminApi { stored: 2, ..FakeAdminApi::default() }, None).await;
    let (code, out, _) = run_at(addr, &["inspect", &format!("{API}/0")]).await;
    assert_eq!(code, 0);
    let first = format!(
        "{API}/0\n  status  200\n  scope   shared\n  \
         key     000000000000000000000000000000ab\n  route   coins\n  \
         stored  2027-01-15T08:00:00.000Z\n  age     1m 30s\n  ttl     28m 30s\n  \
         body    12KiB in memory and disk\n  vary    accept\n    link: </a>\n    \
         link: </b>\u{fffd}\u{fffd}x\n\n{API}/1\n"
    );
    assert!(out.starts_with(&first), "{out:?}");
    assert!(out.contains("  route   none: it is no longer served\n"), "{out}");
    let (empty, _larder, _stop) = admin(FakeAdminApi::default(), None).await;
    let (code, out, err) = run_at(empty, &["inspect", &format!("{API}/0")]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "no response is stored for this URL\n", ""));
    let (code, out, _) = run_at(empty, &["ls"]).await;
    assert_eq!((code, out.as_str()), (0, "nothing is stored\n"));
}

#[tokio::test]
async fn upstreams_prints_a_table_and_then_cooldowns_and_limits() {
    let (addr, _larder, _stop) = admin(FakeAdminApi { stored: 1, ..FakeAdminApi::default() }, None).await;
    let (code, out, err) = run_at(addr, &["upstreams"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
UPSTREAM                       IN FLIGHT  WAITING  BREAKER  RETRIES  INVALID
coins                          2          0        open     1/10     3/8000
api.example:443 (no upstream)  2          0        -        1/10     -

coins: bucket cooldown (rate-limited): calls are blocked for 1s 500ms
coins: 3 × key cooldown (timeout): stale responses are served for 29s
coins: upstream cooldown (breaker): calls are blocked until the probe call ends
coins: origin cooldown (connect): calls are blocked until the next call, which is the probe
coins: limit configured: 12 of 30 calls left in 1m
";
    assert_eq!(out, expected);
    let (_, out, _) = run_at(addr, &["upstreams", "--json"]).await;
    let parsed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(parsed["upstreams"][0]["holds"][0]["left"], json!(1.5));
}

#[tokio::test]
async fn cost_prints_today_this_month_and_the_state_of_the_budgets() {
    let (addr, _larder, _stop) = admin(FakeAdminApi { stored: 1, ..FakeAdminApi::default() }, None).await;
    let (code, out, err) = run_at(addr, &["cost"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let (table, budgets) = out.split_once("\n\n").expect("a table, then budgets");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 7, "{out}");
    let heads =
        "UPSTREAM  WHEN        CALLS  CREDITS  COST      AVOIDED CALLS  AVOIDED CREDITS  AVOIDED COST";
    assert_eq!(lines[0], heads);
    let coins = "coins     this month  7      9        4.50 USD  40             62.5             31.25 USD";
    assert_eq!(lines[2], coins);
    assert!(lines[1].starts_with("coins     today       2      2.5      1.25 USD"), "{out}");
    let expected = "\
coins: 9 of 10 credits of this month (90 %), nearly spent; then no calls, only stored \
responses, also stale ones; a new month in 25h
maps: 12.5 of 10 credits of this month (125 %), spent: no calls and no stale responses; a \
new month in 25h
";
    assert_eq!(budgets, expected);
    let (_, out, _) = run_at(addr, &["cost", "--json"]).await;
    let parsed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(parsed["upstreams"][1]["budget"]["spent"], json!(true));
}

#[tokio::test]
async fn upstreams_and_cost_print_one_line_if_nothing_is_configured() {
    let (addr, _larder, _stop) = admin(FakeAdminApi::default(), None).await;
    for (command, message) in [("upstreams", "no upstream is configured"), ("cost", "nothing costs anything")]
    {
        let (code, out, err) = run_at(addr, &[command]).await;
        assert_eq!((code, out.lines().count(), err.as_str()), (0, 1, ""));
        assert!(out.starts_with(message), "{out}");
    }
}

#[tokio::test]
async fn without_a_running_larder_a_command_prints_one_line_and_exits_with_4() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    for arguments in [
        &["reload"][..],
        &["mode"],
        &["purge", "--all"],
        &["ls"],
        &["inspect", "http://a/"],
        &["upstreams"],
        &["cost"],
        &["stats"],
    ] {
        for json in [&[][..], &["--json"]] {
            let arguments = [arguments, json].concat();
            let (code, out, err) = run_at(addr, &arguments).await;
            assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}");
            assert_eq!(err.lines().count(), 1, "{err}");
            assert!(err.contains(&format!("no larder responds at {addr} (")), "{err}");
            assert!(err.contains("larder run") && err.contains("--admin"), "{err}");
        }
    }
    let (code, _, err) = run_at(addr, &["ls", "--admin", "no-such-host.invalid:1"]).await;
    assert_eq!((code, err.lines().count()), (4, 1), "{err}");
}

#[tokio::test]
async fn a_response_of_a_different_server_is_an_error() {
    let origin = Origin::always(MockResponse::new(200, &[], "<html>hello</html>")).await;
    let (code, out, err) = run_at(origin.addr, &["mode"]).await;
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("is not a larder admin listener"), "{err}");
    let redirect = MockResponse::new(302, &["Location: http://127.0.0.1:1/"], "{}");
    let origin = Origin::always(redirect).await;
    let (code, ..) = run_at(origin.addr, &["purge", "--all"]).await;
    assert_eq!((code, origin.calls()), (4, 1), "no redirect is followed");
}

/// Arguments, environment variables and directory of a command.
type Invocation<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a Path);

/// ADM-02. A proxy from the environment variables, possibly larder itself, must not receive the token.
#[tokio::test]
async fn adm_02_the_token_is_sent_to_larder_only_and_never_printed() {
    let (addr, _larder, _stop) = admin(FakeAdminApi::default(), Some(TOKEN)).await;
    let proxy = Origin::always(MockResponse::new(200, &[], "{}")).await;
    let config_dir = tempfile::tempdir().unwrap();
    let token = config_dir.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let yaml = format!("version: 1\nadmin: {{ listen: {addr}, token_file: token }}\n");
    fs::write(config_dir.path().join("proxy.yaml"), yaml).unwrap();
    let (addr, proxy_url) = (addr.to_string(), format!("http://{}", proxy.addr));
    let proxy_variables = [("http_proxy", proxy_url.as_str()), ("ALL_PROXY", proxy_url.as_str())];
    let elsewhere = tempfile::tempdir().unwrap();
    let file = token.to_str().unwrap();
    let config = config_dir.path().join("proxy.yaml");
    let config = config.to_str().unwrap();
    let accepted: [Invocation<'_>; 5] = [
        (&["mode"], &[], config_dir.path()),
        (&["mode", "--config", config], &[], elsewhere.path()),
        (&["mode", "--admin", &addr, "--token-file", file], &[], elsewhere.path()),
        (&["mode", "--admin", &addr], &[("LARDER_ADMIN_TOKEN", TOKEN)], elsewhere.path()),
        (&["mode", "--admin", &addr, "--config", config], &[], elsewhere.path()),
    ];
    for (arguments, variables, directory) in accepted {
        let output = run_in(arguments, &[variables, &proxy_variables].concat(), directory).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "cache\n");
    }
    let rejected: [Invocation<'_>; 3] = [
        (&["mode", "--admin", &addr], &[], config_dir.path()),
        (&["mode"], &[("LARDER_ADMIN_TOKEN", "another-s3cret-token")], config_dir.path()),
        (&["mode"], &[("LARDER_ADMIN_TOKEN", "s3cret")], config_dir.path()),
    ];
    for (arguments, variables, directory) in rejected {
        let output = run_in(arguments, &[variables, &proxy_variables].concat(), directory).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let err = text(&output.stderr);
        assert!(!err.contains("s3cret"), "{err}");
        assert!(err.contains("LARDER_ADMIN_TOKEN"), "{err}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(proxy.calls(), 0);
}

/// An invalid file is a reason to run `larder reload`; the command still reads the admin address from it.
#[tokio::test]
async fn an_invalid_configuration_still_provides_the_admin_address() {
    let (addr, _larder, _stop) = admin(FakeAdminApi { fails: true, ..FakeAdminApi::default() }, None).await;
    let config_dir = tempfile::tempdir().unwrap();
    let yaml = format!("version: 1\nadmin: {{ listen: {addr} }}\nlisen: 127.0.0.1:1\n");
    fs::write(config_dir.path().join("proxy.yaml"), yaml).unwrap();
    let output = run_in(&["reload"], &[], config_dir.path()).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("lisen: is not a key"), "{}", text(&output.stderr));
    fs::write(config_dir.path().join("proxy.yaml"), "version: 1\nadmin: off\n").unwrap();
    let output = run_in(&["reload"], &[], config_dir.path()).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("`admin: off`"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example() {
    for name in ["reload", "mode", "purge", "ls", "inspect", "schema", "upstreams", "cost", "stats"] {
        let nowhere = tempfile::tempdir().unwrap();
        let output = run_in(&[name, "--help"], &[], nowhere.path()).await;
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        let example = out.split("Example").nth(1).unwrap_or_default();
        assert!(example.contains(&format!("larder {name}")), "{out}");
    }
}

#[tokio::test]
async fn the_entries_of_a_real_larder_are_listed_inspected_and_purged() {
    let origin = Origin::always(MockResponse::new(200, &["X-Seen: 1"], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
    let addr = larder.server.admin_addr().unwrap();
    let url = format!("{API}/x?a=1");
    larder.get("/x?a=1").await;
    larder.get("/y").await;
    let (code, out, err) = run_at(addr, &["ls", "--url", &url]).await;
    assert_eq!(code, 0, "{err}");
    let line = out.lines().nth(1).unwrap_or_else(|| panic!("no line in {out}"));
    assert!(line.starts_with("200     shared") && line.ends_with(&url), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, out, _) = run_at(addr, &["inspect", &url]).await;
    assert!(out.contains("    x-seen: 1\n") && out.contains("  route   api\n"), "{out}");
    let (_, out, _) = run_at(addr, &["purge", &url, "--dry-run"]).await;
    assert_eq!(out, format!("would purge 1 stored response of {url}\n"));
    assert!(larder.get("/x?a=1").await.cache_status().contains("hit"), "it was only counted");
    let (code, out, err) = run_at(addr, &["purge", &url]).await;
    assert_eq!((code, out), (0, format!("purged 1 stored response of {url}\n")), "{err}");
    assert_eq!(run_at(addr, &["inspect", &url]).await.0, 1);
    assert!(larder.get("/y").await.cache_status().contains("hit"), "another URL is unaffected");
    assert!(!larder.get("/x?a=1").await.cache_status().contains("hit"));
    let (_, out, _) = run_at(addr, &["purge", "--all"]).await;
    assert_eq!(out, "purged 2 stored responses\n");
    assert_eq!(run_at(addr, &["ls"]).await.1, "nothing is stored\n");
}

/// Operators paste the URL that their app uses, and that URL is below a mount.
#[tokio::test]
async fn a_url_below_a_mount_addresses_the_mounted_resource() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    mount: { path: /api, \
                 to: \"http://api.example.test\", allow_hosts: larder.internal }\n";
    let larder = Larder::start(&origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await;
    let admin = larder.server.admin_addr().unwrap();
    let port = larder.addr().port();
    let sent_as = format!("{API}/x?a=1");
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "larder.internal".into()] {
        let mut client = larder.client().await;
        client.send(format!("GET /api/x?a=1 HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.response("GET").await.expect("an answer").text(), "hello");
        let url = format!("http://{host}/api/x?a=1");
        let (code, out, err) = run_at(admin, &["ls", "--url", &url]).await;
        assert_eq!((code, out.lines().count()), (0, 3), "{out}{err}");
        assert!(out.starts_with(&format!("{url} is sent as {sent_as}\n")), "{out}");
        let (code, out, err) = run_at(admin, &["inspect", &url]).await;
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.starts_with(&format!("{url} is sent as {sent_as}\n\n{sent_as}\n")), "{out}");
        let (_, out, _) = run_at(admin, &["inspect", &url, "--json"]).await;
        let parsed: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&parsed["sent_as"], &parsed["entries"][0]["url"]), (&json!(sent_as), &json!(sent_as)));
        let (code, out, err) = run_at(admin, &["purge", &url]).await;
        let purged = format!("purged 1 stored response of {url}, which is sent as {sent_as}\n");
        assert_eq!((code, out), (0, purged), "{err}");
        assert!(!larder.get("/x?a=1").await.cache_status().contains("hit"), "{url}");
        run_at(admin, &["purge", "--all"]).await;
    }
    let (_, out, _) = run_at(admin, &["purge", &format!("http://127.0.0.1:{port}/x"), "--json"]).await;
    assert_eq!(out, "{\n  \"count\": 0\n}\n", "it is below no mount");
}

/// `ls` prints URLs without their secrets, so only the key identifies such an entry.
#[tokio::test]
async fn an_entry_with_a_redacted_url_is_inspected_by_its_key() {
    let origin = Origin::always(MockResponse::new(200, &["X-Seen: 1"], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let admin = larder.server.admin_addr().unwrap();
    larder.get("/x?token=S3CRET").await;
    larder.get_with("/x?token=S3CRET", &["Authorization: Bearer one"]).await;
    larder.get("/y").await;
    let (_, out, _) = run_at(admin, &["ls", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    let listed = listed["entries"].as_array().unwrap();
    let entry = listed.iter().find(|one| one["url"] == format!("{API}/x?token=(secret)")).unwrap();
    let key = entry["key"].as_str().unwrap();
    let (code, out, err) = run_at(admin, &["inspect", "--key", key]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.matches(&format!("  key     {key}\n")).count(), 2, "{out}");
    assert_eq!(out.matches("    x-seen: 1\n").count(), 2, "{out}");
    assert!(out.contains("anonymous") && out.contains("credential"), "{out}");
    assert!(!out.contains("S3CRET") && !out.contains("/y\n"), "{out}");
    let (code, out, _) = run_at(admin, &["inspect", "--key", &"0".repeat(32)]).await;
    assert_eq!((code, out.as_str()), (1, "no response is stored for this URL\n"));
    let url = format!("{API}/x");
    for arguments in [&["inspect", "--key", "coins"][..], &["inspect"], &["inspect", &url, "--key", key]] {
        let (code, out, err) = run_at(admin, arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }
    let (_, out, _) = run_at(admin, &["inspect", &format!("{API}/x?token=(secret)")]).await;
    assert_eq!(out, "", "a redacted URL matches nothing");
}

#[tokio::test]
async fn the_mode_of_a_real_larder_is_set_and_read() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let addr = larder.server.admin_addr().unwrap();
    assert_eq!(run_at(addr, &["mode", "bypass"]).await.1, "bypass\n");
    assert_eq!(run_at(addr, &["mode"]).await.1, "bypass\n");
}

#[tokio::test]
async fn the_upstreams_of_a_real_larder_are_printed() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let yaml = "upstreams: { coins: { hosts: [api.example.test] } }\n";
    let larder = Larder::start(&origin, &format!("{yaml}{}", route(&["ttl: 1h"]))).await;
    let addr = larder.server.admin_addr().unwrap();
    let (code, out, err) = run_at(addr, &["upstreams"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with("coins ")), "{out}");
    assert!(run_at(addr, &["cost"]).await.1.starts_with("nothing costs anything"));
}

#[tokio::test]
async fn a_real_larder_reloads_its_file_or_reports_its_errors() {
    let routes = |names: &[&str]| {
        let mut yaml = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n\
                        store: { disk: off }\n\
                        tls: { ca: { constrain: [example] } }\nroutes:\n"
            .to_owned();
        for name in names {
            yaml.push_str(&format!("  - {{ name: {name}, match: {{ host: {name}.example }} }}\n"));
        }
        yaml
    };
    let (larder, config_dir) = Process::run(&routes(&["a"])).await;
    let admin = larder.admin().await;
    fs::write(&config_dir.config, routes(&["a", "b"])).unwrap();
    assert_eq!(run_at(admin, &["reload"]).await.1, "reloaded: 2 routes\n");
    fs::write(&config_dir.config, routes(&["a", "a"])).unwrap();
    let (code, out, err) = run_at(admin, &["reload"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("the current one stays active:\n"), "{err}");
    assert!(err.contains(":8:13: routes[1].name: is the name of an earlier route\n"), "{err}");
    fs::write(&config_dir.config, routes(&["c", "d", "e"])).unwrap();
    let (code, out, _) = run_at(admin, &["reload", "--json"]).await;
    let parsed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &parsed["routes"]), (0, &json!(3)));
}

#[tokio::test]
async fn stats_prints_hits_calls_and_reasons_of_each_route() {
    let origin = Origin::always(MockResponse::new(200, &["Cache-Control: max-age=60"], "hello")).await;
    let routes = "routes:\n  - { name: api, match: { host: api.example.test, path: /a } }\n  \
                  - { name: unused, match: { host: api.example.test, path: /b } }\n";
    let larder = Larder::start(&origin, routes).await;
    for path in ["/a", "/a", "/a", "/c"] {
        assert_eq!(larder.get(path).await.text(), "hello");
    }
    larder.wait_for_metric("larder_client_bytes_total", 20.0).await;
    let admin = larder.server.admin_addr().unwrap();
    let (code, out, err) = run_at(admin, &["stats"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
ROUTE   CALLS  HITS  SHARE   TO API  FAILED  REASONS
api     3      2     66.6 %  1       0       uri-miss 1
none    1      0     0.0 %   1       0       bypass 1
unused  0      0     -       0       0       -
total   4      2     50.0 %  2       0       bypass 1, uri-miss 1

saved 10 B of 20 B
";
    assert_eq!(out, expected);
    let (_, out, _) = run_at(admin, &["stats", "--json"]).await;
    let parsed: Value = serde_json::from_str(&out).unwrap();
    let api = json!({ "name": "api", "calls": 3, "hits": 2, "to_api": 1, "refreshes": 0, "failed": 0 });
    for (name, value) in api.as_object().unwrap() {
        assert_eq!(&parsed["routes"][0][name], value, "{name}");
    }
    assert_eq!(parsed["saved_bytes"], 10);
}
