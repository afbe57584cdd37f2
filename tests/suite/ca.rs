//! The certificate authority from the view of operators and clients: files, `larder ca`, `/ca.pem`, and
//! leaf certificates as openssl reads them.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder::clock::Clock;
use larder::frontend::ca::CertificateAuthority;
use larder::frontend::ca::leaf::LeafIssuer;
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::{Client, Response};
use crate::larder_under_test::{Larder, route};
use crate::origin::{MockResponse, Origin};
use crate::process::{ConfigDir, Process, TIMEOUT, run_larder, text};
use crate::resident_memory::resident;
use crate::tls_client::TlsClient;

const INTERCEPTING: &str = "version: 1\nlisten: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n\
                            tls: { intercept: [api.example.test] }\n";

async fn ca(config_dir: &ConfigDir, command: &str, more: &[&str]) -> Output {
    let mut arguments = vec![OsStr::new("ca"), OsStr::new(command), config_dir.config.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    run_larder(&arguments).await
}

/// Runs `larder ca`, which must succeed, and returns its output.
async fn ca_output(config_dir: &ConfigDir, command: &str, more: &[&str]) -> String {
    let output = ca(config_dir, command, more).await;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{command}");
    text(&output.stdout)
}

fn store(config_dir: &ConfigDir) -> PathBuf {
    config_dir.directory.path().join("larder-data")
}

fn key(config_dir: &ConfigDir) -> PathBuf {
    store(config_dir).join("ca/ca.key")
}

/// Requests `path` from the admin listener.
async fn get(admin: SocketAddr, path: &str) -> Response {
    Client::connect(admin).await.get(&format!("http://{admin}{path}"), &[]).await
}

/// The output of `openssl`; `None` if it is not installed.
async fn openssl(test: &str, arguments: &[&OsStr]) -> Option<String> {
    let mut command = Command::new("openssl");
    let output = timeout(TIMEOUT, command.args(arguments).kill_on_drop(true).output()).await;
    let Ok(output) = output.expect("it ends") else {
        skipped(test);
        return None;
    };
    Some(text(&output.stdout) + &text(&output.stderr))
}

fn skipped(test: &str) {
    assert!(std::env::var_os("CI").is_none(), "openssl is not installed");
    // println would be captured; this line must be visible although the test passes.
    let mut err = std::io::stderr();
    writeln!(err, "SKIPPED {test}: openssl is not installed").unwrap();
}

/// The text form that `openssl x509` prints of a certificate.
async fn read_by_openssl(test: &str, certificate: &Path) -> Option<String> {
    let form = if certificate.extension() == Some(OsStr::new("der")) { "DER" } else { "PEM" };
    let arguments = ["x509", "-noout", "-text", "-inform", form, "-in"].map(OsStr::new);
    let all: Vec<_> = arguments.into_iter().chain([certificate.as_os_str()]).collect();
    openssl(test, &all).await
}

/// The line after the one that contains `title`.
fn under<'t>(page: &'t str, title: &str) -> &'t str {
    let mut lines = page.lines().skip_while(|line| !line.contains(title));
    lines.nth(1).unwrap_or_else(|| panic!("no {title} in\n{page}")).trim()
}

#[tokio::test]
async fn tls_01_the_first_start_creates_a_key_that_only_its_owner_can_read() {
    let (mut larder, config_dir) = Process::run(INTERCEPTING).await;
    let key_file = key(&config_dir).metadata().unwrap();
    assert_eq!(key_file.mode() & 0o777, 0o600);
    let directory = store(&config_dir).join("ca").metadata().unwrap();
    assert_eq!(directory.mode() & 0o777, 0o700);
    let exported = ca_output(&config_dir, "export", &[]).await;
    larder.signal("TERM");
    larder.wait_for_exit().await;
    assert!(exported.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(exported.matches("BEGIN").count(), 1);
}

#[tokio::test]
async fn a_configuration_is_given_as_an_argument_or_by_config_but_not_twice() {
    let config_dir = ConfigDir::with(INTERCEPTING);
    let (file, config) = (config_dir.config.as_os_str(), OsStr::new("--config"));
    for command in [&["ca", "show"][..], &["ca", "export"], &["check"]] {
        let command: Vec<_> = command.iter().map(OsStr::new).collect();
        let plain = run_larder(&[&command[..], &[file]].concat()).await;
        let named = run_larder(&[&command[..], &[config, file]].concat()).await;
        assert_eq!(named.status.code(), Some(0), "{}", text(&named.stderr));
        assert_eq!(text(&named.stdout), text(&plain.stdout), "{command:?}");
        let both = run_larder(&[&command[..], &[file, config, file]].concat()).await;
        assert_eq!(both.status.code(), Some(2), "{command:?}");
    }
    let mut running = Process::start(&[OsStr::new("run"), config, file]);
    running.addr().await;
    running.signal("TERM");
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn tls_01_larder_does_not_start_with_a_key_that_other_users_can_read() {
    let config_dir = ConfigDir::with(INTERCEPTING);
    ca_output(&config_dir, "show", &[]).await;
    fs::set_permissions(key(&config_dir), Permissions::from_mode(0o644)).unwrap();
    let mut refused = Process::start(&[OsStr::new("run"), config_dir.config.as_os_str()]);
    assert_eq!(refused.wait_for_exit().await.code(), Some(1));
    let line = refused.err.wait_for_line("may be read by others").await;
    assert!(line.contains("chmod 600") && line.contains("ca.key"), "{line}");
    let shown = ca(&config_dir, "show", &[]).await;
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stderr).contains("chmod 600"));
}

/// Collects every log line, response and command output of a larder with the most verbose log.
#[tokio::test]
async fn tls_01_the_key_is_in_no_log_and_no_response() {
    let yaml = format!("{INTERCEPTING}log: {{ level: trace }}\n");
    let (mut larder, config_dir) = Process::run(&yaml).await;
    let admin = larder.admin().await;
    let mut collected = String::new();
    for path in ["/v1/config", "/metrics", "/ca.pem", "/readyz", "/ca.key", "/v1/entries"] {
        collected += &get(admin, path).await.text();
    }
    let arguments = ["check", "--json"].map(OsStr::new);
    let checked = [arguments[0], config_dir.config.as_os_str(), arguments[1]];
    collected += &text(&run_larder(&checked).await.stdout);
    for command in ["show", "export", "bundle"] {
        collected += &ca_output(&config_dir, command, &[]).await;
    }
    larder.signal("TERM");
    larder.wait_for_exit().await;
    collected += &larder.err.text();
    collected += &larder.out.text();
    assert!(
        collected.contains("larder_requests_total") && collected.contains("\"passthrough\""),
        "{collected}"
    );
    assert!(collected.contains("ca.key"), "the path of the key is no secret");
    let key = fs::read_to_string(key(&config_dir)).unwrap();
    for line in key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(line.len() > 20 && !collected.contains(line));
    }
    assert!(!collected.contains("PRIVATE KEY"));
}

/// The files of a process in `/proc` belong to root if the process may not leave a core dump and other
/// processes of its user may not trace it (proc(5)).
#[tokio::test]
async fn tls_01_a_larder_with_a_key_cannot_be_traced() {
    let unprivileged = 65534;
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let owner = |larder: &Process| {
        let pid = larder.child.id().unwrap();
        fs::metadata(format!("/proc/{pid}/environ")).map(|file| file.uid())
    };
    for (yaml, traceable) in [
        ("version: 1\nlisten: 127.0.0.1:0\nadmin: off\n", true),
        ("version: 1\nlisten: 127.0.0.1:0\nadmin: off\ntls: { intercept: [a.example] }\n", false),
    ] {
        let config_dir = ConfigDir::with(yaml);
        let mut command = Command::new(crate::process::program());
        command.arg("run").arg(&config_dir.config);
        if root {
            std::os::unix::fs::chown(config_dir.directory.path(), Some(unprivileged), None).unwrap();
            command.uid(unprivileged);
        }
        let own = if root { unprivileged } else { fs::metadata("/proc/self").unwrap().uid() };
        let larder = Process::from_command(command);
        larder.out.wait_for_line("listens on").await;
        let expected = if traceable { own } else { 0 };
        assert_eq!(owner(&larder).unwrap(), expected, "{yaml}");
    }
}

#[tokio::test]
async fn tls_02_openssl_reads_a_leaf_certificate_as_intended() {
    let test = "tls_02_openssl_reads_a_leaf_certificate_as_intended";
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let authority = Arc::new(CertificateAuthority::ephemeral(clock.now(), &[]).unwrap());
    let root = directory.path().join("root.pem");
    fs::write(&root, authority.pem()).unwrap();
    let issuer = LeafIssuer::new(Arc::clone(&authority), clock).unwrap();
    for (host, name, san) in [
        ("api.example", "api.example", "DNS:api.example"),
        ("192.0.2.1", "192.0.2.1", "IP Address:192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1", "IP Address:2001:DB8:0:0:0:0:0:1"),
        ("a_b.example", "a_b.example", "DNS:a_b.example"),
    ] {
        let path = directory.path().join("leaf.der");
        fs::write(&path, issuer.leaf(host).unwrap()).unwrap();
        let Some(page) = read_by_openssl(test, &path).await else { return };
        assert_eq!(under(&page, "Subject Alternative Name"), san);
        assert_eq!(under(&page, "Basic Constraints: critical"), "CA:FALSE");
        assert_eq!(under(&page, "X509v3 Key Usage: critical"), "Digital Signature");
        assert_eq!(under(&page, "Extended Key Usage"), "TLS Web Server Authentication", "nothing else");
        assert!(page.contains("id-ecPublicKey") && page.contains("Authority Key Identifier"));
        let [root, path] = [&root, &path].map(|path| path.as_os_str());
        let check = if name == host && host.parse::<std::net::IpAddr>().is_err() {
            "-verify_hostname"
        } else {
            "-verify_ip"
        };
        let options = ["verify", "-x509_strict", "-purpose", "sslserver", check, name, "-CAfile"];
        let mut arguments: Vec<_> = options.iter().map(OsStr::new).collect();
        arguments.extend([root, path]);
        let verified = openssl(test, &arguments).await.unwrap();
        assert!(verified.contains(": OK"), "{host}: {verified}");
    }
}

#[tokio::test]
async fn tls_03_openssl_reads_the_authority_as_intended() {
    let test = "tls_03_openssl_reads_the_authority_as_intended";
    let yaml = "version: 1\ntls:\n  ca: { constrain: [example.test, 10.0.0.0/8] }\n  \
                intercept: [api.example.test]\n";
    let config_dir = ConfigDir::with(yaml);
    let out = config_dir.directory.path().join("ca.pem");
    ca_output(&config_dir, "export", &["--out", out.to_str().unwrap()]).await;
    let Some(page) = read_by_openssl(test, &out).await else { return };
    assert_eq!(under(&page, "Basic Constraints: critical"), "CA:TRUE, pathlen:0");
    assert_eq!(under(&page, "X509v3 Key Usage: critical"), "Certificate Sign, CRL Sign");
    let constraints = page.split("Name Constraints: critical").nth(1).expect("there are some");
    assert!(constraints.contains("DNS:example.test"), "{page}");
    assert!(constraints.contains("IP:10.0.0.0/255.0.0.0"), "{page}");
    assert!(page.contains("Subject Key Identifier"));
    assert!(page.contains("Subject: CN") && page.contains("larder CA "), "{page}");
}

#[tokio::test]
async fn ca_show_prints_subject_fingerprint_scope_and_path() {
    let config_dir = ConfigDir::with(INTERCEPTING);
    let page = ca_output(&config_dir, "show", &[]).await;
    for part in ["subject      CN=larder CA ", "SHA-256      ", "may sign for any host", "ca.key"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let value: serde_json::Value =
        serde_json::from_str(&ca_output(&config_dir, "show", &["--json"]).await).unwrap();
    assert_eq!(value["permitted"], serde_json::json!([]));
    assert!(page.contains(value["sha256"].as_str().unwrap()), "the same authority the second time");
    assert!(value["key"].as_str().unwrap().ends_with("ca/ca.key"));
}

#[tokio::test]
async fn ca_export_and_bundle_print_the_certificates_that_clients_trust() {
    let config_dir = ConfigDir::with(INTERCEPTING);
    let pem = ca_output(&config_dir, "export", &[]).await;
    let der = ca(&config_dir, "export", &["--format", "der"]).await.stdout;
    assert_eq!(der.first(), Some(&0x30), "a sequence");
    let bundle = ca_output(&config_dir, "bundle", &[]).await;
    assert!(bundle.ends_with(&pem));
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 1, "it contains the system's certificates too");
    let file = config_dir.directory.path().join("bundle.pem");
    assert_eq!(ca_output(&config_dir, "bundle", &["--out", file.to_str().unwrap()]).await, "");
    assert_eq!(fs::read_to_string(file).unwrap(), bundle);
}

#[tokio::test]
async fn ca_rotate_takes_effect_after_a_reload() {
    let (larder, config_dir) = Process::run(INTERCEPTING).await;
    let admin = larder.admin().await;
    let served = async || get(admin, "/ca.pem").await.text();
    let before = served().await;
    assert_eq!(before, ca_output(&config_dir, "export", &[]).await);
    let page = ca_output(&config_dir, "rotate", &[]).await;
    assert!(page.contains("then `larder reload`") && page.contains("previous     "), "{page}");
    assert_eq!(served().await, before, "not before a reload");
    let admin_at = admin.to_string();
    let reloaded = run_larder(&["reload", "--admin", &admin_at]).await;
    assert_eq!(reloaded.status.code(), Some(0), "{}", text(&reloaded.stderr));
    let after = served().await;
    assert_ne!(after, before);
    assert_eq!(after, ca_output(&config_dir, "export", &[]).await);
    let kept = fs::read_dir(store(&config_dir).join("ca")).unwrap().count();
    assert_eq!(kept, 4, "both pairs");
}

#[tokio::test]
async fn a_reload_without_a_usable_authority_keeps_the_old_one_and_reports_it() {
    let (larder, config_dir) = Process::run(INTERCEPTING).await;
    let admin = larder.admin().await;
    let before = get(admin, "/ca.pem").await.text();
    fs::set_permissions(key(&config_dir), Permissions::from_mode(0o640)).unwrap();
    let reloaded = run_larder(&["reload", "--admin", &admin.to_string()]).await;
    assert_eq!(reloaded.status.code(), Some(1));
    let reason = text(&reloaded.stderr);
    assert!(reason.contains("chmod 600") && reason.contains("the old one stays"), "{reason}");
    assert_eq!(get(admin, "/ca.pem").await.text(), before);
}

#[tokio::test]
async fn ca_reports_why_it_fails() {
    let without_disk = ConfigDir::with("version: 1\nstore: { disk: off }\n");
    let output = ca(&without_disk, "show", &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("specify files in tls.ca"), "{}", text(&output.stderr));
    let invalid = ConfigDir::with("version: 1\ntsl: {}\n");
    let output = ca(&invalid, "rotate", &[]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("did you mean `tls`?"), "{}", text(&output.stderr));
    let usage = run_larder(&["ca", "burn"]).await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn without_a_disk_larder_warns_that_its_authority_is_temporary() {
    let yaml = format!("{INTERCEPTING}store: {{ disk: off }}\n");
    let (larder, config_dir) = Process::run(&yaml).await;
    larder.err.wait_for_line("ends with this process").await;
    let page = get(larder.admin().await, "/ca.pem").await;
    assert_eq!(page.status, 200);
    assert!(!store(&config_dir).join("ca").exists());
}

/// The bound that the issue requires.
#[tokio::test]
async fn tls_05_twenty_thousand_hosts_use_less_than_fifty_mebibytes() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let authority = Arc::new(CertificateAuthority::ephemeral(clock.now(), &[]).unwrap());
    let issuer = LeafIssuer::new(authority, clock).unwrap();
    issuer.config("first.example").unwrap();
    let before = resident();
    for at in 0..20_000 {
        issuer.config(&format!("h{at}.example")).unwrap_or_else(|error| panic!("{error}"));
    }
    let grown = resident().saturating_sub(before);
    println!("20,000 hosts: {} KiB more", grown / 1024);
    assert!(grown < 50 << 20, "{grown} bytes");
}

/// Many companies have an RSA authority, made by openssl, that their clients trust.
#[tokio::test]
async fn an_rsa_authority_of_the_operator_signs_leaf_certificates() {
    let test = "an_rsa_authority_of_the_operator_signs_leaf_certificates";
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("ca.pem"), directory.path().join("ca.key"));
    let [cert_at, key_at] = [&cert, &key].map(|path| path.to_str().unwrap());
    let command_line = "req -x509 -newkey rsa:2048 -nodes -days 800 -subj /CN=Company -addext \
                 keyUsage=critical,keyCertSign,cRLSign -keyout";
    let mut arguments: Vec<&OsStr> = command_line.split_whitespace().map(OsStr::new).collect();
    arguments.extend([key_at, "-out", cert_at].map(OsStr::new));
    if openssl(test, &arguments).await.is_none() {
        return;
    }
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let origin = Origin::always(MockResponse::new(200, &[], "")).await;
    let files = format!("{{ cert: '{cert_at}', key: '{key_at}' }}");
    let yaml = format!("tls: {{ ca: {files} }}\n{}", route(&["ttl: 1h"]));
    let larder = Larder::start(&origin, &yaml).await;
    let company = fs::read_to_string(&cert).unwrap();
    let client = TlsClient::trusting(larder.addr(), &company, &["http/1.1"]);
    client.connect("api.example.test:443", "api.example.test").await.expect("its certificate is trusted");
}
