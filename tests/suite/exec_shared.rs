//! Commands that share one private larder, and the places of its configuration and its data.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::exec::{CURL, Home, has_curl};
use crate::exec_users::can_run;
use crate::origin::{MockResponse, Origin};
use crate::process::{Process, TIMEOUT, eventually, program, text};

/// A budget of two calls a day, with a credential from the environment.
fn budget(origin: &Origin) -> String {
    format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{}\" }}\n\
         upstreams:\n  up:\n    hosts: [api.example.test]\n    \
         cost: {{ credits: 1, budget: {{ credits: 2/day, at_limit: refuse }} }}\n    \
         credential: {{ header: X-Key, from_env: API_KEY }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h, scope: shared, retry: off }}\n",
        origin.addr
    )
}

/// A command that runs until its input is closed.
struct Running(Process);

impl Running {
    async fn start(mut exec: Command) -> Self {
        exec.stdin(Stdio::piped());
        let process = Process::from_command(exec);
        process.out.wait_for_line("begun").await;
        Self(process)
    }

    async fn end(mut self) -> String {
        drop(self.0.child.stdin.take());
        self.0.wait_for_exit().await;
        self.0.err.text()
    }
}

const WAIT: [&str; 3] = ["sh", "-c", "echo begun; read line"];

async fn output(mut command: Command) -> Output {
    timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it starts")
}

/// The directories of private larders that run.
fn larders(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.session.path().join("larder")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[tokio::test]
async fn commands_share_a_budget_and_a_store_also_over_time() {
    if !has_curl("a shared larder") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::with(&budget(&origin));
    let exec = |script: &str, key: &str| {
        let mut exec = home.command(&["--quiet"], &["sh", "-c", script]);
        exec.env("API_KEY", key);
        exec
    };
    let running = Running::start(exec(WAIT[2], "mine")).await;
    for number in 0..4 {
        output(exec(&format!("{CURL}/{number}"), "mine")).await;
    }
    assert_eq!(origin.calls(), 2, "one budget for all");
    let again = output(exec(&format!("{CURL}/0"), "mine")).await;
    assert_eq!((text(&again.stdout).as_str(), origin.calls()), ("hello", 2), "stored by another command");
    let other = output(exec(&format!("{CURL}/0"), "theirs")).await;
    assert_eq!(
        (text(&other.stdout).as_str(), origin.calls()),
        ("hello", 3),
        "another account shares nothing"
    );
    running.end().await;
    assert_eq!(larders(&home), [] as [PathBuf; 0], "it has ended with its last command");
    let later = output(exec(&format!("{CURL}/0; {CURL}/9"), "mine")).await;
    assert!(text(&later.stdout).starts_with("hello"), "{}", text(&later.stdout));
    assert_eq!(origin.calls(), 3, "store and budget outlive the larder");
}

#[tokio::test]
async fn a_sum_names_the_calls_of_other_commands_if_there_are_any() {
    if !has_curl("a shared larder") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let running = Running::start(home.command(&[], &WAIT)).await;
    let beside = home.exec(&[], &["sh", "-c", CURL]).await;
    let log = text(&beside.stderr);
    assert!(log.starts_with("larder: 1 call, ") && log.contains("of other clients"), "{log}");
    assert!(running.end().await.contains("including the calls of other clients"));
    let alone = home.exec(&[], &["sh", "-c", CURL]).await;
    let log = text(&alone.stderr);
    assert!(log.starts_with("larder: 1 call, ") && !log.contains("of other clients"), "{log}");
}

#[tokio::test]
async fn a_larder_outlives_the_command_that_started_it_and_ends_with_the_last() {
    if !has_curl("a shared larder") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    let mut first = Running::start(home.command(&["--quiet"], &WAIT)).await;
    let script = "echo begun; while read line; do curl -sS http://api.example.test/x; echo; done";
    let mut second = Running::start(home.command(&["--quiet"], &["sh", "-c", script])).await;
    let found = larders(&home);
    let [directory] = found.as_slice() else { panic!("one larder for both: {found:?}") };
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for socket in ["exec.sock", "admin.sock"] {
        let facts = directory.join(socket).metadata().unwrap();
        assert!(facts.file_type().is_socket());
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{socket}");
    }
    first.0.signal("KILL");
    drop(first.0.child.stdin.take());
    first.0.wait_for_exit().await;
    let input = second.0.child.stdin.as_mut().unwrap();
    tokio::io::AsyncWriteExt::write_all(input, b"call\n").await.unwrap();
    second.0.out.wait_for_line("hello").await;
    second.0.signal("KILL");
    drop(second.0.child.stdin.take());
    second.0.wait_for_exit().await;
    eventually("the end of larder", || larders(&home).is_empty()).await;
}

#[tokio::test]
async fn commands_that_start_and_end_at_once_all_run() {
    let home = Home::with("version: 1\n");
    let rounds = (0..3).flat_map(|_| (0..4).map(|_| output(home.command(&["--quiet"], &["echo", "ran"]))));
    let mut all = tokio::task::JoinSet::new();
    for round in rounds {
        all.spawn(round);
    }
    while let Some(ended) = all.join_next().await {
        let Output { status, stdout, stderr } = ended.unwrap();
        assert_eq!((status.code(), text(&stdout).as_str()), (Some(0), "ran\n"), "{}", text(&stderr));
        assert!(stderr.is_empty(), "{}", text(&stderr));
    }
    assert_eq!(larders(&home), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_private_larder_is_steered_from_within_and_from_beside() {
    if !has_curl("a steered larder") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let home = Home::for_origin(&origin);
    // Below the root directory there is no configuration: the variable leads to the larder.
    let script = format!(
        "{CURL} && cd / && \"{0}\" ls && \"{0}\" upstreams && \"{0}\" cost && \
         \"{0}\" purge http://api.example.test/x && {CURL}; echo; echo begun; read line",
        program()
    );
    let running = Running::start(home.command(&["--quiet"], &["sh", "-c", &script])).await;
    let printed = running.0.out.all().join("\n");
    assert!(printed.contains("http://api.example.test/x") && printed.contains("purged 1"), "{printed}");
    assert_eq!(origin.calls(), 2, "{printed}");
    let beside = output(home.larder(&["ls"])).await;
    assert!(text(&beside.stdout).contains("http://api.example.test/x"), "{}", text(&beside.stderr));
    running.end().await;
    let ended = output(home.larder(&["ls"])).await;
    assert_eq!(ended.status.code(), Some(4), "{}", text(&ended.stdout));
}

#[tokio::test]
async fn checkouts_at_different_paths_share_the_store_that_is_named() {
    if !has_curl("exec --store") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let store = tempfile::tempdir().unwrap();
    for flags in [&["--quiet"][..], &["--quiet"], &["--quiet", "--fallback-direct"]] {
        let checkout = Home::for_origin(&origin);
        let flags = [flags, &["--store", store.path().to_str().unwrap()]].concat();
        let got = checkout.exec(&flags, &["sh", "-c", CURL]).await;
        assert_eq!(text(&got.stdout), "hello", "{}", text(&got.stderr));
    }
    assert_eq!(origin.calls(), 1);
    let key = "ca.key";
    let found = Command::new("find").arg(store.path()).args(["-name", key]).output().await.unwrap();
    assert!(found.stdout.is_empty(), "no authority is in a store that may be copied");
}

#[tokio::test]
async fn a_full_or_read_only_volume_does_not_keep_a_command_from_running() {
    let namespace = ["unshare", "-rm", "true"];
    if !can_run("a full volume", &namespace) {
        return;
    }
    let home = Home::with("version: 1\nroutes: [{ name: r, match: { host: api.example.test } }]\n");
    let script = "
        mount -t tmpfs -o size=64k none \"$XDG_CACHE_HOME\" || exit 9
        dd if=/dev/zero of=\"$XDG_CACHE_HOME/full\" bs=1k count=200 2>/dev/null
        \"$0\" exec --quiet -- echo it ran
        mount -o remount,ro \"$XDG_CACHE_HOME\" || exit 9
        \"$0\" exec --quiet -- echo read-only too";
    let larder = home.larder(&[]);
    let mut namespaced = Command::new(namespace[0]);
    namespaced.args([namespace[1], "sh", "-c", script, program()]);
    for (name, value) in larder.as_std().get_envs() {
        match value {
            Some(value) => namespaced.env(name, value),
            None => namespaced.env_remove(name),
        };
    }
    namespaced.env_remove("XDG_RUNTIME_DIR").current_dir(home.config_dir.directory.path());
    let got = output(namespaced).await;
    let log = text(&got.stderr);
    if got.status.code() != Some(9) {
        assert_eq!(text(&got.stdout), "it ran\nread-only too\n", "{log}");
        assert_eq!(log.lines().count(), 2, "one clear line each: {log}");
    }
}

#[tokio::test]
async fn as_a_first_process_exec_reaps_orphans_and_forwards_signals() {
    let namespace = ["unshare", "-rpf", "--mount-proc", "true"];
    if !can_run("a first process", &namespace) {
        return;
    }
    let home = Home::with("version: 1\n");
    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    let script = format!(
        "for i in 1 2 3; do sh -c 'true & exit'; done; until [ $({zombies}) = 0 ]; do sleep 0.01; done; \
         echo reaped; kill -TERM 1; sleep 20"
    );
    let exec = home.command(&["--quiet"], &["sh", "-c", &script]);
    let mut first = Command::new(namespace[0]);
    first.args([namespace[1], namespace[2], program()]).args(exec.as_std().get_args());
    for (name, value) in exec.as_std().get_envs() {
        match value {
            Some(value) => first.env(name, value),
            None => first.env_remove(name),
        };
    }
    let got = output(first).await;
    assert_eq!(text(&got.stdout), "reaped\n", "{}", text(&got.stderr));
    assert_eq!(got.status.code(), Some(143), "{}", text(&got.stderr));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_configuration_is_found_in_a_directory_above_and_named() {
    let home = Home::with("version: 1\n");
    let below = home.config_dir.directory.path().join("src/deep");
    fs::create_dir_all(&below).unwrap();
    let run = async |arguments: &[&str]| {
        let mut larder = home.larder(arguments);
        larder.current_dir(&below);
        output(larder).await
    };
    set_mode(&home.config_dir.config, 0o644);
    for arguments in [&["exec", "--quiet", "--", "true"][..], &["check"]] {
        let got = run(arguments).await;
        let log = text(&got.stderr);
        assert_eq!((got.status.code(), log.as_str()), (Some(0), "larder: using ../../proxy.yaml\n"));
    }
    for mode in [0o666, 0o664] {
        set_mode(&home.config_dir.config, mode);
        for arguments in [&["exec", "--", "true"][..], &["check"], &["run"], &["env"], &["ca", "show"]] {
            let got = run(arguments).await;
            let log = text(&got.stderr);
            assert_eq!(got.status.code(), Some(3), "{arguments:?}: {log}");
            assert!(log.contains("../../proxy.yaml is not used: other users may write to it"), "{log}");
        }
    }
    let named = run(&["check", "../../proxy.yaml"]).await;
    assert_eq!(named.status.code(), Some(0), "a named file is used as it is");
    // In the working directory, too: /tmp is one.
    let here = output(home.larder(&["check"])).await;
    assert_eq!(here.status.code(), Some(3), "{}", text(&here.stdout));
}

#[tokio::test]
async fn beside_a_healthy_larder_a_typo_is_a_warning() {
    if !has_curl("a broken file") {
        return;
    }
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (home, mut larder) = crate::exec::running(&origin).await;
    let good = fs::read_to_string(&home.config_dir.config).unwrap();
    fs::write(&home.config_dir.config, good.replace("ttl: 1h", "tll: 1h")).unwrap();
    let got = home.exec(&["--quiet"], &["sh", "-c", CURL]).await;
    let log = text(&got.stderr);
    assert_eq!((got.status.code(), text(&got.stdout).as_str()), (Some(0), "hello"), "{log}");
    for part in ["proxy.yaml:", "tll", "did you mean `ttl`", "last valid contents is used"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    let got = home.exec(&["--quiet"], &["true"]).await;
    assert_eq!(got.status.code(), Some(3), "no larder runs: {}", text(&got.stderr));
}
