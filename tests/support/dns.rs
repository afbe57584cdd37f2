//! A name server on loopback whose answers a test scripts; nothing it says may be cached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::origin::Gate;

const HEAD: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// What it says of a name.
pub enum Said {
    /// These are its addresses; with none it does not exist.
    Addresses(Vec<IpAddr>),
    /// That it cannot tell (SERVFAIL).
    Failure,
    /// Nothing, however long one waits.
    Nothing,
}

/// A running name server; it ends with the test.
pub struct Dns {
    pub addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    held: Arc<Mutex<Option<Gate>>>,
    answering: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Dns {
    /// A name server that answers with the addresses `script` gives for a name the n-th time it is
    /// asked for (from 0); with none the name does not exist.
    pub async fn start(script: impl Fn(&str, usize) -> Vec<IpAddr> + Send + 'static) -> Self {
        Self::saying(move |name, nth| Said::Addresses(script(name, nth))).await
    }

    /// The same, where it may also fail or be silent.
    pub async fn saying(script: impl Fn(&str, usize) -> Said + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = socket.local_addr().expect("a bound socket has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&asked);
        let held: Arc<Mutex<Option<Gate>>> = Arc::default();
        let holding = Arc::clone(&held);
        let answering = tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let Some((name, kind, end)) = question(&packet[..length]) else { continue };
                let times = |names: &[String]| names.iter().filter(|n| **n == name).count();
                // Both kinds of one look-up are answered alike: the first of them counts.
                let nth = match kind {
                    A => {
                        let nth = times(&names.lock());
                        names.lock().push(name.clone());
                        nth
                    }
                    _ => times(&names.lock()),
                };
                let answer = match script(&name, nth) {
                    Said::Addresses(found) => answer(&packet[..end], kind, &found),
                    Said::Failure => failure(&packet[..end]),
                    Said::Nothing => continue,
                };
                let gate = holding.lock().clone();
                if let Some(gate) = gate {
                    gate.passed().await;
                }
                let _client_gone = socket.send_to(&answer, peer).await;
            }
        });
        Self { addr, asked, held, answering }
    }

    /// From now on answers wait for the gate.
    pub fn hold(&self) -> Gate {
        let gate = Gate::new();
        *self.held.lock() = Some(gate.clone());
        gate
    }

    /// The names whose IPv4 addresses were asked for, in order, without the last dot.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

/// Name, type, and where the question ends.
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

/// The answer to the query that ends with its question: records of the asked kind, lifetime 0.
fn answer(query: &[u8], kind: u16, found: &[IpAddr]) -> Vec<u8> {
    let records: Vec<Vec<u8>> = found
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
            (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut packet = query.to_vec();
    // A response that is authoritative; NXDOMAIN when the name has no address at all.
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

/// The answer of a name server that cannot tell.
fn failure(query: &[u8]) -> Vec<u8> {
    let mut packet = query.to_vec();
    packet[2..4].copy_from_slice(&[0x80, 0x82]);
    packet[6..12].fill(0);
    packet
}
