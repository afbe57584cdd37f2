//! A fake of CoinMarketCap's API: quotes, listings, global figures and key information for some 200
//! invented coins, with its limits, its error codes and its bill.
//!
//! Owns: the processing order of a call: script, address limit, key, minute limit, data, quota, bill.
//! Never touches: sockets, the clock.

pub mod billing;
mod calendar;
mod coins;
mod endpoint;
mod error_code;
mod global_metrics;
mod query;
mod quotes;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::fake::api::{Api, Call, Failure};
use crate::fake::coinmarketcap::billing::{Billing, Ledger};
use crate::fake::coinmarketcap::endpoint::Endpoint;
use crate::fake::coinmarketcap::error_code::ErrorCode;
use crate::fake::coinmarketcap::query::Query;
use crate::fake::faults::{Faults, RateLimited};
use crate::fake::rate::{Rate, Windows};
use crate::fake::response::MockResponse;
use crate::fake::script::Script;
use crate::fake::server;

/// The initial options of a fake, which a reset restores.
#[derive(Debug, Clone)]
pub struct Options {
    /// The initial faults.
    pub behaviour: Faults,
    /// The faults over time, instead of `behaviour`.
    pub script: Option<Script>,
    /// The only accepted key; `None`: any key is accepted.
    pub key: Option<String>,
    /// The limits that it enforces.
    pub plan: Plan,
    /// The price of a credit, in US dollars.
    pub price_per_credit: f64,
    /// Whether errors have HTTP status 200, as at many APIs, so that only the body contains the error.
    pub errors_as_200: bool,
    /// Whether responses have a validator, so that a 304 costs nothing; the real API sends none.
    pub validators: bool,
    /// The clock for windows, days, prices, phases and latencies.
    pub clock: Clock,
}

impl Default for Options {
    /// No limits, no faults, any key, and the price of product plans with 300,000 credits.
    fn default() -> Self {
        Self {
            behaviour: Faults::default(),
            script: None,
            key: None,
            plan: Plan::default(),
            price_per_credit: 0.00167,
            errors_as_200: false,
            validators: false,
            clock: Clock::default(),
        }
    }
}

/// The limits of a plan; `None`: unlimited. All keys belong to one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Calls in a minute that begins with the first call.
    pub minute: Option<u64>,
    /// Credits in a day, by UTC.
    pub day: Option<u64>,
    /// Credits in a month, by UTC.
    pub month: Option<u64>,
    /// Calls of one client address in a minute, with a key or without.
    pub address: Option<u64>,
}

/// The API.
#[derive(Debug, Clone)]
pub struct CoinMarketCap {
    key: Option<String>,
    plan: Plan,
    errors_as_200: bool,
    validators: bool,
    minutes: Windows<()>,
    addresses: Windows<IpAddr>,
    ledger: Ledger,
    refused: Refused,
}

/// The number of refused calls, by `error_code`.
type Refused = std::collections::BTreeMap<u32, u64>;

/// A running fake CoinMarketCap.
pub type Fake = server::FakeServer<CoinMarketCap>;

/// Starts a fake on `addr`; port 0 selects a free one.
pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Fake> {
    let Options { behaviour, script, key, plan, errors_as_200, validators, .. } = options;
    let ledger = Ledger::new(options.price_per_credit);
    let (minutes, addresses) = (Windows::default(), Windows::default());
    let refused = Refused::default();
    let api = CoinMarketCap { key, plan, errors_as_200, validators, minutes, addresses, ledger, refused };
    let script = script.unwrap_or_else(|| Script::from(behaviour));
    server::start(addr, api, script, options.clock).await
}

impl Fake {
    /// The cost of all calls so far.
    pub fn bill(&self) -> Billing {
        self.with_api(|api| api.ledger.bill())
    }

    /// The number of calls that the fake's own limits and checks refused, by `error_code`, without those
    /// that a script refused.
    pub fn refused(&self) -> Refused {
        self.with_api(|api| api.refused.clone())
    }
}

impl Api for CoinMarketCap {
    const PROBES: &'static [&'static str] = &["bill", "limits"];

    fn endpoint(method: &Method, path: &str) -> &'static str {
        Endpoint::from_request(method, path).pattern()
    }

    fn respond(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        match failure {
            Some(Failure::Status(status)) => {
                self.error_response(&ErrorCode::Status(status), call, Some(status))
            }
            Some(Failure::RateLimited(RateLimited { retry_after, code, .. })) => {
                let response =
                    self.error_response(&ErrorCode::Limit(code.unwrap_or(MINUTE_LIMIT)), call, None);
                match retry_after {
                    Some(seconds) => response.with(RETRY_AFTER, &seconds),
                    None => response,
                }
            }
            None => match self.reply(call) {
                Ok(response) => response,
                Err(error) => {
                    *self.refused.entry(error.code()).or_default() += 1;
                    self.error_response(&error, call, None)
                }
            },
        }
    }

    fn probe(&self, name: &str) -> Option<Value> {
        match name {
            "bill" => serde_json::to_value(self.ledger.bill()).ok(),
            "limits" => serde_json::to_value(&self.refused).ok(),
            _ => None,
        }
    }
}

/// The data of an endpoint, and its cost in credits.
struct Reply {
    data: Value,
    credits: u64,
    // The number of all items, including those beyond this page, where the endpoint returns it.
    total: Option<usize>,
}

impl CoinMarketCap {
    fn reply(&mut self, call: &Call<'_>) -> Result<MockResponse, ErrorCode> {
        let query = Query::from_uri(call.uri);
        self.check_access(call, &query)?;
        let Reply { data, credits, total } = self.data(call, &query)?;
        let spent = self.ledger.spent(call.now);
        let exceeds = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used + credits > limit);
        if exceeds(self.plan.day, spent.day) {
            return Err(ErrorCode::Limit(DAY_LIMIT));
        }
        if exceeds(self.plan.month, spent.month) {
            return Err(ErrorCode::Limit(MONTH_LIMIT));
        }
        let serialized = data.to_string();
        let mut status = error_code::status_object(call.now, 0, None, credits);
        if let Some(total) = total {
            status["total_count"] = json!(total);
        }
        let body = json!({ "status": status, "data": data });
        let mut response = MockResponse::json(StatusCode::OK, Some(body));
        if self.validators {
            response = response.validated_by(serialized.as_bytes(), call.method, call.headers);
        }
        if response.status == StatusCode::OK {
            self.ledger.charge(credits, call.now);
        }
        Ok(response)
    }

    /// Checks the limits and the key.
    fn check_access(&mut self, call: &Call<'_>, query: &Query) -> Result<(), ErrorCode> {
        // Calls are counted even without a limit: `/v1/key/info` returns their number.
        let rate = |limit: Option<u64>| Rate { limit: limit.unwrap_or(u64::MAX), window: ONE_MINUTE };
        if !self.addresses.acquire(call.client, rate(self.plan.address), call.now).within {
            return Err(ErrorCode::Limit(ADDRESS_LIMIT));
        }
        let key = call.field(&KEY);
        let key = if key.is_empty() { query.text("CMC_PRO_API_KEY").unwrap_or_default() } else { key };
        if key.is_empty() {
            return Err(ErrorCode::KeyMissing);
        }
        if self.key.as_ref().is_some_and(|known| *known != key) {
            return Err(ErrorCode::KeyInvalid);
        }
        if !self.minutes.acquire((), rate(self.plan.minute), call.now).within {
            return Err(ErrorCode::Limit(MINUTE_LIMIT));
        }
        Ok(())
    }

    fn data(&self, call: &Call<'_>, query: &Query) -> Result<Reply, ErrorCode> {
        match Endpoint::from_request(call.method, call.uri.path()) {
            Endpoint::QuotesV1 => quotes::latest(query, quotes::Version::One, call.now),
            Endpoint::QuotesV2 => quotes::latest(query, quotes::Version::Two, call.now),
            Endpoint::Listings => quotes::listings(query, call.now),
            Endpoint::Global => global_metrics::latest(query, call.now),
            Endpoint::KeyInfo => Ok(self.key_info(call)),
            Endpoint::Unknown => Err(ErrorCode::Status(StatusCode::NOT_FOUND)),
        }
    }

    fn key_info(&self, call: &Call<'_>) -> Reply {
        let minute = self.minutes.used(&(), call.now);
        let data = billing::key_info(self.plan, minute, self.ledger.spent(call.now), call.now);
        // This endpoint costs no credits.
        Reply { data, credits: 0, total: None }
    }

    /// The response to a refused call; `status`: the HTTP status that a script requires.
    fn error_response(&self, error: &ErrorCode, call: &Call<'_>, status: Option<StatusCode>) -> MockResponse {
        let usual = if self.errors_as_200 { StatusCode::OK } else { error.status() };
        MockResponse::json(status.unwrap_or(usual), Some(error.body(call.now)))
    }
}

const KEY: HeaderName = HeaderName::from_static("x-cmc_pro_api_key");
const ONE_MINUTE: Duration = Duration::from_secs(60);
const MINUTE_LIMIT: u32 = 1008;
const DAY_LIMIT: u32 = 1009;
const MONTH_LIMIT: u32 = 1010;
const ADDRESS_LIMIT: u32 = 1011;

#[cfg(test)]
mod tests;
