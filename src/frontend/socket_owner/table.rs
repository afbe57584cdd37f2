//! The text tables of TCP sockets, `/proc/net/tcp` and `tcp6`.
//!
//! Owns: the search for one row. Never touches: the use of the result (`socket_owner`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use crate::frontend::socket_owner::SocketEnd;

/// The number of attempts: the table may change while it is read page by page, so a row can be skipped,
/// but hardly in each attempt.
const ATTEMPTS: usize = 3;

/// See [`end`](super::end). Takes milliseconds, or longer with many sockets.
pub(super) fn lookup(ours: SocketAddr, peer: SocketAddr) -> SocketEnd {
    let tables = rows(ours, peer);
    let found = (0..ATTEMPTS).find_map(|_| {
        tables.iter().find_map(|(table, row)| {
            let table = BufReader::new(File::open(table).ok()?);
            find_owner(table, row)
        })
    });
    found.unwrap_or(SocketEnd::NotFound)
}

/// The tables that can contain the row, and how the row begins there. A client with a dual-stack socket
/// has its row in the IPv6 table, whichever family it uses.
fn rows(ours: SocketAddr, peer: SocketAddr) -> Vec<(&'static str, String)> {
    let row = |address: fn(IpAddr) -> String| {
        let end = |end: SocketAddr| format!("{}:{:04X}", address(end.ip()), end.port());
        format!("{} {} ", end(peer), end(ours))
    };
    let both_v4 = ours.ip().to_canonical().is_ipv4() && peer.ip().to_canonical().is_ipv4();
    let v4 = both_v4.then(|| ("/proc/net/tcp", row(|ip| words(ip.to_canonical()))));
    v4.into_iter().chain([("/proc/net/tcp6", row(|ip| words(mapped(ip))))]).collect()
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

/// Formats an address like the kernel: words of 32 bits in host byte order.
fn words(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut text = String::with_capacity(2 * octets.len());
    for word in octets.chunks_exact(4).filter_map(|word| word.first_chunk()) {
        // Writing to a string does not fail.
        let _written = write!(text, "{:08X}", u32::from_ne_bytes(*word));
    }
    text
}

/// The owner of the socket whose row begins with `row`. A socket that no process holds any more has no
/// owner: older kernels list it under root.
fn find_owner(mut table: impl BufRead, row: &str) -> Option<SocketEnd> {
    let mut line = String::new();
    while table.read_line(&mut line).ok()? > 0 {
        let found = line.split_once(": ").and_then(|(_number, rest)| rest.strip_prefix(row));
        if let Some(rest) = found {
            // st tx:rx tr:when retrnsmt uid timeout inode
            let mut fields = rest.split_whitespace().skip(4);
            let user = fields.next()?.parse().ok()?;
            let has_owner = fields.nth(1)? != "0";
            return Some(if has_owner { SocketEnd::OwnedBy(user) } else { SocketEnd::Unowned });
        }
        line.clear();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_row_is_found_for_every_address_family() {
        const V4: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 651 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:8E8B 01 00000000:00000000 00:00000000 00000000     0        0 652 1 0 20 4 30 10 -1
  12: 0100007F:8E8B 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 653 1 0 20 4 30 10 -1
  13: 0100007F:8E8C 0100007F:1F90 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
";
        const V6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:8E8D 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 02:00000A0B 00000000  1001        0 700 2 0 20 4 30 10 -1
   1: 00000000000000000000000001000000:8E8E 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 701 2 0 20 4 30 10 -1
";
        for (ours, peer, user) in [
            ("127.0.0.1:8080", "127.0.0.1:36491", Some(SocketEnd::OwnedBy(1000))),
            // Closed; only the kernel still holds it.
            ("127.0.0.1:8080", "127.0.0.1:36492", Some(SocketEnd::Unowned)),
            ("127.0.0.1:8080", "127.0.0.1:36493", Some(SocketEnd::OwnedBy(1001))),
            ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:36491", Some(SocketEnd::OwnedBy(1000))),
            ("[::1]:8080", "[::1]:36494", Some(SocketEnd::OwnedBy(1002))),
            ("127.0.0.1:8080", "127.0.0.1:9", None),
            // In the opposite direction it is larder's own socket.
            ("127.0.0.1:36491", "127.0.0.1:8081", None),
        ] {
            let rows = rows(address(ours), address(peer));
            let found = rows.iter().find_map(|(table, row)| {
                let text = if table.ends_with('6') { V6 } else { V4 };
                find_owner(text.as_bytes(), row)
            });
            assert_eq!(found, user, "{peer}");
        }
    }

    #[test]
    fn a_damaged_table_yields_no_owner() {
        let row = "0100007F:8E8B 0100007F:1F90 ";
        for table in [
            "",
            "\n\n",
            "1: 0100007F:8E8B 0100007F:1F90 ",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0 -1 0 5",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0 1000 0",
        ] {
            assert_eq!(find_owner(table.as_bytes(), row), None, "{table:?}");
        }
        assert_eq!(find_owner([0xff; 64].as_slice(), row), None);
    }
}
