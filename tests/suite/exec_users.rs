//! The larder of a command serves only the user of the command, and no other user of the machine.
//!
//! A test that needs another user, or a namespace in which users cannot be distinguished, is reported and
//! skipped if the machine does not permit it.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::exec::{Home, has_curl};
use crate::origin::{MockResponse, Origin};
use crate::process::{Process, TIMEOUT, program, text};

/// The id of a user that owns nothing.
pub const UNPRIVILEGED_USER: &str = "65534";
const AS_UNPRIVILEGED: [&str; 5] = ["setpriv", "--reuid", UNPRIVILEGED_USER, "--clear-groups", "true"];

/// A user namespace in which all users have the same id.
const USER_NAMESPACE: [&str; 3] = ["unshare", "--user", "true"];

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

/// Whether `command` runs on this machine: the user and the restrictions of a test run vary.
pub fn can_run(test: &str, command: &[&str]) -> bool {
    let [program, arguments @ ..] = command else { return false };
    let output = std::process::Command::new(program).args(arguments).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    // println would be captured; this line must be visible although the test passes.
    let mut err = std::io::stderr();
    let message = format!("SKIPPED {test}: `{}` is not possible here\n", command.join(" "));
    std::io::Write::write_all(&mut err, message.as_bytes()).unwrap();
    false
}

async fn output_of(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
    timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it starts")
}

/// Runs curl as `user` with `arguments`: the response body and the status codes.
async fn curl(user: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--clear-groups", "curl", "-qsS", "--noproxy", "none.test"]);
    command.args(["-w", " %{http_code} %{http_connect}"]).args(arguments);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    text(&output_of(command).await.stdout)
}

#[tokio::test]
async fn the_larder_of_a_command_refuses_other_users_on_every_path() {
    if !has_curl("exec for its user") || !can_run("exec for its user", &AS_UNPRIVILEGED) {
        return;
    }
    for flags in [&["--quiet"][..], &["--quiet", "--fallback-direct"]] {
        let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
        let home = Home::with(&yaml(&origin));
        let script = "echo $http_proxy; curl -qsS http://api.example.test/x; echo; read line";
        let mut command = home.command(flags, &["sh", "-c", script]);
        command.stdin(Stdio::piped());
        let mut process = Process::from_command(command);
        let proxy = process.out.wait_for_line("http://127.0.0.1:").await;
        assert!(!proxy.contains('@'), "no client needs a password here: {proxy}");
        process.out.wait_for_line("hello").await;
        assert_eq!(origin.calls(), 1);
        let mount = format!("{proxy}/api/x");
        for arguments in [
            &["-x", &proxy, "http://api.example.test/x"][..],
            &["-x", &proxy, "http://other.example.test/y"],
            &["-x", &proxy, "-p", "http://api.example.test/x"],
            &["-x", &proxy, "-p", "http://other.example.test/y"],
            &["-x", &proxy, "-X", "POST", "http://api.example.test/z"],
            &[&mount],
        ] {
            let before = origin.calls();
            let other = curl(UNPRIVILEGED_USER, arguments).await;
            assert!(other.contains("403"), "{flags:?} {arguments:?}: {other}");
            assert!(!other.contains("hello"), "{flags:?} {arguments:?}: {other}");
            assert_eq!(origin.calls(), before, "{flags:?} {arguments:?}");
            let own = curl("0", arguments).await;
            assert!(own.starts_with("hello 200"), "{flags:?} {arguments:?}: {own}");
        }
        let refusal = curl(UNPRIVILEGED_USER, &[&mount]).await;
        assert!(refusal.contains("foreign_user") && refusal.contains("larder exec"), "{refusal}");
        drop(process.child.stdin.take());
        process.wait_for_exit().await;
    }
}

/// On systems that cannot identify the user of a connection, a password authenticates the command.
#[tokio::test]
async fn if_users_cannot_be_distinguished_the_command_gets_a_password() {
    if !has_curl("exec with a password") || !can_run("exec with a password", &USER_NAMESPACE) {
        return;
    }
    for flags in [&["--quiet"][..], &["--quiet", "--fallback-direct"]] {
        let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
        let home = Home::with(&yaml(&origin));
        let calls = "echo $http_proxy; curl -qsS http://api.example.test/x; \
                 curl -qsS -p http://api.example.test/x; echo; \
                 curl -qsS -x ${http_proxy#*@} http://api.example.test/x";
        let exec = home.command(flags, &["sh", "-c", calls]);
        let exec = exec.as_std();
        let mut namespaced = Command::new(USER_NAMESPACE[0]);
        namespaced.arg(USER_NAMESPACE[1]).arg(program()).args(exec.get_args());
        for (name, value) in exec.get_envs() {
            match value {
                Some(value) => namespaced.env(name, value),
                None => namespaced.env_remove(name),
            };
        }
        let output = output_of(namespaced).await;
        let (printed, log) = (text(&output.stdout), text(&output.stderr));
        let lines: Vec<_> = printed.lines().collect();
        let [proxy, answers, refused @ ..] = lines.as_slice() else { panic!("{printed}{log}") };
        let password = proxy.strip_prefix("http://larder:").and_then(|rest| rest.split_once('@'));
        let (password, _) = password.expect(proxy);
        assert_eq!(password.len(), 32, "{proxy}");
        assert_eq!(*answers, "hellohello", "{log}");
        assert!(refused.concat().contains("user_required"), "{refused:?}");
        assert!(!log.contains(password), "{log}");
        assert_eq!(origin.calls(), 1);
    }
}
