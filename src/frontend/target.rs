//! The way in: what the requests of a connection are aimed at.
//!
//! Owns: from the form of a request's target and the way it came to the one target that is meant
//! (RFC 9112 §3.3). Never touches: connections.

use http::{HeaderValue, StatusCode};

use crate::frontend::head::{BAD_TARGET, HeadTarget, NOT_PROXY, RequestHead};
use crate::frontend::mount::{MountTarget, Mounts};
use crate::frontend::web_page::FetchMetadata;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::{Scheme, Target, authority};
use crate::telemetry::problem::Problem;

/// Inside a tunnel everything is for the origin that `CONNECT` named.
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
    "a CONNECT inside a CONNECT leads nowhere",
    "http_request_error",
);

/// How the requests of a connection come.
#[derive(Debug, Clone)]
pub enum ProxyMode {
    /// Straight: each names its target, or a mount.
    Straight,
    /// Inside a tunnel to this origin.
    Tunnel(Target),
    /// Inside a tunnel whose TLS is for another host than the one it was opened to.
    Astray,
}

impl ProxyMode {
    /// The way inside a tunnel to `host:port`, in which this scheme is spoken.
    pub fn tunnel(scheme: Scheme, host: &str, port: u16) -> Result<Self, Problem> {
        let base = Target::with_authority(scheme, host, "/").map_err(|_| BAD_TARGET)?;
        Ok(Self::Tunnel(base.with_origin(scheme, base.host(), port)))
    }

    /// What a request inside HTTP/2 is aimed at: `authority` is its `:authority`, or its `Host`.
    pub fn stream_target(&self, authority: Option<&str>, path: &str) -> Result<Target, Problem> {
        let Self::Tunnel(origin) = self else { return Err(ANOTHER_ORIGIN) };
        if !authority.is_some_and(|authority| is_of(authority, origin)) {
            return Err(ANOTHER_ORIGIN);
        }
        below(origin, path)
    }

    /// What `head` is aimed at; `CONNECT` is not for here.
    pub fn target(
        &self,
        head: &RequestHead,
        mounts: &Mounts,
        listener: ListenerKind,
        is_local: impl FnOnce() -> bool,
    ) -> Result<MountTarget, Problem> {
        match (self, &head.target) {
            (_, HeadTarget::Authority(..)) => Err(NESTED),
            (Self::Astray, _) => Err(ANOTHER_ORIGIN),
            (Self::Straight, HeadTarget::Absolute(target)) => Ok(target.clone().into()),
            (Self::Straight, HeadTarget::Origin(path)) => {
                let asking = FetchMetadata { fields: &head.fields, host: head.host.as_ref() };
                mounts.find(path, asking, listener, is_local).unwrap_or(Err(NOT_PROXY))
            }
            (Self::Tunnel(origin), HeadTarget::Absolute(target)) => {
                if target.same_origin(origin) {
                    Ok(target.clone().into())
                } else {
                    Err(ANOTHER_ORIGIN)
                }
            }
            (Self::Tunnel(origin), HeadTarget::Origin(path)) => {
                if !head.host.as_ref().is_none_or(|host| names(host, origin)) {
                    return Err(ANOTHER_ORIGIN);
                }
                below(origin, path).map(MountTarget::from)
            }
        }
    }
}

fn below(origin: &Target, path: &str) -> Result<Target, Problem> {
    let target = Target::with_authority(origin.scheme(), origin.host(), path);
    let target = target.map_err(|_| BAD_TARGET)?;
    Ok(target.with_origin(origin.scheme(), origin.host(), origin.port()))
}

fn names(host: &HeaderValue, origin: &Target) -> bool {
    host.to_str().is_ok_and(|host| is_of(host, origin))
}

fn is_of(authority: &str, origin: &Target) -> bool {
    let port = |port: Option<u16>| port.unwrap_or(origin.scheme().default_port());
    authority::split(authority)
        .is_ok_and(|(host, named)| host == origin.host() && port(named) == origin.port())
}
