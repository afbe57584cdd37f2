//! Runs one SDK, direct or through `larder exec`.
//!
//! Owns: its command, the time that it takes, and its result. Never touches: the faults of the API.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use larder::clock::Clock;
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::Failure;
use crate::faults::Api;
use crate::program;

/// The name of the API for larder.
const HOST: &str = "api.example.test";

/// A time limit that no SDK reaches.
const TIMEOUT: Duration = Duration::from_secs(180);

/// An SDK: its name in the table and in its program, and its language.
pub(crate) struct Sdk {
    pub(crate) title: &'static str,
    name: &'static str,
    language: Language,
    /// Whether its call is a `GET`, whose response is stored.
    pub(crate) is_get: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    Node,
}

/// All SDKs.
pub(crate) const ALL: [Sdk; 12] = [
    Sdk { title: "openai (Python)", name: "openai", language: Language::Python, is_get: true },
    Sdk { title: "openai (Node)", name: "openai", language: Language::Node, is_get: true },
    Sdk { title: "anthropic (Python)", name: "anthropic", language: Language::Python, is_get: true },
    Sdk { title: "stripe (Python)", name: "stripe", language: Language::Python, is_get: true },
    Sdk { title: "stripe (Node)", name: "stripe", language: Language::Node, is_get: true },
    Sdk { title: "PyGithub", name: "github", language: Language::Python, is_get: true },
    Sdk { title: "octokit, retry, throttling", name: "octokit", language: Language::Node, is_get: true },
    Sdk { title: "boto3 (S3)", name: "boto3", language: Language::Python, is_get: true },
    Sdk { title: "slack_sdk", name: "slack", language: Language::Python, is_get: false },
    Sdk { title: "discord.py", name: "discord", language: Language::Python, is_get: true },
    Sdk { title: "requests, urllib3 Retry", name: "requests", language: Language::Python, is_get: true },
    Sdk { title: "got", name: "got", language: Language::Node, is_get: true },
];

/// The result of one run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) calls: usize,
    /// `OK`, or the error of the SDK.
    pub(crate) result: String,
}

/// How an SDK reaches the API.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    /// Without larder.
    Direct,
    /// Through `larder exec`, with a store in this directory.
    Larder(&'a Path),
}

/// The directory of the configuration.
pub(crate) struct Testbed {
    pub(crate) api: Api,
    directory: tempfile::TempDir,
    python: PathBuf,
    script: PathBuf,
    node_script: PathBuf,
}

impl Testbed {
    /// Writes the configuration.
    pub(crate) fn new(api: Api) -> Result<Self, Failure> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let installed = root.join("target/clients");
        std::fs::create_dir_all(&installed)?;
        // Node looks for packages beside a program.
        let node_script = installed.join("sdk.mjs");
        std::fs::copy(root.join("examples/sdks/sdk.mjs"), &node_script)?;
        let python = installed.join("bin/python3");
        let python = if python.exists() { python } else { "python3".into() };
        let directory = tempfile::tempdir()?;
        // An SDK of AWS signs each of its calls anew: its responses are stored for all, or never reused.
        let yaml = format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\nlog: {{ level: error }}\n\
             resolve: {{ {HOST}: \"{}\" }}\nroutes:\n\
             - {{ name: s3, match: {{ host: {HOST}, path: / }}, ttl: 1s, stale_while_revalidate: 1h, scope: shared }}\n\
             - {{ name: api, match: {{ host: {HOST} }}, ttl: 1s, stale_while_revalidate: 1h }}\n",
            api.addr
        );
        std::fs::write(directory.path().join("proxy.yaml"), yaml)?;
        Ok(Self { api, directory, python, script: root.join("examples/sdks/sdk.py"), node_script })
    }

    /// The version of an SDK; `None`: it is not installed.
    pub(crate) async fn version(&self, sdk: &Sdk) -> Option<String> {
        let mut command = Command::new(self.program(sdk));
        command.arg(self.program_file(sdk)).args(["--version", sdk.name]).stderr(Stdio::null());
        let output = command.output().await.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes one call.
    pub(crate) async fn run(&self, sdk: &Sdk, way: Way<'_>) -> Result<Run, Failure> {
        let (mut command, base) = match way {
            Way::Direct => (Command::new(self.program(sdk)), format!("http://{}", self.api.addr)),
            Way::Larder(store) => {
                let mut command = Command::new(program::larder()?);
                command.args(["exec", "--config", "proxy.yaml", "--"]).arg(self.program(sdk));
                command.env("XDG_CACHE_HOME", store);
                (command, format!("http://{HOST}"))
            }
        };
        command.arg(self.program_file(sdk)).args([sdk.name, &base]);
        command.current_dir(self.directory.path()).stdin(Stdio::null()).kill_on_drop(true);
        for name in ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        let (before, began) = (self.api.calls(), Clock::system().instant());
        let output =
            timeout(TIMEOUT, command.output()).await.map_err(|_| format!("{} hangs", sdk.title))??;
        let time = Clock::system().instant().saturating_duration_since(began);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let result = text.lines().find(|line| line.starts_with("OK") || line.starts_with("ERROR"));
        let errors =
            || String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
        let result = result.map_or_else(|| format!("no result: {}", errors()), str::to_owned);
        Ok(Run { time, calls: self.api.calls() - before, result })
    }

    fn program(&self, sdk: &Sdk) -> PathBuf {
        if sdk.language == Language::Python { self.python.clone() } else { "node".into() }
    }

    fn program_file(&self, sdk: &Sdk) -> &Path {
        if sdk.language == Language::Python { &self.script } else { &self.node_script }
    }
}
