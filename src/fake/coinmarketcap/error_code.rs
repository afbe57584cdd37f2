//! CoinMarketCap's errors: an HTTP status, an `error_code` and a message.
//!
//! Owns: the codes, and the `status` object of every body. Never touches: the decision to refuse a call.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};

use crate::fake::coinmarketcap::calendar::stamp;

/// The reason why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ErrorCode {
    /// 1001: the key is invalid.
    KeyInvalid,
    /// 1002: the key is missing.
    KeyMissing,
    /// 1008 to 1011, or the code that a script sets.
    Limit(u32),
    /// An invalid parameter.
    Parameter(String),
    /// An HTTP status without an `error_code` of its own.
    Status(StatusCode),
}

impl ErrorCode {
    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::KeyInvalid | Self::KeyMissing => StatusCode::UNAUTHORIZED,
            Self::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Parameter(_) => StatusCode::BAD_REQUEST,
            Self::Status(status) => *status,
        }
    }

    /// The `error_code`; the HTTP status if the error has no code of its own.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::KeyInvalid => 1001,
            Self::KeyMissing => 1002,
            Self::Limit(code) => *code,
            Self::Parameter(_) | Self::Status(_) => self.status().as_u16().into(),
        }
    }

    /// The complete response body.
    pub(super) fn body(&self, now: SystemTime) -> Value {
        json!({ "status": status_object(now, self.code(), Some(&self.message()), 0) })
    }

    fn message(&self) -> String {
        let message = match self {
            Self::KeyInvalid => "This API Key is invalid.",
            Self::KeyMissing => "API key missing.",
            Self::Limit(1009) => "You've exceeded your API Key's daily rate limit.",
            Self::Limit(1010) => "You've exceeded your API Key's monthly rate limit.",
            Self::Limit(1011) => "You've hit an IP rate limit.",
            Self::Limit(_) => {
                "You've exceeded your API Key's HTTP request rate limit. Rate limits reset every \
                 minute."
            }
            Self::Parameter(message) => message,
            Self::Status(StatusCode::INTERNAL_SERVER_ERROR) => "An internal server error occurred",
            Self::Status(status) => status.canonical_reason().unwrap_or("Unknown"),
        };
        message.to_owned()
    }
}

/// The `status` object of a body.
pub(super) fn status_object(now: SystemTime, code: u32, message: Option<&str>, credits: u64) -> Value {
    json!({
        "timestamp": stamp(now),
        "error_code": code,
        "error_message": message,
        "elapsed": 10,
        "credit_count": credits,
        "notice": null,
    })
}
