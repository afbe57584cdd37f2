//! Real, unmodified clients with `HTTP_PROXY` in their environment: curl, Python's requests and Python's
//! httpx.
//!
//! `make test` installs them. A missing client is reported and skipped, unless `CI` is set.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};
use crate::process::{TIMEOUT, eventually, text};

/// Requests the URL in the second argument with the module in the first; prints the response in the format
/// of curl.
const PYTHON: &str = "
import importlib, sys
answer = importlib.import_module(sys.argv[1]).get(sys.argv[2], timeout=20)
answer.raise_for_status()
print('HTTP/1.1', answer.status_code)
print('Cache-Status:', answer.headers['Cache-Status'])
print()
print(answer.text, end='')
";

/// A program that requests the URL in its last argument and fails if the status is an error.
struct App {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<&'static str>,
    /// Arguments that succeed if the program is installed.
    probe: Vec<&'static str>,
}

impl App {
    fn curl() -> Self {
        Self {
            name: "curl",
            program: "curl".into(),
            arguments: vec!["-q", "--silent", "--show-error", "--fail", "--include"],
            probe: vec!["--version"],
        }
    }

    fn requests() -> Self {
        Self {
            name: "requests",
            program: python(),
            arguments: vec!["-c", PYTHON, "requests"],
            probe: vec!["-c", "import requests"],
        }
    }

    fn httpx() -> Self {
        Self {
            name: "httpx",
            program: python(),
            arguments: vec!["-c", PYTHON, "httpx"],
            probe: vec!["-c", "import httpx"],
        }
    }

    async fn is_installed(&self) -> bool {
        let mut probe = Command::new(&self.program);
        probe.args(&self.probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().await.is_ok_and(|status| status.success()) {
            return true;
        }
        assert!(std::env::var_os("CI").is_none(), "{} is not installed", self.name);
        // println would be captured; this line must be visible although the test passes.
        let mut err = std::io::stderr();
        writeln!(err, "SKIPPED clients: {} is not installed", self.name).unwrap();
        false
    }

    /// Requests `url` and returns the `Cache-Status` and the body that the program printed.
    async fn get(&self, proxy: SocketAddr, url: &str) -> (String, String) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(url).stdin(Stdio::null()).kill_on_drop(true);
        for name in ["ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
            command.env_remove(name);
        }
        let proxy = format!("http://{proxy}");
        command.env("HTTP_PROXY", &proxy).env("http_proxy", &proxy);
        command.env("NO_PROXY", "localhost,127.0.0.1").env("no_proxy", "localhost,127.0.0.1");
        let output = timeout(TIMEOUT, command.output()).await.expect("it ends").unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{} reported an error:\n{out}{err}", self.name);
        let out = out.replace("\r\n", "\n");
        let (head, body) = out.split_once("\n\n").expect("a head and a body");
        let field = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("cache-status").then(|| value.to_owned())
        });
        (field.unwrap_or_else(|| panic!("no Cache-Status in {out}")), body.to_owned())
    }
}

/// The Python in which `make test` installs requests and httpx, or the Python of the system.
fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/python3");
    if own.exists() { own } else { "python3".into() }
}

/// All states that an app may meet, each checked by its `Cache-Status`.
async fn sees_miss_hit_stale_and_no_error(app: App) {
    if !app.is_installed().await {
        return;
    }
    let origin = Origin::start(|seen| MockResponse::new(200, &[], format!("answer {}", seen.index))).await;
    let policy = ["ttl: 60s", "stale_while_revalidate: 30s", "stale_if_error: { for: 1h }"];
    let larder = Larder::with_policy(&origin, &policy).await;
    let (proxy, url) = (larder.addr(), format!("{API}/coins?id=1"));

    let (status, body) = app.get(proxy, &url).await;
    assert_eq!(status, "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60", "miss");
    assert_eq!(body, "answer 0");

    let (status, body) = app.get(proxy, &url).await;
    assert_eq!(status, "larder; hit; ttl=60", "hit");
    assert_eq!((body.as_str(), origin.calls()), ("answer 0", 1));

    larder.clock.advance(Duration::from_secs(70));
    let (status, body) = app.get(proxy, &url).await;
    assert_eq!(status, "larder; hit; ttl=-10; detail=\"stale-while-revalidate\"", "stale");
    assert_eq!(body, "answer 0");
    eventually("the refresh", || origin.calls() == 2 && has_refreshes(&larder, 1)).await;
    let (status, body) = app.get(proxy, &url).await;
    assert_eq!((status.as_str(), body.as_str()), ("larder; hit; ttl=60", "answer 1"), "refreshed");

    larder.clock.advance(Duration::from_secs(200));
    origin.set_script(|_| MockResponse::new(503, &[], "down"));
    let (status, body) = app.get(proxy, &url).await;
    assert!(status.starts_with("larder; fwd=stale; fwd-status=503; "), "hidden: {status}");
    assert!(status.contains("stale-if-error"), "hidden: {status}");
    assert_eq!(body, "answer 1");

    origin.set_script(|_| MockResponse::closed());
    let (status, body) = app.get(proxy, &url).await;
    assert!(status.starts_with("larder; fwd=stale; "), "hidden: {status}");
    assert!(status.contains("stale-if-error"), "hidden: {status}");
    assert_eq!(body, "answer 1");
}

fn has_refreshes(larder: &Larder, count: usize) -> bool {
    let page = larder.server.telemetry().render();
    let refreshes = page.lines().filter(|line| line.starts_with("larder_refreshes_total{"));
    let refreshes = refreshes.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    refreshes.sum::<usize>() == count
}

#[tokio::test]
async fn curl_sees_miss_hit_stale_and_no_error() {
    sees_miss_hit_stale_and_no_error(App::curl()).await;
}

#[tokio::test]
async fn python_requests_sees_miss_hit_stale_and_no_error() {
    sees_miss_hit_stale_and_no_error(App::requests()).await;
}

#[tokio::test]
async fn python_httpx_sees_miss_hit_stale_and_no_error() {
    sees_miss_hit_stale_and_no_error(App::httpx()).await;
}
