//! The findings as text: which connections bypassed larder, the likely reason, and the fix.
//!
//! Owns: the likely reasons. Never touches: the scan of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::cli::admin_client::sanitize;
use crate::cli::doctor::sockets::{Connection, Process, Sockets};
use crate::cli::exec::summary::FinalStats;
use crate::exec_env::no_proxy::NoProxy;

/// The hosts of the configuration by address. Other hosts may share an address, and the name that a client
/// looked up is not visible, so a host is reported only as one with this address.
#[derive(Debug, Default)]
pub(super) struct ReverseDns {
    addresses: BTreeMap<IpAddr, BTreeSet<String>>,
    /// The targets of `resolve` rules, which include the port.
    endpoints: BTreeMap<SocketAddr, BTreeSet<String>>,
}

impl ReverseDns {
    /// Adds an address from DNS.
    pub(super) fn add(&mut self, ip: IpAddr, host: &str) {
        self.addresses.entry(ip).or_default().insert(host.to_owned());
    }

    /// Adds an address and port from a `resolve` rule.
    pub(super) fn add_endpoint(&mut self, address: SocketAddr, host: &str) {
        self.endpoints.entry(address).or_default().insert(host.to_owned());
    }

    fn describe(&self, address: SocketAddr) -> String {
        let hosts = self.endpoints.get(&address).or_else(|| self.addresses.get(&address.ip()));
        let all = hosts.map(|hosts| hosts.iter().map(String::as_str).collect::<Vec<_>>());
        match all.as_deref() {
            None | Some([]) => address.to_string(),
            Some([host]) => format!("{address} (an address of {host})"),
            Some([host, rest @ ..]) => {
                format!("{address} (an address of {host} and {} more)", rest.len())
            }
        }
    }
}

/// The connections of a command, grouped by whether they used larder.
pub(super) struct Findings {
    bypassing: Vec<BypassingConnection>,
    through: usize,
    tunnelled: Vec<(String, u64)>,
    distrusted: Vec<(String, u64)>,
}

/// The connections of one program to one address that bypassed larder.
struct BypassingConnection {
    to: String,
    process: String,
    pid: u32,
    connections: usize,
    reason: &'static str,
    fix: &'static str,
}

impl Findings {
    /// Combines the scanned sockets and larder's statistics.
    pub(super) fn new(
        seen: &Sockets,
        proxy: SocketAddr,
        reverse_dns: &ReverseDns,
        no_proxy: &NoProxy,
        stats: FinalStats,
    ) -> Self {
        let mut bypassing = BTreeMap::<(SocketAddr, String), BypassingConnection>::new();
        let mut through = 0;
        for connection in seen.connections.values() {
            if connection.remote == proxy {
                through += 1;
                continue;
            }
            if is_internal(connection, seen) {
                continue;
            }
            let process = &connection.process;
            let (reason, fix) = reason_and_fix(process, connection.remote, no_proxy);
            let found =
                bypassing.entry((connection.remote, process.name.clone())).or_insert(BypassingConnection {
                    to: reverse_dns.describe(connection.remote),
                    process: process.name.clone(),
                    pid: process.pid,
                    connections: 0,
                    reason,
                    fix,
                });
            found.connections += 1;
        }
        let bypassing = bypassing.into_values().collect();
        Self { bypassing, through, tunnelled: stats.tunnelled, distrusted: stats.distrusted }
    }

    /// The text form.
    pub(super) fn to_text(&self) -> String {
        let through = if self.through == 1 { "connection" } else { "connections" };
        let mut lines = vec![format!(
            "larder doctor: {} {through} through larder, {} around it",
            self.through,
            self.bypassing.iter().map(|found| found.connections).sum::<usize>()
        )];
        for found in &self.bypassing {
            let BypassingConnection { to, process, pid, connections, reason, fix } = found;
            lines.push(format!("  around  {to}  by {process} (pid {pid}), {connections}x"));
            lines.push(format!("          {reason}: {fix}"));
        }
        for (host, count) in &self.tunnelled {
            lines.push(format!("  unseen  {host}  {count}x tunnelled"));
            lines.push(format!("          {TUNNELLED}"));
        }
        for (host, count) in &self.distrusted {
            lines.push(format!("  refused {host}  {count}x a client rejected larder's certificate"));
            lines.push(format!("          {DISTRUSTED}"));
        }
        let lines = lines.iter().map(|line| sanitize(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The JSON form.
    pub(super) fn to_json(&self) -> Value {
        let bypassing = self.bypassing.iter().map(|found| {
            json!({
                "to": found.to, "process": found.process, "pid": found.pid,
                "connections": found.connections, "why": found.reason, "fix": found.fix,
            })
        });
        let hosts = |hosts: &[(String, u64)]| {
            hosts.iter().map(|(host, n)| json!({ "host": host, "count": n })).collect::<Vec<_>>()
        };
        json!({
            "through": self.through,
            "around": bypassing.collect::<Vec<_>>(),
            "tunnelled": hosts(&self.tunnelled),
            "distrusted": hosts(&self.distrusted),
        })
    }
}

const TUNNELLED: &str = "no route names the host, so its responses are not stored: add a route, or list the host in tls.intercept";

const DISTRUSTED: &str = "its client has roots of its own (npm's cafile, a bundle that a library ships, a \
                          browser): see docs/clients.md, add the authority to them (`larder ca bundle`), use \
                          a mount, or list the host in tls.passthrough";

/// Whether the connection is between the watched processes, or one that they accepted.
fn is_internal(connection: &Connection, seen: &Sockets) -> bool {
    let Connection { local, remote, .. } = connection;
    let here = remote.ip().is_loopback() || remote.ip() == local.ip();
    seen.listening.contains(&local.port()) || (here && seen.listening.contains(&remote.port()))
}

/// The likely reason why the connection bypassed larder, and the fix.
fn reason_and_fix(process: &Process, to: SocketAddr, no_proxy: &NoProxy) -> (&'static str, &'static str) {
    let program = format!("{} {}", process.name, process.program);
    let is = |names: &[&str]| names.iter().any(|name| program.contains(name));
    let has = |name: &str| process.present_variables.contains(&name);
    if process.disables_proxy {
        return ("an argument disables the proxy", "remove --noproxy or --no-proxy from its command line");
    }
    if no_proxy.bypasses(&to.ip().to_string(), to.port()) {
        return ("NO_PROXY excludes it", "a route that names it removes it from NO_PROXY");
    }
    if !has("HTTPS_PROXY") {
        let fix = "pass the environment on (`sudo -E`, `env` of a process manager)";
        return ("the process was started without the variables that larder sets", fix);
    }
    for (name, variable, reason) in LOADED {
        if is(&[name]) && !has(variable) {
            return (reason, "the variable was unset or ignored (`python -I`, `php -n`): extend it instead");
        }
    }
    if let Some((_, reason, fix)) = CLIENTS.iter().find(|(names, ..)| is(names)) {
        return (reason, fix);
    }
    if ![80, 443, 8080, 8443].contains(&to.port()) {
        return ("not an HTTP port", "no action is needed for a database or a similar service");
    }
    let fix = "set larder as the proxy of its client (Go: http.ProxyFromEnvironment), or use a mount";
    ("its client ignores the variables", fix)
}

/// The variables through which runtimes load larder's settings, and the reason if one is missing.
const LOADED: [(&str, &str, &str); 4] = [
    ("node", "NODE_OPTIONS", "Node without NODE_OPTIONS does not load larder's shim"),
    ("java", "JAVA_TOOL_OPTIONS", "a JVM without JAVA_TOOL_OPTIONS"),
    ("python", "PYTHONPATH", "Python without PYTHONPATH does not load larder's module (aiohttp)"),
    ("php", "PHP_INI_SCAN_DIR", "PHP without PHP_INI_SCAN_DIR does not load larder's settings"),
];

/// The likely reasons by program, if it has all variables: the first match counts.
const CLIENTS: [(&[&str], &str, &str); 8] = [
    (
        &["python"],
        "its client ignores the variables, as plain urllib3, trust_env=False and sockets do",
        "use requests or httpx, give it a ProxyManager, or use a mount",
    ),
    (
        &["curl", "wget"],
        "an argument or a settings file disables the proxy",
        "look for --noproxy, ~/.curlrc, ~/.wgetrc",
    ),
    (
        &["chrome", "chromium", "headless_shell", "edge"],
        "an argument of the browser sets its proxy (--no-proxy-server, --proxy-server)",
        "remove the argument, or name larder in it",
    ),
    (
        &["node"],
        "its client connects by itself, as node:http2 and agents with their own connect function do",
        "set larder as its proxy, or use a mount",
    ),
    (&["java"], "its client has its own connection settings", "set larder as its proxy, or use a mount"),
    (
        &["php"],
        "its stream context has no proxy, as those of SoapClient and stream_context_create",
        "use curl, set `proxy` in the context, or use a mount",
    ),
    (
        &["git", "ssh"],
        "its settings name a proxy (git's http.proxy), or the protocol is not HTTP",
        "unset http.proxy; no action is needed for SSH",
    ),
    (
        &["firefox"],
        "the browser reads its proxy from its own settings",
        "set larder there, or use /proxy.pac",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env::Env;

    /// The reason for a process of this name that connects to port 443 with these variables.
    fn reason_for(name: &str, present_variables: &[&'static str]) -> &'static str {
        let present_variables = present_variables.to_vec();
        let process = Process {
            name: name.into(),
            program: name.into(),
            pid: 1,
            present_variables,
            disables_proxy: false,
        };
        let config = crate::config::parse("proxy.yaml", "version: 1", &Env::default()).unwrap();
        let no_proxy = NoProxy::from_config(&config, &Env::default());
        reason_and_fix(&process, "192.0.2.1:443".parse().unwrap(), &no_proxy).0
    }

    #[test]
    fn each_client_has_its_own_reason() {
        for (name, missing, with_all) in [
            ("node", "NODE_OPTIONS", "node:http2"),
            ("python3", "PYTHONPATH", "plain urllib3"),
            ("java", "JAVA_TOOL_OPTIONS", "own connection settings"),
            ("php", "PHP_INI_SCAN_DIR", "SoapClient"),
            ("chromium", "", "--no-proxy-server"),
            ("curl", "", "settings file"),
            ("firefox", "", "its own settings"),
            ("app", "", "ignores the variables"),
        ] {
            assert!(reason_for(name, &[]).contains("without the variables"), "{name}");
            let without = reason_for(name, &["HTTPS_PROXY"]);
            assert!(without.contains(missing), "{name}: {without}");
            let all = ["HTTPS_PROXY", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "PYTHONPATH", "PHP_INI_SCAN_DIR"];
            let reason = reason_for(name, &all);
            assert!(reason.contains(with_all), "{name}: {reason}");
        }
    }

    #[test]
    fn an_address_is_shown_with_its_possible_hosts() {
        let mut names = ReverseDns::default();
        names.add_endpoint("127.0.0.1:9001".parse().unwrap(), "api.example");
        for host in ["b.example", "a.example"] {
            names.add("192.0.2.1".parse().unwrap(), host);
        }
        for (address, shown) in [
            ("127.0.0.1:9001", "127.0.0.1:9001 (an address of api.example)"),
            ("127.0.0.1:5432", "127.0.0.1:5432"),
            ("192.0.2.1:443", "192.0.2.1:443 (an address of a.example and 1 more)"),
            ("192.0.2.2:443", "192.0.2.2:443"),
        ] {
            assert_eq!(names.describe(address.parse().unwrap()), shown);
        }
    }
}
