//! Which user of this host holds the other end of a connection: Linux tells it in its tables of sockets.
//!
//! Owns: finding the one row that is meant. Never touches: who may connect (`access`).
//!
//! A look costs about a microsecond a socket of this network namespace, so it is taken once a
//! connection, off the threads that serve. A row that is not there is not looked for for long: its socket
//! is closed, or in another namespace.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// The table may change while it is read, page by page: a row can be skipped, hardly so each time.
const LOOKS: usize = 3;

/// The user who holds the end at `peer` of a connection whose end at `ours` is this process's. `None`:
/// that end is closed already, is not on this host, or cannot be seen from here.
pub async fn owner(ours: SocketAddr, peer: SocketAddr) -> Option<u32> {
    // A task that is never run tells nothing either.
    tokio::task::spawn_blocking(move || look(ours, peer)).await.ok().flatten()
}

/// Whether the system tells owners at all. It is asked about a connection of this process's own, whose
/// user is `own`: there is no other way to know (other systems, no `/proc`, sandboxes).
pub fn can_tell(own: u32) -> bool {
    let asked = || -> io::Result<bool> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ours = listener.local_addr()?;
        let other = TcpStream::connect(ours)?;
        Ok(look(ours, other.local_addr()?) == Some(own))
    };
    asked().unwrap_or(false) && !stands_for_many(own)
}

/// Whether the table shows other users by the number of this one: in a user namespace all that are not
/// mapped into it have one number together (`overflowuid`, mostly `nobody`'s).
fn stands_for_many(user: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(OVERFLOW);
    let map = read("/proc/self/uid_map");
    let maps_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    user == overflow && !maps_all
}

/// What the kernel shows unless it is told otherwise.
const OVERFLOW: u32 = 65534;

fn look(ours: SocketAddr, peer: SocketAddr) -> Option<u32> {
    let tables = rows(ours, peer);
    (0..LOOKS).find_map(|_| {
        tables.iter().find_map(|(table, row)| {
            let table = BufReader::new(File::open(table).ok()?);
            holder(table, row)
        })
    })
}

/// The tables in which the row may be, and how it begins there. A client that made a socket for both
/// families has its row among those of IPv6, whichever it uses.
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

/// As the kernel writes an address: words of 32 bits in the machine's own order of bytes.
fn words(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).filter_map(|word| word.first_chunk());
    words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
}

/// Who holds the socket whose row begins so. One that no process holds any more is nobody's: older
/// kernels show it as root's.
fn holder(mut table: impl BufRead, row: &str) -> Option<u32> {
    let mut line = String::new();
    while table.read_line(&mut line).ok()? > 0 {
        let found = line.split_once(": ").and_then(|(_number, rest)| rest.strip_prefix(row));
        if let Some(rest) = found {
            // st tx:rx tr:when retrnsmt uid timeout inode
            let mut fields = rest.split_whitespace().skip(4);
            let user = fields.next()?.parse().ok()?;
            let is_held = fields.nth(1)? != "0";
            return is_held.then_some(user);
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
    fn the_row_is_found_in_both_tables_whatever_family_the_client_chose() {
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
            ("127.0.0.1:8080", "127.0.0.1:36491", Some(1000)),
            // Closed, and kept by the kernel alone.
            ("127.0.0.1:8080", "127.0.0.1:36492", None),
            ("127.0.0.1:8080", "127.0.0.1:36493", Some(1001)),
            ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:36491", Some(1000)),
            ("[::1]:8080", "[::1]:36494", Some(1002)),
            ("127.0.0.1:8080", "127.0.0.1:9", None),
            // The other way round it is larder's own socket.
            ("127.0.0.1:36491", "127.0.0.1:8081", None),
        ] {
            let rows = rows(address(ours), address(peer));
            let found = rows.iter().find_map(|(table, row)| {
                let text = if table.ends_with('6') { V6 } else { V4 };
                holder(text.as_bytes(), row)
            });
            assert_eq!(found, user, "{peer}");
        }
    }

    #[test]
    fn a_damaged_table_tells_nothing_and_does_no_harm() {
        let row = "0100007F:8E8B 0100007F:1F90 ";
        for table in [
            "",
            "\n\n",
            "1: 0100007F:8E8B 0100007F:1F90 ",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0 -1 0 5",
            "1: 0100007F:8E8B 0100007F:1F90 01 0:0 0:0 0 1000 0",
        ] {
            assert_eq!(holder(table.as_bytes(), row), None, "{table:?}");
        }
        assert_eq!(holder([0xff; 64].as_slice(), row), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_tells_whose_a_connection_is_and_nothing_of_one_that_is_closed() {
        use std::os::unix::fs::MetadataExt;

        use socket2::{Domain, Socket, Type};

        let own = std::fs::metadata("/proc/self").unwrap().uid();
        assert!(can_tell(own));
        assert!(!can_tell(own + 1));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let ours = listener.local_addr().unwrap();
            let client = TcpStream::connect(ours).unwrap();
            let peer = client.local_addr().unwrap();
            let accepted = listener.accept().unwrap();
            assert_eq!(owner(ours, peer).await, Some(own), "{address}");
            drop(client);
            assert_eq!(owner(ours, peer).await, None, "{address}");
            drop(accepted);
        }
        // A socket for both families, such as Java's, that speaks IPv4.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.connect(&address(&format!("[::ffff:127.0.0.1]:{port}")).into()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(owner(accepted.local_addr().unwrap(), peer).await, Some(own));
    }
}
