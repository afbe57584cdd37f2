//! `proxy.pac`: the proxy settings for browsers and other clients that read a PAC file.
//!
//! Owns: the text of the file. Never touches: serving it (`admin`).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::json;

use crate::exec_env::no_proxy::{Bypass, NoProxy};

/// A PAC script that sends all requests to the larder at `proxy` (`host:port`), except those that `no_proxy`
/// exempts. The script uses only syntax that old engines support.
///
/// The script has no `DIRECT` fallback for the case that larder does not respond: a request that larder
/// blocks, because of offline mode or a route that refuses it, must not reach the API during a restart of
/// larder.
pub fn script(no_proxy: &NoProxy, proxy: &str) -> String {
    let (mut names, mut ends, mut nets, mut addresses) = (vec![], vec![], vec![], vec![]);
    // Not every engine can compare ports, so requests to entries with a port go to larder.
    for entry in no_proxy.members().iter().filter(|entry| entry.port.is_none()) {
        match &entry.bypass {
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

/// The proxy address as `host:port`. If larder listens on all addresses, the host is the one of the `Host`
/// field that the client sent.
pub fn proxy_address(listen: SocketAddr, host_field: Option<&str>) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    let host = host_field.and_then(host).unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
    format!("{host}:{}", listen.port())
}

/// The validated host of a `Host` field. It becomes part of a script, so other characters are refused.
fn host(field: &str) -> Option<String> {
    let (host, rest) = if let Some(rest) = field.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        (format!("[{address}]"), rest)
    } else {
        let (host, port) = field.split_at(field.find(':').unwrap_or(field.len()));
        (host.to_owned(), port)
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let is_host = !host.is_empty() && host.chars().all(allowed);
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
    fn the_proxy_address_is_the_listen_address_or_the_requested_host() {
        let at = |listen: &str, host_field| proxy_address(listen.parse().unwrap(), host_field);
        assert_eq!(at("127.0.0.1:8080", Some("larder:9901")), "127.0.0.1:8080");
        for (host_field, host) in [
            (Some("larder:9901"), "larder"),
            (Some("10.0.0.1"), "10.0.0.1"),
            (Some("[fd00::1]:9901"), "[fd00::1]"),
            (Some("\"; alert(1) //"), "127.0.0.1"),
            (Some("[x\"]:1"), "127.0.0.1"),
            (Some(""), "127.0.0.1"),
            (None, "127.0.0.1"),
        ] {
            assert_eq!(at("0.0.0.0:8080", host_field), format!("{host}:8080"), "{host_field:?}");
        }
    }
}
