//! Errors of upstream calls: no response, or an incomplete one.
//!
//! Owns: the error classes, whether the origin or larder is at fault, the problem response, the class for
//! stale-if-error. Never touches: retrying.

use http::StatusCode;

use crate::decide::{self, ForwardReason};
use crate::semantics::cache_status::CacheStatus;
use crate::telemetry::problem::Problem;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::connect::egress_policy::Denied;
use crate::upstream::connect::tls_error::TlsError;
use crate::upstream::outcome::parent_error::ParentError;

/// Why a call failed. `Copy`: every waiter of a fill gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The destination is forbidden by `destinations`, or is larder itself or cloud metadata.
    #[error("the destination is not allowed")]
    Denied(Denied),
    /// The name could not be resolved to an address.
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
    /// No head within `timeouts.first_byte`, or `limits.patience` if that one is soft or off.
    #[error("no response within timeouts.first_byte or limits.patience")]
    FirstByteTimeout,
    /// No byte for `timeouts.between_bytes` inside a body.
    #[error("the response body stalled")]
    BodyTimeout,
    /// No complete response within `timeouts.total`.
    #[error("the response was not complete within timeouts.total")]
    TotalTimeout,
    /// The connection closed before a response head arrived.
    #[error("the origin closed the connection without a response")]
    Closed,
    /// The origin did not process the request, and neither did it process the transparent retries.
    #[error("the origin did not process the request")]
    NotProcessed,
    /// The connection closed inside a body.
    #[error("the response body was truncated")]
    Cut,
    /// The origin switched to another protocol without a request to do so.
    #[error("the origin switched to another protocol unrequested")]
    Switched,
    /// The response is not valid HTTP, or exceeds larder's limits on responses.
    #[error("the origin's response is not valid HTTP")]
    Protocol,
    /// No client waits for the response any more.
    #[error("no client waits for the response")]
    Abandoned,
    /// Admission control blocked the call.
    #[error("the call was not made: {}", .0.reason.token())]
    Rejected(Rejection),
    /// No file descriptor or no kernel memory is left for a connection.
    #[error("larder lacks the resources for a connection")]
    Exhausted,
    /// The parent proxy is not reachable, or refuses the call.
    #[error("the parent proxy failed the call: {}", .0.token())]
    Parent(ParentError),
    /// An internal error of larder.
    #[error("larder failed")]
    Internal,
}

impl UpstreamError {
    /// Whether a retry a moment later may succeed. A certificate does not change, a name has been queried
    /// more than once by then, and an origin that switches protocols unrequested does so on purpose: if it
    /// has acted on the request, it would act on it again.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Dns | Self::Denied(_) | Self::Rejected(_) | Self::Switched => false,
            Self::Tls(error) => !error.is_permanent(),
            Self::Parent(error) => error.is_transient(),
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

    /// Whether no connection could be established, so that no request to this origin would have succeeded.
    pub fn is_connect_failure(self) -> bool {
        matches!(self, Self::Dns | Self::Refused | Self::ConnectTimeout | Self::Tls(_) | Self::Parent(_))
    }

    /// The token in logs, metrics and `detail`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.token(),
            Self::Dns => "dns",
            Self::Refused => "connect-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls(error) => error.token(),
            Self::FirstByteTimeout => "first-byte-timeout",
            Self::BodyTimeout => "between-bytes-timeout",
            Self::TotalTimeout => "total-timeout",
            Self::Closed => "closed",
            Self::NotProcessed => "not-processed",
            Self::Cut => "cut",
            Self::Switched | Self::Protocol => "protocol",
            Self::Abandoned => "abandoned",
            Self::Rejected(rejection) => rejection.reason.token(),
            Self::Exhausted => "exhausted",
            Self::Parent(error) => error.token(),
            Self::Internal => "internal",
        }
    }

    /// The class that stale-if-error matches; `None`: no stale response is served for this error.
    pub fn error_class(self) -> Option<decide::ErrorClass> {
        match self {
            Self::Denied(_) | Self::Abandoned => None,
            Self::Rejected(rejection) => rejection.error_class(),
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::BodyTimeout | Self::TotalTimeout => {
                Some(decide::ErrorClass::Timeout)
            }
            Self::Dns
            | Self::Refused
            | Self::Tls(_)
            | Self::Closed
            | Self::NotProcessed
            | Self::Cut
            | Self::Switched
            | Self::Protocol
            | Self::Exhausted
            | Self::Parent(_)
            | Self::Internal => Some(decide::ErrorClass::Connect),
        }
    }

    /// Its `Cache-Status`; `reason` is the reason for forwarding the request.
    pub fn cache_status(self, reason: ForwardReason) -> CacheStatus {
        if let Self::Rejected(rejection) = self {
            return CacheStatus::refused().detail("refused", rejection.reason.token());
        }
        if let Self::Denied(reason) = self {
            return CacheStatus::refused().detail("refused", reason.token());
        }
        CacheStatus::forwarded(reason.token())
    }

    /// The problem response for the client.
    pub fn problem(self) -> Problem {
        if let Self::Rejected(rejection) = self {
            return rejection.problem();
        }
        let (status, proxy_status, reason) = match self {
            Self::Denied(reason) => (StatusCode::FORBIDDEN, "destination_ip_prohibited", reason.text()),
            Self::Dns => (StatusCode::BAD_GATEWAY, "dns_error", "the origin's name could not be resolved"),
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
            Self::Tls(error) => (StatusCode::BAD_GATEWAY, error.proxy_status(), error.reason()),
            Self::FirstByteTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "the origin did not respond within timeouts.first_byte, or limits.patience if that is not set",
            ),
            Self::BodyTimeout | Self::TotalTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "the origin's response did not arrive in time",
            ),
            Self::Closed => (
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "the origin closed the connection without a response",
            ),
            Self::NotProcessed => (
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "the origin repeatedly refused the request without processing it",
            ),
            Self::Cut => {
                (StatusCode::BAD_GATEWAY, "http_response_incomplete", "the origin's response was truncated")
            }
            Self::Protocol => return NOT_HTTP,
            Self::Switched => return SWITCHED,
            Self::Exhausted => return EXHAUSTED,
            Self::Parent(error) => return error.problem(),
            Self::Abandoned | Self::Rejected(_) | Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "proxy_internal_error",
                "larder failed; the request may be retried",
            ),
        };
        let class = if let Self::Tls(error) = self { error.class() } else { self.token() };
        Problem::new(status, class, reason, proxy_status)
    }
}

const NOT_HTTP: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "protocol",
    "the origin's response is not valid HTTP",
    "http_protocol_error",
);

const SWITCHED: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "protocol",
    "the origin switched to another protocol (101) unrequested",
    "http_protocol_error",
);

const EXHAUSTED: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "exhausted",
    "larder has no file descriptor left for a connection: raise its limit of open files (ulimit -n, \
     systemd's LimitNOFILE)",
    "proxy_internal_error",
);
