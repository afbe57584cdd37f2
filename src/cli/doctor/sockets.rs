//! The TCP connections of a tree of processes, as Linux shows them in /proc.
//!
//! Owns: which process has which connection. Never touches: what a connection means.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// All sockets found so far.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// By socket number: a connection that is found in several scans is listed once.
    pub(super) connections: BTreeMap<u64, Connection>,
    /// The ports that the processes listen on.
    pub(super) listening: HashSet<u16>,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) process: Process,
}

/// A process that has a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its name, from `/proc/PID/comm`.
    pub(super) name: String,
    /// The file name of its program.
    pub(super) program: String,
    /// Whether an argument of the process disables proxies (curl's `--noproxy`, wget's `--no-proxy`).
    pub(super) disables_proxy: bool,
    /// The variables of larder's environment that the process still has.
    pub(super) present_variables: Vec<&'static str>,
}

/// The variables that show whether a process inherited larder's environment.
const LARDER_VARIABLES: [&str; 5] =
    ["HTTPS_PROXY", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "PYTHONPATH", "PHP_INI_SCAN_DIR"];

impl Sockets {
    /// Scans all descendants of `root` once.
    pub(super) fn scan(&mut self, root: u32) {
        let mut table: Option<HashMap<u64, (SocketAddr, SocketAddr, bool)>> = None;
        for pid in descendants(root) {
            let sockets = sockets_of(pid);
            let unknown = |socket: &&u64| !self.connections.contains_key(*socket);
            let new: Vec<u64> = sockets.iter().filter(unknown).copied().collect();
            if new.is_empty() {
                continue;
            }
            let table = table.get_or_insert_with(|| table_of(pid));
            let found = new.iter().filter_map(|socket| Some((*socket, *table.get(socket)?)));
            let mut process = None;
            for (socket, (local, remote, listens)) in found {
                if listens {
                    self.listening.insert(local.port());
                    continue;
                }
                let process = process.get_or_insert_with(|| Process::read(pid)).clone();
                self.connections.insert(socket, Connection { local, remote, process });
            }
        }
    }
}

impl Process {
    fn read(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let program = program.as_deref().and_then(|path| path.file_name());
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_set = |name: &&str| {
            environment.split(|byte| *byte == 0).any(|variable| {
                variable.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
            })
        };
        Self {
            pid,
            name: name.trim_end().to_owned(),
            program: program.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            disables_proxy: arguments.any(|one| [&b"--noproxy"[..], b"--no-proxy"].contains(&one)),
            present_variables: LARDER_VARIABLES.into_iter().filter(is_set).collect(),
        }
    }
}

/// All processes below `root`, without it.
fn descendants(root: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The process name before this field may contain any character, but ends with the last
            // parenthesis.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The numbers of the open sockets of a process.
fn sockets_of(pid: u32) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let target = fs::read_link(file.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The TCP sockets in the network namespace of `pid` by number: local address, remote address, and whether
/// the socket listens.
fn table_of(pid: u32) -> HashMap<u64, (SocketAddr, SocketAddr, bool)> {
    let mut table = HashMap::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        table.extend(text.lines().skip(1).filter_map(parse_line));
    }
    table
}

fn parse_line(line: &str) -> Option<(u64, (SocketAddr, SocketAddr, bool))> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (parse_address(fields.next()?)?, parse_address(fields.next()?)?);
    let listens = fields.next()? == "0A";
    // Skips queues, timer, retransmissions, user and timeout.
    let socket: u64 = fields.nth(5)?.parse().ok()?;
    (socket != 0).then_some((socket, (local, remote, listens)))
}

/// Parses `0100007F:1F90`: groups of four bytes, each group in the byte order of the machine.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !ip.len().is_multiple_of(8) {
        return None;
    }
    let words = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes));
    let words = words.collect::<Option<Vec<_>>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::from(Ipv4Addr::from(*word)),
        [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_line_of_proc_net_tcp_is_parsed() {
        let text = "   1: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000  1000 \
                    0 4711 1 0000000000000000 20 4 30 10 -1";
        let (socket, (local, remote, listens)) = parse_line(text).unwrap();
        assert_eq!((socket, listens), (4711, false));
        assert_eq!((local.to_string(), remote.to_string()), ("127.0.0.1:8080".into(), "127.0.0.2:80".into()));
        let v6 = parse_address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(v6.to_string(), "[::1]:80");
        assert_eq!(
            parse_address("0000000000000000FFFF00000100007F:0050").unwrap().to_string(),
            "127.0.0.1:80"
        );
        for odd in ["", "x", "0100007F", "0100007F:x", "01:0050"] {
            assert!(parse_address(odd).is_none(), "{odd}");
        }
    }
}
