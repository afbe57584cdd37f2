//! Resolves the targets of a connection's requests.
//!
//! Owns: the mapping of the form of a request target and the proxy mode to one target (RFC 9112 §3.3).
//! Never touches: connections.

use http::{HeaderValue, StatusCode};

use crate::frontend::head::{BAD_TARGET, HeadTarget, NOT_PROXY, RequestHead};
use crate::frontend::mount::{Mounts, ResolvedTarget};
use crate::frontend::web_page::FetchMetadata;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::{Scheme, Target, authority};
use crate::telemetry::problem::Problem;

/// Inside a tunnel all requests are for the origin that `CONNECT` named.
pub const ANOTHER_ORIGIN: Problem = Problem::new(
    StatusCode::MISDIRECTED_REQUEST,
    "another_origin",
    "a request inside a tunnel is for the origin that CONNECT named",
    "http_request_denied",
);

/// A tunnel inside a tunnel.
pub const NESTED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "nested_connect",
    "a CONNECT inside a tunnel is not supported",
    "http_request_error",
);

/// How the requests of a connection reach larder.
#[derive(Debug, Clone)]
pub enum ProxyMode {
    /// Directly: each request names its target, or a mount.
    Direct,
    /// Inside a tunnel to this origin.
    Tunnel(Target),
    /// Inside a tunnel whose TLS server name is not the host of the tunnel.
    Misdirected,
}

/// The facts about a connection that all its requests share.
#[derive(Debug, Clone)]
pub struct ConnectionState {
    /// How the requests reach larder. A `CONNECT` changes it.
    pub mode: ProxyMode,
    /// The kind of listener that accepted the connection.
    pub listener: ListenerKind,
}

impl ConnectionState {
    /// The state of a new connection.
    pub fn new(listener: ListenerKind) -> Self {
        Self { mode: ProxyMode::Direct, listener }
    }
}

impl ProxyMode {
    /// The mode inside a tunnel to `host:port` that carries this scheme.
    pub fn tunnel(scheme: Scheme, host: &str, port: u16) -> Result<Self, Problem> {
        let base = Target::with_authority(scheme, host, "/").map_err(|_| BAD_TARGET)?;
        Ok(Self::Tunnel(base.with_origin(scheme, base.host(), port)))
    }

    /// The target of an HTTP/2 request. `authority` is its `:authority` or its `Host`.
    pub fn stream_target(&self, authority: Option<&str>, path: &str) -> Result<Target, Problem> {
        let Self::Tunnel(origin) = self else { return Err(ANOTHER_ORIGIN) };
        if !authority.is_some_and(|authority| authority_matches(authority, origin)) {
            return Err(ANOTHER_ORIGIN);
        }
        target_at(origin, path)
    }

    /// The target of the request with this `head`, which must not be a `CONNECT`.
    pub fn target(
        &self,
        head: &RequestHead,
        mounts: &Mounts,
        listener: ListenerKind,
        is_local: impl FnOnce() -> bool,
    ) -> Result<ResolvedTarget, Problem> {
        match (self, &head.target) {
            (_, HeadTarget::Authority(..)) => Err(NESTED),
            (Self::Misdirected, _) => Err(ANOTHER_ORIGIN),
            (Self::Direct, HeadTarget::Absolute(target)) => Ok(target.clone().into()),
            (Self::Direct, HeadTarget::Origin(path)) => {
                let metadata = FetchMetadata { fields: &head.fields, host: head.host.as_ref() };
                mounts.find(path, metadata, listener, is_local).unwrap_or(Err(NOT_PROXY))
            }
            (Self::Tunnel(origin), HeadTarget::Absolute(target)) => {
                if target.same_origin(origin) {
                    Ok(target.clone().into())
                } else {
                    Err(ANOTHER_ORIGIN)
                }
            }
            (Self::Tunnel(origin), HeadTarget::Origin(path)) => {
                if !head.host.as_ref().is_none_or(|host| host_matches(host, origin)) {
                    return Err(ANOTHER_ORIGIN);
                }
                target_at(origin, path).map(ResolvedTarget::from)
            }
        }
    }
}

fn target_at(origin: &Target, path: &str) -> Result<Target, Problem> {
    let target = Target::with_authority(origin.scheme(), origin.host(), path);
    let target = target.map_err(|_| BAD_TARGET)?;
    Ok(target.with_origin(origin.scheme(), origin.host(), origin.port()))
}

fn host_matches(host: &HeaderValue, origin: &Target) -> bool {
    host.to_str().is_ok_and(|host| authority_matches(host, origin))
}

fn authority_matches(authority: &str, origin: &Target) -> bool {
    let port = |port: Option<u16>| port.unwrap_or(origin.scheme().default_port());
    authority::split(authority)
        .is_ok_and(|(host, named)| host == origin.host() && port(named) == origin.port())
}
