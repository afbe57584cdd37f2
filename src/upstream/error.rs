//! Why a call got no answer, or not a whole one.
//!
//! Owns: the classes of failure, whose fault they are, what they mean to a client and to
//! stale-if-error. Never touches: retrying.

use http::StatusCode;

use crate::decide;
use crate::semantics::cache_status::CacheStatus;
use crate::telemetry::problem::Problem;
use crate::upstream::egress_policy::Denied;
use crate::upstream::rejection::Rejection;
use crate::upstream::tls_error::TlsError;

/// A call that failed. `Copy`: every waiter of a fill gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// `destinations` forbids it, or it is larder itself or cloud metadata.
    #[error("the destination is not allowed")]
    Denied(Denied),
    /// The name has no address.
    #[error("the origin's name could not be resolved")]
    Dns,
    /// No address accepted a connection.
    #[error("the origin refused the connection")]
    Refused,
    /// No connection within `timeouts.connect`.
    #[error("no connection within timeouts.connect")]
    ConnectTimeout,
    /// The origin's certificate was not accepted, or the handshake failed.
    #[error("the TLS handshake with the origin failed")]
    Tls(TlsError),
    /// No head within `timeouts.first_byte`.
    #[error("no answer within timeouts.first_byte")]
    FirstByteTimeout,
    /// Nothing for `timeouts.between_bytes` inside a body.
    #[error("the answer's body stalled")]
    BodyTimeout,
    /// Not complete within `timeouts.total`.
    #[error("the answer was not complete within timeouts.total")]
    TotalTimeout,
    /// The connection closed before a head came.
    #[error("the origin closed the connection without an answer")]
    Closed,
    /// The origin refused to process the request, more often than it was asked again.
    #[error("the origin did not process the request")]
    NotProcessed,
    /// The connection closed inside a body.
    #[error("the answer's body was cut")]
    Cut,
    /// The origin switched to another protocol, for which nobody had asked.
    #[error("the origin switched to another protocol unasked")]
    Switched,
    /// What came is not HTTP, or breaks larder's bounds on answers.
    #[error("the origin's answer is not valid HTTP")]
    Protocol,
    /// Nobody is left who wants the answer.
    #[error("nobody waits for the answer")]
    Abandoned,
    /// The origin was not asked.
    #[error("the origin was not asked: {}", .0.cause.token())]
    Held(Rejection),
    /// No descriptor, or none of the system's memory, is left for a connection.
    #[error("larder lacks what a connection needs")]
    Exhausted,
    /// The fault is larder's.
    #[error("larder failed")]
    Internal,
}

impl UpstreamError {
    /// Whether another try, a moment later, may go better. A certificate stays as it is, names have been
    /// asked for more than once by then, and an origin that switches protocols unasked means to: where it has
    /// acted on the request, it would do so once more.
    pub fn may_pass(self) -> bool {
        match self {
            Self::Dns | Self::Denied(_) | Self::Held(_) | Self::Switched => false,
            Self::Tls(fault) => !fault.lasts(),
            Self::Refused
            | Self::ConnectTimeout
            | Self::FirstByteTimeout
            | Self::BodyTimeout
            | Self::TotalTimeout
            | Self::Closed
            | Self::NotProcessed
            | Self::Cut
            | Self::Protocol
            | Self::Abandoned
            | Self::Exhausted
            | Self::Internal => true,
        }
    }

    /// Whether there was no way to the origin at all, whatever would have been asked of it.
    pub fn is_before_the_call(self) -> bool {
        matches!(self, Self::Dns | Self::Refused | Self::ConnectTimeout | Self::Tls(_))
    }

    /// The token in logs, metrics and `detail`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Denied(why) => why.token(),
            Self::Dns => "dns",
            Self::Refused => "connect-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls(fault) => fault.token(),
            Self::FirstByteTimeout => "first-byte-timeout",
            Self::BodyTimeout => "between-bytes-timeout",
            Self::TotalTimeout => "total-timeout",
            Self::Closed => "closed",
            Self::NotProcessed => "not-processed",
            Self::Cut => "cut",
            Self::Switched | Self::Protocol => "protocol",
            Self::Abandoned => "abandoned",
            Self::Held(held) => held.cause.token(),
            Self::Exhausted => "exhausted",
            Self::Internal => "internal",
        }
    }

    /// What stale-if-error makes of it; `None`: a stale answer does not hide it.
    pub fn error_class(self) -> Option<decide::ErrorClass> {
        match self {
            Self::Denied(_) | Self::Abandoned => None,
            Self::Held(held) => held.error_class(),
            Self::ConnectTimeout
            | Self::FirstByteTimeout
            | Self::BodyTimeout
            | Self::TotalTimeout => Some(decide::ErrorClass::Timeout),
            Self::Dns
            | Self::Refused
            | Self::Tls(_)
            | Self::Closed
            | Self::NotProcessed
            | Self::Cut
            | Self::Switched
            | Self::Protocol
            | Self::Exhausted
            | Self::Internal => Some(decide::ErrorClass::Connect),
        }
    }

    /// What `Cache-Status` tells of it; `why` it was to be forwarded.
    pub fn told(self, why: &'static str) -> CacheStatus {
        if let Self::Held(held) = self {
            return CacheStatus::refused().detail("refused", held.cause.token());
        }
        CacheStatus::forwarded(why)
    }

    /// What a client is told.
    pub fn problem(self) -> Problem {
        if let Self::Held(held) = self {
            return held.problem();
        }
        let (status, proxy_status, reason) = match self {
            Self::Denied(_) => (
                StatusCode::FORBIDDEN,
                "destination_ip_prohibited",
                "larder may not go there; see destinations in proxy.yaml",
            ),
            Self::Dns => {
                (StatusCode::BAD_GATEWAY, "dns_error", "the origin's name could not be resolved")
            }
            Self::Refused => (
                StatusCode::BAD_GATEWAY,
                "connection_refused",
                "no address of the origin accepted a connection",
            ),
            Self::ConnectTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "connection_timeout",
                "no connection to the origin within timeouts.connect",
            ),
            Self::Tls(fault) => (StatusCode::BAD_GATEWAY, fault.proxy_status(), fault.reason()),
            Self::FirstByteTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "the origin did not answer within timeouts.first_byte",
            ),
            Self::BodyTimeout | Self::TotalTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "the origin's answer did not arrive in time",
            ),
            Self::Closed => (
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "the origin closed the connection without an answer",
            ),
            Self::NotProcessed => (
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "the origin refused the request unprocessed, again and again",
            ),
            Self::Cut => {
                (StatusCode::BAD_GATEWAY, "http_response_incomplete", "the origin's answer was cut")
            }
            Self::Protocol => return NOT_HTTP,
            Self::Switched => return SWITCHED,
            Self::Exhausted => return EXHAUSTED,
            Self::Abandoned | Self::Held(_) | Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "proxy_internal_error",
                "larder failed; the request may be tried again",
            ),
        };
        let class = if let Self::Tls(fault) = self { fault.class() } else { self.token() };
        Problem::new(status, class, reason, proxy_status)
    }
}

const NOT_HTTP: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "protocol",
    "the origin's answer is not valid HTTP",
    "http_protocol_error",
);

const SWITCHED: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "protocol",
    "the origin switched to another protocol (101), for which it was not asked",
    "http_protocol_error",
);

const EXHAUSTED: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "exhausted",
    "larder has no file descriptor left for a connection: raise its limit of open files (ulimit -n, \
     systemd's LimitNOFILE)",
    "proxy_internal_error",
);
