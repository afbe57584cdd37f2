//! `larder exec`: the real program around real commands.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Client;
use crate::larder_under_test::Larder;
use crate::origin::{Answer, Origin, Step};
use crate::process::{House, PATIENCE, Process, eventually, program, text};
use crate::tls_origin::{Authority, Certificate, Speaks, TlsOrigin};

/// A configuration, and a user's directories of their own.
pub struct Home {
    house: House,
    cache: tempfile::TempDir,
    session: tempfile::TempDir,
}

impl Home {
    pub fn with(yaml: &str) -> Self {
        let directory = || tempfile::tempdir().unwrap();
        Self { house: House::with(yaml), cache: directory(), session: directory() }
    }

    /// With `api.example.test` at `origin`, everything on it cached.
    fn of(origin: &Origin) -> Self {
        Self::with(&yaml(origin, "127.0.0.1:0"))
    }

    pub fn command(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut exec = Command::new(program());
        exec.args([OsStr::new("exec"), OsStr::new("--config"), self.house.config.as_os_str()]);
        exec.args(flags).arg("--").args(command);
        exec.env("XDG_CACHE_HOME", self.cache.path()).env("XDG_RUNTIME_DIR", self.session.path());
        for name in ["NO_PROXY", "no_proxy", "LARDER_ADMIN", "LARDER_ADMIN_TOKEN"] {
            exec.env_remove(name);
        }
        exec.stdin(Stdio::null()).kill_on_drop(true);
        exec
    }

    async fn exec(&self, flags: &[&str], command: &[&str]) -> Output {
        let running = self.command(flags, command).output();
        timeout(PATIENCE, running).await.expect("it ends").expect("it starts")
    }

    /// What is left of directories for commands.
    fn left(&self) -> usize {
        fs::read_dir(self.session.path()).unwrap().count()
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

const CURL: &str = "curl -sS http://api.example.test/x";

pub fn has_curl(test: &str) -> bool {
    let found = std::process::Command::new("curl").arg("-V").output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "curl is not installed");
    // Not println: this line is to be seen although the test passes.
    let mut err = std::io::stderr();
    std::io::Write::write_all(&mut err, format!("SKIPPED {test}: no curl\n").as_bytes()).unwrap();
    false
}

#[tokio::test]
async fn the_second_call_of_a_command_hits_and_two_lines_say_what_was_saved() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let home = Home::of(&origin);
    let output = home.exec(&[], &["sh", "-c", &format!("{CURL}; {CURL}")]).await;
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "hellohello".to_owned()));
    assert_eq!(origin.calls(), 1);
    assert_eq!(
        said,
        "larder: 2 calls, 1 answered without the API (50.0 %), 1 went to it\n\
         larder: saved 5 B of 10 B; nothing was tunnelled unseen\n"
    );
    assert_eq!(home.left(), 0);
}

#[tokio::test]
async fn an_error_of_larders_own_is_no_answer_of_the_api_and_saves_nothing() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(Answer::closed()).await;
    let home = Home::of(&origin);
    let output = home.exec(&[], &["sh", "-c", CURL]).await;
    assert!(text(&output.stdout).contains("larder_error"), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(said.contains("0 answered without the API (0.0 %), 0 went to it, 1 failed"), "{said}");
    assert!(said.contains("larder: saved 0 B of 0 B;"), "{said}");
}

#[tokio::test]
async fn what_a_command_stored_is_there_for_the_next_one() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let home = Home::of(&origin);
    for _ in 0..2 {
        let output = home.exec(&["--json"], &["sh", "-c", CURL]).await;
        assert_eq!(text(&output.stdout), "hello", "{}", text(&output.stderr));
    }
    assert_eq!(origin.calls(), 1);
    let kept = fs::read_dir(home.cache.path().join("larder")).unwrap();
    let modes: Vec<_> =
        kept.map(|entry| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect();
    assert_eq!(modes, [0o700], "one directory for one configuration, its owner's alone");
}

#[tokio::test]
async fn a_store_in_use_is_one_line_and_memory_serves() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let home = Home::of(&origin);
    let mut outer = home.command(&["--quiet"], &["sh", "-c", "echo begun; read line"]);
    let mut outer = Process::of({
        outer.stdin(Stdio::piped());
        outer
    });
    outer.out.line("begun").await;
    let inner = home.exec(&["--quiet"], &["sh", "-c", &format!("{CURL}; {CURL}")]).await;
    let said = text(&inner.stderr);
    assert_eq!(text(&inner.stdout), "hellohello", "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("is in use by") && said.contains("as long as this command"), "{said}");
    assert_eq!(origin.calls(), 1);
    drop(outer.child.stdin.take());
    outer.ended().await;
}

#[tokio::test]
async fn the_exit_code_is_the_commands() {
    let home = Home::with("version: 1\n");
    let script = home.house.directory.path().join("script");
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
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert!(output.stdout.is_empty());
        let expected = usize::from(code == 126 || code == 127);
        assert_eq!(said.lines().count(), expected, "{said}");
        assert!(expected == 0 || said.starts_with(&format!("larder exec: {}: ", command[0])));
        assert_eq!(home.left(), 0, "{command:?}");
    }
}

#[tokio::test]
async fn what_goes_in_and_out_is_untouched() {
    let home = Home::with("version: 1\n");
    let script = "cat; printf 'out\\0\\377'; printf 'err\\0\\377' >&2; umask";
    let mut command = home.command(&["--quiet"], &["sh", "-c", script]);
    let input = home.house.directory.path().join("input");
    fs::write(&input, b"in\0\xfe").unwrap();
    command.stdin(fs::File::open(&input).unwrap());
    let mask = std::process::Command::new("sh").args(["-c", "umask"]).output().unwrap().stdout;
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert_eq!(output.stdout, [b"in\0\xfeout\0\xff".as_slice(), &mask].concat());
    assert_eq!(output.stderr, b"err\0\xff");
}

#[tokio::test]
async fn signals_are_the_commands() {
    for (signal, code) in
        [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131), ("USR1", 138), ("USR2", 140)]
    {
        let home = Home::with("version: 1\n");
        let script = "echo begun; exec sleep 60";
        let mut process = Process::of(home.command(&["--quiet"], &["sh", "-c", script]));
        process.out.line("begun").await;
        assert_eq!(home.left(), 1);
        process.signal(signal);
        assert_eq!(process.ended().await.code(), Some(code), "{signal}");
        assert_eq!(home.left(), 0, "{signal}");
    }
}

#[tokio::test]
async fn a_command_that_handles_a_signal_ends_as_it_likes() {
    let home = Home::with("version: 1\n");
    let script = "trap 'echo handled; exit 7' TERM; echo begun; while :; do sleep 0.01; done";
    let mut process = Process::of(home.command(&["--quiet"], &["sh", "-c", script]));
    process.out.line("begun").await;
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(7));
    assert_eq!(process.out.all(), ["begun", "handled"]);
}

/// `nohup larder exec -- CMD &`
#[tokio::test]
async fn what_larder_was_started_to_ignore_the_command_ignores() {
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
    let mut process = Process::of(nohup);
    process.out.line("begun").await;
    process.signal("HUP");
    drop(process.child.stdin.take());
    assert_eq!(process.ended().await.code(), Some(0));
    assert_eq!(process.out.all(), ["begun", "ended"]);
}

#[tokio::test]
async fn what_a_killed_larder_left_is_removed_by_the_next() {
    let home = Home::with("version: 1\n");
    let script = "echo begun; read line";
    let mut command = home.command(&["--quiet"], &["sh", "-c", script]);
    command.stdin(Stdio::piped());
    let mut process = Process::of(command);
    process.out.line("begun").await;
    process.signal("KILL");
    drop(process.child.stdin.take());
    process.ended().await;
    assert_eq!(home.left(), 1, "nobody was there to remove it");
    home.exec(&["--quiet"], &["true"]).await;
    assert_eq!(home.left(), 0);
}

#[tokio::test]
async fn the_larder_that_runs_with_this_configuration_is_used() {
    if !has_curl("exec") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let configured = fs::read_to_string(&home.house.config).unwrap();
    for calls in 1..3 {
        let output = home.exec(&[], &["sh", "-c", CURL]).await;
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "hello", "{said}");
        assert_eq!(origin.calls(), 1, "{said}");
        assert!(said.starts_with("larder: 1 call, "), "call {calls}: {said}");
        assert!(said.contains("with the calls of other clients in it"), "{said}");
    }
    assert_eq!(fs::read_dir(home.cache.path()).unwrap().count(), 0, "no private one was started");

    // Another one at the same address is not used.
    fs::write(&home.house.config, configured.replace("ttl: 1h", "ttl: 2h")).unwrap();
    let output = home.exec(&["--quiet"], &["sh", "-c", CURL]).await;
    let said = text(&output.stderr);
    assert!(
        said.contains("not with these routes (try `larder reload`): starting a private one"),
        "{said}"
    );
    assert_eq!(origin.calls(), 2, "{said}");
    larder.signal("TERM");
    larder.ended().await;
}

fn admin_at(admin: &str) -> String {
    format!("{{ listen: {admin} }}")
}

/// Free a moment ago: the configuration has to name one before larder listens.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn without_a_configuration_or_a_command_it_says_what_is_missing() {
    let home = Home::with("version: 1\n");
    let mut command = Command::new(program());
    command.args(["exec", "--", "true"]).current_dir(home.cache.path());
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("proxy.yaml: ") && said.contains("`version: 1`"), "{said}");
    let output = home.exec(&[], &[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_route_for_this_machine_is_not_gone_around_and_that_is_said() {
    let home = Home::with(
        "version: 1\nroutes:\n  - { name: api, match: { host: \"localhost:9\" }, ttl: 1h }\n",
    );
    let output = home.exec(&[], &["sh", "-c", "echo $NO_PROXY"]).await;
    let said = text(&output.stderr);
    assert!(
        said.starts_with("larder: not in NO_PROXY, since a route names it: localhost\n"),
        "{said}"
    );
    assert!(text(&output.stdout).starts_with("127.0.0.1,"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn without_a_cache_directory_it_runs_all_the_same() {
    let home = Home::with("version: 1\n");
    let file = home.house.directory.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = home.command(&["--quiet"], &["echo", "done"]);
    command.env("XDG_CACHE_HOME", &file);
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = text(&output.stderr);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "done\n"),
        "{said}"
    );
    assert!(said.starts_with("larder: nothing is stored on disk: "), "{said}");
    assert!(Path::new(&file).is_file());
}

#[tokio::test]
async fn https_of_an_unmodified_command_hits_on_its_second_call() {
    if !has_curl("exec over TLS") {
        return;
    }
    let authority = Authority::new();
    for speaks in [Speaks::H1, Speaks::H2] {
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
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "secretsecret", "{said}");
        assert_eq!(origin.calls(), 1, "{said}");
        let told: serde_json::Value = serde_json::from_str(said.trim()).expect(&said);
        assert_eq!((&told["calls"], &told["without_api"]), (&2.into(), &1.into()), "{said}");
        // The authority lasts, and may vouch for nobody else.
        let again = home.exec(&["--quiet"], &["sh", "-c", call]).await;
        assert_eq!(text(&again.stdout), "secret", "{}", text(&again.stderr));
        assert_eq!(origin.calls(), 1);
    }
}

/// A larder that runs with this configuration, at a port that its file names.
async fn running(origin: &Origin) -> (Home, Process) {
    let (proxy, admin) = (free_port(), free_port());
    let configured = yaml(origin, &proxy).replace("{ listen: 127.0.0.1:0 }", &admin_at(&admin));
    let home = Home::with(&configured);
    let larder = Process::start(&[OsStr::new("run"), home.house.config.as_os_str()]);
    larder.out.line("listens on").await;
    (home, larder)
}

impl Home {
    /// `larder env` as a shell would be given it.
    fn env(&self, flags: &str) -> String {
        let (program, config) = (program(), self.house.config.display());
        format!("{program} env --config {config} {flags}")
    }

    async fn shell(&self, script: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env("XDG_CACHE_HOME", self.cache.path()).kill_on_drop(true);
        shell.env("NODE_OPTIONS", "--no-warnings").env_remove("LARDER_ADMIN");
        timeout(PATIENCE, shell.output()).await.expect("it ends").expect("it starts")
    }
}

#[tokio::test]
async fn a_shell_that_takes_what_env_prints_uses_the_larder_that_runs() {
    if !has_curl("env") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let env = home.env("");
    let output = home.shell(&format!("eval \"$({env})\"; {CURL}; {CURL}")).await;
    assert_eq!(text(&output.stdout), "hellohello", "{}", text(&output.stderr));
    assert_eq!(origin.calls(), 1);

    // Once more changes nothing, and what was there stays.
    let twice = format!("eval \"$({env})\"; env | sort; eval \"$({env})\"; env | sort");
    let output = text(&home.shell(&twice).await.stdout);
    let lines: Vec<_> = output.lines().filter(|line| !line.starts_with("_=")).collect();
    let (once, again) = lines.split_at(lines.len() / 2);
    assert_eq!(once, again);
    assert!(once.iter().any(|line| line.starts_with("NODE_OPTIONS=--no-warnings --require")));
    larder.signal("TERM");
    larder.ended().await;
}

#[tokio::test]
async fn every_format_of_env_names_the_same_files_in_a_place_of_choice() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (home, mut larder) = running(&origin).await;
    let files = home.house.directory.path().join("a volume");
    let flags = |format: &str| format!("--format {format} --files '{}'", files.display());
    for format in ["sh", "fish", "dotenv", "docker", "k8s"] {
        let output = home.shell(&home.env(&flags(format))).await;
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{format}: {}", text(&output.stderr));
        assert!(said.contains("a volume/bundle.pem"), "{format}: {said}");
        assert!(said.contains("HTTPS_PROXY") && said.contains("http_proxy"), "{format}: {said}");
        let alone = ["dotenv", "docker", "k8s"].contains(&format);
        assert_eq!(!alone, said.contains("--no-warnings"), "{format}: {said}");
        if format == "k8s" {
            let count = said.lines().count() / 2;
            let read: Vec<Variable> = serde_saphyr::from_str(&said).expect(&said);
            assert_eq!(read.len(), count);
            assert!(read.iter().all(|variable| !variable.name.is_empty()));
            assert!(read.iter().any(|variable| variable.value.ends_with("bundle.pem")), "{said}");
        }
    }
    larder.signal("TERM");
    larder.ended().await;
}

#[derive(serde::Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[tokio::test]
async fn env_without_a_running_larder_says_so_and_exits_4() {
    let home = Home::with(&format!(
        "version: 1\nlisten: {}\nadmin: {{ listen: {} }}\n",
        free_port(),
        free_port()
    ));
    let output = home.shell(&home.env("")).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.starts_with("larder env: no larder answers at ") && said.contains("`larder run`"));
    assert!(output.stdout.is_empty());
}

const ASK_PAC: &str = "
const [pac, ...urls] = process.argv.slice(1);
const find = new Function(pac + '; return FindProxyForURL')();
for (const url of urls) console.log(find(url, new URL(url).hostname));
";

#[tokio::test]
async fn proxy_pac_sends_everything_to_larder_but_what_is_spared() {
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
    let mut ask = Command::new("node");
    ask.args(["-e", ASK_PAC]).arg(pac.text()).args(table.map(|(url, _)| url)).kill_on_drop(true);
    let output = timeout(PATIENCE, ask.output()).await.unwrap().unwrap();
    let said = text(&output.stdout);
    let expected = table.map(|(_, way)| way);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", text(&output.stderr));
}

// ---- --fallback-direct

/// One call for each line that it reads; what it was answered, on a line.
const CALL_PER_LINE: &str = "echo begun; while read line; do \
    curl -sS -D - http://api.example.test/x | tr '\\r\\n' '  '; echo; done";

/// The larder that `exec` has started.
fn larder_of(exec: &Process) -> u32 {
    let parent = exec.child.id().unwrap().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let after = stat.rsplit_once(") ")?.1;
        let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = after.split(' ').nth(1) == Some(&parent) && command.contains("exec-serve");
        if is_it { entry.file_name().to_str()?.parse().ok() } else { None }
    });
    found.next().expect("a larder runs")
}

struct Caller {
    exec: Process,
    asked: usize,
}

impl Caller {
    async fn start(home: &Home) -> Self {
        let mut exec = home.command(&["--fallback-direct"], &["sh", "-c", CALL_PER_LINE]);
        exec.stdin(Stdio::piped());
        let exec = Process::of(exec);
        exec.out.line("begun").await;
        Self { exec, asked: 0 }
    }

    async fn call(&mut self) -> String {
        let input = self.exec.child.stdin.as_mut().unwrap();
        tokio::io::AsyncWriteExt::write_all(input, b"call\n").await.unwrap();
        self.asked += 1;
        let lines = self.exec.out.clone();
        let asked = self.asked;
        eventually("an answer", || lines.all().len() > asked).await;
        lines.all()[asked].clone()
    }

    fn kill_larder(&self) -> u32 {
        let larder = larder_of(&self.exec);
        let kill = format!("kill -KILL {larder}");
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        larder
    }

    async fn end(mut self) -> (Option<i32>, String) {
        drop(self.exec.child.stdin.take());
        let code = self.exec.ended().await.code();
        (code, self.exec.err.text())
    }
}

#[tokio::test]
async fn a_killed_larder_costs_its_command_no_call_and_is_back_with_what_it_stored() {
    if !has_curl("fallback") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let home = Home::of(&origin);
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
        assert_ne!(larder_of(&caller.exec), killed);
    }
    let (code, said) = caller.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("larder has ended").count(), 3, "{said}");
    assert!(said.contains("answered without the API"), "{said}");
    assert_eq!(home.left(), 0);
}

#[tokio::test]
async fn a_larder_behind_a_guard_counts_and_stores_as_any_other() {
    if !has_curl("fallback") {
        return;
    }
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let home = Home::of(&origin);
    let script = format!("{CURL}; {CURL}");
    let output = home.exec(&["--fallback-direct"], &["sh", "-c", &script]).await;
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "hellohello", "{said}");
    assert!(said.starts_with("larder: 2 calls, 1 answered without the API (50.0 %)"), "{said}");
    let output = home.exec(&["--fallback-direct"], &["sh", "-c", CURL]).await;
    assert_eq!(text(&output.stdout), "hello", "{}", text(&output.stderr));
    assert_eq!((origin.calls(), home.left()), (1, 0));
}

#[tokio::test]
async fn a_guarded_larder_ends_with_a_guard_that_was_killed() {
    let home = Home::with("version: 1\n");
    let mut exec = home.command(&["--fallback-direct"], &["sh", "-c", "echo begun; read line"]);
    exec.stdin(Stdio::piped());
    let mut exec = Process::of(exec);
    exec.out.line("begun").await;
    let larder = larder_of(&exec);
    exec.signal("KILL");
    drop(exec.child.stdin.take());
    let gone =
        || fs::read_to_string(format!("/proc/{larder}/cmdline")).is_ok_and(|c| !c.is_empty());
    eventually("the end of larder", || !gone()).await;
    exec.ended().await;
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
        timeout(PATIENCE, doctor.output()).await.expect("it ends").expect("it starts")
    }
}

#[tokio::test]
async fn doctor_tells_who_went_around_larder_and_not_who_went_through() {
    if !cfg!(target_os = "linux") || !has_curl("doctor") {
        return;
    }
    // Held open long enough to be seen.
    let origin = Origin::start(|_| {
        let body = Answer::chunked_open(200, &[], &[b"hello"]);
        body.then([Step::Pause(Duration::from_millis(200)), Step::Write(b"0\r\n\r\n".to_vec())])
    })
    .await;
    let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let around = other.local_addr().unwrap();
    // It never answers: curl gives up.
    let home = Home::of(&origin);
    let script = format!("{CURL}; curl -sS -m 0.5 --noproxy '*' http://{around}/; exit 9");
    let output = home.doctor(&[], &script).await;
    let said = text(&output.stderr);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(9), "hello".to_owned()),
        "{said}"
    );
    assert!(said.contains("larder doctor: 1 connection through larder, 1 around it"), "{said}");
    assert!(said.contains(&format!("  around  {around}  by curl ")), "{said}");
    assert!(said.contains("NO_PROXY spares it"), "{said}");
    assert!(!said.contains(&origin.addr.to_string()), "{said}");

    // As JSON, of a process that lost its environment, and a tunnel that nobody named.
    let script = format!("env -i curl -sS -m 0.5 http://{around}/; exit 0");
    let output = home.doctor(&["--json"], &script).await;
    let said = text(&output.stderr);
    let line = said.lines().find(|line| line.starts_with('{')).expect(&said);
    let told: serde_json::Value = serde_json::from_str(line).expect(&said);
    assert_eq!((&told["through"], &told["around"][0]["process"]), (&0.into(), &"curl".into()));
    assert_eq!(home.left(), 0);
}

#[tokio::test]
async fn doctor_and_exec_name_what_larder_tunnelled() {
    if !has_curl("doctor") {
        return;
    }
    let authority = Authority::new();
    let origin = TlsOrigin::start(&authority, Certificate::Good, Speaks::H1, "theirs").await;
    let home = Home::with(&format!(
        "version: 1\nresolve: {{ two.example.test: \"{}\" }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr
    ));
    let script =
        format!("curl -sS --cacert '{}' https://two.example.test/x", authority.root().display());
    let output = home.doctor(&[], &script).await;
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "theirs", "{said}");
    assert!(said.contains("  unseen  two.example.test  1x tunnelled"), "{said}");
    let output = home.exec(&[], &["sh", "-c", &script]).await;
    let said = text(&output.stderr);
    assert!(said.contains("1 connection was tunnelled unseen (two.example.test)"), "{said}");
}
