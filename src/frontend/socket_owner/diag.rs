//! `sock_diag` (Linux, `sock_diag(7)`): looks up one socket by its two addresses.
//!
//! Owns: the encoding of the request and the response. Never touches: the use of the result (`socket_owner`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::frontend::socket_owner::SocketEnd;

/// `AF_NETLINK`, `NETLINK_SOCK_DIAG`.
const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;

/// `SOCK_DIAG_BY_FAMILY`, and `NLMSG_ERROR` with its code for a socket that does not exist (`ENOENT`).
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const NOT_THERE: i32 = -2;

/// `AF_INET`, `AF_INET6`, `IPPROTO_TCP`.
const V4: u8 = 2;
const V6: u8 = 10;
const TCP: u8 = 6;

/// The state of a listening socket: the kernel returns one that has the port if there is no such connection.
const LISTENS: u8 = 10;

/// The length of a message header, and the offsets of the fields after it in a response.
const HEADER: usize = 16;
const STATE: usize = 1;
const PORTS: usize = 4;
const LOCAL: usize = 8;
const REMOTE: usize = 24;
const USER: usize = 64;
const INODE: usize = 68;

/// See [`end`](super::end). Fails where the system has no `sock_diag`, or forbids it. Never blocks: the
/// kernel responds before the write returns.
pub(super) fn lookup(ours: SocketAddr, peer: SocketAddr) -> io::Result<SocketEnd> {
    if !cfg!(target_os = "linux") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let protocol = Some(Protocol::from(SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, protocol)?;
    socket.set_nonblocking(true)?;
    let (ours, peer) = (canonical(ours), canonical(peer));
    socket.write_all(&request(ours, peer))?;
    let mut response = [0; 512];
    let length = socket.read(&mut response)?;
    parse_response(response.get(..length).unwrap_or_default(), ours, peer)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Encodes `inet_diag_req_v2`: numbers in host byte order, ports and addresses in network byte order.
fn request(ours: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if peer.is_ipv4() { V4 } else { V6 };
    let mut body = vec![family, TCP, 0, 0];
    body.extend_from_slice(&u32::MAX.to_ne_bytes()); // any state
    body.extend_from_slice(&peer.port().to_be_bytes());
    body.extend_from_slice(&ours.port().to_be_bytes());
    body.extend_from_slice(&octets(peer.ip()));
    body.extend_from_slice(&octets(ours.ip()));
    body.extend_from_slice(&0_u32.to_ne_bytes()); // on any interface
    body.extend_from_slice(&u64::MAX.to_ne_bytes()); // no cookie
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&1_u16.to_ne_bytes()); // NLM_F_REQUEST
    message.extend_from_slice(&[0; 8]); // no sequence number, addressed to the kernel
    message.extend_from_slice(&body);
    message
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from);
            octets
        }
    }
}

/// Parses `inet_diag_msg`, if it describes the requested socket. A socket that no process holds any
/// more (no inode) has no owner, whatever user id the response contains.
fn parse_response(response: &[u8], ours: SocketAddr, peer: SocketAddr) -> io::Result<SocketEnd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = number(response, 4).map(u16::from_ne_bytes).ok_or_else(invalid)?;
    let body = response.get(HEADER..).ok_or_else(invalid)?;
    if kind == ERROR {
        let code = number(body, 0).map(i32::from_ne_bytes).ok_or_else(invalid)?;
        return if code == NOT_THERE {
            Ok(SocketEnd::NotFound)
        } else {
            Err(io::Error::from_raw_os_error(-code))
        };
    }
    if kind != BY_FAMILY {
        return Err(invalid());
    }
    let parse = || {
        let state = *body.get(STATE)?;
        let matches = state != LISTENS
            && address(body, LOCAL, PORTS)? == peer
            && address(body, REMOTE, PORTS + 2)? == ours;
        let user = number(body, USER).map(u32::from_ne_bytes)?;
        let has_owner = number(body, INODE).map(u32::from_ne_bytes)? != 0;
        Some(if matches && has_owner { SocketEnd::OwnedBy(user) } else { SocketEnd::Unowned })
    };
    parse().ok_or_else(invalid)
}

/// An address in a response: a dual-stack socket with an IPv4 peer has IPv4-mapped IPv6 addresses.
fn address(body: &[u8], at: usize, port_at: usize) -> Option<SocketAddr> {
    let ip = match *body.first()? {
        V4 => IpAddr::from(Ipv4Addr::from(number::<4>(body, at)?)),
        V6 => Ipv6Addr::from(number::<16>(body, at)?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(number(body, port_at)?)))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A response as the kernel sends it.
    fn response(family: u8, state: u8, local: SocketAddr, remote: SocketAddr, inode: u32) -> Vec<u8> {
        let mut message = [88_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        message.splice(4..6, BY_FAMILY.to_ne_bytes());
        message.extend([family, state, 0, 0]);
        message.extend(local.port().to_be_bytes());
        message.extend(remote.port().to_be_bytes());
        for end in [local, remote] {
            message.extend(octets(end.ip()));
        }
        message.extend([0; 24]);
        message.extend(1000_u32.to_ne_bytes());
        message.extend(inode.to_ne_bytes());
        message
    }

    #[test]
    fn only_a_response_about_the_requested_socket_counts() {
        let (ours, peer) = (address("127.0.0.1:8080"), address("127.0.0.1:36491"));
        let mapped = |text: &str| address(&format!("[::ffff:127.0.0.1]:{text}"));
        let (v6_ours, v6_peer) = (mapped("8080"), mapped("36491"));
        let parsed = |response: &[u8]| parse_response(response, ours, peer).unwrap();
        assert_eq!(parsed(&response(V4, 1, peer, ours, 7)), SocketEnd::OwnedBy(1000));
        assert_eq!(parsed(&response(V6, 1, v6_peer, v6_ours, 7)), SocketEnd::OwnedBy(1000));
        // Half closed by a process that still holds it.
        assert_eq!(parsed(&response(V4, 5, peer, ours, 7)), SocketEnd::OwnedBy(1000));
        assert_eq!(parsed(&response(V4, 5, peer, ours, 0)), SocketEnd::Unowned, "closed");
        assert_eq!(parsed(&response(V4, LISTENS, peer, address("0.0.0.0:0"), 7)), SocketEnd::Unowned);
        assert_eq!(parsed(&response(V4, 1, ours, peer, 7)), SocketEnd::Unowned, "larder's own end");
        assert_eq!(parsed(&response(V4, 1, peer, address("127.0.0.2:8080"), 7)), SocketEnd::Unowned);
    }

    #[test]
    fn an_invalid_response_is_an_error_and_a_missing_socket_is_not_found() {
        let (ours, peer) = (address("127.0.0.1:8080"), address("127.0.0.1:36491"));
        let whole = response(V4, 1, peer, ours, 7);
        for length in 0..whole.len() {
            assert!(parse_response(&whole[..length], ours, peer).is_err(), "{length} bytes");
        }
        let error = |code: i32| {
            let mut message = whole[..HEADER].to_vec();
            message.splice(4..6, ERROR.to_ne_bytes());
            message.extend(code.to_ne_bytes());
            parse_response(&message, ours, peer)
        };
        assert_eq!(error(NOT_THERE).unwrap(), SocketEnd::NotFound);
        assert!(error(-1).is_err() && error(-95).is_err());
    }

    #[test]
    fn a_request_contains_the_clients_end_first() {
        let request = request(address("127.0.0.1:8080"), address("127.0.0.1:36491"));
        assert_eq!(request.len(), 72);
        assert_eq!(request[24..28], [0x8e, 0x8b, 0x1f, 0x90]);
        assert_eq!(request[28..32], [127, 0, 0, 1]);
    }
}
