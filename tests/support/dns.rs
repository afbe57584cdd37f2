//! A scripted name server on loopback; its records have a TTL of 0.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::origin::Gate;

const HEAD: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// The reply to a query for a name.
pub enum DnsReply {
    /// The addresses of the name; if empty, the name does not exist.
    Addresses(Vec<IpAddr>),
    /// SERVFAIL.
    Failure,
    /// No reply at all.
    NoReply,
}

/// A running name server; it ends with the test.
pub struct Dns {
    pub addr: SocketAddr,
    queries: Arc<Mutex<Vec<String>>>,
    gate: Arc<Mutex<Option<Gate>>>,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    /// A name server that replies with the addresses that `script` returns for a name and the number of
    /// its query, from 0; if there are none, the name does not exist.
    pub async fn start(script: impl Fn(&str, usize) -> Vec<IpAddr> + Send + 'static) -> Self {
        Self::with_replies(move |name, nth| DnsReply::Addresses(script(name, nth))).await
    }

    /// The same, where a query may also fail or get no reply.
    pub async fn with_replies(script: impl Fn(&str, usize) -> DnsReply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = socket.local_addr().expect("a bound socket has an address");
        let queries = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&queries);
        let gate: Arc<Mutex<Option<Gate>>> = Arc::default();
        let current_gate = Arc::clone(&gate);
        let task = tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let Some((name, kind, end)) = question(&packet[..length]) else { continue };
                let times = |names: &[String]| names.iter().filter(|n| **n == name).count();
                // A lookup sends an A and an AAAA query: only the A query increments the number.
                let nth = match kind {
                    A => {
                        let nth = times(&names.lock());
                        names.lock().push(name.clone());
                        nth
                    }
                    _ => times(&names.lock()),
                };
                let reply = match script(&name, nth) {
                    DnsReply::Addresses(found) => addresses(&packet[..end], kind, &found),
                    DnsReply::Failure => servfail(&packet[..end]),
                    DnsReply::NoReply => continue,
                };
                let gate = current_gate.lock().clone();
                if let Some(gate) = gate {
                    gate.wait_open().await;
                }
                let _client_gone = socket.send_to(&reply, peer).await;
            }
        });
        Self { addr, queries, gate, task }
    }

    /// From now on replies wait for the returned gate.
    pub fn delay_replies(&self) -> Gate {
        let gate = Gate::new();
        *self.gate.lock() = Some(gate.clone());
        gate
    }

    /// The names of all A queries, in order, without the final dot.
    pub fn queried_names(&self) -> Vec<String> {
        self.queries.lock().clone()
    }
}

/// The name and the type of the question, and the offset of its end.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut name = Vec::new();
    let mut at = HEAD;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    Some((name.join("."), kind, at + 4))
}

/// The response to `query`, which ends with its question: records of type `kind` with TTL 0.
fn addresses(query: &[u8], kind: u16, found: &[IpAddr]) -> Vec<u8> {
    let records: Vec<Vec<u8>> = found
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
            (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut packet = query.to_vec();
    // An authoritative response; NXDOMAIN if the name has no address at all.
    packet[2..4].copy_from_slice(&if found.is_empty() { [0x85, 0x83] } else { [0x85, 0x80] });
    let count = u16::try_from(records.len()).expect("a few records");
    packet[6..8].copy_from_slice(&count.to_be_bytes());
    packet[8..12].fill(0);
    for record in records {
        packet.extend_from_slice(&[0xc0, 0x0c]);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0]);
        packet.push(u8::try_from(record.len()).expect("4 or 16"));
        packet.extend_from_slice(&record);
    }
    packet
}

/// A SERVFAIL response.
fn servfail(query: &[u8]) -> Vec<u8> {
    let mut packet = query.to_vec();
    packet[2..4].copy_from_slice(&[0x80, 0x82]);
    packet[6..12].fill(0);
    packet
}
