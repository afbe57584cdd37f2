//! The defaults of all configuration keys, in one place.
//!
//! Owns: the defaults that the reference file documents (a test compares the two).
//! Never touches: the content of the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Admin, BodyLimits, Limits, Log, LogFormat, LogLevel, Store, Timeouts, UpstreamTls};

/// `listen`: loopback only.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// `admin.listen`: loopback only.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// `coalesce.wait`.
pub const COALESCE_WAIT: Duration = Duration::from_secs(10);

/// `ttl.max` if only `min` is given: RFC 9111 §1.2.2.
pub const LONGEST_TTL: Duration = Duration::from_secs(i32::MAX as u64);

/// Query parameters that are secret by their whole name. `semantics::redaction` also matches single words
/// of a name; `secret_query` adds further names.
pub const SECRET_QUERY: [&str; 9] =
    ["api_key", "apikey", "key", "token", "access_token", "secret", "sig", "signature", "password"];

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ADMIN, token: None, allow: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 << 10,
            headers: 128,
            head_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            tunnel_idle: Duration::from_secs(60 * 60),
            body: BodyLimits { idle: Duration::from_secs(30), min_rate: 64 },
            drain: Duration::from_secs(30),
            connections: 10_000,
            waiters_per_key: 2000,
            in_flight: 128 << 20,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, level: LogLevel::Info }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("larder-data"),
            memory: 128 << 20,
            disk: 2 << 30,
            sweep_every: Duration::from_secs(60),
            max_object: 8 << 20,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            between_bytes: Duration::from_secs(30),
            total: Duration::from_secs(60),
        }
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { extra_roots: Vec::new(), client_cert: None, insecure: false, http2: true }
    }
}
