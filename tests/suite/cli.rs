//! Tests of the command line with the real program: output, signals and exit codes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::client::{Client, End};
use crate::larder_under_test::{API, Larder};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, TIMEOUT, eventually, program, run_larder, text};

/// A configuration on free ports, with `api.example.test` resolved to `origin`.
fn yaml(origin: &Origin, rest: &str) -> String {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    format!("{FREE_PORTS}{resolve}\n{rest}")
}

const FREE_PORTS: &str = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n";

const ONE_ROUTE: &str = "routes:\n  - { name: api, match: { host: api.example.test }, ttl: 1h }\n";

async fn check(yaml: &str, more: &[&str]) -> Output {
    let config_dir = ConfigDir::with(yaml);
    let mut arguments = vec![OsStr::new("check"), config_dir.config.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    run_larder(&arguments).await
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn run_prints_its_addresses_and_serves() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (larder, _config_dir) = Process::run(&yaml(&origin, ONE_ROUTE)).await;
    let addr = larder.addr().await;
    let mut client = Client::connect(addr).await;
    let url = format!("{API}/x");
    assert_eq!(client.get(&url, &[]).await.text(), "hello");
    let hit = client.get(&url, &[]).await;
    assert!(hit.cache_status().starts_with("larder; hit; ttl="), "{}", hit.cache_status());
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn run_with_json_prints_its_addresses_in_one_line() {
    let config_dir = ConfigDir::with(FREE_PORTS);
    let arguments = [OsStr::new("run"), OsStr::new("--json"), config_dir.config.as_os_str()];
    let mut larder = Process::start(&arguments);
    let line = larder.out.wait_for_line("listen").await;
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    let addr = parsed["listen"][0].as_str().unwrap();
    assert!(TcpStream::connect(addr).await.is_ok(), "{line}");
    assert!(TcpStream::connect(parsed["admin"].as_str().unwrap()).await.is_ok(), "{line}");
    larder.signal("TERM");
    assert_eq!(larder.wait_for_exit().await.code(), Some(0));
    assert_eq!(larder.out.all().len(), 1);
}

/// LIF-07, the part of issue A.
#[tokio::test]
async fn a_port_in_use_is_reported_in_one_line_and_exits_with_1() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    for (yaml, key) in [
        (format!("version: 1\nlisten: {taken}\nadmin: off\n"), "listen"),
        (format!("version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: {taken} }}\n"), "admin.listen"),
        (format!("version: 1\nlisten: [127.0.0.1:0, {taken}]\nadmin: off\n"), "listen"),
    ] {
        let config_dir = ConfigDir::with(&yaml);
        let second = run_larder(&[OsStr::new("run"), config_dir.config.as_os_str()]).await;
        let message = text(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains(&format!("cannot listen on {taken} ({key})")), "{message}");
        assert!(message.contains("choose another port"), "{message}");
        assert!(second.stdout.is_empty(), "{}", text(&second.stdout));
    }
}

#[tokio::test]
async fn after_a_signal_in_flight_requests_finish_and_larder_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::new();
        let slow = MockResponse::chunked_open(200, &[], &[b"first "])
            .then([Step::Wait(gate.clone()), Step::Write(b"4\r\nlast\r\n0\r\n\r\n".to_vec())]);
        let origin = Origin::always(slow).await;
        let (mut larder, _config_dir) = Process::run(&yaml(&origin, ONE_ROUTE)).await;
        let addr = larder.addr().await;
        let mut idle = Client::connect(addr).await;
        let mut client = Client::connect(addr).await;
        client.send_request("GET", &format!("{API}/x"), &[]).await;
        origin.wait_for_calls(1).await;
        larder.signal(signal);
        larder.err.wait_for_line("Stopping").await;
        assert!(timeout(TIMEOUT, idle.is_closed()).await.unwrap(), "idle connections end");
        until_refused(addr).await;
        gate.open();
        let answer = timeout(TIMEOUT, client.response("GET")).await.unwrap().unwrap();
        assert_eq!((answer.text().as_str(), answer.end), ("first last", End::Complete), "{signal}");
        assert_eq!(larder.wait_for_exit().await.code(), Some(0), "{}", larder.err.text());
        assert!(larder.err.text().contains("Stopped"), "{}", larder.err.text());
    }
}

/// Waits until the listener refuses connections; it closes soon after the log line "Stopping".
async fn until_refused(addr: std::net::SocketAddr) {
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, refused).await.expect("the listener closes");
}

/// The second half of OVL-04: no 408 after `head_timeout`, because no head has begun.
#[tokio::test]
async fn an_idle_connection_is_closed_at_the_idle_limit_without_a_response() {
    let larder = Larder::bare("limits: { head_timeout: 1s, idle: 2s }\n").await;
    let mut client = larder.client().await;
    assert!(timeout(TIMEOUT, client.is_closed()).await.unwrap(), "a response was sent");
    assert!(larder.metric("larder_denied_total{reason=\"head_timeout\"}") < 1.0);
}

/// LIF-04, the part of issue A: an origin that hangs does not delay the exit of larder.
#[tokio::test]
async fn a_second_signal_ends_larder_at_once() {
    let origin = Origin::always(MockResponse::hang()).await;
    let (mut larder, _config_dir) = Process::run(&yaml(&origin, ONE_ROUTE)).await;
    let mut client = Client::connect(larder.addr().await).await;
    client.send_request("GET", &format!("{API}/x"), &[]).await;
    origin.wait_for_calls(1).await;
    larder.signal("TERM");
    larder.err.wait_for_line("Stopping").await;
    assert!(larder.child.try_wait().unwrap().is_none(), "it waits for the request in flight");
    larder.signal("TERM");
    // Much less than the 30 seconds that requests have after the first signal.
    let status = timeout(Duration::from_secs(10), larder.wait_for_exit()).await.unwrap();
    assert_eq!(status.code(), Some(1), "the request in flight was aborted");
    assert_eq!(client.response("GET").await.map(|answer| answer.status), None);
}

#[tokio::test]
async fn an_invalid_configuration_is_reported_on_stderr_and_exits_with_3() {
    let config_dir = ConfigDir::with("version: 1\nlimits: { haed: 1KiB }\nroutes: 5\n");
    for command in ["run", "check"] {
        let output = run_larder(&[OsStr::new(command), config_dir.config.as_os_str()]).await;
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{command}: {report}");
        assert!(report.contains("proxy.yaml:2:11: limits.haed"), "{command}: {report}");
        assert!(report.contains("`head`"), "the nearest key: {report}");
        assert!(report.contains("proxy.yaml:3:9: routes"), "all problems at once: {report}");
        assert!(output.stdout.is_empty(), "{command}: {}", text(&output.stdout));
    }
    let json = run_larder(&[OsStr::new("check"), OsStr::new("--json"), config_dir.config.as_os_str()]).await;
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), &parsed["valid"]), (Some(3), &false.into()));
    assert_eq!(parsed["problems"].as_array().unwrap().len(), 2, "{parsed}");
}

#[tokio::test]
async fn a_missing_configuration_is_reported_with_its_path_and_a_hint() {
    let output = run_larder(&["run", "/no/such/proxy.yaml"]).await;
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{report}");
    assert!(report.starts_with("/no/such/proxy.yaml: "), "{report}");
    assert!(report.contains("there is no such file") && report.contains("`larder init github`"), "{report}");
}

#[tokio::test]
async fn check_describes_a_valid_configuration_and_exits_with_0() {
    let output = check(&format!("{FREE_PORTS}{ONE_ROUTE}"), &[]).await;
    let description = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(description.contains("is valid: 1 route."), "{description}");
    assert!(description.contains("for 1h, regardless of the origin"), "{description}");
    assert!(description.contains("proxy.yaml:5:"), "an override of the origin is noted: {description}");
}

#[tokio::test]
async fn check_explain_prints_route_policy_and_key_without_secrets() {
    let yaml = format!("{FREE_PORTS}{ONE_ROUTE}");
    let url = "http://api.example.test/coins?id=7&api_key=XSECRETX";
    let bearer = "Authorization: Bearer XSECRETX";
    for form in
        [&["--explain", "GET", url, "-H", bearer][..], &["--explain", "GET", url, "-H", bearer, "--json"]]
    {
        let output = check(&yaml, form).await;
        let explanation = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        for part in ["api", "1h", "/coins", "authorization"] {
            assert!(explanation.contains(part), "{part} in {explanation}");
        }
        assert!(!explanation.contains("XSECRETX"), "{explanation}");
    }
    let unmatched = check(&yaml, &["--explain", "GET", "http://other.example/"]).await;
    assert!(text(&unmatched.stdout).contains("no route matches"), "{}", text(&unmatched.stdout));
}

#[tokio::test]
async fn invalid_arguments_exit_with_2_and_are_named_in_the_message() {
    let without_host = ["check", "proxy.yaml", "--explain", "GET", "/no-host"];
    for (arguments, part) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["run", "--port", "1"], "--port"),
        (&["check", "--explain", "GET"], "--explain"),
        (&["check", "-H", "A: b"], "--explain"),
        (&["fake", "slack"], "slack"),
        (&["fake", "discord", "--listen", "nowhere"], "nowhere"),
        (&[], "Usage"),
    ] {
        let output = run_larder(arguments).await;
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let config_dir = ConfigDir::with(FREE_PORTS);
    let mut command = tokio::process::Command::new(program());
    let output = command.args(without_host).current_dir(config_dir.directory.path()).output();
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/no-host"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn help_and_version_exit_with_0_and_every_command_is_documented() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["run", "--help"],
        &["check", "--help"],
        &["fake", "--help"],
        &["fake", "discord", "--help"],
        &["fake", "coinmarketcap", "--help"],
        &["--version"],
    ] {
        let output = run_larder(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let help = text(&run_larder(&["--help"]).await.stdout);
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    for command in ["run", "check", "fake discord"] {
        let first = command.split(' ').next().unwrap();
        assert!(help.lines().any(|line| line.trim_start().starts_with(first)), "{command}: {help}");
        assert!(readme.contains(&format!("larder {command}")), "the README does not name {command}");
    }
}

#[tokio::test]
async fn the_fake_discord_responds_and_fails_on_request() {
    let arguments = ["fake", "discord", "--listen", "127.0.0.1:0"];
    let mut fake = Process::start(&arguments);
    let addr = fake.addr().await;
    let mut client = Client::connect(addr).await;
    let url = format!("http://{addr}/api/v10/guilds/1/roles");
    assert_eq!(client.get(&url, &[]).await.status, 200);
    let limited = "{\"fault\": {\"rate_limited\": {\"retry_after\": 1}}, \"times\": 1}";
    let length = limited.len();
    client
        .send(format!(
            "POST /_fake/behave HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{limited}"
        ))
        .await;
    let response = client.response("POST").await.unwrap();
    assert!((200..300).contains(&response.status), "{}", response.text());
    let answer = client.get(&url, &[]).await;
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("1")));
    assert_eq!(client.get(&url, &[]).await.status, 200);
    let taken = run_larder(&["fake", "discord", "--listen", &addr.to_string()]).await;
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains(&addr.to_string()), "{}", text(&taken.stderr));
    fake.signal("TERM");
    assert_eq!(fake.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_fake_coinmarketcap_responds_refuses_and_bills() {
    let arguments = ["fake", "coinmarketcap", "--listen", "127.0.0.1:0", "--per-day", "2", "--price", "0.5"];
    let mut fake = Process::start(&arguments);
    let addr = fake.addr().await;
    let mut client = Client::connect(addr).await;
    let url = format!("http://{addr}/v2/cryptocurrency/quotes/latest?id=1,1027");
    assert_eq!(client.get(&url, &[]).await.status, 401);
    let key = ["X-CMC_PRO_API_KEY: k"];
    for _ in 0..2 {
        assert_eq!(client.get(&url, &key).await.status, 200);
    }
    let refused = client.get(&url, &key).await;
    assert_eq!((refused.status, refused.field("retry-after")), (429, None));
    assert!(refused.text().contains("\"error_code\":1009"), "{}", refused.text());
    let bill = client.get(&format!("http://{addr}/_fake/bill"), &[]).await;
    let bill: serde_json::Value = serde_json::from_str(&bill.text()).unwrap();
    assert_eq!((bill["credits"].as_u64(), bill["price"].as_f64()), (Some(2), Some(1.0)));
    fake.signal("TERM");
    assert_eq!(fake.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_script_starts_a_fake_with_a_rate_limit_and_then_an_outage() {
    let script = r#"[{"calls": 1, "fault": {"rate_limited": {"retry_after": 2}}},
                     {"calls": 1, "fault": {"status": 503}}, {"fault": null}]"#;
    let fake = Process::start(&["fake", "discord", "--listen", "127.0.0.1:0", "--script", script]);
    let addr = fake.addr().await;
    let mut client = Client::connect(addr).await;
    let url = format!("http://{addr}/api/v10/guilds/1/roles");
    let limited = client.get(&url, &[]).await;
    assert_eq!((limited.status, limited.field("retry-after")), (429, Some("2")));
    assert_eq!(client.get(&url, &[]).await.status, 503);
    assert_eq!(client.get(&url, &[]).await.status, 200);
}

/// The three commands that `larder --help` shows, on free ports.
#[tokio::test]
async fn the_reference_configuration_serves_the_fake_discord() {
    let fake = Process::start(&["fake", "discord", "--listen", "127.0.0.1:0"]);
    let discord = fake.addr().await;
    let reference = fs::read_to_string(repository().join("proxy.yaml")).unwrap();
    let yaml = reference
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9901", "127.0.0.1:0")
        .replace("127.0.0.1:9001", &discord.to_string());
    let (larder, _config_dir) = Process::run(&yaml).await;
    let mut client = Client::connect(larder.addr().await).await;
    let url = "http://discord.example.test/api/v10/guilds/1/roles";
    let miss = client.get(url, &[]).await;
    let hit = client.get(url, &[]).await;
    assert_eq!((miss.status, hit.status), (200, 200));
    assert!(miss.cache_status().contains("fwd=uri-miss"), "{}", miss.cache_status());
    assert!(hit.cache_status().contains("hit"), "{}", hit.cache_status());
    assert_eq!(miss.body, hit.body);
}

/// Runs `larder check` and limits its time and its peak memory, with tolerance for a busy machine.
async fn bounded_check(yaml: &str) -> Output {
    let config_dir = ConfigDir::with(yaml);
    let mut larder = Process::start(&[OsStr::new("check"), config_dir.config.as_os_str()]);
    let status = format!("/proc/{}/status", larder.child.id().unwrap());
    let mut peak = 0;
    let mut ended = None;
    eventually("the end of a check", || {
        let page = fs::read_to_string(&status).unwrap_or_default();
        let kib = page.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        ended = larder.child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert!(peak < 100 * 1024, "{peak} KiB");
    let status = ended.unwrap();
    larder.wait_for_exit().await;
    Output { status, stdout: Vec::new(), stderr: larder.err.text().into_bytes() }
}

#[tokio::test]
async fn cfg_01_a_yaml_bomb_is_refused_quickly_and_with_little_memory() {
    let mut aliases = String::from("version: 1\na0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let below = level - 1;
        let nine = vec![format!("*a{below}"); 9].join(",");
        writeln!(aliases, "a{level}: &a{level} [{nine}]").unwrap();
    }
    let brackets = format!("version: 1\nroutes: {}\n", "[".repeat(100_000));
    let mut maps = String::from("version: 1\nroutes: ");
    maps.push_str(&"{a: ".repeat(10_000));
    maps.push_str(&"}".repeat(10_000));
    let mut lines = String::from("version: 1\n");
    for depth in 0..1200 {
        writeln!(lines, "{}a:", " ".repeat(depth)).unwrap();
    }
    for bomb in [aliases, brackets, maps, lines] {
        let output = timeout(Duration::from_secs(10), bounded_check(&bomb)).await.unwrap();
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "no abort, no signal: {report}");
        assert!(report.len() < 4096, "{} bytes", report.len());
    }
}

#[tokio::test]
async fn cfg_02_each_error_has_line_column_and_the_nearest_key() {
    for (yaml, parts) in [
        (
            "version: 1\nroutes:\n  - { name: a, match: { host: a.example }, tll: 60s }\n",
            &["proxy.yaml:3:44", "`ttl`"][..],
        ),
        ("version: 1\nversion: 1\n", &["proxy.yaml:2:1"]),
        ("version: 1\n---\nversion: 1\n", &["proxy.yaml:3:1", "`---`"]),
        ("version: 1\nadmn: off\n", &["proxy.yaml:2:1", "`admin`"]),
    ] {
        let output = check(yaml, &[]).await;
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{yaml}");
        for part in parts {
            assert!(report.contains(part), "{part} in {report}");
        }
    }
}

#[tokio::test]
async fn cfg_04_the_first_match_wins_and_a_shadowed_route_is_reported() {
    let yaml = format!(
        "{FREE_PORTS}routes:\n  \
         - {{ name: wide, match: {{ host: api.example.test }}, ttl: 1h }}\n  \
         - {{ name: narrow, match: {{ host: api.example.test, path: /coins }}, ttl: 1m }}\n"
    );
    let explained = check(&yaml, &["--explain", "GET", "http://api.example.test/coins", "--json"]);
    let parsed: serde_json::Value = serde_json::from_slice(&explained.await.stdout).unwrap();
    assert_eq!(parsed["route"], "wide");
    let description = text(&check(&yaml, &[]).await.stdout);
    let note = description.lines().find(|line| line.contains("never matches"));
    let note = note.unwrap_or_else(|| panic!("{description}"));
    assert!(note.contains("proxy.yaml:6:13: routes[narrow]") && note.contains("`wide`"), "{note}");
}

#[tokio::test]
async fn cfg_05_the_environment_fills_scalars_and_is_never_printed() {
    let unset = check("version: 1\nlisten: ${LARDER_TEST_NEVER_SET}\n", &[]).await;
    assert_eq!(unset.status.code(), Some(3));
    assert!(text(&unset.stderr).contains("proxy.yaml:2:9"), "{}", text(&unset.stderr));
    let config_dir = ConfigDir::with("version: 1\nlisten: \"${LISTEN}\"\nadmin: off\n");
    for hostile in ["XSECRETX", "127.0.0.1:0\nadmin: {listen: 127.0.0.1:1}", "{a: [XSECRETX"] {
        let mut command = tokio::process::Command::new(program());
        command.args([OsStr::new("check"), config_dir.config.as_os_str()]).env("LISTEN", hostile);
        let output = command.output().await.unwrap();
        let report = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{hostile:?} is no address: {report}");
        assert!(!report.contains("XSECRETX"), "{report}");
    }
}

#[tokio::test]
async fn cfg_07_dangerous_combinations_are_refused() {
    let (insecure, open) = ("defaults: { scope: shared }", "listen: 0.0.0.0:0");
    let admin = "admin: { listen: 0.0.0.0:0 }";
    for (dangerous, part) in [(insecure, "scope"), (open, "access"), (admin, "admin")] {
        let output = check(&format!("version: 1\n{dangerous}\n"), &[]).await;
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{dangerous}: {report}");
        assert!(report.contains(part), "{report}");
    }
    let config_dir = ConfigDir::with("version: 1\naccess: { users_file: users }\n");
    let users = config_dir.directory.path().join("users");
    fs::write(&users, "ann:XSECRETX\n").unwrap();
    for (mode, exit) in [(0o644, 3), (0o600, 0)] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&users, fs::Permissions::from_mode(mode)).unwrap();
        let output = run_larder(&[OsStr::new("check"), config_dir.config.as_os_str()]).await;
        assert_eq!(output.status.code(), Some(exit), "{mode:o}: {}", text(&output.stderr));
        assert!(!(text(&output.stderr) + &text(&output.stdout)).contains("XSECRETX"));
    }
}

#[tokio::test]
async fn fwd_11_a_public_listener_without_access_rules_does_not_start() {
    let config_dir = ConfigDir::with("version: 1\nlisten: 0.0.0.0:3128\n");
    let output = run_larder(&[OsStr::new("run"), config_dir.config.as_os_str()]).await;
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{report}");
    assert!(report.contains("open proxy") && report.contains("access"), "{report}");
}

/// Runs `larder check` on each example of the README.
#[tokio::test]
async fn every_yaml_block_of_the_readme_is_a_valid_configuration() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks: Vec<_> =
        readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let output = check(block, &[]).await;
        assert_eq!(output.status.code(), Some(0), "{block}\n{}", text(&output.stderr));
    }
}
