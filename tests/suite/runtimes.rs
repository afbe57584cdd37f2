//! Real runtimes with the environment that `larder exec` sets: their requests go through larder, the
//! settings that their environment had before still apply, and exempt hosts are reached directly.
//!
//! A missing runtime is named and skipped, unless `CI` is set. TLS is tunnelled here, to an origin whose own
//! certificate authority takes the place of larder's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use larder::config::{self, env::Env};
use larder::exec_env::ExecEnv;
use larder::exec_env::no_proxy::NoProxy;
use tokio::process::Command;
use tokio::time::timeout;

use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{TIMEOUT, text};
use crate::tls_origin::{Certificate, Protocols, TestCa, TlsOrigin};

/// The environment of a command: the variables of the caller, and those that larder adds.
struct CommandEnv {
    directory: tempfile::TempDir,
    env: HashMap<String, String>,
}

impl CommandEnv {
    /// `before` contains the caller's variables; `{}` in a value stands for the caller's own directory.
    fn new(proxy: SocketAddr, ca: &str, before: &[(&str, &str)]) -> Self {
        Self::with(proxy, None, ca, before)
    }

    /// The same for a larder that requires this user and password.
    fn with(proxy: SocketAddr, password: Option<&str>, ca: &str, before: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (own, private) = (directory.path().join("own"), directory.path().join("a (private) ü"));
        std::fs::create_dir(&own).unwrap();
        std::fs::create_dir(&private).unwrap();
        let own = own.to_str().unwrap();
        let path = std::env::var_os("PATH").unwrap().into_string().unwrap();
        let mut env: HashMap<_, _> = [("PATH", path.as_str()), ("HOME", own), ("LANG", "C.UTF-8")]
            .into_iter()
            .chain(before.iter().copied())
            .map(|(name, value)| (name.to_owned(), value.replace("{}", own)))
            .collect();
        let caller: Env = env.clone().into_iter().collect();
        let config = config::parse("test.yaml", "version: 1", &caller).unwrap();
        let no_proxy = &NoProxy::from_config(&config, &caller);
        let launch = ExecEnv { proxy, password, ca, no_proxy, directory: &private, env: &caller };
        env.extend(launch.prepare().unwrap());
        Self { directory, env }
    }

    /// Writes a file in the caller's own directory.
    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.directory.path().join("own").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Runs a program and returns its standard output.
    async fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.env).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(TIMEOUT, command.output()).await.expect("it ends").unwrap();
        let stdout = text(&output.stdout);
        assert!(output.status.success(), "{program}: {stdout}{}", text(&output.stderr));
        stdout
    }
}

/// Whether the program is installed; the line about a missing one is always shown.
async fn is_installed(program: &str, probe: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().await.is_ok_and(|status| status.success());
    // In CI, the programs that `.ci/run` installs must be present.
    let optional = ["php", "wget"].contains(&program);
    assert!(there || optional || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !there {
        let mut err = std::io::stderr();
        writeln!(err, "SKIPPED launch: {program} is not installed").unwrap();
    }
    there
}

/// The path of a program of `tests/clients`.
fn client(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    path.to_str().unwrap().to_owned()
}

/// A larder that tunnels to a TLS origin and stores the responses of a plaintext origin.
struct Both {
    larder: Larder,
    secure: TlsOrigin,
    plain: Origin,
    ca: String,
}

const SECURE: &str = "https://secure.example.test/";
const PLAIN: &str = "http://api.example.test/";

impl Both {
    async fn start() -> Self {
        Self::starting("").await
    }

    /// The same with these lines in the configuration.
    async fn starting(more: &str) -> Self {
        let authority = TestCa::new();
        let secure = TlsOrigin::start(&authority, Certificate::Good, Protocols::H1, "secure").await;
        let plain = Origin::always(MockResponse::new(200, &[], "plain")).await;
        let yaml = format!(
            "{more}resolve: {{ api.example.test: \"{}\", secure.example.test: \"{}\" }}\n{}",
            plain.addr,
            secure.addr,
            route(&["ttl: 1h"])
        );
        let ca = std::fs::read_to_string(authority.root()).unwrap();
        Self { larder: Larder::bare(&yaml).await, secure, plain, ca }
    }

    fn command_env(&self, before: &[(&str, &str)]) -> CommandEnv {
        CommandEnv::new(self.larder.addr(), &self.ca, before)
    }

    /// Asserts that `output` contains two responses of each origin and that larder stored the plaintext one.
    async fn assert_used(&self, output: &str) {
        assert_eq!(output.matches("plain").count(), 2, "{output}");
        assert!(output.contains("larder; hit; ttl="), "{output}");
        assert_eq!(output.matches("secure").count(), 2, "{output}");
        assert_eq!((self.plain.calls(), self.secure.calls()), (1, 2), "{output}");
        // A tunnel is recorded when it closes, which may be after the command has ended.
        let tunnels = "larder_requests_total{result=\"tunnel\",route=\"none\"}";
        self.larder.wait_until("a tunnel", |larder| larder.metric(tunnels) > 0.0).await;
    }
}

const URLS: [&str; 4] = [SECURE, PLAIN, SECURE, PLAIN];

/// The path of the program, then the URLs.
fn with_urls(program: &str) -> Vec<String> {
    let mut arguments = vec![client(program)];
    arguments.extend(URLS.map(ToOwned::to_owned));
    arguments
}

#[tokio::test]
async fn node_uses_larder_and_keeps_node_options() {
    if !is_installed("node", &["--version"]).await {
        return;
    }
    for program in ["node/http.cjs", "node/fetch.mjs"] {
        let both = Both::start().await;
        let command_env =
            both.command_env(&[("NODE_OPTIONS", "--require \"{}/with space.cjs\" --no-warnings")]);
        command_env.file("with space.cjs", "console.log('theirs first');");
        let output = command_env.run("node", &with_urls(program)).await;
        assert!(output.starts_with("theirs first"), "{output}");
        both.assert_used(&output).await;
    }
}

#[tokio::test]
async fn java_trusts_larders_store_and_keeps_java_tool_options() {
    if !is_installed("javac", &["-version"]).await {
        return;
    }
    let both = Both::start().await;
    let before = "-Dtheirs='a b' -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=9";
    let command_env = both.command_env(&[("JAVA_TOOL_OPTIONS", before)]);
    let output = command_env.run("java", &with_urls("java/UrlConnection.java")).await;
    both.assert_used(&output).await;
    let shown = "System.out.println(System.getProperty(\"theirs\"))";
    let main = "public static void main(String[] none)";
    let source = command_env.file("Show.java", &format!("class Show {{ {main} {{ {shown}; }} }}"));
    assert_eq!(command_env.run("java", &[source]).await.trim(), "a b");
    let store = command_env.directory.path().join("a (private) ü/trust.p12");
    let store = store.to_str().unwrap();
    let list = ["-list", "-keystore", store, "-storepass", "changeit", "-alias", "larder"];
    assert!(command_env.run("keytool", &list).await.contains("trustedCertEntry"));
}

#[tokio::test]
async fn larders_certificate_is_added_to_the_callers_trust_store() {
    if !is_installed("keytool", &["-help"]).await {
        return;
    }
    let first = CommandEnv::new(([127, 0, 0, 1], 1).into(), &Both::start().await.ca, &[]);
    // A store in a directory of larder's would count as one of an earlier larder, and be replaced.
    let theirs = first.directory.path().join("own/theirs.p12");
    std::fs::copy(first.directory.path().join("a (private) ü/trust.p12"), &theirs).unwrap();
    let options = format!("-Djavax.net.ssl.trustStore='{}'", theirs.display());
    let both = Both::start().await;
    let command_env = both.command_env(&[("JAVA_TOOL_OPTIONS", &options)]);
    let store = command_env.directory.path().join("a (private) ü/trust.p12");
    let count = async |store: &Path| {
        let store = store.to_str().unwrap();
        let list = ["-list", "-keystore", store, "-storepass", "changeit"];
        command_env.run("keytool", &list).await.matches("trustedCertEntry").count()
    };
    assert_eq!(count(&store).await, count(&theirs).await + 1);
}

#[tokio::test]
async fn python_uses_larder_and_keeps_its_path_and_sitecustomize() {
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let command_env = both.command_env(&[("PYTHONPATH", "{}/their modules")]);
    command_env.file("their modules/sitecustomize.py", "import theirs\nprint(__name__, __file__)\n");
    command_env.file("their modules/theirs.py", "print('theirs first')\n");
    let output = command_env.run("python3", &with_urls("python/with_urllib.py")).await;
    assert!(output.starts_with("theirs first\nsitecustomize "), "{output}");
    assert!(output.contains("their modules/sitecustomize.py\n"), "{output}");
    both.assert_used(&output).await;
}

#[tokio::test]
async fn certifi_returns_its_own_roots_and_larders_certificate() {
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), "larder", &[("PYTHONPATH", "{}")]);
    command_env.file("certifi/__init__.py", "from .core import contents, where\n");
    let file = "__file__.replace('core.py', 'cacert.pem')";
    let core = format!("def where(): return {file}\ndef contents(): return open(where()).read()\n");
    command_env.file("certifi/core.py", &core);
    let roots = command_env.file("certifi/cacert.pem", "theirs");
    for program in ["print(open(certifi.where()).read())", "print(certifi.contents())"] {
        let output = command_env.run("python3", &["-c", &format!("import certifi; {program}")]).await;
        assert!(output.starts_with("theirs"), "{output}");
        assert!(output.ends_with("\nlarder\n\n"), "{output}");
    }
    // Larder must not change the package itself.
    assert!(!std::fs::read_to_string(roots).unwrap().contains("larder"));
}

/// The environment of a `larder exec` within another one, or in a shell that has evaluated `larder env`.
fn nested(outer: &CommandEnv, ca: &str) -> CommandEnv {
    let before: Vec<_> = outer.env.iter().map(|(name, it)| (name.as_str(), it.as_str())).collect();
    CommandEnv::new(([127, 0, 0, 1], 1).into(), ca, &before)
}

/// Writes a package in place of certifi, and one in place of aiohttp.
fn write_fake_packages(command_env: &CommandEnv) {
    command_env.file("certifi/__init__.py", "from .core import contents, where\n");
    let file = "__file__.replace('core.py', 'cacert.pem')";
    let core = format!("def where(): return {file}\ndef contents(): return open(where()).read()\n");
    command_env.file("certifi/core.py", &core);
    command_env.file("certifi/cacert.pem", "theirs");
    command_env.file("aiohttp/__init__.py", "from .client import ClientSession\n");
    command_env.file("aiohttp/client.py", "class ClientSession:\n    async def _request(self): pass\n");
}

/// Asserts that [`PRINT_PATCHES`] printed the patches of the inner larder only.
fn assert_patched(output: &str) {
    assert!(output.starts_with("theirs\n") && output.ends_with("\ninner\n\nTrue\n"), "{output}");
    assert!(!output.contains("outer"), "{output}");
}

const PRINT_PATCHES: &str = "import aiohttp, certifi; print(certifi.contents()); \
    print(hasattr(aiohttp.ClientSession._request, '__wrapped__'))";

#[tokio::test]
async fn a_nested_exec_replaces_the_outer_larder_in_the_variables() {
    let before =
        [("PYTHONPATH", "{}"), ("NODE_OPTIONS", "--no-warnings"), ("JAVA_TOOL_OPTIONS", "-Dtheirs='a b'")];
    let outer = CommandEnv::new(([127, 0, 0, 1], 1).into(), "outer", &before);
    let inner = nested(&outer, "inner");
    let place =
        |command_env: &CommandEnv| command_env.directory.path().join("a (private) ü").display().to_string();
    for name in ["PYTHONPATH", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "PHP_INI_SCAN_DIR"] {
        let expected = outer.env[name].replace(&place(&outer), &place(&inner));
        assert_eq!(inner.env[name], expected, "{name}");
    }
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    write_fake_packages(&outer);
    assert_patched(&inner.run("python3", &["-c", PRINT_PATCHES]).await);
}

/// The inner larder cannot see the outer one's directory, only the command can: in a container, for example.
#[tokio::test]
async fn two_larders_on_pythons_path_do_not_recurse_endlessly() {
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    let outer = CommandEnv::new(([127, 0, 0, 1], 1).into(), "outer", &[("PYTHONPATH", "{}")]);
    write_fake_packages(&outer);
    let mut inner = CommandEnv::new(([127, 0, 0, 1], 1).into(), "inner", &[]);
    let both = format!("{}:{}", inner.env["PYTHONPATH"], outer.env["PYTHONPATH"]);
    inner.env.insert("PYTHONPATH".to_owned(), both);
    assert_patched(&inner.run("python3", &["-c", PRINT_PATCHES]).await);
    // The finder of an earlier version carries no marker and calls all the other finders.
    let unmarked = "import sys\nclass Taught:\n  def find_spec(self, *about):\n    \
        for finder in sys.meta_path:\n      \
        spec = None if finder is self else finder.find_spec(*about)\n      \
        if spec: return spec\nsys.meta_path.insert(0, Taught())";
    let program = format!("exec({unmarked:?})\n{PRINT_PATCHES}");
    assert_patched(&inner.run("python3", &["-c", &program]).await);
}

#[tokio::test]
async fn python_starts_even_if_a_sitecustomize_is_broken() {
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), "no certificate", &[("PYTHONPATH", "{}")]);
    for broken in ["raise ValueError('theirs')", "not python", "import none_of_the_name"] {
        command_env.file("sitecustomize.py", broken);
        assert_eq!(command_env.run("python3", &["-c", "print('started')"]).await, "started\n");
    }
}

#[tokio::test]
async fn php_uses_larder_and_keeps_its_settings() {
    if !is_installed("php", &["--version"]).await {
        return;
    }
    for before in [Some("{}"), Some(""), None] {
        let both = Both::start().await;
        let before: Vec<_> = before.map(|value| ("PHP_INI_SCAN_DIR", value)).into_iter().collect();
        let command_env = both.command_env(&before);
        let first = command_env.file("first.php", "<?php echo 'theirs first', PHP_EOL;");
        let settings = format!("memory_limit = 77M\nauto_prepend_file = \"{}\"", first.display());
        command_env.file("theirs.ini", &settings);
        let output = command_env.run("php", &with_urls("php/streams.php")).await;
        both.assert_used(&output).await;
        let kept = before == [("PHP_INI_SCAN_DIR", "{}")];
        assert_eq!(output.starts_with("theirs first\n"), kept, "{output}");
        let limit = command_env.run("php", &["-r", "echo ini_get('memory_limit');"]).await;
        assert_eq!(limit.contains("77M"), kept, "{limit}");
    }
}

#[tokio::test]
async fn wget_uses_larder_and_keeps_its_settings() {
    if !is_installed("wget", &["--version"]).await {
        return;
    }
    for (place, before) in [(".wgetrc", None), ("corp.rc", Some(("WGETRC", "{}/corp.rc")))] {
        let both = Both::start().await;
        // Larder reads the file when it prepares the environment.
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap().to_owned();
        let rc = "user_agent = theirs\nhttp_proxy = http://127.0.0.1:9\nuse_proxy = off\n";
        std::fs::write(directory.path().join(place), rc).unwrap();
        let before = before.map(|(name, value)| (name, value.replace("{}", &home)));
        let mut all = vec![("HOME", home.as_str())];
        all.extend(before.as_ref().map(|(name, value)| (*name, value.as_str())));
        let command_env = both.command_env(&all);
        let arguments = ["--quiet", "--output-document=-", "--save-headers"];
        let arguments: Vec<_> = arguments.into_iter().chain(URLS).collect();
        let output = command_env.run("wget", &arguments).await;
        both.assert_used(&output).await;
        assert_eq!(both.plain.requests()[0].field("user-agent"), Some("theirs"));
    }
}

/// A private larder requires a password where it cannot determine which user a connection belongs to.
#[tokio::test]
async fn clients_send_the_password_that_a_larder_requires() {
    let files = tempfile::tempdir().unwrap();
    let users = files.path().join("users");
    std::fs::write(&users, "larder:0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    let access = format!("access: {{ users_file: {} }}\n", users.display());
    let wget = ["--quiet", "--output-document=-", "--save-headers"].map(ToOwned::to_owned);
    for (program, probe, arguments) in [
        ("node", "--version", with_urls("node/http.cjs")),
        ("node", "--version", with_urls("node/fetch.mjs")),
        ("python3", "--version", with_urls("python/with_urllib.py")),
        ("php", "--version", with_urls("php/streams.php")),
        ("wget", "--version", wget.into_iter().chain(URLS.map(ToOwned::to_owned)).collect()),
    ] {
        if !is_installed(program, &[probe]).await {
            continue;
        }
        let both = Both::starting(&access).await;
        let password = Some("larder:0123456789abcdef");
        let command_env = CommandEnv::with(both.larder.addr(), password, &both.ca, &[]);
        let output = command_env.run(program, &arguments).await;
        both.assert_used(&output).await;
        let seen = both.plain.requests();
        assert_eq!(seen[0].field("proxy-authorization"), None, "{program}: larder removes it");
    }
}

#[tokio::test]
async fn the_shim_bypasses_no_proxy_hosts_the_proxy_itself_and_unix_sockets() {
    if !is_installed("node", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let mut command_env = both.command_env(&[]);
    let port = both.plain.addr.port();
    let socket = command_env.directory.path().join("s");
    let program = command_env.file(
        "bypassed.mjs",
        &format!(
            "import http from 'node:http';
             const get = (options) => new Promise((done, failed) => http
               .get(options, (response) => {{
                 response.resume();
                 response.on('end', () => done(response.headers['cache-status'] ?? 'direct'));
               }}).on('error', failed));
             const served = http.createServer((request, response) => response.end());
             await new Promise((done) => served.listen({socket:?}, done));
             console.log('unix', await get({{ socketPath: {socket:?}, path: '/' }}));
             served.close();
             process.env.no_proxy = 'other.test, 127.0.0.0/8';
             console.log('network', await get('http://127.0.0.1:{port}/'));
             console.log('fetch', (await fetch('http://127.0.0.1:{port}/')).headers.get('cache-status'));
             process.env.no_proxy = '';
             console.log('named', await get('{PLAIN}'));
             const agent = new http.Agent({{ keepAlive: true, maxSockets: 1 }});
             for (let n = 0; n < 3; n += 1) await get({{ host: 'api.example.test', agent }});
             console.log('pooled', agent.totalSocketCount);
             agent.destroy();
             const own = await get('http://{}/').catch((error) => error.code);
             console.log('itself', own);
             ",
            both.larder.addr()
        ),
    );
    // Newer versions of Node can use a proxy by themselves, with the variables at their start.
    command_env.env.insert("NODE_USE_ENV_PROXY".to_owned(), "0".to_owned());
    let output = command_env.run("node", &[program]).await;
    assert!(output.contains("unix direct\n"), "{output}");
    assert!(output.contains("network direct\nfetch null\n"), "{output}");
    assert!(output.contains("named larder; "), "{output}");
    assert!(output.contains("pooled 1\n"), "{output}");
    assert!(output.contains("itself "), "{output}");
}

#[tokio::test]
async fn the_shim_reaches_workers_and_children_and_its_errors_have_codes() {
    if !is_installed("node", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let mut command_env = both.command_env(&[]);
    command_env.env.insert("NODE_USE_ENV_PROXY".to_owned(), "0".to_owned());
    let program = command_env.file(
        "family.cjs",
        &format!(
            "const {{ Worker }} = require('worker_threads');
             const {{ execFileSync }} = require('child_process');
             const ask = `fetch('{PLAIN}').then((a) => console.log(a.headers.get('cache-status')))`;
             console.log(String(execFileSync(process.execPath, ['-e', ask])));
             new Worker(ask, {{ eval: true }}).on('exit', () => {{
               process.env.HTTPS_PROXY = process.env.https_proxy = 'http://127.0.0.1:1';
               require('https').get('{SECURE}').on('error', (error) => console.log(error.code));
               fetch('{SECURE}').catch((error) => console.log(error.cause.code));
             }});"
        ),
    );
    let output = command_env.run("node", &[program]).await;
    assert_eq!(output.matches("larder; ").count(), 2, "{output}");
    assert_eq!(output.matches("ECONNREFUSED").count(), 2, "{output}");
}

#[tokio::test]
async fn bundles_contain_the_callers_roots_and_larders_certificate() {
    let ca = "-----BEGIN CERTIFICATE-----\nlarder\n-----END CERTIFICATE-----\n";
    let directory = tempfile::tempdir().unwrap();
    let corp = directory.path().join("corp.pem");
    std::fs::write(&corp, "corp, without a last line end").unwrap();
    let corp = corp.to_str().unwrap();
    let before = [
        ("SSL_CERT_FILE", ""),
        ("REQUESTS_CA_BUNDLE", corp),
        ("NODE_EXTRA_CA_CERTS", corp),
        ("GIT_SSL_CAINFO", "/nothing/there.pem"),
        ("HTTPLIB2_CA_CERTS", corp),
        ("NIX_SSL_CERT_FILE", corp),
        ("YARN_HTTPS_CA_FILE_PATH", corp),
        ("NPM_CONFIG_CAFILE", corp),
    ];
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), ca, &before);
    let bundle = |name: &str| std::fs::read_to_string(&command_env.env[name]).unwrap();
    let extended = ["REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];
    let others = ["HTTPLIB2_CA_CERTS", "NIX_SSL_CERT_FILE", "YARN_HTTPS_CA_FILE_PATH", "npm_config_cafile"];
    for name in extended.into_iter().chain(others) {
        assert_eq!(bundle(name), format!("corp, without a last line end\n{ca}"), "{name}");
    }
    assert_eq!(bundle("DENO_CERT"), ca);
    let default = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"];
    let others = ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"];
    for name in default.into_iter().chain(others) {
        assert!(bundle(name).ends_with(ca) && !bundle(name).contains("corp"), "{name}");
    }
    // This machine may have settings for npm.
    let before = [("SSL_CERT_FILE", corp), ("npm_config_globalconfig", "/nothing/npmrc")];
    // Without these settings the clients follow others, so larder adds none.
    for name in ["NIX_SSL_CERT_FILE", "YARN_HTTPS_CA_FILE_PATH", "npm_config_cafile"] {
        let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), ca, &before);
        assert!(!command_env.env.contains_key(name), "{name}");
    }
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), ca, &before);
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        let bundle = std::fs::read_to_string(&command_env.env[name]).unwrap();
        assert_eq!(bundle, format!("corp, without a last line end\n{ca}"), "{name}");
    }
}

/// npm reads no other roots if its settings name a file.
#[tokio::test]
async fn a_ca_file_of_npms_settings_is_extended() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("corp.pem"), "corp\n").unwrap();
    std::fs::write(path(".npmrc"), format!("registry=https://r.example/\ncafile={}\n", path("corp.pem")))
        .unwrap();
    let before = [("npm_config_userconfig", path(".npmrc"))];
    let before = before.each_ref().map(|(name, value)| (*name, value.as_str()));
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), "larder\n", &before);
    let bundle = std::fs::read_to_string(&command_env.env["npm_config_cafile"]).unwrap();
    assert_eq!(bundle, "corp\nlarder\n");
}

#[tokio::test]
async fn the_bundle_that_stripe_ships_also_gets_larders_certificate() {
    if !is_installed("python3", &["--version"]).await {
        return;
    }
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), "larder\n", &[("PYTHONPATH", "{}")]);
    command_env.file("bundled.pem", "theirs\n");
    command_env.file(
        "stripe/__init__.py",
        "import os\nca_bundle_path = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'bundled.pem')\n",
    );
    let script = "import stripe; print(open(stripe.ca_bundle_path).read())";
    for _ in 0..2 {
        let output = command_env.run("python3", &["-c", script]).await;
        assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["theirs", "larder"]);
    }
}

#[tokio::test]
async fn undici_from_npm_uses_larder_before_any_fetch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/clients/node_modules");
    if !is_installed("node", &["-e", &format!("require('{path}/undici')")]).await {
        return;
    }
    let both = Both::start().await;
    let command_env = both.command_env(&[("NODE_PATH", path)]);
    let output = command_env.run("node", &with_urls("node/with_undici.cjs")).await;
    both.assert_used(&output).await;
}

/// Puppeteer and Playwright start browsers by their absolute paths.
#[tokio::test]
async fn browsers_that_node_starts_accept_larders_certificate() {
    if !is_installed("node", &["--version"]).await {
        return;
    }
    let ca = std::fs::read_to_string(TestCa::new().root()).unwrap();
    let command_env = CommandEnv::new(([127, 0, 0, 1], 1).into(), &ca, &[]);
    let browser = command_env.file("headless_shell", "#!/bin/sh\necho \"$@\"\n");
    std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o700)).unwrap();
    let program = command_env.file(
        "start.cjs",
        "const { spawn, spawnSync } = require('node:child_process');
         const [, , browser] = process.argv;
         spawn(browser, ['--user-data-dir=/p', 'one'], { stdio: 'inherit' })
           .on('close', () => spawn(browser, ['two'], { stdio: 'inherit' }));",
    );
    let output = command_env.run("node", &[program, browser]).await;
    let flag = &command_env.env["LARDER_CHROMIUM_FLAG"];
    assert_eq!(output.lines().collect::<Vec<_>>(), [&format!("{flag} --user-data-dir=/p one"), "two"]);
}
