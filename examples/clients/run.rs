//! Runs one client with `larder exec`.
//!
//! Owns: the URLs of a client, and the check of its responses. Never touches: the list of clients.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Failure;
use crate::origin::{BODY, Origin};
use crate::program;
use crate::programs::{AccessMode, Program};
use crate::rows::Row;
use crate::tls::TlsFrontend;

/// The host of the API over TLS.
pub(crate) const SECURE: &str = "secure.example.test";
/// The host of the same API without TLS.
const PLAIN: &str = "api.example.test";

/// A time limit that no client reaches.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The setup that all clients share.
pub(crate) struct Testbed {
    origin: Origin,
    directory: tempfile::TempDir,
}

impl Testbed {
    /// Writes the configuration for the clients.
    pub(crate) fn new(origin: Origin, tls_frontend: &TlsFrontend) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("root.pem"), &tls_frontend.root)?;
        let yaml = format!(
            r#"
version: 1
listen: 127.0.0.1:0
admin: {{ listen: 127.0.0.1:0 }}
log: {{ level: warn }}
resolve: {{ {SECURE}: "{}", {PLAIN}: "{}" }}
upstreams:
  secure: {{ hosts: [{SECURE}], mount: /secure, tls: {{ extra_roots: [root.pem] }} }}
  plain: {{ hosts: [{PLAIN}], mount: {{ path: /plain, to: "http://{PLAIN}" }} }}
routes:
  - {{ name: secure, match: {{ host: {SECURE} }}, ttl: 1h }}
  - {{ name: plain, match: {{ host: {PLAIN} }}, ttl: 1h }}
"#,
            tls_frontend.addr, origin.addr
        );
        std::fs::write(directory.path().join("proxy.yaml"), yaml)?;
        Ok(Self { origin, directory })
    }

    /// Runs a client once: four requests, HTTPS, HTTP and both again.
    pub(crate) async fn run(&self, program: &Program, version: String) -> Result<Row, Failure> {
        let path: String =
            program.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let paths = [format!("/{path}/secure"), format!("/{path}/plain")];
        let mut command = self.command(program, &paths)?;
        let output = match timeout(TIMEOUT, command.output()).await {
            Ok(output) => output?,
            Err(_) => {
                return Ok(Row::failed(program, version, "it did not exit in time".to_owned()));
            }
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let outcome = if output.status.success() {
            let calls = paths.each_ref().map(|path| self.origin.calls(path));
            check_output(&text, calls)
        } else {
            Err(format!("it exited with {}", output.status))
        };
        Ok(match outcome {
            Ok(()) => Row::hit(program, version),
            Err(reason) => Row::failed(program, version, format!("{reason}\n{text}")),
        })
    }

    fn command(&self, program: &Program, paths: &[String; 2]) -> Result<Command, Failure> {
        let mut command = Command::new(program::larder()?);
        command.args(["exec", "--config", "proxy.yaml", "--"]);
        let [secure, plain] = paths;
        match program.access {
            AccessMode::Proxy => {
                let urls = [format!("https://{SECURE}{secure}"), format!("http://{PLAIN}{plain}")];
                command.args(&program.command).args(&urls).args(&urls);
            }
            AccessMode::Mount => {
                // The client's base URLs: larder's address instead of the API's.
                let urls = format!("$http_proxy/secure{secure} $http_proxy/plain{plain}");
                let script = format!("exec \"$@\" {urls} {urls}");
                command.args(["sh", "-c", &script, "sh"]).args(&program.command);
            }
        }
        command.current_dir(self.directory.path()).stdin(Stdio::null()).kill_on_drop(true);
        // Each run has its own store, so that entries of an earlier run are not hits of this one.
        command.env("XDG_CACHE_HOME", self.directory.path().join("cache"));
        for name in ["NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "REQUEST_METHOD"] {
            command.env_remove(name);
        }
        Ok(command)
    }
}

/// Checks for four responses, the last two from the store, and one call for each resource.
fn check_output(text: &str, calls: [usize; 2]) -> Result<(), String> {
    let responses = text.matches(BODY).count();
    if responses != 4 {
        return Err(format!("it got {responses} responses of 4"));
    }
    let hits: Vec<_> = text.lines().filter_map(hit).collect();
    if hits != [false, false, true, true] {
        return Err(format!("hits: {hits:?}"));
    }
    if calls != [1, 1] {
        return Err(format!("the origin got {} and {} calls", calls[0], calls[1]));
    }
    Ok(())
}

/// Whether a `Cache-Status` line contains a hit; `None` for other lines.
fn hit(line: &str) -> Option<bool> {
    let line = line.trim().to_ascii_lowercase();
    let status = line.strip_prefix("cache-status:")?;
    Some(status.split(';').any(|part| part.trim() == "hit"))
}
