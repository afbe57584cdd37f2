//! The verbs that ask a running larder, as processes of their own: against a larder that is played,
//! for what is hard to bring about, and against a real one.

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
use larder::upstream::status::{CooldownStatus, LimitStatus, UpstreamStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Origin};
use crate::process::{PATIENCE, Process, program, text};

const TOKEN: &str = "s3cret-s3cret-s3cret";

/// A larder that stores made-up answers and fails when it is told to.
#[derive(Default)]
struct Played {
    fails: bool,
    stored: usize,
    mode: Mutex<Mode>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl api::AdminApi for Played {
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
        Ok(api::ReloadResult { routes: 1, notes: vec!["coins sets it aside".to_owned()] })
    }

    fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    fn set_mode(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    async fn purge(&self, purge: &api::Purge) -> Result<api::PurgeResult, api::PurgeError> {
        self.asked.lock().push(format!("{purge:?}"));
        if self.fails {
            return Err(api::PurgeError { why: "the disk is full".to_owned() });
        }
        Ok(api::PurgeResult { count: 3, sent_as: None })
    }

    async fn entries(&self, asked: &api::ListQuery) -> api::Page {
        self.asked.lock().push(format!("{asked:?}"));
        let from = asked.after.as_deref().map_or(0, |after| after.parse().expect("a cursor"));
        let to = self.stored.min(from + asked.limit);
        let next = (to < self.stored).then(|| to.to_string());
        let entries = (from..to).map(|number| made_up(number, asked.details)).collect();
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
            holds: Vec::new(),
            breaker: None,
            limits: Vec::new(),
            ban_guard: None,
            retries: (1, 10),
        };
        let holds = vec![
            held("bucket", "rate-limited", true, 1500, 1),
            held("key", "timeout", false, 29_400, 3),
            CooldownStatus { probing: true, ..held("upstream", "breaker", true, 0, 1) },
            held("origin", "connect", true, 0, 1),
        ];
        let window = Some(Duration::from_secs(60));
        let limits =
            vec![LimitStatus { name: "configured".to_owned(), limit: 30, window, left: 12 }];
        vec![
            UpstreamStatus {
                holds,
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
        let budget =
            |at_limit| CostBudget { credits: 10.0, period: Period::Month, warn_at: 0.8, at_limit };
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

fn held(
    reach: &'static str,
    cause: &'static str,
    firm: bool,
    left: u64,
    count: usize,
) -> CooldownStatus {
    let left = Duration::from_millis(left);
    CooldownStatus { reach, cause, firm, left, probing: false, count }
}

fn made_up(number: usize, details: bool) -> api::Entry {
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

/// An admin listener in front of `larder`; it ends with the sender.
async fn admin(
    larder: Played,
    token: Option<&str>,
) -> (SocketAddr, Arc<Played>, watch::Sender<bool>) {
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

/// A verb in a directory of its own, with these variables and no others of larder's.
async fn verb(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("LARDER_ADMIN").env_remove("LARDER_ADMIN_TOKEN");
    command.envs(variables.iter().copied());
    timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts")
}

/// A verb against this admin listener: exit code, standard output, standard error.
async fn ask(addr: SocketAddr, arguments: &[&str]) -> (i32, String, String) {
    let nowhere = tempfile::tempdir().unwrap();
    let addr = addr.to_string();
    let said = verb(arguments, &[("LARDER_ADMIN", addr.as_str())], nowhere.path()).await;
    (said.status.code().unwrap(), text(&said.stdout), text(&said.stderr))
}

#[tokio::test]
async fn purge_says_what_it_reached() {
    let (addr, larder, _stop) = admin(Played::default(), None).await;
    let url = format!("{API}/x?a=1");
    let table: [(&[&str], String, &str); 5] = [
        (
            &["purge", &url],
            format!("purged 3 stored answers of {url}\n"),
            "soft: false, dry_run: false",
        ),
        (
            &["purge", "--all"],
            "purged 3 stored answers\n".to_owned(),
            "All, soft: false, dry_run: false",
        ),
        (
            &["purge", "--all", "--soft"],
            "made stale: 3 stored answers\n".to_owned(),
            "soft: true, dry_run: false",
        ),
        (
            &["purge", "--all", "--dry-run"],
            "would purge 3 stored answers\n".to_owned(),
            "soft: false, dry_run: true",
        ),
        (&["purge", "--all", "--json"], "{\n  \"count\": 3\n}\n".to_owned(), "All, soft: false"),
    ];
    for (arguments, expected, asked) in table {
        let (code, out, err) = ask(addr, arguments).await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected.as_str(), ""), "{arguments:?}");
        let seen = std::mem::take(&mut *larder.asked.lock()).concat();
        assert!(seen.contains(asked), "{arguments:?}: {seen}");
    }
}

#[tokio::test]
async fn a_purge_that_says_nothing_or_too_much_is_a_usage_error_and_purges_nothing() {
    let (addr, larder, _stop) = admin(Played::default(), None).await;
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
        let (code, out, err) = ask(addr, arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
    assert!(larder.asked.lock().is_empty());
}

#[tokio::test]
async fn what_larder_refuses_is_exit_1_with_its_reason_and_report() {
    let (addr, _larder, _stop) = admin(Played { fails: true, ..Played::default() }, None).await;
    let (code, out, err) = ask(addr, &["purge", "--all"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("larder purge: ") && err.ends_with(" (the disk is full)\n"), "{err}");
    let (code, out, err) = ask(addr, &["reload"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let report = "\nproxy.yaml:2:1: lisen: is not a key\u{fffd}[2J\nproxy.yaml: 1 problem\n";
    assert!(err.ends_with(report), "what larder says reaches no terminal's ear: {err:?}");
    let (code, out, _) = ask(addr, &["reload", "--json"]).await;
    let problem: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &problem["larder_error"]["class"]), (1, &json!("not_reloaded")));
    assert!(problem["larder_error"]["report"].as_str().unwrap().contains("lisen"));
}

#[tokio::test]
async fn reload_and_mode_say_what_is_in_force() {
    let (addr, larder, _stop) = admin(Played::default(), None).await;
    let (code, out, _) = ask(addr, &["reload"]).await;
    assert_eq!((code, out.as_str()), (0, "reloaded: 1 route\n  coins sets it aside\n"));
    assert_eq!(ask(addr, &["mode"]).await.1, "cache\n");
    assert_eq!(ask(addr, &["mode", "offline"]).await.1, "offline\n");
    assert_eq!(*larder.mode.lock(), Mode::Offline);
    assert_eq!(ask(addr, &["mode", "--json"]).await.1, "{\n  \"mode\": \"offline\"\n}\n");
}

#[tokio::test]
async fn ls_is_an_aligned_table_of_as_many_pages_as_it_takes() {
    let (addr, larder, _stop) = admin(Played { stored: 3, ..Played::default() }, None).await;
    let (code, out, err) = ask(addr, &["ls"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = format!(
        "STATUS  SCOPE       AGE     TTL        SIZE   TIERS        ROUTE  URL\n\
         200     shared      1m 30s  28m 30s    12KiB  memory,disk  coins  {API}/0\n\
         200     credential  1m 30s  no route   12KiB  memory,disk  -      {API}/1\n\
         200     credential  1m 30s  stale 30s  12KiB  memory,disk  coins  {API}/2\n"
    );
    assert_eq!(out, expected);
    let (_, out, _) = ask(addr, &["ls", "--limit", "2"]).await;
    assert!(out.ends_with("… and more: larder ls --limit 20\n"), "{out}");
    larder.asked.lock().clear();
    let (many, larder, _stop) = admin(Played { stored: 2500, ..Played::default() }, None).await;
    let (_, out, _) = ask(many, &["ls", "--limit", "2100", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2100);
    assert_eq!(listed["entries"][2099]["url"], format!("{API}/2099"));
    assert_eq!(listed["next"], "2100");
    assert_eq!(larder.asked.lock().len(), 3, "pages of a thousand");
    let url = format!("{API}/a?b=c&d=%2F");
    ask(addr, &["ls", "--url", &url]).await;
}

#[tokio::test]
async fn a_url_reaches_larder_letter_for_letter() {
    let (addr, larder, _stop) = admin(Played::default(), None).await;
    for path in ["/a?b=c&d=%2F+e", "/ü/%20", "/x?limit=1&details=true#fragment"] {
        let url = format!("{API}{path}");
        let expected = url.split('#').next().unwrap().to_owned();
        ask(addr, &["purge", &url]).await;
        ask(addr, &["inspect", &url]).await;
        let target = larder::semantics::target::Target::absolute(&expected).unwrap();
        for asked in std::mem::take(&mut *larder.asked.lock()) {
            assert!(asked.contains(&format!("{target:?}")), "{asked}");
        }
    }
}

#[tokio::test]
async fn inspect_shows_every_answer_of_a_url_with_its_fields() {
    let (addr, _larder, _stop) = admin(Played { stored: 2, ..Played::default() }, None).await;
    let (code, out, _) = ask(addr, &["inspect", &format!("{API}/0")]).await;
    assert_eq!(code, 0);
    let first = format!(
        "{API}/0\n  status  200\n  scope   shared\n  \
         key     000000000000000000000000000000ab\n  route   coins\n  \
         stored  2027-01-15T08:00:00.000Z\n  age     1m 30s\n  ttl     28m 30s\n  \
         body    12KiB in memory and disk\n  vary    accept\n    link: </a>\n    \
         link: </b>\u{fffd}\u{fffd}x\n\n{API}/1\n"
    );
    assert!(out.starts_with(&first), "{out:?}");
    assert!(out.contains("  route   none: it is not served any more\n"), "{out}");
    let (empty, _larder, _stop) = admin(Played::default(), None).await;
    let (code, out, err) = ask(empty, &["inspect", &format!("{API}/0")]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "nothing is stored of it\n", ""));
    let (code, out, _) = ask(empty, &["ls"]).await;
    assert_eq!((code, out.as_str()), (0, "nothing is stored\n"));
}

#[tokio::test]
async fn upstreams_is_a_table_and_below_it_what_is_held_and_limited() {
    let (addr, _larder, _stop) = admin(Played { stored: 1, ..Played::default() }, None).await;
    let (code, out, err) = ask(addr, &["upstreams"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
UPSTREAM                       IN FLIGHT  WAITING  BREAKER  RETRIES  INVALID
coins                          2          0        open     1/10     3/8000
api.example:443 (no upstream)  2          0        -        1/10     -

coins: bucket held (rate-limited): nobody is let through for 1s 500ms
coins: 3 × key held (timeout): stale answers are served for 29s
coins: upstream held (breaker): nobody is let through until the call that tries is answered
coins: origin held (connect): nobody is let through until the next call, which tries
coins: limit configured: 12 of 30 calls left in 1m
";
    assert_eq!(out, expected);
    let (_, out, _) = ask(addr, &["upstreams", "--json"]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["upstreams"][0]["holds"][0]["left"], json!(1.5));
}

#[tokio::test]
async fn cost_is_today_and_this_month_and_how_the_budgets_stand() {
    let (addr, _larder, _stop) = admin(Played { stored: 1, ..Played::default() }, None).await;
    let (code, out, err) = ask(addr, &["cost"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let (table, budgets) = out.split_once("\n\n").expect("a table, then budgets");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 7, "{out}");
    let heads = "UPSTREAM  WHEN        CALLS  CREDITS  COST      AVOIDED CALLS  AVOIDED CREDITS  AVOIDED COST";
    assert_eq!(lines[0], heads);
    let coins =
        "coins     this month  7      9        4.50 USD  40             62.5             31.25 USD";
    assert_eq!(lines[2], coins);
    assert!(lines[1].starts_with("coins     today       2      2.5      1.25 USD"), "{out}");
    let expected = "\
coins: 9 of 10 credits of this month (90 %), nearly spent; then no calls, only what is stored, stale \
too; a new month in 25h
maps: 12.5 of 10 credits of this month (125 %), spent: no calls, and nothing stale in their place; a \
new month in 25h
";
    assert_eq!(budgets, expected);
    let (_, out, _) = ask(addr, &["cost", "--json"]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["upstreams"][1]["budget"]["spent"], json!(true));
}

#[tokio::test]
async fn where_nothing_is_configured_both_say_so() {
    let (addr, _larder, _stop) = admin(Played::default(), None).await;
    for (verb, said) in
        [("upstreams", "no upstream is configured"), ("cost", "nothing costs anything")]
    {
        let (code, out, err) = ask(addr, &[verb]).await;
        assert_eq!((code, out.lines().count(), err.as_str()), (0, 1, ""));
        assert!(out.starts_with(said), "{out}");
    }
}

#[tokio::test]
async fn where_nobody_answers_is_one_line_that_helps_and_exit_4() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    for arguments in [
        &["reload"][..],
        &["mode"],
        &["purge", "--all"],
        &["ls"],
        &["inspect", "http://a/"],
        &["upstreams"],
        &["cost"],
    ] {
        for json in [&[][..], &["--json"]] {
            let arguments = [arguments, json].concat();
            let (code, out, err) = ask(addr, &arguments).await;
            assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}");
            assert_eq!(err.lines().count(), 1, "{err}");
            assert!(err.contains(&format!("no larder answers at {addr} (")), "{err}");
            assert!(err.contains("larder run") && err.contains("--admin"), "{err}");
        }
    }
    let (code, _, err) = ask(addr, &["ls", "--admin", "no-such-host.invalid:1"]).await;
    assert_eq!((code, err.lines().count()), (4, 1), "{err}");
}

#[tokio::test]
async fn somebody_else_who_answers_is_no_larder() {
    let origin = Origin::always(Answer::new(200, &[], "<html>hello</html>")).await;
    let (code, out, err) = ask(origin.addr, &["mode"]).await;
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("is no larder's admin listener"), "{err}");
    let away = Answer::new(302, &["Location: http://127.0.0.1:1/"], "{}");
    let origin = Origin::always(away).await;
    let (code, ..) = ask(origin.addr, &["purge", "--all"]).await;
    assert_eq!((code, origin.calls()), (4, 1), "nobody is followed");
}

/// Arguments, variables and the directory of a verb.
type Asking<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a Path);

/// ADM-02. A proxy named in the environment, larder itself perhaps, must not see the token either.
#[tokio::test]
async fn adm_02_the_token_is_sent_where_it_belongs_and_shown_nowhere() {
    let (addr, _larder, _stop) = admin(Played::default(), Some(TOKEN)).await;
    let proxy = Origin::always(Answer::new(200, &[], "{}")).await;
    let house = tempfile::tempdir().unwrap();
    let token = house.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let yaml = format!("version: 1\nadmin: {{ listen: {addr}, token_file: token }}\n");
    fs::write(house.path().join("proxy.yaml"), yaml).unwrap();
    let (addr, proxy_url) = (addr.to_string(), format!("http://{}", proxy.addr));
    let through = [("http_proxy", proxy_url.as_str()), ("ALL_PROXY", proxy_url.as_str())];
    let elsewhere = tempfile::tempdir().unwrap();
    let file = token.to_str().unwrap();
    let config = house.path().join("proxy.yaml");
    let config = config.to_str().unwrap();
    let right: [Asking<'_>; 5] = [
        (&["mode"], &[], house.path()),
        (&["mode", "--config", config], &[], elsewhere.path()),
        (&["mode", "--admin", &addr, "--token-file", file], &[], elsewhere.path()),
        (&["mode", "--admin", &addr], &[("LARDER_ADMIN_TOKEN", TOKEN)], elsewhere.path()),
        (&["mode", "--admin", &addr, "--config", config], &[], elsewhere.path()),
    ];
    for (arguments, variables, directory) in right {
        let said = verb(arguments, &[variables, &through].concat(), directory).await;
        assert_eq!(said.status.code(), Some(0), "{arguments:?}: {}", text(&said.stderr));
        assert_eq!(text(&said.stdout), "cache\n");
    }
    let wrong: [Asking<'_>; 3] = [
        (&["mode", "--admin", &addr], &[], house.path()),
        (&["mode"], &[("LARDER_ADMIN_TOKEN", "another-s3cret-token")], house.path()),
        (&["mode"], &[("LARDER_ADMIN_TOKEN", "s3cret")], house.path()),
    ];
    for (arguments, variables, directory) in wrong {
        let said = verb(arguments, &[variables, &through].concat(), directory).await;
        assert_eq!(said.status.code(), Some(1), "{arguments:?}");
        let err = text(&said.stderr);
        assert!(!err.contains("s3cret"), "{err}");
        assert!(err.contains("LARDER_ADMIN_TOKEN"), "{err}");
        assert!(said.stdout.is_empty());
    }
    assert_eq!(proxy.calls(), 0);
}

/// The file is what `larder reload` is for: it is asked whatever the file says now.
#[tokio::test]
async fn a_configuration_that_is_wrong_still_says_whom_to_ask() {
    let (addr, _larder, _stop) = admin(Played { fails: true, ..Played::default() }, None).await;
    let house = tempfile::tempdir().unwrap();
    let yaml = format!("version: 1\nadmin: {{ listen: {addr} }}\nlisen: 127.0.0.1:1\n");
    fs::write(house.path().join("proxy.yaml"), yaml).unwrap();
    let said = verb(&["reload"], &[], house.path()).await;
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("lisen: is not a key"), "{}", text(&said.stderr));
    fs::write(house.path().join("proxy.yaml"), "version: 1\nadmin: off\n").unwrap();
    let said = verb(&["reload"], &[], house.path()).await;
    assert_eq!(said.status.code(), Some(4));
    assert!(text(&said.stderr).contains("`admin: off`"), "{}", text(&said.stderr));
}

#[tokio::test]
async fn every_verb_teaches_by_an_example() {
    for name in ["reload", "mode", "purge", "ls", "inspect", "schema", "upstreams", "cost"] {
        let nowhere = tempfile::tempdir().unwrap();
        let said = verb(&[name, "--help"], &[], nowhere.path()).await;
        let out = text(&said.stdout);
        assert_eq!(said.status.code(), Some(0));
        let example = out.split("Example").nth(1).unwrap_or_default();
        assert!(example.contains(&format!("larder {name}")), "{out}");
    }
}

#[tokio::test]
async fn a_real_larder_is_listed_inspected_and_purged() {
    let origin = Origin::always(Answer::new(200, &["X-Seen: 1"], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h", "scope: shared"]).await;
    let addr = larder.server.admin_addr().unwrap();
    let url = format!("{API}/x?a=1");
    larder.get("/x?a=1").await;
    larder.get("/y").await;
    let (code, out, err) = ask(addr, &["ls", "--url", &url]).await;
    assert_eq!(code, 0, "{err}");
    let line = out.lines().nth(1).unwrap_or_else(|| panic!("no line in {out}"));
    assert!(line.starts_with("200     shared") && line.ends_with(&url), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, out, _) = ask(addr, &["inspect", &url]).await;
    assert!(out.contains("    x-seen: 1\n") && out.contains("  route   api\n"), "{out}");
    let (_, out, _) = ask(addr, &["purge", &url, "--dry-run"]).await;
    assert_eq!(out, format!("would purge 1 stored answer of {url}\n"));
    assert!(larder.get("/x?a=1").await.cache_status().contains("hit"), "it was only counted");
    let (code, out, err) = ask(addr, &["purge", &url]).await;
    assert_eq!((code, out), (0, format!("purged 1 stored answer of {url}\n")), "{err}");
    assert_eq!(ask(addr, &["inspect", &url]).await.0, 1);
    assert!(larder.get("/y").await.cache_status().contains("hit"), "another URL is left alone");
    assert!(!larder.get("/x?a=1").await.cache_status().contains("hit"));
    let (_, out, _) = ask(addr, &["purge", "--all"]).await;
    assert_eq!(out, "purged 2 stored answers\n");
    assert_eq!(ask(addr, &["ls"]).await.1, "nothing is stored\n");
}

/// A person pastes the URL that their app uses, and that is below a mount.
#[tokio::test]
async fn a_url_below_a_mount_is_the_resource_that_it_stands_for() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let mount = "upstreams:\n  api:\n    hosts: [api.example.test]\n    mount: { path: /api, \
                 to: \"http://api.example.test\", allow_hosts: larder.internal }\n";
    let larder = Larder::start(&origin, &format!("{mount}{}", route(&["ttl: 1h"]))).await;
    let admin = larder.server.admin_addr().unwrap();
    let port = larder.addr().port();
    let sent_as = format!("{API}/x?a=1");
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "larder.internal".into()]
    {
        let mut client = larder.client().await;
        client.send(format!("GET /api/x?a=1 HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.expect("an answer").text(), "hello");
        let url = format!("http://{host}/api/x?a=1");
        let (code, out, err) = ask(admin, &["ls", "--url", &url]).await;
        assert_eq!((code, out.lines().count()), (0, 3), "{out}{err}");
        assert!(out.starts_with(&format!("{url} is sent as {sent_as}\n")), "{out}");
        let (code, out, err) = ask(admin, &["inspect", &url]).await;
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.starts_with(&format!("{url} is sent as {sent_as}\n\n{sent_as}\n")), "{out}");
        let (_, out, _) = ask(admin, &["inspect", &url, "--json"]).await;
        let told: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&told["sent_as"], &told["entries"][0]["url"]),
            (&json!(sent_as), &json!(sent_as))
        );
        let (code, out, err) = ask(admin, &["purge", &url]).await;
        let purged = format!("purged 1 stored answer of {url}, which is sent as {sent_as}\n");
        assert_eq!((code, out), (0, purged), "{err}");
        assert!(!larder.get("/x?a=1").await.cache_status().contains("hit"), "{url}");
        ask(admin, &["purge", "--all"]).await;
    }
    let (_, out, _) = ask(admin, &["purge", &format!("http://127.0.0.1:{port}/x"), "--json"]).await;
    assert_eq!(out, "{\n  \"count\": 0\n}\n", "it is below no mount");
}

/// `ls` shows a URL without its secrets: the key is what is left to ask by.
#[tokio::test]
async fn what_is_not_shown_whole_is_inspected_by_its_key() {
    let origin = Origin::always(Answer::new(200, &["X-Seen: 1"], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let admin = larder.server.admin_addr().unwrap();
    larder.get("/x?token=S3CRET").await;
    larder.get_with("/x?token=S3CRET", &["Authorization: Bearer one"]).await;
    larder.get("/y").await;
    let (_, out, _) = ask(admin, &["ls", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    let listed = listed["entries"].as_array().unwrap();
    let entry = listed.iter().find(|one| one["url"] == format!("{API}/x?token=(secret)")).unwrap();
    let key = entry["key"].as_str().unwrap();
    let (code, out, err) = ask(admin, &["inspect", "--key", key]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.matches(&format!("  key     {key}\n")).count(), 2, "{out}");
    assert_eq!(out.matches("    x-seen: 1\n").count(), 2, "{out}");
    assert!(out.contains("anonymous") && out.contains("credential"), "{out}");
    assert!(!out.contains("S3CRET") && !out.contains("/y\n"), "{out}");
    let (code, out, _) = ask(admin, &["inspect", "--key", &"0".repeat(32)]).await;
    assert_eq!((code, out.as_str()), (1, "nothing is stored of it\n"));
    let url = format!("{API}/x");
    for arguments in
        [&["inspect", "--key", "coins"][..], &["inspect"], &["inspect", &url, "--key", key]]
    {
        let (code, out, err) = ask(admin, arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }
    let (_, out, _) = ask(admin, &["inspect", &format!("{API}/x?token=(secret)")]).await;
    assert_eq!(out, "", "a URL that is not whole is none");
}

#[tokio::test]
async fn a_real_larders_mode_is_turned_and_told() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let addr = larder.server.admin_addr().unwrap();
    assert_eq!(ask(addr, &["mode", "bypass"]).await.1, "bypass\n");
    assert_eq!(ask(addr, &["mode"]).await.1, "bypass\n");
}

#[tokio::test]
async fn a_real_larders_upstreams_are_told() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let yaml = "upstreams: { coins: { hosts: [api.example.test] } }\n";
    let larder = Larder::start(&origin, &format!("{yaml}{}", route(&["ttl: 1h"]))).await;
    let addr = larder.server.admin_addr().unwrap();
    let (code, out, err) = ask(addr, &["upstreams"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with("coins ")), "{out}");
    assert!(ask(addr, &["cost"]).await.1.starts_with("nothing costs anything"));
}

#[tokio::test]
async fn a_real_larder_reloads_its_file_or_says_what_is_wrong_with_it() {
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
    let (larder, house) = Process::run(&routes(&["a"])).await;
    let admin = larder.admin().await;
    fs::write(&house.config, routes(&["a", "b"])).unwrap();
    assert_eq!(ask(admin, &["reload"]).await.1, "reloaded: 2 routes\n");
    fs::write(&house.config, routes(&["a", "a"])).unwrap();
    let (code, out, err) = ask(admin, &["reload"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("the one in force stays in force:\n"), "{err}");
    assert!(err.contains(":8:13: routes[1].name: names an earlier route already\n"), "{err}");
    fs::write(&house.config, routes(&["c", "d", "e"])).unwrap();
    let (code, out, _) = ask(admin, &["reload", "--json"]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["routes"]), (0, &json!(3)));
}
