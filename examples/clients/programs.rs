//! The clients: their commands and prerequisites.
//!
//! Owns: the list, and building the compiled ones. Never touches: the URLs. The programs are in
//! `tests/clients`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::client::Failure;

/// The runs that include a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Every run; CI fails without it.
    Quick,
    /// Runs without `--quick`.
    Full,
}

/// The way that a client's requests reach larder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessMode {
    /// Through the proxy, without any change to the client.
    Proxy,
    /// With larder as its base URL.
    Mount,
}

/// A client.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    pub(crate) access: AccessMode,
    /// The commands that build it, run first.
    build: Vec<Vec<String>>,
    /// The command, to which the URLs are appended.
    pub(crate) command: Vec<String>,
    /// The command that prints the version, and fails if the client is not installed.
    probe: Vec<String>,
}

impl Program {
    /// Its version, after it is built; the reason, if it cannot be built or is not installed.
    pub(crate) async fn version(&self) -> Result<String, String> {
        let probe_output = output(&self.probe).await.map_err(|_| "it is not installed".to_owned())?;
        for step in &self.build {
            output(step).await?;
        }
        let text = [probe_output.stdout, probe_output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let words = text.split(|c: char| c.is_whitespace() || c == '/' || c == '"');
        let version = words.map(|word| word.trim_start_matches(|c: char| c.is_ascii_alphabetic()));
        let version = version.filter(|word| word.contains('.'));
        let mut version = version.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        Ok(version.next().unwrap_or_default().trim_end_matches(',').to_owned())
    }
}

/// The output of a command; the last line of its errors, if it failed.
async fn output(step: &[String]) -> Result<Output, String> {
    let (program, arguments) = step.split_first().ok_or("the command is empty")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {}", errors.trim().lines().next_back().unwrap_or_default()))
}

/// The directories of the programs and packages.
pub(crate) struct Paths {
    sources: String,
    installed: String,
}

impl Paths {
    /// `tests/clients` and `target/clients`. Node looks for packages beside a program, so the programs
    /// that need packages are copied beside the installed ones.
    pub(crate) fn prepare() -> Result<Self, Failure> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (sources, installed) = (root.join("tests/clients"), root.join("target/clients"));
        std::fs::create_dir_all(&installed)?;
        for name in ["with_axios.mjs", "with_got.mjs"] {
            std::fs::copy(sources.join("node").join(name), installed.join(name))?;
        }
        let text = |path: PathBuf| path.into_os_string().into_string();
        let not_utf8 = |_| "the path of the project is not valid UTF-8";
        Ok(Self { sources: text(sources).map_err(not_utf8)?, installed: text(installed).map_err(not_utf8)? })
    }

    fn source(&self, name: &str) -> String {
        format!("{}/{name}", self.sources)
    }

    fn installed(&self, name: &str) -> String {
        format!("{}/{name}", self.installed)
    }
}

/// All clients.
pub(crate) fn all(paths: &Paths) -> Vec<Program> {
    let mut all = command_line();
    all.extend(python(paths));
    all.extend(node(paths));
    all.extend(compiled(paths));
    all.extend(others(paths));
    all.extend(mounted(paths));
    all
}

fn command_line() -> Vec<Program> {
    // The heads of the responses to CONNECT are suppressed.
    let curl = ["curl", "-q", "--silent", "--show-error", "--fail", "--include"];
    let curl: Vec<_> = curl.into_iter().chain(["--suppress-connect-headers"]).collect();
    let http1: Vec<_> = curl.iter().copied().chain(["--http1.1"]).collect();
    let wget = ["wget", "--no-verbose", "--server-response", "--output-document=-", "--tries=1"];
    vec![
        interpreted("curl", Part::Quick, &curl, &["curl", "--version"]),
        interpreted("curl, HTTP/1.1", Part::Quick, &http1, &["curl", "--version"]),
        interpreted("wget", Part::Full, &wget, &["wget", "--version"]),
    ]
}

fn python(paths: &Paths) -> Vec<Program> {
    let installed = paths.installed("bin/python3");
    let python = if Path::new(&installed).exists() { installed.as_str() } else { "python3" };
    let clients = [
        ("Python urllib", Part::Quick, "urllib", "import platform; print(platform.python_version())"),
        ("Python requests", Part::Quick, "requests", "import requests as it; print(it.__version__)"),
        ("Python httpx", Part::Quick, "httpx", "import httpx as it; print(it.__version__)"),
        ("Python aiohttp", Part::Quick, "aiohttp", "import aiohttp as it; print(it.__version__)"),
        ("Python urllib, certifi", Part::Full, "certifi", "import certifi as it; print(it.__version__)"),
    ];
    let program = |(name, part, library, probe): (_, _, &str, &str)| {
        let source = paths.source(&format!("python/with_{library}.py"));
        interpreted(name, part, &[python, &source], &[python, "-c", probe])
    };
    clients.into_iter().map(program).collect()
}

fn node(paths: &Paths) -> Vec<Program> {
    let (fetch, http) = (paths.source("node/fetch.mjs"), paths.source("node/http.cjs"));
    let latest = paths.installed("node_modules/node/bin/node");
    let package = |name: &str| format!("{}/package.json", paths.installed(&format!("node_modules/{name}")));
    let (axios, got) = (paths.installed("with_axios.mjs"), paths.installed("with_got.mjs"));
    let version = "console.log(JSON.parse(require('fs').readFileSync(process.argv[1])).version)";
    let (axios_package, got_package) = (package("axios"), package("got"));
    vec![
        interpreted("Node fetch", Part::Quick, &["node", &fetch], &["node", "--version"]),
        interpreted("Node http, https", Part::Quick, &["node", &http], &["node", "--version"]),
        interpreted("axios", Part::Full, &["node", &axios], &["node", "-e", version, &axios_package]),
        interpreted("got", Part::Full, &["node", &got], &["node", "-e", version, &got_package]),
        interpreted("Node 24 fetch", Part::Full, &[&latest, &fetch], &[&latest, "--version"]),
        interpreted("Node 24 http, https", Part::Full, &[&latest, &http], &[&latest, "--version"]),
    ]
}

fn compiled(paths: &Paths) -> Vec<Program> {
    let (go, main) = (paths.installed("go-client"), paths.source("go/main.go"));
    let classes = paths.installed("java");
    let (connection, client) = (paths.source("java/UrlConnection.java"), paths.source("java/Client.java"));
    let javac = ["javac", "-d", &classes, &connection, &client];
    vec![
        interpreted("Go net/http", Part::Quick, &[&go], &["go", "version"])
            .built(&[&["go", "build", "-o", &go, &main]]),
        interpreted(
            "Java HttpURLConnection",
            Part::Quick,
            &["java", "-cp", &classes, "UrlConnection"],
            &["javac", "-version"],
        )
        .built(&[&javac]),
        interpreted(
            "Java HttpClient",
            Part::Quick,
            &["java", "-cp", &classes, "Client"],
            &["javac", "-version"],
        ),
        rust("Rust reqwest, native roots", "native", paths),
    ]
}

fn others(paths: &Paths) -> Vec<Program> {
    let (ruby, curl) = (paths.source("ruby/net_http.rb"), paths.source("php/with_curl.php"));
    let streams = paths.source("php/streams.php");
    vec![
        interpreted("Ruby Net::HTTP", Part::Full, &["ruby", &ruby], &["ruby", "--version"]),
        interpreted(
            "PHP curl",
            Part::Full,
            &["php", &curl],
            &["php", "-r", "curl_init(); echo PHP_VERSION;"],
        ),
        interpreted("PHP streams", Part::Full, &["php", &streams], &["php", "--version"]),
    ]
}

/// The two clients that environment variables cannot configure for larder.
fn mounted(paths: &Paths) -> Vec<Program> {
    let installed = paths.installed("bin/python3");
    let python = if Path::new(&installed).exists() { installed.as_str() } else { "python3" };
    let source = paths.source("python/with_urllib3.py");
    let probe = [python, "-c", "import urllib3 as it; print(it.__version__)"];
    let urllib3 = interpreted("Python urllib3, bare", Part::Full, &[python, &source], &probe);
    let reqwest = rust("Rust reqwest, webpki-roots", "webpki", paths);
    [urllib3, reqwest].into_iter().map(|program| Program { access: AccessMode::Mount, ..program }).collect()
}

/// A separate crate, built once for each kind of roots.
fn rust(name: &'static str, roots: &str, paths: &Paths) -> Program {
    let target = paths.installed(&format!("rust-{roots}"));
    let manifest = paths.source("rust/Cargo.toml");
    let build = ["cargo", "build", "--quiet", "--locked", "--manifest-path", &manifest];
    let build = build.into_iter().chain(["--target-dir", &target, "--no-default-features"]);
    let build: Vec<_> = build.chain(["--features", roots]).collect();
    let command = format!("{target}/debug/client");
    let lock = paths.source("rust/Cargo.lock");
    let probe = ["grep", "-A1", "^name = \"reqwest\"$", &lock];
    interpreted(name, Part::Full, &[&command], &probe).built(&[&build])
}

fn interpreted(name: &'static str, part: Part, command: &[&str], probe: &[&str]) -> Program {
    let (command, probe) = (owned(command), owned(probe));
    Program { name, part, access: AccessMode::Proxy, build: Vec::new(), command, probe }
}

impl Program {
    fn built(self, steps: &[&[&str]]) -> Self {
        Self { build: steps.iter().map(|step| owned(step)).collect(), ..self }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
