//! Another user of this host has taken larder's ports while larder did not run: no verb of the CLI sends
//! a token to that user's program, and `larder exec` sends it no traffic.
//!
//! Tests that need another user are named and skipped where none is available.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use larder::config::{self, env::Env, redacted};
use tokio::process::Command;
use tokio::time::timeout;

use crate::exec::Home;
use crate::exec_users::{UNPRIVILEGED_USER, can_run};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, TIMEOUT, run_larder, text};

/// Listens on two ports, replies `{}` to every request, and prints each request line and whether the
/// request contains the token.
const SQUATTER: &str = "
import socket, sys, threading
def serve(listener):
    while True:
        client, _ = listener.accept()
        try:
            request = client.recv(65536)
            if request: print('got', request.splitlines()[0].decode(), b'the-token' in request, flush=True)
            client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}')
        except OSError: pass
        client.close()
listeners = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
for one in listeners: threading.Thread(target=serve, args=(one,), daemon=True).start()
print('ports', *(one.getsockname()[1] for one in listeners), flush=True)
sys.stdin.read()
";

/// The system's Python: other users cannot run one from a home directory.
const PYTHON: &str = "/usr/bin/python3";

struct Squatter {
    process: Process,
    admin: SocketAddr,
    proxy: SocketAddr,
}

impl Squatter {
    async fn start(test: &str) -> Option<Self> {
        let user = ["--reuid", UNPRIVILEGED_USER, "--clear-groups", PYTHON, "-c"];
        if !can_run(test, &[&["setpriv"][..], &user, &[""]].concat()) {
            return None;
        }
        let mut command = Command::new("setpriv");
        command.args(user).arg(SQUATTER).stdin(Stdio::piped()).current_dir("/");
        let process = Process::from_command(command);
        let ports = process.out.wait_for_line("ports ").await;
        let ports: Vec<u16> = ports.split(' ').skip(1).map(|port| port.parse().unwrap()).collect();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let [admin, proxy] = ports[..] else { panic!("{ports:?}") };
        Some(Self { process, admin: address(admin), proxy: address(proxy) })
    }

    fn yaml(&self, token: &str) -> String {
        let (admin, proxy) = (self.admin, self.proxy);
        format!(
            "version: 1\nlisten: {proxy}\nadmin: {{ listen: \"{admin}\", token_file: {token} }}\n\
             routes: [{{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}]\n"
        )
    }

    /// All requests that the squatter has received. The end markers are sent last, so it prints them last.
    async fn received(&self) -> Vec<String> {
        for (address, last) in [(self.admin, "last-admin"), (self.proxy, "last-proxy")] {
            TcpStream::connect(address).unwrap().write_all(last.as_bytes()).unwrap();
            self.process.out.wait_for_line(last).await;
        }
        let all = self.process.out.all();
        all.into_iter().filter(|line| line.starts_with("got ") && !line.contains(" last-")).collect()
    }
}

fn token(directory: &Path) -> String {
    let token = directory.join("token");
    fs::write(&token, "the-token-of-this-user-alone").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    token.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_verb_sends_its_token_to_a_port_that_another_user_has_taken() {
    let Some(squatter) = Squatter::start("a token for its larder").await else { return };
    let secrets = tempfile::tempdir().unwrap();
    let token = token(secrets.path());
    let config_dir = ConfigDir::with(&squatter.yaml(&token));
    let config = config_dir.config.to_str().unwrap();
    let admin = squatter.admin.to_string();
    for verb in [
        &["ls"][..],
        &["inspect", "http://api.example.test/"],
        &["purge", "--all"],
        &["mode", "offline"],
        &["mode"],
        &["reload"],
        &["upstreams"],
        &["cost"],
    ] {
        for place in [&["--config", config][..], &["--admin", &admin, "--token-file", &token]] {
            let output = run_larder(&[verb, place].concat()).await;
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{verb:?}: {stderr}");
            for part in [admin.as_str(), "user 65534", "no request was sent", "--config"] {
                assert!(stderr.contains(part), "{verb:?}: {stderr}");
            }
        }
    }
    let output = run_larder(&["env", "--config", config]).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(4), String::new()));
    assert!(text(&output.stderr).contains("user 65534"));
    assert_eq!(squatter.received().await, [""; 0]);
}

#[tokio::test]
async fn the_owner_of_the_configuration_file_is_sent_the_token() {
    let Some(squatter) = Squatter::start("a larder of a user of its own").await else { return };
    let secrets = tempfile::tempdir().unwrap();
    let token = token(secrets.path());
    let config_dir = ConfigDir::with(&squatter.yaml(&token));
    let config = config_dir.config.to_str().unwrap();
    chown(&config_dir.config, Some(UNPRIVILEGED_USER.parse().unwrap()), None).unwrap();
    let _answered = run_larder(&["mode", "--config", config]).await;
    assert_eq!(squatter.received().await, ["got GET /v1/mode HTTP/1.1 True"]);
}

#[tokio::test]
async fn exec_starts_a_private_larder_where_another_user_has_the_ports() {
    let Some(squatter) = Squatter::start("a command's larder").await else { return };
    let secrets = tempfile::tempdir().unwrap();
    let token = token(secrets.path());
    let home = Home::with(&squatter.yaml(&token));
    let (proxy, stderr) = proxy_of_exec(&home).await;
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}{stderr}");
    assert_ne!(proxy, format!("http://{}\n", squatter.proxy), "{stderr}");
    for part in [&squatter.admin.to_string(), "user 65534", "starting a private one"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(squatter.received().await, [""; 0]);
}

/// The admin listener belongs to the caller, the proxy listener to another user.
#[tokio::test]
async fn exec_does_not_send_a_command_to_the_proxy_of_another_user() {
    let Some(squatter) = Squatter::start("a command's proxy").await else { return };
    let yaml = |admin: &str| {
        format!(
            "version: 1\nlisten: {}\nadmin: {{ listen: \"{admin}\" }}\n\
             routes: [{{ name: api, match: {{ host: api.example.test }}, ttl: 1h }}]\n",
            squatter.proxy
        )
    };
    let config = config::parse("proxy.yaml", &yaml("127.0.0.1:9901"), &Env::default()).unwrap();
    let shown = redacted::to_json(&config).to_string();
    let admin = Origin::always(MockResponse::new(200, &[], &shown)).await;
    let home = Home::with(&yaml(&admin.addr.to_string()));
    let (proxy, stderr) = proxy_of_exec(&home).await;
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}{stderr}");
    assert_ne!(proxy, format!("http://{}\n", squatter.proxy), "{stderr}");
    for part in [&squatter.proxy.to_string(), "user 65534", "starting a private one"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(squatter.received().await, [""; 0]);
}

/// The proxy that `larder exec` gives to a command, and its standard error.
async fn proxy_of_exec(home: &Home) -> (String, String) {
    let mut command = home.command(&["--quiet"], &["sh", "-c", "echo $http_proxy"]);
    let output = timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it starts");
    (text(&output.stdout), text(&output.stderr))
}
