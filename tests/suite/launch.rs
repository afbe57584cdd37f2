//! Real runtimes that are told about larder as `larder exec` tells them: they come through it, what
//! their environment said before survives, and what is to be spared is spared.
//!
//! A runtime that is missing is named and skipped, unless `CI` is set. Here TLS is tunnelled to an origin whose own
//! authority stands in for larder's.

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
use crate::origin::{Answer, Origin};
use crate::process::{PATIENCE, text};
use crate::tls_origin::{Authority, Certificate, Speaks, TlsOrigin};

/// The surroundings of a command: what they were, and what larder adds.
struct Told {
    directory: tempfile::TempDir,
    env: HashMap<String, String>,
}

impl Told {
    /// `before` is what the caller has set; `{}` in it is a directory of the caller's own.
    fn new(proxy: SocketAddr, ca: &str, before: &[(&str, &str)]) -> Self {
        Self::with(proxy, None, ca, before)
    }

    /// The same for a larder that asks for this user and password.
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
        let no_proxy = &NoProxy::of(&config, &caller);
        let launch = ExecEnv { proxy, password, ca, no_proxy, directory: &private, env: &caller };
        env.extend(launch.prepare().unwrap());
        Self { directory, env }
    }

    /// A file in the directory of the caller's own.
    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.directory.path().join("own").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// What the program printed.
    async fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.env).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        let said = text(&output.stdout);
        assert!(output.status.success(), "{program}: {said}{}", text(&output.stderr));
        said
    }
}

/// Whether the program is there; the line that says otherwise is always shown.
async fn is_there(program: &str, probe: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().await.is_ok_and(|status| status.success());
    // What `.ci/run` installs may not be missing there.
    let optional = ["php", "wget"].contains(&program);
    assert!(there || optional || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !there {
        let mut err = std::io::stderr();
        writeln!(err, "SKIPPED launch: {program} is not installed").unwrap();
    }
    there
}

/// A program of `tests/clients`.
fn client(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    path.to_str().unwrap().to_owned()
}

/// A larder that tunnels to a TLS origin and stores what a plain one says.
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

    /// The same with these lines in its file.
    async fn starting(more: &str) -> Self {
        let authority = Authority::new();
        let secure = TlsOrigin::start(&authority, Certificate::Good, Speaks::H1, "secure").await;
        let plain = Origin::always(Answer::new(200, &[], "plain")).await;
        let yaml = format!(
            "{more}resolve: {{ api.example.test: \"{}\", secure.example.test: \"{}\" }}\n{}",
            plain.addr,
            secure.addr,
            route(&["ttl: 1h"])
        );
        let ca = std::fs::read_to_string(authority.root()).unwrap();
        Self { larder: Larder::bare(&yaml).await, secure, plain, ca }
    }

    fn told(&self, before: &[(&str, &str)]) -> Told {
        Told::new(self.larder.addr(), &self.ca, before)
    }

    /// `said` has two answers of each origin, which was asked once where larder stores.
    async fn came_through(&self, said: &str) {
        assert_eq!(said.matches("plain").count(), 2, "{said}");
        assert!(said.contains("larder; hit; ttl="), "{said}");
        assert_eq!(said.matches("secure").count(), 2, "{said}");
        assert_eq!((self.plain.calls(), self.secure.calls()), (1, 2), "{said}");
        // A tunnel is recorded once it is over, which may be after the command is.
        let tunnels = "larder_requests_total{result=\"tunnel\",route=\"none\"}";
        self.larder.until("a tunnel", |larder| larder.metric(tunnels) > 0.0).await;
    }
}

const URLS: [&str; 4] = [SECURE, PLAIN, SECURE, PLAIN];

/// The program, then the URLs.
fn asking(program: &str) -> Vec<String> {
    let mut arguments = vec![client(program)];
    arguments.extend(URLS.map(ToOwned::to_owned));
    arguments
}

#[tokio::test]
async fn node_comes_through_and_keeps_what_node_options_said() {
    if !is_there("node", &["--version"]).await {
        return;
    }
    for program in ["node/http.cjs", "node/fetch.mjs"] {
        let both = Both::start().await;
        let told = both.told(&[("NODE_OPTIONS", "--require \"{}/with space.cjs\" --no-warnings")]);
        told.file("with space.cjs", "console.log('theirs first');");
        let said = told.run("node", &asking(program)).await;
        assert!(said.starts_with("theirs first"), "{said}");
        both.came_through(&said).await;
    }
}

#[tokio::test]
async fn java_trusts_the_store_and_keeps_what_its_options_said() {
    if !is_there("javac", &["-version"]).await {
        return;
    }
    let both = Both::start().await;
    let before = "-Dtheirs='a b' -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=9";
    let told = both.told(&[("JAVA_TOOL_OPTIONS", before)]);
    let said = told.run("java", &asking("java/UrlConnection.java")).await;
    both.came_through(&said).await;
    let shown = "System.out.println(System.getProperty(\"theirs\"))";
    let main = "public static void main(String[] none)";
    let source = told.file("Show.java", &format!("class Show {{ {main} {{ {shown}; }} }}"));
    assert_eq!(told.run("java", &[source]).await.trim(), "a b");
    let store = told.directory.path().join("a (private) ü/trust.p12");
    let store = store.to_str().unwrap();
    let list = ["-list", "-keystore", store, "-storepass", "changeit", "-alias", "larder"];
    assert!(told.run("keytool", &list).await.contains("trustedCertEntry"));
}

#[tokio::test]
async fn a_trust_store_of_the_callers_own_is_added_to() {
    if !is_there("keytool", &["-help"]).await {
        return;
    }
    let first = Told::new(([127, 0, 0, 1], 1).into(), &Both::start().await.ca, &[]);
    // Within a directory of larder's it would be an earlier larder's, which is replaced.
    let theirs = first.directory.path().join("own/theirs.p12");
    std::fs::copy(first.directory.path().join("a (private) ü/trust.p12"), &theirs).unwrap();
    let options = format!("-Djavax.net.ssl.trustStore='{}'", theirs.display());
    let both = Both::start().await;
    let told = both.told(&[("JAVA_TOOL_OPTIONS", &options)]);
    let store = told.directory.path().join("a (private) ü/trust.p12");
    let count = async |store: &Path| {
        let store = store.to_str().unwrap();
        let list = ["-list", "-keystore", store, "-storepass", "changeit"];
        told.run("keytool", &list).await.matches("trustedCertEntry").count()
    };
    assert_eq!(count(&store).await, count(&theirs).await + 1);
}

#[tokio::test]
async fn python_comes_through_and_keeps_its_path_and_its_sitecustomize() {
    if !is_there("python3", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let told = both.told(&[("PYTHONPATH", "{}/their modules")]);
    told.file("their modules/sitecustomize.py", "import theirs\nprint(__name__, __file__)\n");
    told.file("their modules/theirs.py", "print('theirs first')\n");
    let said = told.run("python3", &asking("python/with_urllib.py")).await;
    assert!(said.starts_with("theirs first\nsitecustomize "), "{said}");
    assert!(said.contains("their modules/sitecustomize.py\n"), "{said}");
    both.came_through(&said).await;
}

#[tokio::test]
async fn certifi_names_its_own_roots_and_larder() {
    if !is_there("python3", &["--version"]).await {
        return;
    }
    let told = Told::new(([127, 0, 0, 1], 1).into(), "larder", &[("PYTHONPATH", "{}")]);
    told.file("certifi/__init__.py", "from .core import contents, where\n");
    let file = "__file__.replace('core.py', 'cacert.pem')";
    let core = format!("def where(): return {file}\ndef contents(): return open(where()).read()\n");
    told.file("certifi/core.py", &core);
    let roots = told.file("certifi/cacert.pem", "theirs");
    for program in ["print(open(certifi.where()).read())", "print(certifi.contents())"] {
        let said = told.run("python3", &["-c", &format!("import certifi; {program}")]).await;
        assert!(said.starts_with("theirs"), "{said}");
        assert!(said.ends_with("\nlarder\n\n"), "{said}");
    }
    // The package itself is not larder's to change.
    assert!(!std::fs::read_to_string(roots).unwrap().contains("larder"));
}

/// As `larder exec` in a shell that has `larder env`, or below another `larder exec`.
fn nested(outer: &Told, ca: &str) -> Told {
    let before: Vec<_> = outer.env.iter().map(|(name, it)| (name.as_str(), it.as_str())).collect();
    Told::new(([127, 0, 0, 1], 1).into(), ca, &before)
}

/// A package that stands in for certifi, and one for aiohttp.
fn taught_packages(told: &Told) {
    told.file("certifi/__init__.py", "from .core import contents, where\n");
    let file = "__file__.replace('core.py', 'cacert.pem')";
    let core = format!("def where(): return {file}\ndef contents(): return open(where()).read()\n");
    told.file("certifi/core.py", &core);
    told.file("certifi/cacert.pem", "theirs");
    told.file("aiohttp/__init__.py", "from .client import ClientSession\n");
    told.file("aiohttp/client.py", "class ClientSession:\n    async def _request(self): pass\n");
}

/// What [`TAUGHT`] says where the inner larder alone has been at work.
fn is_taught(said: &str) {
    assert!(said.starts_with("theirs\n") && said.ends_with("\ninner\n\nTrue\n"), "{said}");
    assert!(!said.contains("outer"), "{said}");
}

const TAUGHT: &str = "import aiohttp, certifi; print(certifi.contents()); \
    print(hasattr(aiohttp.ClientSession._request, '__wrapped__'))";

#[tokio::test]
async fn a_larder_within_a_larder_takes_its_place_in_the_variables() {
    let before = [
        ("PYTHONPATH", "{}"),
        ("NODE_OPTIONS", "--no-warnings"),
        ("JAVA_TOOL_OPTIONS", "-Dtheirs='a b'"),
    ];
    let outer = Told::new(([127, 0, 0, 1], 1).into(), "outer", &before);
    let inner = nested(&outer, "inner");
    let place = |told: &Told| told.directory.path().join("a (private) ü").display().to_string();
    for name in ["PYTHONPATH", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "PHP_INI_SCAN_DIR"] {
        let expected = outer.env[name].replace(&place(&outer), &place(&inner));
        assert_eq!(inner.env[name], expected, "{name}");
    }
    if !is_there("python3", &["--version"]).await {
        return;
    }
    taught_packages(&outer);
    is_taught(&inner.run("python3", &["-c", TAUGHT]).await);
}

/// As where the directory of the outer one is seen only by the command: a container's, say.
#[tokio::test]
async fn two_larders_on_pythons_path_do_not_ask_each_other_for_ever() {
    if !is_there("python3", &["--version"]).await {
        return;
    }
    let outer = Told::new(([127, 0, 0, 1], 1).into(), "outer", &[("PYTHONPATH", "{}")]);
    taught_packages(&outer);
    let mut inner = Told::new(([127, 0, 0, 1], 1).into(), "inner", &[]);
    let both = format!("{}:{}", inner.env["PYTHONPATH"], outer.env["PYTHONPATH"]);
    inner.env.insert("PYTHONPATH".to_owned(), both);
    is_taught(&inner.run("python3", &["-c", TAUGHT]).await);
    // An earlier version's finder has no mark: it asks the others whoever they are.
    let unmarked = "import sys\nclass Taught:\n  def find_spec(self, *about):\n    \
        for finder in sys.meta_path:\n      \
        spec = None if finder is self else finder.find_spec(*about)\n      \
        if spec: return spec\nsys.meta_path.insert(0, Taught())";
    let program = format!("exec({unmarked:?})\n{TAUGHT}");
    is_taught(&inner.run("python3", &["-c", &program]).await);
}

#[tokio::test]
async fn python_starts_whatever_is_wrong_with_a_sitecustomize() {
    if !is_there("python3", &["--version"]).await {
        return;
    }
    let told = Told::new(([127, 0, 0, 1], 1).into(), "no certificate", &[("PYTHONPATH", "{}")]);
    for broken in ["raise ValueError('theirs')", "not python", "import none_of_the_name"] {
        told.file("sitecustomize.py", broken);
        assert_eq!(told.run("python3", &["-c", "print('started')"]).await, "started\n");
    }
}

#[tokio::test]
async fn php_comes_through_and_keeps_its_settings() {
    if !is_there("php", &["--version"]).await {
        return;
    }
    for before in [Some("{}"), Some(""), None] {
        let both = Both::start().await;
        let before: Vec<_> = before.map(|value| ("PHP_INI_SCAN_DIR", value)).into_iter().collect();
        let told = both.told(&before);
        let first = told.file("first.php", "<?php echo 'theirs first', PHP_EOL;");
        let settings = format!("memory_limit = 77M\nauto_prepend_file = \"{}\"", first.display());
        told.file("theirs.ini", &settings);
        let said = told.run("php", &asking("php/streams.php")).await;
        both.came_through(&said).await;
        let kept = before == [("PHP_INI_SCAN_DIR", "{}")];
        assert_eq!(said.starts_with("theirs first\n"), kept, "{said}");
        let limit = told.run("php", &["-r", "echo ini_get('memory_limit');"]).await;
        assert_eq!(limit.contains("77M"), kept, "{limit}");
    }
}

#[tokio::test]
async fn wget_comes_through_and_keeps_its_settings() {
    if !is_there("wget", &["--version"]).await {
        return;
    }
    for (place, before) in [(".wgetrc", None), ("corp.rc", Some(("WGETRC", "{}/corp.rc")))] {
        let both = Both::start().await;
        // The file is read when the command is told.
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap().to_owned();
        let rc = "user_agent = theirs\nhttp_proxy = http://127.0.0.1:9\nuse_proxy = off\n";
        std::fs::write(directory.path().join(place), rc).unwrap();
        let before = before.map(|(name, value)| (name, value.replace("{}", &home)));
        let mut all = vec![("HOME", home.as_str())];
        all.extend(before.as_ref().map(|(name, value)| (*name, value.as_str())));
        let told = both.told(&all);
        let arguments = ["--quiet", "--output-document=-", "--save-headers"];
        let arguments: Vec<_> = arguments.into_iter().chain(URLS).collect();
        let said = told.run("wget", &arguments).await;
        both.came_through(&said).await;
        assert_eq!(both.plain.seen()[0].field("user-agent"), Some("theirs"));
    }
}

/// As where a private larder cannot tell whose a connection is.
#[tokio::test]
async fn clients_show_the_password_of_a_larder_that_asks_for_one() {
    let files = tempfile::tempdir().unwrap();
    let users = files.path().join("users");
    std::fs::write(&users, "larder:0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    let access = format!("access: {{ users_file: {} }}\n", users.display());
    let wget = ["--quiet", "--output-document=-", "--save-headers"].map(ToOwned::to_owned);
    for (program, probe, arguments) in [
        ("node", "--version", asking("node/http.cjs")),
        ("node", "--version", asking("node/fetch.mjs")),
        ("python3", "--version", asking("python/with_urllib.py")),
        ("php", "--version", asking("php/streams.php")),
        ("wget", "--version", wget.into_iter().chain(URLS.map(ToOwned::to_owned)).collect()),
    ] {
        if !is_there(program, &[probe]).await {
            continue;
        }
        let both = Both::starting(&access).await;
        let password = Some("larder:0123456789abcdef");
        let told = Told::with(both.larder.addr(), password, &both.ca, &[]);
        let said = told.run(program, &arguments).await;
        both.came_through(&said).await;
        let seen = both.plain.seen();
        assert_eq!(seen[0].field("proxy-authorization"), None, "{program}: it ends at larder");
    }
}

#[tokio::test]
async fn the_shim_spares_what_no_proxy_names_the_proxy_and_unix_sockets() {
    if !is_there("node", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let mut told = both.told(&[]);
    let port = both.plain.addr.port();
    let socket = told.directory.path().join("s");
    let program = told.file(
        "spared.mjs",
        &format!(
            "import http from 'node:http';
             const get = (options) => new Promise((done, failed) => http
               .get(options, (answer) => {{
                 answer.resume();
                 answer.on('end', () => done(answer.headers['cache-status'] ?? 'direct'));
               }}).on('error', failed));
             const served = http.createServer((asked, answer) => answer.end());
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
    // What newer ones do by themselves they do with the variables of their start.
    told.env.insert("NODE_USE_ENV_PROXY".to_owned(), "0".to_owned());
    let said = told.run("node", &[program]).await;
    assert!(said.contains("unix direct\n"), "{said}");
    assert!(said.contains("network direct\nfetch null\n"), "{said}");
    assert!(said.contains("named larder; "), "{said}");
    assert!(said.contains("pooled 1\n"), "{said}");
    assert!(said.contains("itself "), "{said}");
}

#[tokio::test]
async fn the_shim_reaches_workers_and_children_and_its_errors_have_codes() {
    if !is_there("node", &["--version"]).await {
        return;
    }
    let both = Both::start().await;
    let mut told = both.told(&[]);
    told.env.insert("NODE_USE_ENV_PROXY".to_owned(), "0".to_owned());
    let program = told.file(
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
    let said = told.run("node", &[program]).await;
    assert_eq!(said.matches("larder; ").count(), 2, "{said}");
    assert_eq!(said.matches("ECONNREFUSED").count(), 2, "{said}");
}

#[tokio::test]
async fn bundles_have_what_the_caller_trusted_and_larder() {
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
    ];
    let told = Told::new(([127, 0, 0, 1], 1).into(), ca, &before);
    let bundle = |name: &str| std::fs::read_to_string(&told.env[name]).unwrap();
    for name in ["REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
        assert_eq!(bundle(name), format!("corp, without a last line end\n{ca}"), "{name}");
    }
    assert_eq!(bundle("DENO_CERT"), ca);
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"] {
        assert!(bundle(name).ends_with(ca) && !bundle(name).contains("corp"), "{name}");
    }
    let before = [("SSL_CERT_FILE", corp)];
    let told = Told::new(([127, 0, 0, 1], 1).into(), ca, &before);
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        let bundle = std::fs::read_to_string(&told.env[name]).unwrap();
        assert_eq!(bundle, format!("corp, without a last line end\n{ca}"), "{name}");
    }
}
