//! Which of CoinMarketCap's endpoints a request means.
//!
//! Owns: methods and paths. Never touches: what an endpoint answers.

use http::Method;

/// An endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Quotes, in the first form.
    QuotesV1,
    /// Quotes, in the second form.
    QuotesV2,
    /// Coins by rank.
    Listings,
    /// Figures of all coins together.
    Global,
    /// What the key may do and has done.
    KeyInfo,
    /// Nothing that this fake knows.
    Unknown,
}

impl Endpoint {
    /// What `method` on `path` means. `HEAD` is `GET` without the body.
    pub(super) fn of(method: &Method, path: &str) -> Self {
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
