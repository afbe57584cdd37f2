//! What was seen, in words: who went around larder, why most likely, and what helps.
//!
//! Owns: the guesses. Never touches: how it was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::cli::admin_client::harmless;
use crate::cli::doctor::sockets::{Connection, Process, Sockets};
use crate::cli::exec::final_stats::FinalStats;
use crate::exec_env::no_proxy::NoProxy;

/// The hosts of the configuration that have an address. Others may have it too: which one a client asked for by
/// its name is not seen, so none is told as the one.
#[derive(Debug, Default)]
pub(super) struct ReverseDns {
    addresses: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Where `resolve` sends a host: to this port alone.
    places: BTreeMap<SocketAddr, BTreeSet<String>>,
}

impl ReverseDns {
    /// A name server has said so.
    pub(super) fn add(&mut self, ip: IpAddr, host: &str) {
        self.addresses.entry(ip).or_default().insert(host.to_owned());
    }

    /// `resolve` says so.
    pub(super) fn add_place(&mut self, address: SocketAddr, host: &str) {
        self.places.entry(address).or_default().insert(host.to_owned());
    }

    fn shown(&self, address: SocketAddr) -> String {
        let of = self.places.get(&address).or_else(|| self.addresses.get(&address.ip()));
        let all = of.map(|hosts| hosts.iter().map(String::as_str).collect::<Vec<_>>());
        match all.as_deref() {
            None | Some([]) => address.to_string(),
            Some([host]) => format!("{address} (an address of {host})"),
            Some([host, rest @ ..]) => {
                format!("{address} (an address of {host} and {} more)", rest.len())
            }
        }
    }
}

/// What a command did beside larder.
pub(super) struct Findings {
    around: Vec<BypassingConnection>,
    through: usize,
    tunnelled: Vec<(String, u64)>,
    distrusted: Vec<(String, u64)>,
}

/// Connections of one program to one place.
struct BypassingConnection {
    to: String,
    process: String,
    pid: u32,
    connections: usize,
    why: &'static str,
    fix: &'static str,
}

impl Findings {
    /// What `seen` and larder have to say.
    pub(super) fn of(
        seen: &Sockets,
        proxy: SocketAddr,
        names: &ReverseDns,
        no_proxy: &NoProxy,
        left: FinalStats,
    ) -> Self {
        let mut around = BTreeMap::<(SocketAddr, String), BypassingConnection>::new();
        let mut through = 0;
        for connection in seen.connections.values() {
            if connection.remote == proxy {
                through += 1;
                continue;
            }
            if is_among_themselves(connection, seen) {
                continue;
            }
            let process = &connection.process;
            let (why, fix) = reason(process, connection.remote, no_proxy);
            let found = around.entry((connection.remote, process.name.clone())).or_insert(
                BypassingConnection {
                    to: names.shown(connection.remote),
                    process: process.name.clone(),
                    pid: process.pid,
                    connections: 0,
                    why,
                    fix,
                },
            );
            found.connections += 1;
        }
        let around = around.into_values().collect();
        Self { around, through, tunnelled: left.tunnelled, distrusted: left.distrusted }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let through = if self.through == 1 { "connection" } else { "connections" };
        let mut lines = vec![format!(
            "larder doctor: {} {through} through larder, {} around it",
            self.through,
            self.around.iter().map(|around| around.connections).sum::<usize>()
        )];
        for found in &self.around {
            let BypassingConnection { to, process, pid, connections, why, fix } = found;
            lines.push(format!("  around  {to}  by {process} (pid {pid}), {connections}x"));
            lines.push(format!("          {why}: {fix}"));
        }
        for (host, count) in &self.tunnelled {
            lines.push(format!("  unseen  {host}  {count}x tunnelled"));
            lines.push(format!("          {TUNNELLED}"));
        }
        for (host, count) in &self.distrusted {
            lines.push(format!("  refused {host}  {count}x a client did not accept larder"));
            lines.push(format!("          {DISTRUSTED}"));
        }
        let lines = lines.iter().map(|line| harmless(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let around = self.around.iter().map(|found| {
            json!({
                "to": found.to, "process": found.process, "pid": found.pid,
                "connections": found.connections, "why": found.why, "fix": found.fix,
            })
        });
        let hosts = |hosts: &[(String, u64)]| {
            hosts.iter().map(|(host, n)| json!({ "host": host, "count": n })).collect::<Vec<_>>()
        };
        json!({
            "through": self.through,
            "around": around.collect::<Vec<_>>(),
            "tunnelled": hosts(&self.tunnelled),
            "distrusted": hosts(&self.distrusted),
        })
    }
}

const TUNNELLED: &str = "no route names it, so nothing of it is kept: write a route for it, or list it in tls.intercept";

const DISTRUSTED: &str = "its client has its own idea of whom to trust: give it the authority \
                          (`larder ca bundle`), use a mount, or list the host in tls.passthrough";

/// What the processes say to each other, and what they answer.
fn is_among_themselves(connection: &Connection, seen: &Sockets) -> bool {
    let Connection { local, remote, .. } = connection;
    let here = remote.ip().is_loopback() || remote.ip() == local.ip();
    seen.listening.contains(&local.port()) || (here && seen.listening.contains(&remote.port()))
}

/// Why it went around, most likely, and what helps.
fn reason(process: &Process, to: SocketAddr, spared: &NoProxy) -> (&'static str, &'static str) {
    let program = format!("{} {}", process.name, process.program);
    let is = |names: &[&str]| names.iter().any(|name| program.contains(name));
    let has = |name: &str| process.has.contains(&name);
    if spared.spares(&to.ip().to_string(), to.port()) {
        return ("NO_PROXY spares it", "a route that names it takes it out of NO_PROXY");
    }
    if !has("HTTPS_PROXY") {
        let fix = "pass the environment on (`sudo -E`, `env` of a process manager)";
        return ("the process was started without the variables that larder sets", fix);
    }
    if is(&["node"]) && !has("NODE_OPTIONS") {
        let fix = "somebody has unset it: extend it instead (NODE_OPTIONS=\"$NODE_OPTIONS …\")";
        return ("Node without NODE_OPTIONS has no shim", fix);
    }
    if is(&["java"]) && !has("JAVA_TOOL_OPTIONS") {
        return ("a JVM without JAVA_TOOL_OPTIONS", "somebody has unset it: extend it instead");
    }
    if is(&["python"]) {
        let why = "its client ignores the variables, as raw urllib3 and sockets do";
        return (why, "use requests or httpx, give it a ProxyManager, or use a mount");
    }
    if is(&["curl", "wget"]) {
        return (
            "an argument or a file of settings says so",
            "look for --noproxy, ~/.curlrc, ~/.wgetrc",
        );
    }
    if is(&["node", "java"]) {
        return (
            "its client brings its own way of connecting",
            "give that larder as proxy, or use a mount",
        );
    }
    if ![80, 443, 8080, 8443].contains(&to.port()) {
        return ("not a port of HTTP", "nothing to do if it is a database or the like");
    }
    let fix = "give its client larder as proxy (Go: http.ProxyFromEnvironment), or use a mount";
    ("a client that ignores the variables", fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_is_told_as_the_one_that_was_asked_for() {
        let mut names = ReverseDns::default();
        names.add_place("127.0.0.1:9001".parse().unwrap(), "api.example");
        for host in ["b.example", "a.example"] {
            names.add("192.0.2.1".parse().unwrap(), host);
        }
        for (address, shown) in [
            ("127.0.0.1:9001", "127.0.0.1:9001 (an address of api.example)"),
            ("127.0.0.1:5432", "127.0.0.1:5432"),
            ("192.0.2.1:443", "192.0.2.1:443 (an address of a.example and 1 more)"),
            ("192.0.2.2:443", "192.0.2.2:443"),
        ] {
            assert_eq!(names.shown(address.parse().unwrap()), shown);
        }
    }
}
