//! The events that are recorded, one struct each.
//!
//! Owns: what is known about an exchange, a call or a refusal when it is over, and the words for it.
//! Never touches: what becomes of the record.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};

/// One finished exchange with a client. Borrows everything, so that recording a hit allocates
/// nothing.
#[derive(Debug, Clone, Copy)]
pub struct RequestEvent<'a> {
    /// The route's index in the table; one past the last: no route.
    pub route: usize,
    /// How it ended.
    pub result: ResultKind,
    /// Why it was forwarded: the token of `Cache-Status: fwd`.
    pub why: Option<&'static str>,
    /// The request's method.
    pub method: &'a Method,
    /// The target's host.
    pub host: &'a str,
    /// The target's port; zero for a tunnel.
    pub port: u16,
    /// The target's path; a query, if there is one, is never logged.
    pub path: &'a str,
    /// The status the client got; `None`: the connection closed without one.
    pub status: Option<StatusCode>,
    /// The `Cache-Status` the client got.
    pub cache_status: Option<&'a str>,
    /// The class of the error, if it was one.
    pub error: Option<&'static str>,
    /// From the request's head to the answer's last byte.
    pub duration: Duration,
    /// Bytes sent to the client.
    pub client_bytes: u64,
    /// Bytes received from the origin for this client alone: passed through or tunnelled. What a
    /// fill receives is told by [`Telemetry::upstream_bytes`](crate::account::Telemetry::upstream_bytes).
    pub upstream_bytes: u64,
    /// Bytes of the fill that this request began, as far as they came while it was answered: those are
    /// counted by the fill.
    pub filled_bytes: u64,
    /// What the client got is an error of larder's own: its bytes are no API's.
    pub is_larders: bool,
}

/// How an exchange ended: the `result` of `larder_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultKind {
    /// Answered from the store, fresh.
    Hit,
    /// Answered from the store, stale.
    Stale,
    /// The origin confirmed what is stored.
    Revalidated,
    /// Answered by the origin.
    Miss,
    /// Answered by a fill that another request began.
    Coalesced,
    /// Answered in part from the store.
    Partial,
    /// Passed through.
    Bypass,
    /// Bytes passed unseen.
    Tunnel,
    /// Neither the origin nor the store had an answer.
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

    /// The word in metrics and log.
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

    /// Whether the client's answer needed no call of its own.
    pub fn is_without_a_call(self) -> bool {
        match self {
            Self::Hit | Self::Stale | Self::Coalesced => true,
            Self::Revalidated
            | Self::Miss
            | Self::Partial
            | Self::Bypass
            | Self::Tunnel
            | Self::Error => false,
        }
    }

    /// Its place in [`ResultKind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One finished call to an origin.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamEvent<'a> {
    /// The upstream's index in the configuration; one past the last: none.
    pub upstream: usize,
    /// The route's index; one past the last: none.
    pub route: usize,
    /// The host that was called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The status of the answer, or the class of the failure.
    pub outcome: Result<StatusCode, &'static str>,
    /// From the start of the call to the answer's head, or to the failure.
    pub duration: Duration,
}

/// A call to an origin that is made once more.
#[derive(Debug, Clone, Copy)]
pub struct RetryEvent<'a> {
    /// The upstream's index in the configuration; one past the last: none.
    pub upstream: usize,
    /// The route's index; one past the last: none.
    pub route: usize,
    /// The host that is called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// What became of the call before.
    pub cause: &'static str,
    /// How long it waits before.
    pub wait: Duration,
}

/// A request that larder refused before it became an exchange.
#[derive(Debug, Clone, Copy)]
pub struct RejectEvent {
    /// Why, as one word.
    pub class: &'static str,
    /// Who asked.
    pub client: Option<SocketAddr>,
}

/// What the disk tier was doing when it failed: the `op` of `larder_store_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOp {
    /// Opening what lies on disk.
    Open,
    /// Looking up or reading an entry; a damaged entry counts here.
    Read,
    /// Writing or tidying up.
    Write,
    /// Removing a file.
    Remove,
    /// Nothing: what was to be written was dropped, because there was no room for it.
    Drop,
}

impl StoreOp {
    /// The word in metrics and log.
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

/// What a tier of the store holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct TierTotals {
    /// Stored responses.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Evicted for room since the start.
    pub evictions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_leads_back_to_its_result() {
        for (index, kind) in ResultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index, "{}", kind.token());
        }
    }
}
