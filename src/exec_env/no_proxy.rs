//! The hosts that a command reaches without larder (`NO_PROXY`).
//!
//! Owns: the list, and its form for each runtime. Never touches: passing it to the runtimes.

use ipnet::IpNet;

use crate::config::Config;
use crate::config::bypass::entries;
pub use crate::config::bypass::{Bypass, NoProxyEntry};
use crate::config::env::Env;

/// The hosts that always bypass larder: this machine, the cluster's internal names, and the cloud metadata
/// addresses, which supply the machine's credentials.
const ALWAYS: &[&str] = &[
    "localhost",
    "127.0.0.1",
    "127.0.0.0/8",
    "::1",
    ".svc",
    ".cluster.local",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.0/16",
    "fd00:ec2::254",
    "metadata.google.internal",
];

/// In a pod, the variable with the address of the cluster's API server.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// The hosts that a command reaches without larder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProxy {
    members: Vec<NoProxyEntry>,
    left_out: Vec<String>,
}

impl NoProxy {
    /// The default hosts and those of the caller's `NO_PROXY`, without entries that cover a host of a route
    /// in `config`: a route for `localhost` is meant to be used. An entry that is narrower than a route's
    /// pattern is an exception to it and stays.
    pub fn from_config(config: &Config, env: &Env) -> Self {
        let given = env.get("no_proxy").or_else(|| env.get("NO_PROXY")).unwrap_or_default();
        let always = ALWAYS.iter().copied().chain(env.get(API_SERVER)).flat_map(entries);
        // `*` does not name a particular host.
        let named: Vec<_> = config.interception_patterns().filter(|host| !host.is_any()).collect();
        let (mut members, mut left_out) = (Vec::<NoProxyEntry>::new(), Vec::new());
        for entry in always.chain(entries(given)) {
            let is_same = |other: &NoProxyEntry| (&other.bypass, other.port) == (&entry.bypass, entry.port);
            if members.iter().any(is_same) {
                continue;
            }
            if named.iter().any(|host| entry.covers(host)) {
                left_out.push(entry.text);
            } else {
                members.push(entry);
            }
        }
        Self { members, left_out }
    }

    /// All entries in the order in which they are written.
    pub fn members(&self) -> &[NoProxyEntry] {
        &self.members
    }

    /// The entries that are left out because a route names their host.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether requests to `host` (in its URL form) at `port` bypass larder.
    pub fn bypasses(&self, host: &str, port: u16) -> bool {
        self.members.iter().any(|entry| entry.bypasses(host, port))
    }

    /// The value of `NO_PROXY`. The default list contains addresses in addition to their networks, because
    /// some clients do not support CIDR notation. IPv6 addresses without a port have no brackets: httpx fails
    /// to start if one has.
    pub fn variable(&self) -> String {
        let written = |entry: &NoProxyEntry| match (&entry.bypass, entry.port) {
            (Bypass::Net(IpNet::V6(_)), None) => entry.text.replace(['[', ']'], ""),
            _ => entry.text.clone(),
        };
        self.members.iter().map(written).collect::<Vec<_>>().join(",")
    }

    /// The value of Java's `http.nonProxyHosts`, which supports a `*` at either end and no ports. Requests to
    /// hosts that this syntax cannot express go to larder, which tunnels them.
    pub fn java(&self) -> String {
        let mut list = Vec::new();
        for entry in self.members.iter().filter(|entry| entry.port.is_none()) {
            match &entry.bypass {
                Bypass::All => list.push("*".to_owned()),
                Bypass::Name(name) => list.extend([name.clone(), format!("*.{name}")]),
                Bypass::Below(end) => list.push(format!("*{end}")),
                Bypass::Net(net) => list.extend(java_net(net)),
            }
        }
        list.dedup();
        list.join("|")
    }
}

/// `127.*` for `127.0.0.0/8`. Only prefixes of whole bytes can be expressed.
fn java_net(net: &IpNet) -> Option<String> {
    match net {
        IpNet::V6(net) => (net.prefix_len() == net.max_prefix_len()).then(|| format!("[{}]", net.addr())),
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr().to_string()),
        IpNet::V4(net) => {
            let bytes = usize::from(net.prefix_len() / 8);
            if net.prefix_len() % 8 != 0 || bytes == 0 {
                return None;
            }
            let octets = net.network().octets();
            let fixed: Vec<String> = octets.iter().take(bytes).map(u8::to_string).collect();
            Some(fixed.join(".") + ".*")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn list(routes: &str, given: &[(&str, &str)]) -> NoProxy {
        let env: Env = given.iter().copied().collect();
        let yaml = format!("version: 1\nroutes:\n{routes}");
        let config = config::parse("proxy.yaml", &yaml, &env).unwrap_or_else(|e| panic!("{e}"));
        NoProxy::from_config(&config, &env)
    }

    fn route(host: &str) -> String {
        format!("  - {{ name: r, match: {{ host: \"{host}\" }}, ttl: 1h }}\n")
    }

    #[test]
    fn only_this_machine_the_cluster_and_metadata_bypass_larder() {
        let list = list(&route("api.example"), &[]);
        let bypassing = [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "::1",
            "db.prod.svc",
            "db.prod.svc.cluster.local",
            "169.254.169.254",
            "[fd00:ec2::254]",
            "metadata.google.internal",
        ];
        for host in bypassing {
            assert!(list.bypasses(host, 80), "{host}");
        }
        let others = ["api.example", "notlocalhost", "svc", "128.0.0.1", "[::2]", "a.internal"];
        for host in others {
            assert!(!list.bypasses(host, 80), "{host}");
        }
        assert!(list.left_out().is_empty());
    }

    #[test]
    fn hosts_of_routes_do_not_bypass_larder() {
        let table: [(&str, &[&str]); 6] = [
            ("localhost:9000", &["localhost"]),
            ("127.0.0.1", &["127.0.0.1", "127.0.0.0/8"]),
            ("[::1]:81", &["::1"]),
            ("api.prod.svc", &[".svc"]),
            ("*.prod.svc.cluster.local", &[".cluster.local"]),
            ("*", &[]),
        ];
        for (host, left_out) in table {
            let list = list(&route(host), &[]);
            assert_eq!(list.left_out(), left_out, "{host}");
            assert!(list.bypasses("metadata.google.internal", 80));
        }
        // An entry that is narrower than the pattern of a route is an exception and stays.
        assert!(list(&route("*.internal"), &[]).left_out().is_empty());
    }

    #[test]
    fn the_callers_list_is_kept_as_written_without_hosts_of_routes() {
        let given = "*.Corp.example,.ex, 10.0.0.0/8 host:81,[::5]:82,api.example,localhost,b{d";
        let list = list(&route("api.example"), &[("NO_PROXY", given)]);
        assert_eq!(list.left_out(), ["api.example"]);
        let variable = list.variable();
        assert!(variable.ends_with(",*.Corp.example,.ex,10.0.0.0/8,host:81,[::5]:82"), "{variable}");
        assert_eq!(variable.matches("localhost").count(), 1, "{variable}");
        for (host, port, bypasses) in [
            ("a.corp.example", 80, true),
            ("10.1.2.3", 80, true),
            ("host", 81, true),
            ("host", 80, false),
            ("[::5]", 82, true),
            ("api.example", 80, false),
        ] {
            assert_eq!(list.bypasses(host, port), bypasses, "{host}:{port}");
        }
        // With `*` no request would use larder.
        let all = self::list(&route("api.example"), &[("no_proxy", "*")]);
        assert_eq!(all.left_out(), ["*"]);
    }

    #[test]
    fn the_lower_case_variable_wins_and_a_pod_bypasses_to_its_api_server() {
        let variables = [("NO_PROXY", "a.test"), ("no_proxy", "b.test"), (API_SERVER, "10.96.0.1")];
        let list = list(&route("api.example"), &variables);
        assert!(list.bypasses("b.test", 80) && !list.bypasses("a.test", 80));
        assert!(list.bypasses("10.96.0.1", 443));
    }

    #[test]
    fn a_nested_command_gets_the_same_list() {
        let routes = route("api.example");
        let once = list(&routes, &[("NO_PROXY", "corp.test")]).variable();
        assert_eq!(list(&routes, &[("NO_PROXY", &once)]).variable(), once);
    }

    #[test]
    fn java_gets_wildcards_instead_of_networks() {
        let given = [("no_proxy", "corp.test,.low.test,10.0.0.0/12,10.2.0.0/16,h:81")];
        let java = list(&route("api.example"), &given).java();
        assert_eq!(
            java,
            "localhost|*.localhost|127.0.0.1|127.*|[::1]|*.svc|*.cluster.local|169.254.169.254|\
             169.254.170.2|169.254.*|[fd00:ec2::254]|metadata.google.internal|\
             *.metadata.google.internal|corp.test|*.corp.test|*.low.test|10.2.*"
        );
    }

    #[test]
    fn the_variable_has_addresses_for_clients_without_cidr_support() {
        let variable = list(&route("api.example"), &[]).variable();
        assert_eq!(
            variable,
            "localhost,127.0.0.1,127.0.0.0/8,::1,.svc,.cluster.local,169.254.169.254,\
             169.254.170.2,169.254.0.0/16,fd00:ec2::254,metadata.google.internal"
        );
        let theirs = list(&route("api.example"), &[("no_proxy", "[::7],[::8]:80")]);
        assert!(theirs.variable().ends_with(",::7,[::8]:80"), "{}", theirs.variable());
    }
}
