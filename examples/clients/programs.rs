//! The clients: what runs each, and what must be there for it.
//!
//! Owns: the list, and the compilation of those that are compiled. Never touches: what they are to
//! ask for. The programs lie in `tests/clients`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::client::Failure;

/// When a client is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Always; CI fails without it.
    Quick,
    /// Not with `--quick`.
    Full,
}

/// Which way a client comes to larder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the proxy: nothing is changed.
    Proxy,
    /// It has larder for its base URL.
    Mount,
}

/// A client.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    pub(crate) way: Way,
    /// What is run first, step by step.
    build: Vec<Vec<String>>,
    /// The URLs follow.
    pub(crate) command: Vec<String>,
    /// What tells the version, and that it is there.
    probe: Vec<String>,
}

impl Program {
    /// Its version, once it is built; what is missing, where it cannot be.
    pub(crate) async fn version(&self) -> Result<String, String> {
        let said = output(&self.probe).await.map_err(|_| "it is not installed".to_owned())?;
        for step in &self.build {
            output(step).await?;
        }
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let words = said.split(|c: char| c.is_whitespace() || c == '/' || c == '"');
        let version = words.map(|word| word.trim_start_matches(|c: char| c.is_ascii_alphabetic()));
        let version = version.filter(|word| word.contains('.'));
        let mut version = version.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        Ok(version.next().unwrap_or_default().trim_end_matches(',').to_owned())
    }
}

/// What a step printed; the end of it, where it failed.
async fn output(step: &[String]) -> Result<Output, String> {
    let (program, arguments) = step.split_first().ok_or("there is nothing to run")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {}", said.trim().lines().next_back().unwrap_or_default()))
}

/// Where programs and packages are.
pub(crate) struct Place {
    sources: String,
    installed: String,
}

impl Place {
    /// `tests/clients` and `target/clients`. Node looks for packages beside a program: so copies of
    /// the programs lie beside what is installed.
    pub(crate) fn prepare() -> Result<Self, Failure> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (sources, installed) = (root.join("tests/clients"), root.join("target/clients"));
        std::fs::create_dir_all(&installed)?;
        for name in ["with_axios.mjs", "with_got.mjs"] {
            std::fs::copy(sources.join("node").join(name), installed.join(name))?;
        }
        let text = |path: PathBuf| path.into_os_string().into_string();
        let unfit = |_| "the path of the project is not text";
        Ok(Self {
            sources: text(sources).map_err(unfit)?,
            installed: text(installed).map_err(unfit)?,
        })
    }

    fn source(&self, name: &str) -> String {
        format!("{}/{name}", self.sources)
    }

    fn installed(&self, name: &str) -> String {
        format!("{}/{name}", self.installed)
    }
}

/// All of them.
pub(crate) fn all(place: &Place) -> Vec<Program> {
    let mut all = command_line();
    all.extend(python(place));
    all.extend(node(place));
    all.extend(compiled(place));
    all.extend(others(place));
    all.extend(mounted(place));
    all
}

fn command_line() -> Vec<Program> {
    // Its head with the answers to CONNECT left out.
    let curl = ["curl", "-q", "--silent", "--show-error", "--fail", "--include"];
    let curl: Vec<_> = curl.into_iter().chain(["--suppress-connect-headers"]).collect();
    let old: Vec<_> = curl.iter().copied().chain(["--http1.1"]).collect();
    let wget = ["wget", "--no-verbose", "--server-response", "--output-document=-", "--tries=1"];
    vec![
        interpreted("curl", Part::Quick, &curl, &["curl", "--version"]),
        interpreted("curl, HTTP/1.1", Part::Quick, &old, &["curl", "--version"]),
        interpreted("wget", Part::Full, &wget, &["wget", "--version"]),
    ]
}

fn python(place: &Place) -> Vec<Program> {
    let own = place.installed("bin/python3");
    let python = if Path::new(&own).exists() { own.as_str() } else { "python3" };
    let clients = [
        (
            "Python urllib",
            Part::Quick,
            "urllib",
            "import platform; print(platform.python_version())",
        ),
        (
            "Python requests",
            Part::Quick,
            "requests",
            "import requests as it; print(it.__version__)",
        ),
        ("Python httpx", Part::Quick, "httpx", "import httpx as it; print(it.__version__)"),
        ("Python aiohttp", Part::Quick, "aiohttp", "import aiohttp as it; print(it.__version__)"),
        (
            "Python urllib, certifi",
            Part::Full,
            "certifi",
            "import certifi as it; print(it.__version__)",
        ),
    ];
    let program = |(name, part, library, probe): (_, _, &str, &str)| {
        let source = place.source(&format!("python/with_{library}.py"));
        interpreted(name, part, &[python, &source], &[python, "-c", probe])
    };
    clients.into_iter().map(program).collect()
}

fn node(place: &Place) -> Vec<Program> {
    let (fetch, http) = (place.source("node/fetch.mjs"), place.source("node/http.cjs"));
    let latest = place.installed("node_modules/node/bin/node");
    let package =
        |name: &str| format!("{}/package.json", place.installed(&format!("node_modules/{name}")));
    let (axios, got) = (place.installed("with_axios.mjs"), place.installed("with_got.mjs"));
    let version = "console.log(JSON.parse(require('fs').readFileSync(process.argv[1])).version)";
    let (of_axios, of_got) = (package("axios"), package("got"));
    vec![
        interpreted("Node fetch", Part::Quick, &["node", &fetch], &["node", "--version"]),
        interpreted("Node http, https", Part::Quick, &["node", &http], &["node", "--version"]),
        interpreted("axios", Part::Full, &["node", &axios], &["node", "-e", version, &of_axios]),
        interpreted("got", Part::Full, &["node", &got], &["node", "-e", version, &of_got]),
        interpreted("Node 24 fetch", Part::Full, &[&latest, &fetch], &[&latest, "--version"]),
        interpreted("Node 24 http, https", Part::Full, &[&latest, &http], &[&latest, "--version"]),
    ]
}

fn compiled(place: &Place) -> Vec<Program> {
    let (go, main) = (place.installed("go-client"), place.source("go/main.go"));
    let classes = place.installed("java");
    let (connection, client) =
        (place.source("java/UrlConnection.java"), place.source("java/Client.java"));
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
        rust("Rust reqwest, native roots", "native", place),
    ]
}

fn others(place: &Place) -> Vec<Program> {
    let (ruby, curl) = (place.source("ruby/net_http.rb"), place.source("php/with_curl.php"));
    let streams = place.source("php/streams.php");
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

/// The two that no variable reaches.
fn mounted(place: &Place) -> Vec<Program> {
    let own = place.installed("bin/python3");
    let python = if Path::new(&own).exists() { own.as_str() } else { "python3" };
    let source = place.source("python/with_urllib3.py");
    let probe = [python, "-c", "import urllib3 as it; print(it.__version__)"];
    let urllib3 = interpreted("Python urllib3, bare", Part::Full, &[python, &source], &probe);
    let reqwest = rust("Rust reqwest, webpki-roots", "webpki", place);
    [urllib3, reqwest].into_iter().map(|program| Program { way: Way::Mount, ..program }).collect()
}

/// A crate of its own, built once for each kind of roots.
fn rust(name: &'static str, roots: &str, place: &Place) -> Program {
    let target = place.installed(&format!("rust-{roots}"));
    let manifest = place.source("rust/Cargo.toml");
    let build = ["cargo", "build", "--quiet", "--locked", "--manifest-path", &manifest];
    let build = build.into_iter().chain(["--target-dir", &target, "--no-default-features"]);
    let build: Vec<_> = build.chain(["--features", roots]).collect();
    let command = format!("{target}/debug/client");
    let lock = place.source("rust/Cargo.lock");
    let probe = ["grep", "-A1", "^name = \"reqwest\"$", &lock];
    interpreted(name, Part::Full, &[&command], &probe).built(&[&build])
}

fn interpreted(name: &'static str, part: Part, command: &[&str], probe: &[&str]) -> Program {
    let (command, probe) = (owned(command), owned(probe));
    Program { name, part, way: Way::Proxy, build: Vec::new(), command, probe }
}

impl Program {
    fn built(self, steps: &[&[&str]]) -> Self {
        Self { build: steps.iter().map(|step| owned(step)).collect(), ..self }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
