//! One client through `larder exec`.
//!
//! Owns: what it is to ask for, and whether it was told what it should. Never touches: which clients
//! there are.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Failure;
use crate::origin::{BODY, Origin};
use crate::program;
use crate::programs::{Program, Way};
use crate::report::Row;
use crate::tls::Front;

/// The API over TLS.
pub(crate) const SECURE: &str = "secure.example.test";
/// The same in the clear.
const PLAIN: &str = "api.example.test";

/// More than any of them takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all clients have in common.
pub(crate) struct Scene {
    origin: Origin,
    directory: tempfile::TempDir,
}

impl Scene {
    /// Writes the configuration that the clients are run with.
    pub(crate) fn new(origin: Origin, front: &Front) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("root.pem"), &front.root)?;
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
            front.addr, origin.addr
        );
        std::fs::write(directory.path().join("proxy.yaml"), yaml)?;
        Ok(Self { origin, directory })
    }

    /// Runs it once: four requests, HTTPS, HTTP and both again.
    pub(crate) async fn run(&self, program: &Program, version: String) -> Result<Row, Failure> {
        let path: String =
            program.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let paths = [format!("/{path}/secure"), format!("/{path}/plain")];
        let mut command = self.command(program, &paths)?;
        let output = match timeout(PATIENCE, command.output()).await {
            Ok(output) => output?,
            Err(_) => return Ok(Row::failed(program, version, "it did not end".to_owned())),
        };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let verdict = if output.status.success() {
            let calls = paths.each_ref().map(|path| self.origin.calls(path));
            judged(&said, calls)
        } else {
            Err(format!("it ended with {}", output.status))
        };
        Ok(match verdict {
            Ok(()) => Row::hit(program, version),
            Err(why) => Row::failed(program, version, format!("{why}\n{said}")),
        })
    }

    fn command(&self, program: &Program, paths: &[String; 2]) -> Result<Command, Failure> {
        let mut command = Command::new(program::larder()?);
        command.args(["exec", "--config", "proxy.yaml", "--"]);
        let [secure, plain] = paths;
        match program.way {
            Way::Proxy => {
                let urls = [format!("https://{SECURE}{secure}"), format!("http://{PLAIN}{plain}")];
                command.args(&program.command).args(&urls).args(&urls);
            }
            Way::Mount => {
                // What its configuration would say: larder's address instead of the API's.
                let urls = format!("$http_proxy/secure{secure} $http_proxy/plain{plain}");
                let script = format!("exec \"$@\" {urls} {urls}");
                command.args(["sh", "-c", &script, "sh"]).args(&program.command);
            }
        }
        command.current_dir(self.directory.path()).stdin(Stdio::null()).kill_on_drop(true);
        // A store of its own: what an earlier run stored is none of this one's hits.
        command.env("XDG_CACHE_HOME", self.directory.path().join("cache"));
        for name in ["NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "REQUEST_METHOD"] {
            command.env_remove(name);
        }
        Ok(command)
    }
}

/// Four answers, the later two from the store, and each resource asked for once.
fn judged(said: &str, calls: [usize; 2]) -> Result<(), String> {
    let answers = said.matches(BODY).count();
    if answers != 4 {
        return Err(format!("it saw {answers} answers of 4"));
    }
    let hits: Vec<_> = said.lines().filter_map(hit).collect();
    if hits != [false, false, true, true] {
        return Err(format!("hits: {hits:?}"));
    }
    if calls != [1, 1] {
        return Err(format!("the origin was asked {} and {} times", calls[0], calls[1]));
    }
    Ok(())
}

/// Whether a line that is a `Cache-Status` tells of a hit.
fn hit(line: &str) -> Option<bool> {
    let line = line.trim().to_ascii_lowercase();
    let status = line.strip_prefix("cache-status:")?;
    Some(status.split(';').any(|part| part.trim() == "hit"))
}
