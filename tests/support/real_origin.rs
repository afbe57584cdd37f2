//! Real web servers as origins: each started on free loopback ports, with a temporary directory for
//! its configuration (tests/zoo) and its files, and ended with all its processes when it is dropped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;

use crate::tls_origin::Authority;
use crate::zoo_files;

/// The name that the certificates are for.
pub const HOST: &str = "api.example.test";

/// How often a server is started: another program may take a port before it does.
const STARTS: usize = 5;

/// How long a server may take until it accepts connections, in steps of 10 ms.
const STEPS: usize = 1500;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Lighttpd,
    Apache,
    /// Before a server that listens at this port.
    Haproxy(u16),
    Node,
    Go,
    Hypercorn,
}

/// A running server; it ends with the test.
pub struct RealOrigin {
    /// HTTP/1.1 in the clear.
    pub plain: SocketAddr,
    /// HTTP/2 over TLS, or HTTP/1.1 where that was asked for.
    pub tls: SocketAddr,
    _processes: Processes,
    _directory: tempfile::TempDir,
}

/// A process and all that it has started.
struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _reaped = self.0.wait();
    }
}

/// What a server is started with.
struct Setting<'a> {
    plain: u16,
    tls: u16,
    h2: bool,
    /// A port of the scripted server behind it.
    behind: u16,
    directory: &'a Path,
}

impl RealOrigin {
    /// Starts a server whose certificate `authority` makes; `behind` is where a scripted server answers
    /// what this one only passes on, and `h2` says whether it offers HTTP/2.
    pub async fn start(kind: Kind, authority: &Authority, behind: SocketAddr, h2: bool) -> Self {
        let mut said = String::new();
        for _ in 0..STARTS {
            let directory = tempfile::tempdir().expect("a temporary directory");
            // A server that gives up the superuser's rights must find its files.
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(directory.path(), open).expect("its mode");
            zoo_files::write(&directory.path().join("root"));
            write_certificate(authority, directory.path());
            let (plain, tls) = (free_port(), free_port());
            let behind = behind.port();
            let setting = Setting { plain, tls, h2, behind, directory: directory.path() };
            let mut processes = Processes(spawn(kind, &setting));
            let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let (plain, tls) = (loopback(plain), loopback(tls));
            if accepts(&mut processes.0, &[plain, tls]).await {
                return Self { plain, tls, _processes: processes, _directory: directory };
            }
            drop(processes);
            said = fs::read_to_string(directory.path().join("said")).unwrap_or_default();
        }
        panic!("{kind:?} does not start:\n{said}");
    }
}

/// The name of the first thing that a server needs and that is not there, with how to get it.
pub fn missing(kind: Kind) -> Option<&'static str> {
    let has = |program: &str| {
        let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).exists())
    };
    let needs: &[(&str, bool)] = &match kind {
        Kind::Nginx => [
            ("nginx is missing (apt install nginx)", has("nginx")),
            (
                "nginx's brotli is missing (apt install libnginx-mod-http-brotli-filter)",
                Path::new("/usr/lib/nginx/modules/ngx_http_brotli_filter_module.so").exists(),
            ),
        ],
        Kind::Lighttpd => [
            ("lighttpd is missing (apt install lighttpd)", has("lighttpd")),
            (
                "lighttpd's TLS is missing (apt install lighttpd-mod-openssl)",
                Path::new("/usr/lib/lighttpd/mod_openssl.so").exists(),
            ),
        ],
        Kind::Apache => {
            [("apache2 is missing (apt install apache2-bin)", has("apache2")), ("", true)]
        }
        Kind::Haproxy(_) => [
            ("haproxy is missing (apt install haproxy)", has("haproxy")),
            ("node is missing (apt install nodejs)", has("node")),
        ],
        Kind::Node => [("node is missing (apt install nodejs)", has("node")), ("", true)],
        Kind::Go => [("go is missing (apt install golang-go)", has("go")), ("", true)],
        Kind::Hypercorn => {
            [("hypercorn is missing (make origins)", hypercorn().exists()), ("", true)]
        }
    };
    needs.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo")
}

fn hypercorn() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/hypercorn")
}

/// Below the ports that the system gives to connections.
fn free_port() -> u16 {
    let mut random = rand::rng();
    loop {
        let port = random.random_range(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn write_certificate(authority: &Authority, directory: &Path) {
    let files = authority.client(HOST);
    let (cert, key) = (fs::read(files.cert), fs::read(files.key));
    let (cert, key) = (cert.expect("a certificate"), key.expect("a key"));
    fs::write(directory.join("both.pem"), [cert.as_slice(), &key].concat()).expect("a file");
    fs::write(directory.join("cert.pem"), cert).expect("a file");
    fs::write(directory.join("key.pem"), key).expect("a file");
}

fn spawn(kind: Kind, setting: &Setting<'_>) -> Child {
    let mut command = command(kind, setting);
    let said = fs::File::create(setting.directory.join("said")).expect("a file");
    command.env("ZOO_ROOT", setting.directory.join("root"));
    command.process_group(0).stdin(Stdio::piped());
    command.stdout(said.try_clone().expect("a descriptor")).stderr(said);
    command.spawn().expect("the server starts")
}

/// Becomes a server, and ends all of its processes when standard input ends: should the test be killed.
const LEASH: &str = "exec 3<&0; (read _ <&3; kill -KILL 0) & exec \"$@\" </dev/null 3<&-";

/// What starts a server in the foreground.
fn command(kind: Kind, setting: &Setting<'_>) -> Command {
    let Setting { plain, tls, h2, directory, .. } = setting;
    let mut command = Command::new("sh");
    command.args(["-c", LEASH, "sh"]).current_dir(directory);
    match kind {
        Kind::Nginx => {
            command
                .args(["nginx", "-p"])
                .arg(directory)
                .arg("-c")
                .arg(filled("nginx.conf", setting));
        }
        Kind::Lighttpd => {
            command.args(["lighttpd", "-D", "-f"]).arg(filled("lighttpd.conf", setting));
        }
        Kind::Apache => {
            command.args(["apache2", "-X", "-f"]).arg(filled("apache.conf", setting));
        }
        Kind::Haproxy(port) => {
            let setting = Setting { behind: port, ..*setting };
            command.args(["haproxy", "-db", "-f"]).arg(filled("haproxy.cfg", &setting));
        }
        Kind::Node => {
            command.arg("node").arg(here().join("node.cjs"));
            command.args([plain.to_string(), tls.to_string()]).arg("root");
            command.args(["cert.pem", "key.pem", if *h2 { "h2" } else { "http/1.1" }]);
        }
        Kind::Go => {
            let at = |flag: &str, port: &u16| format!("-{flag}=127.0.0.1:{port}");
            command.arg(go_program()).args([at("plain", plain), at("tls", tls)]);
            command.args(["-root=root", "-cert=cert.pem", "-key=key.pem"]);
            command.arg(format!("-h2={h2}"));
        }
        Kind::Hypercorn => {
            command.arg(hypercorn()).arg("--config").arg(filled("hypercorn.toml", setting));
            command.arg("hypercorn_app:app").env("PYTHONPATH", here());
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut path = path.into_string().expect("a path");
    path.push_str(":/usr/sbin");
    command.env("PATH", path);
    command
}

/// A configuration of tests/zoo with everything between @ filled in, in the server's directory.
fn filled(name: &str, setting: &Setting<'_>) -> PathBuf {
    let directory = setting.directory.display();
    let mut text = fs::read_to_string(here().join(name)).expect("a configuration");
    for (placeholder, value) in [
        ("PLAIN", setting.plain.to_string()),
        ("TLS", setting.tls.to_string()),
        ("BEHIND", setting.behind.to_string()),
        ("DIR", directory.to_string()),
        ("ROOT", format!("{directory}/root")),
        ("CERT", format!("{directory}/cert.pem")),
        ("KEY", format!("{directory}/key.pem")),
        ("PEM", format!("{directory}/both.pem")),
        ("HERE", here().display().to_string()),
        ("H2", if setting.h2 { "h2 " } else { "" }.to_owned()),
        // hypercorn breaks off the response to the last request of an HTTP/2 connection.
        ("REQUESTS", if setting.h2 { "1000" } else { "7" }.to_owned()),
        ("ALPN", if setting.h2 { "'h2', 'http/1.1'" } else { "'http/1.1'" }.to_owned()),
    ] {
        text = text.replace(&format!("@{placeholder}@"), &value);
    }
    let file = setting.directory.join(name);
    fs::write(&file, text).expect("a file");
    file
}

/// The program of tests/zoo/go, built once for all tests; Go's own cache knows whether it is current.
fn go_program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = target.join("zoo-go");
    let own = target.join(format!("zoo-go-{}", std::process::id()));
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&own).arg("main.go").current_dir(here().join("go"));
    // Only the standard library: nothing is fetched.
    build.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off").env("GO111MODULE", "off");
    let output = build.output().expect("go starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Another test may be running the one before.
    fs::rename(own, &program).expect("one directory");
    program
}

/// Waits until a server accepts connections; false if it ended instead.
async fn accepts(child: &mut Child, addresses: &[SocketAddr]) -> bool {
    for _ in 0..STEPS {
        if child.try_wait().expect("it can be waited for").is_some() {
            return false;
        }
        let mut all = true;
        for address in addresses {
            all &= TcpStream::connect(address).await.is_ok();
        }
        if all {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
