//! The TCP connections of a tree of processes, as Linux shows them in /proc.
//!
//! Owns: which process has which connection. Never touches: what a connection means.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Everything that was seen so far.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// By socket: one connection however often it is seen.
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

/// Whose it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its name, as it calls itself.
    pub(super) name: String,
    /// The file name of its program.
    pub(super) program: String,
    /// Which of the variables that larder sets it still has.
    pub(super) has: Vec<&'static str>,
}

/// The variables by which it can be told whether a process was told about larder.
const TELLING: [&str; 3] = ["HTTPS_PROXY", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS"];

impl Sockets {
    /// Looks at all descendants of `root` once.
    pub(super) fn look(&mut self, root: u32) {
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
                let process = process.get_or_insert_with(|| Process::of(pid)).clone();
                self.connections.insert(socket, Connection { local, remote, process });
            }
        }
    }
}

impl Process {
    fn of(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let program = program.as_deref().and_then(|path| path.file_name());
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |name: &&str| {
            environment.split(|byte| *byte == 0).any(|variable| {
                variable
                    .strip_prefix(name.as_bytes())
                    .is_some_and(|rest| rest.first() == Some(&b'='))
            })
        };
        Self {
            pid,
            name: name.trim_end().to_owned(),
            program: program.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            has: TELLING.into_iter().filter(has).collect(),
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
            // The name before it may contain anything but ends with the last parenthesis.
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

/// The numbers of the sockets that a process has open.
fn sockets_of(pid: u32) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let target = fs::read_link(file.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The TCP sockets in the network of `pid` by their numbers: local, remote, whether it listens.
fn table_of(pid: u32) -> HashMap<u64, (SocketAddr, SocketAddr, bool)> {
    let mut table = HashMap::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        table.extend(text.lines().skip(1).filter_map(line));
    }
    table
}

fn line(line: &str) -> Option<(u64, (SocketAddr, SocketAddr, bool))> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let listens = fields.next()? == "0A";
    // Queues, timer, retransmissions, user, timeout.
    let socket: u64 = fields.nth(5)?.parse().ok()?;
    (socket != 0).then_some((socket, (local, remote, listens)))
}

/// `0100007F:1F90`: four bytes at a time, each four in the order of the machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !ip.len().is_multiple_of(8) {
        return None;
    }
    let words = ip.as_bytes().chunks(8).map(|word| {
        u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes)
    });
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
    fn a_line_of_proc_net_tcp_is_read() {
        let text = "   1: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000  1000 \
                    0 4711 1 0000000000000000 20 4 30 10 -1";
        let (socket, (local, remote, listens)) = line(text).unwrap();
        assert_eq!((socket, listens), (4711, false));
        assert_eq!(
            (local.to_string(), remote.to_string()),
            ("127.0.0.1:8080".into(), "127.0.0.2:80".into())
        );
        let v6 = address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(v6.to_string(), "[::1]:80");
        assert_eq!(
            address("0000000000000000FFFF00000100007F:0050").unwrap().to_string(),
            "127.0.0.1:80"
        );
        for odd in ["", "x", "0100007F", "0100007F:x", "01:0050"] {
            assert!(address(odd).is_none(), "{odd}");
        }
    }
}
