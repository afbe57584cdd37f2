//! `proxy.pac`: the same for browsers, and whatever else reads such a file.
//!
//! Owns: its text. Never touches: where it is asked for (`admin`).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::json;

use crate::exec_env::no_proxy::{Bypass, NoProxy};

/// The function that sends everything to the larder at `proxy` (`host:port`) but what `spared` spares.
///
/// There is no way around a larder that does not answer: what offline, or a route that refuses, keeps
/// from an API must not reach it because larder was restarted. Written for engines of any age.
pub fn text(spared: &NoProxy, proxy: &str) -> String {
    let (mut names, mut ends, mut nets, mut addresses) = (vec![], vec![], vec![], vec![]);
    // A port cannot be told apart in every engine: such members are left to larder.
    for member in spared.members().iter().filter(|member| member.port.is_none()) {
        match &member.spared {
            Bypass::All => ends.push(String::new()),
            Bypass::Name(name) => names.push(name.clone()),
            Bypass::Below(end) => ends.push(end.clone()),
            Bypass::Net(IpNet::V4(net)) => nets.push([net.network(), net.netmask()]),
            Bypass::Net(IpNet::V6(net)) => {
                if net.prefix_len() == net.max_prefix_len() {
                    addresses.push(net.addr());
                }
            }
        }
    }
    let nets = nets.iter().map(|pair| pair.map(u32::from)).collect::<Vec<_>>();
    BODY.replace("NAMES", &json!(names).to_string())
        .replace("ENDS", &json!(ends).to_string())
        .replace("NETS", &json!(nets).to_string())
        .replace("ADDRESSES", &json!(addresses).to_string())
        .replace("PROXY_AT", &json!(format!("PROXY {proxy}")).to_string())
}

/// `host:port` as a client would write it: where larder listens on every address, the one by which the
/// client has reached this host.
pub fn proxy(listen: SocketAddr, asked: Option<&str>) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    let host = asked.and_then(host).unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
    format!("{host}:{}", listen.port())
}

/// The host of a `Host` field, if it is one: it becomes part of a program.
fn host(field: &str) -> Option<String> {
    let (host, rest) = if let Some(rest) = field.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        (format!("[{address}]"), rest)
    } else {
        let (host, port) = field.split_at(field.find(':').unwrap_or(field.len()));
        (host.to_owned(), port)
    };
    let known =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let is_host = !host.is_empty() && host.chars().all(known);
    (is_host && (rest.is_empty() || rest.starts_with(':'))).then_some(host)
}

const BODY: &str = r#"function FindProxyForURL(url, host) {
  var names = NAMES;
  var ends = ENDS;
  var nets = NETS;
  var addresses = ADDRESSES;
  if (!/^(http|ws)s?:/i.test(url)) return "DIRECT";
  var name = host.toLowerCase().replace(/^\[|\]$/g, "");
  function below(end) {
    return name.length >= end.length && name.substring(name.length - end.length) === end;
  }
  var i, parts = /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(name);
  for (i = 0; i < names.length; i++) {
    if (name === names[i] || below("." + names[i])) return "DIRECT";
  }
  for (i = 0; i < ends.length; i++) if (below(ends[i])) return "DIRECT";
  for (i = 0; i < addresses.length; i++) if (name === addresses[i]) return "DIRECT";
  if (parts) {
    var address = ((+parts[1] << 24) | (+parts[2] << 16) | (+parts[3] << 8) | +parts[4]) >>> 0;
    for (i = 0; i < nets.length; i++) {
      if (((address & nets[i][1]) >>> 0) === nets[i][0]) return "DIRECT";
    }
  }
  return PROXY_AT;
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_where_larder_listens_or_where_it_was_reached() {
        let at = |listen: &str, asked| proxy(listen.parse().unwrap(), asked);
        assert_eq!(at("127.0.0.1:8080", Some("larder:9901")), "127.0.0.1:8080");
        for (asked, host) in [
            (Some("larder:9901"), "larder"),
            (Some("10.0.0.1"), "10.0.0.1"),
            (Some("[fd00::1]:9901"), "[fd00::1]"),
            (Some("\"; alert(1) //"), "127.0.0.1"),
            (Some("[x\"]:1"), "127.0.0.1"),
            (Some(""), "127.0.0.1"),
            (None, "127.0.0.1"),
        ] {
            assert_eq!(at("0.0.0.0:8080", asked), format!("{host}:8080"), "{asked:?}");
        }
    }
}
