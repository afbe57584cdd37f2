//! The errors of pingora's connector: the only place that translates them from and to larder's.
//!
//! Owns: both mappings. Never touches: connecting.

use pingora_error::{Error, ErrorType};

use crate::upstream::connect::tls_error::TlsError;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::parent_error::ParentError;

/// The error type for pingora when this process or its host lacks the resources for a connection.
const EXHAUSTED: ErrorType = ErrorType::Custom("Exhausted");

/// The name of the error type for an error of the parent proxy; its number follows.
const PARENT: &str = "ParentProxy";

/// pingora's prefix of the rustls text. It keeps only the text of a failed handshake.
const TLS_CAUSE_PREFIX: &str = "tls connect error cause: ";

/// The error of a connection that pingora could not establish.
#[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; all others are one")]
pub(super) fn from_pingora(error: &Error) -> UpstreamError {
    use ErrorType::{
        ConnectTimedout, CustomCode, H2Error, HandshakeError, InvalidCert, TLSHandshakeFailure,
        TLSHandshakeTimedout, TLSWantX509Lookup,
    };
    match error.etype() {
        TLSHandshakeFailure | InvalidCert | TLSWantX509Lookup => {
            let text = error.to_string();
            // The first prefix is pingora's own: text that an origin controls only follows it.
            let cause = text.split_once(TLS_CAUSE_PREFIX).map_or("", |(_, cause)| cause);
            UpstreamError::Tls(TlsError::from_rustls_text(cause))
        }
        ConnectTimedout | TLSHandshakeTimedout => UpstreamError::ConnectTimeout,
        HandshakeError | H2Error => UpstreamError::Protocol,
        CustomCode(PARENT, number) => UpstreamError::Parent(ParentError::from_number(*number)),
        other if other == &EXHAUSTED => UpstreamError::Exhausted,
        _ => UpstreamError::Refused,
    }
}

/// The dialer's result, with its error as one of pingora's.
pub(super) fn to_pingora<T>(dialled: Result<T, UpstreamError>) -> pingora_error::Result<T> {
    dialled.map_err(|error| {
        if error == UpstreamError::Exhausted {
            Error::new_in(EXHAUSTED)
        } else if let UpstreamError::Parent(error) = error {
            Error::new_up(ErrorType::CustomCode(PARENT, error.number()))
        } else if error == UpstreamError::ConnectTimeout {
            Error::new_up(ErrorType::ConnectTimedout)
        } else {
            Error::new_up(ErrorType::ConnectRefused)
        }
    })
}
