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
        let all = [Self::QuotesV1, Self::QuotesV2, Self::Listings, Self::Global, Self::KeyInfo];
        let is_at = |one: &Self| one.pattern().strip_prefix("GET ") == Some(path);
        all.into_iter().find(is_at).unwrap_or(Self::Unknown)
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
