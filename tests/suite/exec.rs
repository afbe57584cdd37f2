//! Tests of `larder exec` with the real program and real commands, and of `larder env`, `larder doctor`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Client;
use crate::concurrent::ConcurrentRequests;
use crate::larder_under_test::{Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, TIMEOUT, eventually, program, text};
use crate::tls_origin::{Certificate, Protocols, TestCa, TlsOrigin};

/// A configuration with separate cache and runtime directories of a user.
pub struct Home {
    pub config_dir: ConfigDir,
    pub cache: tempfile::TempDir,
    pub session: tempfile::TempDir,
}

impl Home {
    pub fn with(yaml: &str) -> Self {
        let directory = || tempfile::tempdir().unwrap();
        Self { config_dir: ConfigDir::with(yaml), cache: directory(), session: directory() }
    }

    /// A configuration that caches everything of `api.example.test`, which is `origin`.
    pub fn for_origin(origin: &Origin) -> Self {
        Self::with(&yaml(origin, "127.0.0.1:0"))
    }

    pub fn command(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut exec = Command::new(program());
        exec.args([OsStr::new("exec"), OsStr::new("--config"), self.config_dir.config.as_os_str()]);
        exec.args(flags).arg("--").args(command);
        exec.env("XDG_CACHE_HOME", self.cache.path()).env("XDG_RUNTIME_DIR", self.session.path());
        for name in ["NO_PROXY", "no_proxy", "LARDER_ADMIN", "LARDER_ADMIN_TOKEN", "LARDER_EXEC"] {
            exec.env_remove(name);
        }
        exec.stdin(Stdio::null()).kill_on_drop(true);
        exec
    }

    /// A command of larder's with the directories of this user.
    pub fn larder(&self, arguments: &[&str]) -> Command {
        let exec = self.command(&[], &[]);
        let mut larder = Command::new(program());
        for (name, value) in exec.as_std().get_envs() {
            match value {
                Some(value) => larder.env(name, value),
                None => larder.env_remove(name),
            };
        }
        larder.args(arguments).current_dir(self.config_dir.directory.path());
        larder.stdin(Stdio::null()).kill_on_drop(true);
        larder
    }

    pub async fn exec(&self, flags: &[&str], command: &[&str]) -> Output {
        let running = self.command(flags, command).output();
        timeout(TIMEOUT, running).await.expect("it ends").expect("it starts")
    }

    /// The number of session directories of commands that still exist.
    fn session_dirs(&self) -> usize {
        let entries = fs::read_dir(self.session.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("larder-exec-")).count()
    }
}

fn yaml(origin: &Origin, listen: &str) -> String {
    format!(
        "version: 1\nlisten: {listen}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr
    )
}

pub const CURL: &str = "curl -sS http://api.example.test/x";

pub fn has_curl(test: &str) -> bool {
    let found = std::process::Command::new("curl").arg("-V").output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "curl is not installed");
    // println would be captured; this line must be visible although the test passes.
    let mut err = std::io::stderr();
    std::io::Write::write_all(&mut err, format!("SKIPPED {test}: no curl\n").as_bytes()).unwrap();
    false
}

#[tokio::test]
async fn the_second_call_of_a_command_hits_and_a_summary_is_printed() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let output = home.exec(&[], &["sh", "-c", &format!("{CURL}; {CURL}")]).await;
    let log = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "hellohello".to_owned()));
    assert_eq!(origin.calls(), 1);
    assert_eq!(
        log,
        "larder: 2 calls, 1 answered without the API (50.0 %), 1 went to it\n\
         larder: saved 5 B of 10 B; no connection was tunnelled unread\n"
    );
    assert_eq!(home.session_dirs(), 0);
}

#[tokio::test]
async fn an_error_by_larder_is_counted_as_failed_and_saves_nothing() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(MockResponse::closed()).await;
    let home = Home::for_origin(&origin);
    let output = home.exec(&[], &["sh", "-c", CURL]).await;
    assert!(text(&output.stdout).contains("larder_error"), "{}", text(&output.stdout));
    let log = text(&output.stderr);
    assert!(log.contains("0 answered without the API (0.0 %), 0 went to it, 1 failed"), "{log}");
    assert!(log.contains("larder: saved 0 B of 0 B;"), "{log}");
}

/// The summary counts the calls that larder makes behind the command's back.
#[tokio::test]
async fn background_refreshes_are_calls_in_the_summary() {
    if !has_curl("exec") {
        return;
    }
    let fields = ["Cache-Control: max-age=0, stale-while-revalidate=600"];
    let answers = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = answers.fetch_add(1, Ordering::Relaxed);
        MockResponse::new(200, &fields, format!("answer {number}"))
    })
    .await;
    let home = Home::with(&yaml(&origin, "127.0.0.1:0").replace(", ttl: 1h", ""));
    let until_refreshed = format!("until {CURL} | grep -q 'answer 1'; do :; done");
    let output = home.exec(&[], &["sh", "-c", &until_refreshed]).await;
    let log = text(&output.stderr);
    let (_, rest) = log.split_once(" 1 went to it and ").unwrap_or_else(|| panic!("{log}"));
    let (refreshes, rest) = rest.split_once(' ').expect("a number");
    assert!(rest.starts_with("more to refresh stale responses"), "{log}");
    assert!((1..origin.calls()).contains(&refreshes.parse().unwrap()), "{log}");
}

/// One error of the API for many clients saves nothing.
#[tokio::test]
async fn an_error_that_clients_share_saves_neither_bytes_nor_cost() {
    let gate = Gate::new();
    let origin = Origin::always(MockResponse::new(503, &[], "down").after(&gate)).await;
    let cost = "upstreams: { up: { hosts: [api.example.test], cost: { currency: USD, per_credit: 1 } } }\n";
    let larder = Larder::start(&origin, &format!("{cost}{}", route(&["ttl: 1h"]))).await;
    let clients = ConcurrentRequests::send_plain(&larder, 3, "/x").await;
    larder.wait_for_waiters(3).await;
    gate.open();
    assert!(clients.responses().await.iter().all(|response| response.status == 503));
    larder
        .wait_until("three requests", |larder| larder.server.telemetry().traffic().total().calls() == 3)
        .await;
    assert_eq!(origin.calls(), 1);
    let traffic = larder.server.telemetry().traffic();
    assert_eq!(traffic.saved_bytes(), 0, "{traffic:?}");
    let report = &larder.server.admin_api().cost()[0].today;
    assert_eq!((report.calls, report.avoided_calls), (1, 0));
}

#[tokio::test]
async fn a_response_that_a_command_stored_is_used_by_the_next_command() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    for _ in 0..2 {
        let output = home.exec(&["--json"], &["sh", "-c", CURL]).await;
        assert_eq!(text(&output.stdout), "hello", "{}", text(&output.stderr));
    }
    assert_eq!(origin.calls(), 1);
    let directories = fs::read_dir(home.cache.path().join("larder")).unwrap();
    let modes: Vec<_> =
        directories.map(|entry| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect();
    assert_eq!(modes, [0o700], "one directory for one configuration, accessible to its owner only");
}

#[tokio::test]
async fn a_store_in_use_is_reported_in_one_line_and_larder_uses_memory() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let mut outer = home.command(&["--quiet", "--fallback-direct"], &["sh", "-c", "echo begun; read line"]);
    let mut outer = Process::from_command({
        outer.stdin(Stdio::piped());
        outer
    });
    outer.out.wait_for_line("begun").await;
    let inner = home.exec(&["--quiet"], &["sh", "-c", &format!("{CURL}; {CURL}")]).await;
    let log = text(&inner.stderr);
    assert_eq!(text(&inner.stdout), "hellohello", "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("is in use by") && log.contains("running memory-only"), "{log}");
    assert_eq!(origin.calls(), 1);
    drop(outer.child.stdin.take());
    outer.wait_for_exit().await;
}

#[tokio::test]
async fn the_exit_code_is_the_exit_code_of_the_command() {
    let home = Home::with("version: 1\n");
    let script = home.config_dir.directory.path().join("script");
    fs::write(&script, "not executable").unwrap();
    let script = script.to_str().unwrap();
    let table: [(&[&str], i32); 6] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-command-anywhere"], 127),
        (&[script], 126),
    ];
    for (command, code) in table {
        let output = home.exec(&["--quiet"], command).await;
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {log}");
        assert!(output.stdout.is_empty());
        let expected = usize::from(code == 126 || code == 127);
        assert_eq!(log.lines().count(), expected, "{log}");
        assert!(expected == 0 || log.starts_with(&format!("larder exec: {}: ", command[0])));
        assert_eq!(home.session_dirs(), 0, "{command:?}");
    }
}

#[tokio::test]
async fn input_and_output_of_the_command_are_unchanged() {
    let home = Home::with("version: 1\n");
    let script = "cat; printf 'out\\0\\377'; printf 'err\\0\\377' >&2; umask";
    let mut command = home.command(&["--quiet"], &["sh", "-c", script]);
    let input = home.config_dir.directory.path().join("input");
    fs::write(&input, b"in\0\xfe").unwrap();
    command.stdin(fs::File::open(&input).unwrap());
    let mask = std::process::Command::new("sh").args(["-c", "umask"]).output().unwrap().stdout;
    let output = timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    assert_eq!(output.stdout, [b"in\0\xfeout\0\xff".as_slice(), &mask].concat());
    assert_eq!(output.stderr, b"err\0\xff");
}

#[tokio::test]
async fn signals_are_forwarded_to_the_command() {
    for (signal, code) in
        [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131), ("USR1", 138), ("USR2", 140)]
    {
        let home = Home::with("version: 1\n");
        let script = "echo begun; exec sleep 60";
        let mut process = Process::from_command(home.command(&["--quiet"], &["sh", "-c", script]));
        process.out.wait_for_line("begun").await;
        assert_eq!(home.session_dirs(), 1);
        process.signal(signal);
        assert_eq!(process.wait_for_exit().await.code(), Some(code), "{signal}");
        assert_eq!(home.session_dirs(), 0, "{signal}");
    }
}

#[tokio::test]
async fn a_command_that_handles_a_signal_sets_the_exit_code() {
    let home = Home::with("version: 1\n");
    let script = "trap 'echo handled; exit 7' TERM; echo begun; while :; do sleep 0.01; done";
    let mut process = Process::from_command(home.command(&["--quiet"], &["sh", "-c", script]));
    process.out.wait_for_line("begun").await;
    process.signal("TERM");
    assert_eq!(process.wait_for_exit().await.code(), Some(7));
    assert_eq!(process.out.all(), ["begun", "handled"]);
}

/// `nohup larder exec -- CMD &`
#[tokio::test]
async fn the_command_inherits_ignored_signals() {
    let home = Home::with("version: 1\n");
    let script = "echo begun; read line; echo ended";
    let exec = home.command(&["--quiet"], &["sh", "-c", script]);
    let exec = exec.as_std();
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(exec.get_program());
    nohup.args(exec.get_args()).stdin(Stdio::piped());
    for (name, value) in exec.get_envs() {
        if let Some(value) = value {
            nohup.env(name, value);
        }
    }
    let mut process = Process::from_command(nohup);
    process.out.wait_for_line("begun").await;
    process.signal("HUP");
    drop(process.child.stdin.take());
    assert_eq!(process.wait_for_exit().await.code(), Some(0));
    assert_eq!(process.out.all(), ["begun", "ended"]);
}

#[tokio::test]
async fn the_next_larder_removes_the_directories_of_a_killed_one() {
    let home = Home::with("version: 1\n");
    let script = "echo begun; read line";
    let mut command = home.command(&["--quiet"], &["sh", "-c", script]);
    command.stdin(Stdio::piped());
    let mut process = Process::from_command(command);
    process.out.wait_for_line("begun").await;
    process.signal("KILL");
    drop(process.child.stdin.take());
    process.wait_for_exit().await;
    assert_eq!(home.session_dirs(), 1, "the killed larder could not remove it");
    home.exec(&["--quiet"], &["true"]).await;
    assert_eq!(home.session_dirs(), 0);
}

#[tokio::test]
async fn a_running_larder_with_the_same_configuration_is_used() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let configured = fs::read_to_string(&home.config_dir.config).unwrap();
    for calls in 1..3 {
        let output = home.exec(&[], &["sh", "-c", CURL]).await;
        let log = text(&output.stderr);
        assert_eq!(text(&output.stdout), "hello", "{log}");
        assert_eq!(origin.calls(), 1, "{log}");
        assert!(log.starts_with("larder: 1 call, "), "call {calls}: {log}");
        assert!(log.contains("including the calls of other clients"), "{log}");
    }
    assert_eq!(fs::read_dir(home.cache.path()).unwrap().count(), 0, "no private one was started");

    // A larder with another configuration at the same address is not used.
    fs::write(&home.config_dir.config, configured.replace("ttl: 1h", "ttl: 2h")).unwrap();
    let output = home.exec(&["--quiet"], &["sh", "-c", CURL]).await;
    let log = text(&output.stderr);
    assert!(log.contains("not with these routes (try `larder reload`): starting a private one"), "{log}");
    assert_eq!(origin.calls(), 2, "{log}");
    larder.signal("TERM");
    larder.wait_for_exit().await;
}

fn admin_at(admin: &str) -> String {
    format!("{{ listen: {admin} }}")
}

/// A port that was free a moment ago: the configuration must name one before larder listens.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_missing_configuration_or_command_is_reported() {
    let home = Home::with("version: 1\n");
    let mut command = Command::new(program());
    command.args(["exec", "--", "true"]).current_dir(home.cache.path());
    let output = timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(log.contains("proxy.yaml: ") && log.contains("`version: 1`"), "{log}");
    let output = home.exec(&[], &[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_route_for_localhost_removes_it_from_no_proxy_and_is_reported() {
    let home =
        Home::with("version: 1\nroutes:\n  - { name: api, match: { host: \"localhost:9\" }, ttl: 1h }\n");
    let output = home.exec(&[], &["sh", "-c", "echo $NO_PROXY"]).await;
    let log = text(&output.stderr);
    assert!(log.starts_with("larder: not in NO_PROXY, since a route names it: localhost\n"), "{log}");
    assert!(text(&output.stdout).starts_with("127.0.0.1,"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn without_a_cache_directory_the_command_still_runs() {
    let home = Home::with("version: 1\n");
    let file = home.config_dir.directory.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = home.command(&["--quiet"], &["echo", "done"]);
    command.env("XDG_CACHE_HOME", &file);
    let output = timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    let log = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "done\n"), "{log}");
    // Memory that outlives the process, where the system has it.
    let (memory, none) = (" using /dev/shm/larder-", "larder: nothing is stored on disk: ");
    assert!(log.contains(memory) || log.starts_with(none), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(Path::new(&file).is_file());
}

#[tokio::test]
async fn an_https_call_of_an_unmodified_command_hits_the_second_time() {
    if !has_curl("exec over TLS") {
        return;
    }
    let authority = TestCa::new();
    for speaks in [Protocols::H1, Protocols::H2] {
        let origin = TlsOrigin::start(&authority, Certificate::Good, speaks, "secret").await;
        let home = Home::with(&format!(
            "version: 1\nresolve: {{ api.example.test: \"{}\" }}\n\
             upstreams: {{ up: {{ hosts: [api.example.test], tls: {{ extra_roots: [\"{}\"] }} }} }}\n\
             routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
            origin.addr,
            authority.root().display()
        ));
        let call = "curl -sS https://api.example.test/x";
        let output = home.exec(&["--json"], &["sh", "-c", &format!("{call}; {call}")]).await;
        let log = text(&output.stderr);
        assert_eq!(text(&output.stdout), "secretsecret", "{log}");
        assert_eq!(origin.calls(), 1, "{log}");
        let summary: serde_json::Value = serde_json::from_str(log.trim()).expect(&log);
        assert_eq!((&summary["calls"], &summary["without_api"]), (&2.into(), &1.into()), "{log}");
        // The authority is kept for the next command; it may sign only for the intercepted hosts.
        let again = home.exec(&["--quiet"], &["sh", "-c", call]).await;
        assert_eq!(text(&again.stdout), "secret", "{}", text(&again.stderr));
        assert_eq!(origin.calls(), 1);
    }
}

/// Starts a larder on the ports that its configuration file names.
/// A home whose configuration intercepts `api.example.test`, which is `origin`.
fn intercepting(origin: &TlsOrigin, authority: &TestCa) -> Home {
    Home::with(&format!(
        "version: 1\nresolve: {{ api.example.test: \"{}\" }}\n\
         upstreams: {{ up: {{ hosts: [api.example.test], tls: {{ extra_roots: [\"{}\"] }} }} }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr,
        authority.root().display()
    ))
}

#[tokio::test]
async fn the_advice_for_a_client_with_its_own_roots_is_not_to_use_exec() {
    if !has_curl("exec with other roots") {
        return;
    }
    let authority = TestCa::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "secret").await;
    let root = authority.root();
    let arguments = ["curl", "-sS", "--cacert", root.to_str().unwrap(), "https://api.example.test/"];
    let output = intercepting(&origin, &authority).exec(&["--quiet"], &arguments).await;
    let log = text(&output.stderr);
    assert!(log.contains("does not accept larder's certificate: it has roots of its own"), "{log}");
    assert!(log.contains("docs/clients.md") && !log.contains("`larder exec`"), "{log}");
}

#[tokio::test]
async fn chromium_accepts_larders_certificate_and_keeps_its_own_profile() {
    let installed = std::process::Command::new("chromium").arg("--version").output();
    if !installed.is_ok_and(|output| output.status.success()) {
        let mut err = std::io::stderr();
        std::io::Write::write_all(&mut err, b"SKIPPED chromium under exec: no chromium\n").unwrap();
        return;
    }
    let authority = TestCa::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "the page").await;
    let home = intercepting(&origin, &authority);
    let own = tempfile::tempdir().unwrap();
    let flags = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"];
    let more = ["--disable-background-networking", "--dump-dom", "https://api.example.test/"];
    let mut command = home.command(&["--quiet"], &flags.into_iter().chain(more).collect::<Vec<_>>());
    command.env("HOME", own.path());
    let output = timeout(TIMEOUT * 3, command.output()).await.expect("it ends").unwrap();
    assert!(text(&output.stdout).contains("the page"), "{}", text(&output.stderr));
    for place in [".config/chromium/Default", ".pki/nssdb", ".local/share/pki/nssdb/cert9.db"] {
        let store = own.path().join(place);
        let changed = fs::read(&store).is_ok_and(|bytes| bytes.windows(6).any(|part| part == b"larder"));
        assert!(!changed && !store.join("Cookies").exists(), "{place}");
    }
}

pub async fn running(origin: &Origin) -> (Home, Process) {
    let (proxy, admin) = (free_port(), free_port());
    let configured = yaml(origin, &proxy).replace("{ listen: 127.0.0.1:0 }", &admin_at(&admin));
    let home = Home::with(&configured);
    let larder = Process::start(&[OsStr::new("run"), home.config_dir.config.as_os_str()]);
    larder.out.wait_for_line("listens on").await;
    (home, larder)
}

impl Home {
    /// The shell command line of `larder env`.
    fn env(&self, flags: &str) -> String {
        let (program, config) = (program(), self.config_dir.config.display());
        format!("{program} env --config {config} {flags}")
    }

    async fn shell(&self, script: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env("XDG_CACHE_HOME", self.cache.path()).kill_on_drop(true);
        shell.env("NODE_OPTIONS", "--no-warnings").env_remove("LARDER_ADMIN");
        timeout(TIMEOUT, shell.output()).await.expect("it ends").expect("it starts")
    }
}

#[tokio::test]
async fn a_shell_that_evaluates_the_output_of_env_uses_the_running_larder() {
    if !has_curl("env") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let env = home.env("");
    let output = home.shell(&format!("eval \"$({env})\"; {CURL}; {CURL}")).await;
    assert_eq!(text(&output.stdout), "hellohello", "{}", text(&output.stderr));
    assert_eq!(origin.calls(), 1);

    // A second evaluation changes nothing, and existing values are kept.
    let twice = format!("eval \"$({env})\"; env | sort; eval \"$({env})\"; env | sort");
    let output = text(&home.shell(&twice).await.stdout);
    let lines: Vec<_> = output.lines().filter(|line| !line.starts_with("_=")).collect();
    let (once, again) = lines.split_at(lines.len() / 2);
    assert_eq!(once, again);
    assert!(once.iter().any(|line| line.starts_with("NODE_OPTIONS=--no-warnings --require")));
    larder.signal("TERM");
    larder.wait_for_exit().await;
}

#[tokio::test]
async fn every_format_of_env_names_the_same_files_in_a_given_directory() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let files = home.config_dir.directory.path().join("a volume");
    let flags = |format: &str| format!("--format {format} --files '{}'", files.display());
    for format in ["sh", "fish", "dotenv", "docker", "k8s"] {
        let output = home.shell(&home.env(&flags(format))).await;
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{format}: {}", text(&output.stderr));
        assert!(printed.contains("a volume/bundle.pem"), "{format}: {printed}");
        assert!(printed.contains("HTTPS_PROXY") && printed.contains("http_proxy"), "{format}: {printed}");
        let alone = ["dotenv", "docker", "k8s"].contains(&format);
        assert_eq!(!alone, printed.contains("--no-warnings"), "{format}: {printed}");
        if format == "k8s" {
            let count = printed.lines().count() / 2;
            let read: Vec<Variable> = serde_saphyr::from_str(&printed).expect(&printed);
            assert_eq!(read.len(), count);
            assert!(read.iter().all(|variable| !variable.name.is_empty()));
            assert!(read.iter().any(|variable| variable.value.ends_with("bundle.pem")), "{printed}");
        }
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
}

#[derive(serde::Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[tokio::test]
async fn env_without_a_running_larder_reports_it_and_exits_with_4() {
    let home =
        Home::with(&format!("version: 1\nlisten: {}\nadmin: {{ listen: {} }}\n", free_port(), free_port()));
    let output = home.shell(&home.env("")).await;
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{log}");
    assert!(log.starts_with("larder env: no larder responds at ") && log.contains("`larder run`"));
    assert!(output.stdout.is_empty());
}

const EVALUATE_PAC: &str = "
const [pac, ...urls] = process.argv.slice(1);
const find = new Function(pac + '; return FindProxyForURL')();
for (const url of urls) console.log(find(url, new URL(url).hostname));
";

#[tokio::test]
async fn proxy_pac_sends_all_but_excluded_urls_to_larder() {
    let node = std::process::Command::new("node").arg("--version").output();
    if !node.is_ok_and(|output| output.status.success()) {
        let mut err = std::io::stderr();
        std::io::Write::write_all(&mut err, b"SKIPPED proxy.pac: no node\n").unwrap();
        return;
    }
    let larder = Larder::bare("routes: [{ name: r, match: { host: a.svc } }]\n").await;
    let mut client = Client::connect(larder.server.admin_addr().unwrap()).await;
    let pac = client.get("http://localhost/proxy.pac", &[]).await;
    let kind = "application/x-ns-proxy-autoconfig";
    assert_eq!((pac.status, pac.field("content-type")), (200, Some(kind)));
    let proxied = format!("PROXY {}", larder.addr());
    let table = [
        ("http://api.example/x", proxied.as_str()),
        ("https://api.example:444/", &proxied),
        ("http://128.0.0.1/", &proxied),
        ("https://a.svc/", &proxied),
        ("http://notlocalhost/", &proxied),
        ("http://localhost:3000/", "DIRECT"),
        ("http://LOCALHOST/", "DIRECT"),
        ("http://127.200.0.1/", "DIRECT"),
        ("http://[::1]:80/", "DIRECT"),
        ("http://169.254.169.254/latest", "DIRECT"),
        ("http://[fd00:ec2::254]/", "DIRECT"),
        ("http://db.cluster.local/", "DIRECT"),
        ("http://metadata.google.internal/", "DIRECT"),
        ("ftp://api.example/x", "DIRECT"),
    ];
    let mut node_command = Command::new("node");
    node_command
        .args(["-e", EVALUATE_PAC])
        .arg(pac.text())
        .args(table.map(|(url, _)| url))
        .kill_on_drop(true);
    let output = timeout(TIMEOUT, node_command.output()).await.unwrap().unwrap();
    let printed = text(&output.stdout);
    let expected = table.map(|(_, result)| result);
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{}", text(&output.stderr));
}

// ---- --fallback-direct

/// Makes one call for each line that it reads, and prints each response on one line.
const CALL_PER_LINE: &str = "echo begun; while read line; do \
    curl -sS -D - http://api.example.test/x | tr '\\r\\n' '  '; echo; done";

/// The process id of the larder that `exec` has started.
fn larder_pid(exec: &Process) -> u32 {
    let parent = exec.child.id().unwrap().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let fields = stat.rsplit_once(") ")?.1;
        let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let matches = fields.split(' ').nth(1) == Some(&parent) && command.contains("exec-serve");
        if matches { entry.file_name().to_str()?.parse().ok() } else { None }
    });
    found.next().expect("a larder runs")
}

struct Caller {
    exec: Process,
    calls: usize,
}

impl Caller {
    async fn start(home: &Home) -> Self {
        let mut exec = home.command(&["--fallback-direct"], &["sh", "-c", CALL_PER_LINE]);
        exec.stdin(Stdio::piped());
        let exec = Process::from_command(exec);
        exec.out.wait_for_line("begun").await;
        Self { exec, calls: 0 }
    }

    async fn call(&mut self) -> String {
        let input = self.exec.child.stdin.as_mut().unwrap();
        tokio::io::AsyncWriteExt::write_all(input, b"call\n").await.unwrap();
        self.calls += 1;
        let lines = self.exec.out.clone();
        let calls = self.calls;
        eventually("an answer", || lines.all().len() > calls).await;
        lines.all()[calls].clone()
    }

    fn kill_larder(&self) -> u32 {
        let larder = larder_pid(&self.exec);
        let kill = format!("kill -KILL {larder}");
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        larder
    }

    async fn end(mut self) -> (Option<i32>, String) {
        drop(self.exec.child.stdin.take());
        let code = self.exec.wait_for_exit().await.code();
        (code, self.exec.err.text())
    }
}

#[tokio::test]
async fn after_a_kill_no_call_fails_and_larder_restarts_with_its_store() {
    if !has_curl("fallback") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let mut caller = Caller::start(&home).await;
    let first = caller.call().await;
    assert!(first.contains(" 200 ") && first.ends_with("hello"), "{first}");
    assert!(caller.call().await.contains("; hit"));
    for round in 0..3 {
        let killed = caller.kill_larder();
        let mut calls = 0;
        loop {
            let answer = caller.call().await;
            assert!(answer.contains(" 200 ") && answer.ends_with("hello"), "{round}: {answer}");
            calls += 1;
            assert!(calls < 1000, "it never came back: {}", caller.exec.err.text());
            if answer.contains("; hit") {
                break;
            }
        }
        assert_ne!(larder_pid(&caller.exec), killed);
    }
    let (code, log) = caller.end().await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("larder has ended").count(), 3, "{log}");
    assert!(log.contains("answered without the API"), "{log}");
    assert_eq!(home.session_dirs(), 0);
}

#[tokio::test]
async fn a_supervised_larder_counts_and_stores_as_usual() {
    if !has_curl("fallback") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let script = format!("{CURL}; {CURL}");
    let output = home.exec(&["--fallback-direct"], &["sh", "-c", &script]).await;
    let log = text(&output.stderr);
    assert_eq!(text(&output.stdout), "hellohello", "{log}");
    assert!(log.starts_with("larder: 2 calls, 1 answered without the API (50.0 %)"), "{log}");
    let output = home.exec(&["--fallback-direct"], &["sh", "-c", CURL]).await;
    assert_eq!(text(&output.stdout), "hello", "{}", text(&output.stderr));
    assert_eq!((origin.calls(), home.session_dirs()), (1, 0));
}

#[tokio::test]
async fn a_supervised_larder_ends_when_its_supervisor_is_killed() {
    let home = Home::with("version: 1\n");
    let mut exec = home.command(&["--fallback-direct"], &["sh", "-c", "echo begun; read line"]);
    exec.stdin(Stdio::piped());
    let mut exec = Process::from_command(exec);
    exec.out.wait_for_line("begun").await;
    let larder = larder_pid(&exec);
    exec.signal("KILL");
    drop(exec.child.stdin.take());
    let runs = || fs::read_to_string(format!("/proc/{larder}/cmdline")).is_ok_and(|c| !c.is_empty());
    eventually("the end of larder", || !runs()).await;
    exec.wait_for_exit().await;
}

// ---- larder doctor

impl Home {
    async fn doctor(&self, flags: &[&str], script: &str) -> Output {
        let exec = self.command(flags, &["sh", "-c", script]);
        let mut doctor = Command::new(program());
        let arguments = exec.as_std().get_args().skip(1);
        doctor.arg("doctor").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        for (name, value) in exec.as_std().get_envs() {
            match value {
                Some(value) => doctor.env(name, value),
                None => doctor.env_remove(name),
            };
        }
        timeout(TIMEOUT, doctor.output()).await.expect("it ends").expect("it starts")
    }
}

#[tokio::test]
async fn doctor_reports_only_connections_that_bypass_larder() {
    if !cfg!(target_os = "linux") || !has_curl("doctor") {
        return;
    }
    // The connection stays open long enough to be detected.
    let origin = Origin::start(|_| {
        let body = MockResponse::chunked_open(200, &[], &[b"hello"]);
        body.then([Step::Pause(Duration::from_millis(200)), Step::Write(b"0\r\n\r\n".to_vec())])
    })
    .await;
    let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let bypassed = other.local_addr().unwrap();
    // This listener never responds, so curl times out.
    let home = Home::for_origin(&origin);
    let script = format!("{CURL}; curl -sS -m 0.5 --noproxy '*' http://{bypassed}/; exit 9");
    let output = home.doctor(&[], &script).await;
    let log = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(9), "hello".to_owned()), "{log}");
    assert!(log.contains("larder doctor: 1 connection through larder, 1 around it"), "{log}");
    assert!(log.contains(&format!("  around  {bypassed}  by curl ")), "{log}");
    assert!(log.contains("an argument disables the proxy: remove --noproxy"), "{log}");
    assert!(!log.contains(&origin.addr.to_string()), "{log}");

    // The report as JSON, for an address in NO_PROXY.
    let script = format!("curl -sS -m 0.5 http://{bypassed}/; exit 0");
    let output = home.doctor(&["--json"], &script).await;
    let log = text(&output.stderr);
    let line = log.lines().find(|line| line.starts_with('{')).expect(&log);
    let report: serde_json::Value = serde_json::from_str(line).expect(&log);
    assert_eq!((&report["through"], &report["around"][0]["process"]), (&0.into(), &"curl".into()));
    assert_eq!(report["around"][0]["why"], "NO_PROXY excludes it");
    assert_eq!(home.session_dirs(), 0);
}

#[tokio::test]
async fn doctor_and_exec_report_tunnelled_hosts() {
    if !has_curl("doctor") {
        return;
    }
    let authority = TestCa::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "theirs").await;
    let home = Home::with(&format!(
        "version: 1\nresolve: {{ two.example.test: \"{}\" }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr
    ));
    let script = format!("curl -sS --cacert '{}' https://two.example.test/x", authority.root().display());
    let output = home.doctor(&[], &script).await;
    let log = text(&output.stderr);
    assert_eq!(text(&output.stdout), "theirs", "{log}");
    assert!(log.contains("  unseen  two.example.test  1x tunnelled"), "{log}");
    let output = home.exec(&[], &["sh", "-c", &script]).await;
    let log = text(&output.stderr);
    assert!(log.contains("1 connection was tunnelled unread (two.example.test)"), "{log}");
}
