//! The CoinMarketCap endpoint of a request.
//!
//! Owns: methods and paths. Never touches: the response of an endpoint.

use http::Method;

/// An endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Quotes, version 1.
    QuotesV1,
    /// Quotes, version 2.
    QuotesV2,
    /// Coins by rank.
    Listings,
    /// Totals over all coins.
    Global,
    /// The limits and the usage of the key.
    KeyInfo,
    /// Not an endpoint of this fake.
    Unknown,
}

impl Endpoint {
    /// The endpoint of `method` and `path`. `HEAD` is `GET` without the body.
    pub(super) fn from_request(method: &Method, path: &str) -> Self {
        if method != Method::GET && method != Method::HEAD {
            return Self::Unknown;
        }
        match path {
            "/v1/cryptocurrency/quotes/latest" => Self::QuotesV1,
            "/v2/cryptocurrency/quotes/latest" => Self::QuotesV2,
            "/v1/cryptocurrency/listings/latest" => Self::Listings,
            "/v1/global-metrics/quotes/latest" => Self::Global,
            "/v1/key/info" => Self::KeyInfo,
            _ => Self::Unknown,
        }
    }

    /// The name under which calls are counted.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::QuotesV1 => "GET /v1/cryptocurrency/quotes/latest",
            Self::QuotesV2 => "GET /v2/cryptocurrency/quotes/latest",
            Self::Listings => "GET /v1/cryptocurrency/listings/latest",
            Self::Global => "GET /v1/global-metrics/quotes/latest",
            Self::KeyInfo => "GET /v1/key/info",
            Self::Unknown => "unknown",
        }
    }
}
