//! The recorded events, one struct each.
//!
//! Owns: the facts about a finished request, call or refusal, and their tokens.
//! Never touches: the use of these events in metrics and log.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::decide::ForwardReason;

/// One finished request of a client. Borrows all its data, so that recording a hit does not allocate.
#[derive(Debug, Clone, Copy)]
pub struct RequestEvent<'a> {
    /// The index of the route in the table; one past the last means no route.
    pub route: usize,
    /// The result of the request.
    pub result: ResultKind,
    /// The reason for forwarding the request.
    pub forward_reason: Option<ForwardReason>,
    /// The request's method.
    pub method: &'a Method,
    /// The target's host.
    pub host: &'a str,
    /// The target's port; zero for a tunnel.
    pub port: u16,
    /// The target's path. A query in it is never logged.
    pub path: &'a str,
    /// The status that the client received; `None` if the connection closed before.
    pub status: Option<StatusCode>,
    /// The `Cache-Status` that the client received.
    pub cache_status: Option<&'a str>,
    /// The class of the error, if the request failed.
    pub error: Option<&'static str>,
    /// Time from the request's head to the response's last byte.
    pub duration: Duration,
    /// Bytes sent to the client.
    pub client_bytes: u64,
    /// Bytes received from the origin for this client only: passed through or tunnelled.
    /// [`Telemetry::upstream_bytes`](crate::telemetry::Telemetry::upstream_bytes) counts the bytes of fills.
    pub upstream_bytes: u64,
    /// Bytes that the fill of this request received until the response was complete. Only logged; the fill
    /// counts them.
    pub filled_bytes: u64,
    /// Whether the response is an error that larder generated, so its bytes come from no API.
    pub is_own_error: bool,
}

impl RequestEvent<'_> {
    /// Whether the response avoided a call that the origin would have answered as the client wishes. An error
    /// that several clients share avoids nothing that is worth counting.
    pub fn avoided_call(&self) -> bool {
        self.result.needs_no_call() && !self.is_error_body()
    }

    /// Whether the body is an error, larder's own or a 429 or 5xx of the origin, that was not received for
    /// this client.
    pub fn is_error_body(&self) -> bool {
        let is_failure =
            |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.is_own_error || (self.result.needs_no_call() && self.status.is_some_and(is_failure))
    }
}

/// The result of a request: the label `result` of `larder_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultKind {
    /// The response is from the store and fresh.
    Hit,
    /// The response is from the store and stale.
    Stale,
    /// The origin confirmed the stored response.
    Revalidated,
    /// The response is from the origin.
    Miss,
    /// The response is from a fill that another request started.
    Coalesced,
    /// A part of the response is from the store.
    Partial,
    /// The request was passed through.
    Bypass,
    /// The bytes were tunnelled.
    Tunnel,
    /// Neither the origin nor the store supplied a response.
    Error,
}

impl ResultKind {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidated,
        Self::Miss,
        Self::Coalesced,
        Self::Partial,
        Self::Bypass,
        Self::Tunnel,
        Self::Error,
    ];

    /// The token in metrics and log.
    pub fn token(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Partial => "partial",
            Self::Bypass => "bypass",
            Self::Tunnel => "tunnel",
            Self::Error => "error",
        }
    }

    /// Whether the response required no call of its own.
    pub fn needs_no_call(self) -> bool {
        match self {
            Self::Hit | Self::Stale | Self::Coalesced => true,
            Self::Revalidated | Self::Miss | Self::Partial | Self::Bypass | Self::Tunnel | Self::Error => {
                false
            }
        }
    }

    /// The index in [`ResultKind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One finished call to an origin.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamEvent<'a> {
    /// The upstream's index in the configuration; one past the last means no upstream.
    pub upstream: usize,
    /// The route's index; one past the last means no route.
    pub route: usize,
    /// The host that was called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The status of the response, or the class of the failure.
    pub outcome: Result<StatusCode, &'static str>,
    /// Time from the start of the call to the response's head or to the failure.
    pub duration: Duration,
}

/// One background refresh whose body the origin cut.
#[derive(Debug, Clone, Copy)]
pub struct CutRefreshEvent<'a> {
    /// The upstream's index in the configuration; one past the last means no upstream.
    pub upstream: usize,
    /// The route's index; one past the last means no route.
    pub route: usize,
    /// The host that was called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The class of the failure.
    pub error: &'static str,
}

/// One retry of a call to an origin.
#[derive(Debug, Clone, Copy)]
pub struct RetryEvent<'a> {
    /// The upstream's index in the configuration; one past the last means no upstream.
    pub upstream: usize,
    /// The route's index; one past the last means no route.
    pub route: usize,
    /// The host that is called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The outcome of the previous attempt.
    pub cause: &'static str,
    /// The delay before the retry.
    pub wait: Duration,
}

/// A request that larder refused before it had a [`RequestEvent`].
#[derive(Debug, Clone, Copy)]
pub struct RejectEvent {
    /// The reason as a token.
    pub class: &'static str,
    /// The address of the client.
    pub client: Option<SocketAddr>,
}

/// The operation of the disk tier that failed: the label `op` of `larder_store_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOp {
    /// Opening the files on disk.
    Open,
    /// Looking up or reading an entry; a damaged entry counts here.
    Read,
    /// Writing or cleaning up.
    Write,
    /// Removing a file.
    Remove,
    /// No operation: an entry was dropped instead of written, for lack of capacity.
    Drop,
}

impl StoreOp {
    /// The token in metrics and log.
    pub fn token(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Remove => "remove",
            Self::Drop => "drop",
        }
    }
}

/// The usage of a store tier.
#[derive(Debug, Clone, Copy, Default)]
pub struct TierTotals {
    /// Number of stored responses.
    pub entries: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Number of responses evicted to free capacity since the start.
    pub evictions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_result_is_its_position_in_all() {
        for (index, kind) in ResultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index, "{}", kind.token());
        }
    }
}
