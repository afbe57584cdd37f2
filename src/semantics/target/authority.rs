//! `host:port` in a target, in `Host` and in `CONNECT` (RFC 3986 §3.2, RFC 9110 §9.3.6).
//!
//! Owns: parsing of host and port, and their normal form.
//! Never touches: name resolution; the permission to connect to the host.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::semantics::target::TargetError;

/// DNS allows 253 characters and a trailing dot.
const LONGEST_HOST: usize = 254;

/// Parses the target of `CONNECT`: host and port are both required (RFC 9110 §9.3.6).
pub fn parse(text: &str) -> Result<(String, u16), TargetError> {
    let (host, port) = split(text)?;
    Ok((host, port.ok_or(TargetError::Port)?))
}

/// Parses `host[:port]`. An empty port is equivalent to no port (RFC 3986 §6.2.3).
pub fn split(text: &str) -> Result<(String, Option<u16>), TargetError> {
    if text.contains('@') {
        return Err(TargetError::UserInfo);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(TargetError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| TargetError::Host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(TargetError::Host),
        };
        return Ok((format!("[{address}]"), port));
    }
    match text.split_once(':') {
        Some((host, port)) => Ok((parse_name(host)?, parse_port(port)?)),
        None => Ok((parse_name(text)?, None)),
    }
}

/// Parses a name or an IPv4 address and removes a trailing dot. Larder resolves names as absolute ones
/// anyway, and another spelling of a host must not bypass a rule for that host.
fn parse_name(text: &str) -> Result<String, TargetError> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let malformed = text.is_empty()
        || text.len() > LONGEST_HOST
        || text.starts_with('.')
        || text.contains("..")
        || !text.bytes().all(known);
    let bare = text.strip_suffix('.').unwrap_or(text);
    let ambiguous = ends_in_number(bare) && bare.parse::<Ipv4Addr>().is_err();
    if malformed || ambiguous { Err(TargetError::Host) } else { Ok(bare.to_ascii_lowercase()) }
}

/// Whether the last label is a number. No valid name ends in one. Some parsers accept such a text as an
/// address (`0`, `0x7f.1`, `127.1`, `010.0.0.1`), but not all as the same address.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let hexadecimal = hexadecimal.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

fn parse_port(text: &str) -> Result<Option<u16>, TargetError> {
    if text.is_empty() {
        return Ok(None);
    }
    // `u16::from_str` accepts a sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(TargetError::Port),
        Ok(port) => Ok(Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use crate::semantics::target::TargetError;
    use crate::semantics::target::authority::{parse, split};

    #[test]
    fn connect_needs_a_host_and_a_port() {
        for (text, expected) in [
            ("api.example:443", Ok(("api.example", 443))),
            ("API.Example:0443", Ok(("api.example", 443))),
            ("a_b:1", Ok(("a_b", 1))),
            ("[::1]:8443", Ok(("[::1]", 8443))),
            ("[0:0::0:1]:1", Ok(("[::1]", 1))),
            ("10.0.0.1:65535", Ok(("10.0.0.1", 65535))),
            ("api.example.:443", Ok(("api.example", 443))),
            ("api.example", Err(TargetError::Port)),
            ("api.example:", Err(TargetError::Port)),
            ("api.example:0", Err(TargetError::Port)),
            ("api.example:65536", Err(TargetError::Port)),
            ("api.example:+443", Err(TargetError::Port)),
            ("api.example:4 3", Err(TargetError::Port)),
            ("api.example:1:2", Err(TargetError::Port)),
            ("http://api.example:443", Err(TargetError::Port)),
            (":443", Err(TargetError::Host)),
            ("", Err(TargetError::Host)),
            ("a b:443", Err(TargetError::Host)),
            ("a\r\nb:443", Err(TargetError::Host)),
            ("a..b:443", Err(TargetError::Host)),
            ("0:80", Err(TargetError::Host)),
            ("0x0:80", Err(TargetError::Host)),
            ("0X7F.1:80", Err(TargetError::Host)),
            ("127.1:80", Err(TargetError::Host)),
            ("000.0.0.0:80", Err(TargetError::Host)),
            ("2130706433:80", Err(TargetError::Host)),
            ("1.2.3.256:80", Err(TargetError::Host)),
            ("web.1a:80", Ok(("web.1a", 80))),
            (".:443", Err(TargetError::Host)),
            ("bücher.example:443", Err(TargetError::Host)),
            ("a%2eb:443", Err(TargetError::Host)),
            ("::1:443", Err(TargetError::Host)),
            ("[::1:443", Err(TargetError::Host)),
            ("[::1]443", Err(TargetError::Host)),
            ("[fe80::1%25eth0]:443", Err(TargetError::Host)),
            ("user:pw@api.example:443", Err(TargetError::UserInfo)),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(parse(text), expected, "{text:?}");
        }
        assert_eq!(parse(&format!("{}:1", "a".repeat(255))), Err(TargetError::Host));
    }

    proptest! {
        #[test]
        fn a_parsed_authority_has_a_normal_form_that_parses_to_itself(text in any::<String>()) {
            if let Ok((host, port)) = split(&text) {
                let again = port.map_or(host.clone(), |port| format!("{host}:{port}"));
                assert_eq!(split(&again), Ok((host, port)));
            }
        }
    }
}
