//! Whom the larder of a command serves: the command, and no other user of this machine.
//!
//! What needs another user, or a namespace in which users cannot be told apart, is named and skipped where
//! it cannot be had.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::exec::{Home, has_curl};
use crate::origin::{Answer, Origin};
use crate::process::{PATIENCE, Process, program, text};

/// A user that owns nothing.
pub const NOBODY: &str = "65534";
const AS_NOBODY: [&str; 5] = ["setpriv", "--reuid", NOBODY, "--clear-groups", "true"];

/// All users have one number there.
const UNTOLD: [&str; 3] = ["unshare", "--user", "true"];

fn yaml(origin: &Origin) -> String {
    format!(
        "version: 1\nresolve: {{ api.example.test: \"{0}\", other.example.test: \"{0}\" }}\n\
         upstreams:\n  up:\n    hosts: [api.example.test]\n    \
         mount: {{ path: /api, to: \"http://api.example.test\" }}\n\
         access: {{ clients: [10.0.0.0/8] }}\n\
         routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}\n",
        origin.addr
    )
}

/// Whether this command can be run here; as which user tests run, and within which bounds, varies.
pub fn can_run(test: &str, command: &[&str]) -> bool {
    let [program, arguments @ ..] = command else { return false };
    let output = std::process::Command::new(program).args(arguments).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    // Not println: this line is to be seen although the test passes.
    let mut err = std::io::stderr();
    let said = format!("SKIPPED {test}: `{}` is not possible here\n", command.join(" "));
    std::io::Write::write_all(&mut err, said.as_bytes()).unwrap();
    false
}

async fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
    timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts")
}

/// curl with these arguments, as this user: what it says of status and answer.
async fn curl(user: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--clear-groups", "curl", "-qsS", "--noproxy", "none.test"]);
    command.args(["-w", " %{http_code} %{http_connect}"]).args(arguments);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    text(&ended(command).await.stdout)
}

#[tokio::test]
async fn another_user_gets_nothing_from_the_larder_of_a_command_on_any_way_in() {
    if !has_curl("exec for its user") || !can_run("exec for its user", &AS_NOBODY) {
        return;
    }
    for flags in [&["--quiet"][..], &["--quiet", "--fallback-direct"]] {
        let origin = Origin::always(Answer::new(200, &[], "hello")).await;
        let home = Home::with(&yaml(&origin));
        let script = "echo $http_proxy; curl -qsS http://api.example.test/x; echo; read line";
        let mut command = home.command(flags, &["sh", "-c", script]);
        command.stdin(Stdio::piped());
        let mut process = Process::of(command);
        let proxy = process.out.line("http://127.0.0.1:").await;
        assert!(!proxy.contains('@'), "no client needs a password here: {proxy}");
        process.out.line("hello").await;
        assert_eq!(origin.calls(), 1);
        let mount = format!("{proxy}/api/x");
        for way in [
            &["-x", &proxy, "http://api.example.test/x"][..],
            &["-x", &proxy, "http://other.example.test/y"],
            &["-x", &proxy, "-p", "http://api.example.test/x"],
            &["-x", &proxy, "-p", "http://other.example.test/y"],
            &["-x", &proxy, "-X", "POST", "http://api.example.test/z"],
            &[&mount],
        ] {
            let before = origin.calls();
            let stranger = curl(NOBODY, way).await;
            assert!(stranger.contains("403"), "{flags:?} {way:?}: {stranger}");
            assert!(!stranger.contains("hello"), "{flags:?} {way:?}: {stranger}");
            assert_eq!(origin.calls(), before, "{flags:?} {way:?}");
            let own = curl("0", way).await;
            assert!(own.starts_with("hello 200"), "{flags:?} {way:?}: {own}");
        }
        let why = curl(NOBODY, &[&mount]).await;
        assert!(why.contains("foreign_user") && why.contains("larder exec"), "{why}");
        drop(process.child.stdin.take());
        process.ended().await;
    }
}

/// Nor does it on other systems: with a password the command works all the same.
#[tokio::test]
async fn where_the_system_does_not_tell_users_the_command_gets_a_password() {
    if !has_curl("exec with a password") || !can_run("exec with a password", &UNTOLD) {
        return;
    }
    for flags in [&["--quiet"][..], &["--quiet", "--fallback-direct"]] {
        let origin = Origin::always(Answer::new(200, &[], "hello")).await;
        let home = Home::with(&yaml(&origin));
        let calls = "echo $http_proxy; curl -qsS http://api.example.test/x; \
                 curl -qsS -p http://api.example.test/x; echo; \
                 curl -qsS -x ${http_proxy#*@} http://api.example.test/x";
        let exec = home.command(flags, &["sh", "-c", calls]);
        let exec = exec.as_std();
        let mut hidden = Command::new(UNTOLD[0]);
        hidden.arg(UNTOLD[1]).arg(program()).args(exec.get_args());
        for (name, value) in exec.get_envs() {
            match value {
                Some(value) => hidden.env(name, value),
                None => hidden.env_remove(name),
            };
        }
        let output = ended(hidden).await;
        let (said, log) = (text(&output.stdout), text(&output.stderr));
        let lines: Vec<_> = said.lines().collect();
        let [proxy, answers, refused @ ..] = lines.as_slice() else { panic!("{said}{log}") };
        let password = proxy.strip_prefix("http://larder:").and_then(|rest| rest.split_once('@'));
        let (password, _) = password.expect(proxy);
        assert_eq!(password.len(), 32, "{proxy}");
        assert_eq!(*answers, "hellohello", "{log}");
        assert!(refused.concat().contains("user_required"), "{refused:?}");
        assert!(!log.contains(password), "{log}");
        assert_eq!(origin.calls(), 1);
    }
}
