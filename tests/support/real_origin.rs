//! Real web servers as origins. Each runs on free loopback ports, with a temporary directory for its
//! configuration (from tests/zoo) and its files; all its processes are killed when it is dropped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;

use crate::tls_origin::TestCa;
use crate::zoo_files;

/// The host name of the certificates.
pub const HOST: &str = "api.example.test";

/// Start attempts: another program may take a port first.
const STARTS: usize = 5;

/// The maximum time until a server accepts connections, in steps of 10 ms.
const STEPS: usize = 1500;

/// The kind of web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    Nginx,
    Lighttpd,
    Apache,
    /// In front of a server that listens on this port.
    Haproxy(u16),
    Node,
    Go,
    Hypercorn,
}

/// A running server; it ends with the test.
pub struct RealOrigin {
    /// Plain HTTP/1.1.
    pub plain: SocketAddr,
    /// TLS with HTTP/2, or with HTTP/1.1 only.
    pub tls: SocketAddr,
    _processes: Processes,
    _directory: tempfile::TempDir,
}

/// The process group of a server.
struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _exited = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _reaped = self.0.wait();
    }
}

/// The parameters of one start.
struct Settings<'a> {
    plain: u16,
    tls: u16,
    h2: bool,
    /// The port of the scripted server that it is a reverse proxy for.
    backend: u16,
    directory: &'a Path,
}

impl RealOrigin {
    /// Starts a server with a certificate of `authority`. It forwards some paths to the scripted server
    /// at `backend`; `h2` is whether it offers HTTP/2.
    pub async fn start(kind: ServerKind, authority: &TestCa, backend: SocketAddr, h2: bool) -> Self {
        let mut output = String::new();
        for _ in 0..STARTS {
            let directory = tempfile::tempdir().expect("a temporary directory");
            // A server that drops root privileges must be able to read its files.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(directory.path(), mode).expect("its mode");
            zoo_files::write(&directory.path().join("root"));
            write_certificate(authority, directory.path());
            let (plain, tls) = (free_port(), free_port());
            let backend = backend.port();
            let settings = Settings { plain, tls, h2, backend, directory: directory.path() };
            let mut processes = Processes(spawn(kind, &settings));
            let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let (plain, tls) = (loopback(plain), loopback(tls));
            if wait_until_accepting(&mut processes.0, &[plain, tls]).await {
                return Self { plain, tls, _processes: processes, _directory: directory };
            }
            drop(processes);
            output = fs::read_to_string(directory.path().join("output")).unwrap_or_default();
        }
        panic!("{kind:?} does not start:\n{output}");
    }
}

/// The first missing requirement of a server, with the command that installs it.
pub fn missing_requirement(kind: ServerKind) -> Option<&'static str> {
    let has = |program: &str| {
        let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).exists())
    };
    let requirements: &[(&str, bool)] = &match kind {
        ServerKind::Nginx => [
            ("nginx is missing (apt install nginx)", has("nginx")),
            (
                "nginx's brotli is missing (apt install libnginx-mod-http-brotli-filter)",
                Path::new("/usr/lib/nginx/modules/ngx_http_brotli_filter_module.so").exists(),
            ),
        ],
        ServerKind::Lighttpd => [
            ("lighttpd is missing (apt install lighttpd)", has("lighttpd")),
            (
                "lighttpd's TLS is missing (apt install lighttpd-mod-openssl)",
                Path::new("/usr/lib/lighttpd/mod_openssl.so").exists(),
            ),
        ],
        ServerKind::Apache => [("apache2 is missing (apt install apache2-bin)", has("apache2")), ("", true)],
        ServerKind::Haproxy(_) => [
            ("haproxy is missing (apt install haproxy)", has("haproxy")),
            ("node is missing (apt install nodejs)", has("node")),
        ],
        ServerKind::Node => [("node is missing (apt install nodejs)", has("node")), ("", true)],
        ServerKind::Go => [("go is missing (apt install golang-go)", has("go")), ("", true)],
        ServerKind::Hypercorn => [("hypercorn is missing (make origins)", hypercorn().exists()), ("", true)],
    };
    requirements.iter().find(|(_, present)| !present).map(|(message, _)| *message)
}

fn zoo_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo")
}

fn hypercorn() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/hypercorn")
}

/// A random free port below the ephemeral ports.
fn free_port() -> u16 {
    let mut random = rand::rng();
    loop {
        let port = random.random_range(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn write_certificate(authority: &TestCa, directory: &Path) {
    let files = authority.client(HOST);
    let (cert, key) = (fs::read(files.cert), fs::read(files.key));
    let (cert, key) = (cert.expect("a certificate"), key.expect("a key"));
    fs::write(directory.join("both.pem"), [cert.as_slice(), &key].concat()).expect("a file");
    fs::write(directory.join("cert.pem"), cert).expect("a file");
    fs::write(directory.join("key.pem"), key).expect("a file");
}

fn spawn(kind: ServerKind, settings: &Settings<'_>) -> Child {
    let mut command = command(kind, settings);
    let output = fs::File::create(settings.directory.join("output")).expect("a file");
    command.env("ZOO_ROOT", settings.directory.join("root"));
    command.process_group(0).stdin(Stdio::piped());
    command.stdout(output.try_clone().expect("a descriptor")).stderr(output);
    command.spawn().expect("the server starts")
}

/// Replaces the shell by the server, and kills the process group when standard input is closed, which also
/// happens if the test is killed.
const KILL_AT_STDIN_EOF: &str = "exec 3<&0; (read _ <&3; kill -KILL 0) & exec \"$@\" </dev/null 3<&-";

/// The command that runs a server in the foreground.
fn command(kind: ServerKind, settings: &Settings<'_>) -> Command {
    let Settings { plain, tls, h2, directory, .. } = settings;
    let mut command = Command::new("sh");
    command.args(["-c", KILL_AT_STDIN_EOF, "sh"]).current_dir(directory);
    match kind {
        ServerKind::Nginx => {
            command.args(["nginx", "-p"]).arg(directory).arg("-c").arg(fill_template("nginx.conf", settings));
        }
        ServerKind::Lighttpd => {
            command.args(["lighttpd", "-D", "-f"]).arg(fill_template("lighttpd.conf", settings));
        }
        ServerKind::Apache => {
            command.args(["apache2", "-X", "-f"]).arg(fill_template("apache.conf", settings));
        }
        ServerKind::Haproxy(port) => {
            let settings = Settings { backend: port, ..*settings };
            command.args(["haproxy", "-db", "-f"]).arg(fill_template("haproxy.cfg", &settings));
        }
        ServerKind::Node => {
            command.arg("node").arg(zoo_dir().join("node.cjs"));
            command.args([plain.to_string(), tls.to_string()]).arg("root");
            command.args(["cert.pem", "key.pem", if *h2 { "h2" } else { "http/1.1" }]);
        }
        ServerKind::Go => {
            let at = |flag: &str, port: &u16| format!("-{flag}=127.0.0.1:{port}");
            command.arg(go_program()).args([at("plain", plain), at("tls", tls)]);
            command.args(["-root=root", "-cert=cert.pem", "-key=key.pem"]);
            command.arg(format!("-h2={h2}"));
        }
        ServerKind::Hypercorn => {
            command.arg(hypercorn()).arg("--config").arg(fill_template("hypercorn.toml", settings));
            command.arg("hypercorn_app:app").env("PYTHONPATH", zoo_dir());
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut path = path.into_string().expect("a path");
    path.push_str(":/usr/sbin");
    command.env("PATH", path);
    command
}

/// Writes a configuration of tests/zoo to the server's directory, with all `@…@` placeholders replaced.
fn fill_template(name: &str, settings: &Settings<'_>) -> PathBuf {
    let directory = settings.directory.display();
    let mut text = fs::read_to_string(zoo_dir().join(name)).expect("a configuration");
    for (placeholder, value) in [
        ("PLAIN", settings.plain.to_string()),
        ("TLS", settings.tls.to_string()),
        ("BEHIND", settings.backend.to_string()),
        ("DIR", directory.to_string()),
        ("ROOT", format!("{directory}/root")),
        ("CERT", format!("{directory}/cert.pem")),
        ("KEY", format!("{directory}/key.pem")),
        ("PEM", format!("{directory}/both.pem")),
        ("HERE", zoo_dir().display().to_string()),
        ("H2", if settings.h2 { "h2 " } else { "" }.to_owned()),
        // hypercorn truncates the response to the last request of an HTTP/2 connection.
        ("REQUESTS", if settings.h2 { "1000" } else { "7" }.to_owned()),
        ("ALPN", if settings.h2 { "'h2', 'http/1.1'" } else { "'http/1.1'" }.to_owned()),
    ] {
        text = text.replace(&format!("@{placeholder}@"), &value);
    }
    let file = settings.directory.join(name);
    fs::write(&file, text).expect("a file");
    file
}

/// Builds the program of tests/zoo/go. Go's build cache makes all builds but the first fast.
fn go_program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = target.join("zoo-go");
    let own = target.join(format!("zoo-go-{}", std::process::id()));
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&own).arg("main.go").current_dir(zoo_dir().join("go"));
    // The program needs only the standard library, so Go downloads nothing.
    build.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off").env("GO111MODULE", "off");
    let output = build.output().expect("go starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Renaming replaces the file while another test may run the previous one.
    fs::rename(own, &program).expect("one directory");
    program
}

/// Waits until a server accepts connections; false if it exits instead.
async fn wait_until_accepting(child: &mut Child, addresses: &[SocketAddr]) -> bool {
    for _ in 0..STEPS {
        if child.try_wait().expect("it can be waited for").is_some() {
            return false;
        }
        let mut all_accept = true;
        for address in addresses {
            all_accept &= TcpStream::connect(address).await.is_ok();
        }
        if all_accept {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
