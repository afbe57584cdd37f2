//! A fake of CoinMarketCap's API: quotes, listings, global figures and key information for some 200
//! coins that are made up, with its limits, its error codes and its bill.
//!
//! Owns: the order of a call: script, address, key, minute, data, quota, bill.
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

/// How a fake starts, and what a reset returns to.
#[derive(Debug, Clone)]
pub struct Options {
    /// How it behaves at first.
    pub behaviour: Faults,
    /// How it behaves in the course of time, instead of `behaviour`.
    pub script: Option<Script>,
    /// The only key that is accepted; `None`: any.
    pub key: Option<String>,
    /// The limits that it keeps.
    pub plan: Plan,
    /// What a credit costs, in US dollars.
    pub price_per_credit: f64,
    /// Whether errors come with HTTP status 200, as at many APIs: only the body tells.
    pub errors_as_200: bool,
    /// Whether answers have a validator, so that a 304 costs nothing; the real ones have none.
    pub validators: bool,
    /// What windows, days, prices, phases and latencies run by.
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

/// What a plan allows; `None`: as much as you like. All keys are of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Calls in a minute that begins with the first of them.
    pub minute: Option<u64>,
    /// Credits in a day, by UTC.
    pub day: Option<u64>,
    /// Credits in a month, by UTC.
    pub month: Option<u64>,
    /// Calls of one address in a minute, with a key or without.
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

/// What was refused, by `error_code`.
type Refused = std::collections::BTreeMap<u32, u64>;

/// A running fake CoinMarketCap.
pub type Fake = server::FakeServer<CoinMarketCap>;

/// Starts a fake on `addr`; port 0 takes a free one.
pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Fake> {
    let Options { behaviour, script, key, plan, errors_as_200, validators, .. } = options;
    let ledger = Ledger::new(options.price_per_credit);
    let (minutes, addresses) = (Windows::default(), Windows::default());
    let refused = Refused::default();
    let api =
        CoinMarketCap { key, plan, errors_as_200, validators, minutes, addresses, ledger, refused };
    let script = script.unwrap_or_else(|| Script::from(behaviour));
    server::start(addr, api, script, options.clock).await
}

impl Fake {
    /// What all calls cost so far.
    pub fn bill(&self) -> Billing {
        self.look(|api| api.ledger.bill())
    }

    /// How many calls it refused of itself, by `error_code`; those that a script refused are not
    /// among them.
    pub fn refused(&self) -> Refused {
        self.look(|api| api.refused.clone())
    }
}

impl Api for CoinMarketCap {
    const PROBES: &'static [&'static str] = &["bill", "limits"];

    fn endpoint(method: &Method, path: &str) -> &'static str {
        Endpoint::of(method, path).pattern()
    }

    fn answer(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        match failure {
            Some(Failure::Status(status)) => {
                self.say(&ErrorCode::Status(status), call, Some(status))
            }
            Some(Failure::RateLimited(RateLimited { retry_after, code, .. })) => {
                let answer = self.say(&ErrorCode::Limit(code.unwrap_or(MINUTE)), call, None);
                match retry_after {
                    Some(seconds) => answer.with(RETRY_AFTER, &seconds),
                    None => answer,
                }
            }
            None => match self.reply(call) {
                Ok(answer) => answer,
                Err(refusal) => {
                    *self.refused.entry(refusal.code()).or_default() += 1;
                    self.say(&refusal, call, None)
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

/// What an endpoint has to say, and what it costs.
struct Reply {
    data: Value,
    credits: u64,
    // How many there are beyond those that are shown, where an endpoint tells.
    total: Option<usize>,
}

impl CoinMarketCap {
    fn reply(&mut self, call: &Call<'_>) -> Result<MockResponse, ErrorCode> {
        let query = Query::of(call.uri);
        self.admit(call, &query)?;
        let Reply { data, credits, total } = self.data(call, &query)?;
        let spent = self.ledger.spent(call.now);
        let over = |limit: Option<u64>, used: u64| limit.is_some_and(|most| used + credits > most);
        if over(self.plan.day, spent.day) {
            return Err(ErrorCode::Limit(DAY));
        }
        if over(self.plan.month, spent.month) {
            return Err(ErrorCode::Limit(MONTH));
        }
        let content = data.to_string();
        let mut status = error_code::status_of(call.now, 0, None, credits);
        if let Some(total) = total {
            status["total_count"] = json!(total);
        }
        let body = json!({ "status": status, "data": data });
        let mut answer = MockResponse::json(StatusCode::OK, Some(body));
        if self.validators {
            answer = answer.validated_by(content.as_bytes(), call.method, call.headers);
        }
        if answer.status == StatusCode::OK {
            self.ledger.charge(credits, call.now);
        }
        Ok(answer)
    }

    /// Lets in who is within the limits and has a key.
    fn admit(&mut self, call: &Call<'_>, query: &Query) -> Result<(), ErrorCode> {
        // Calls are counted without a limit too: the key is told how many there were.
        let rate = |limit: Option<u64>| Rate { limit: limit.unwrap_or(u64::MAX), window: A_MINUTE };
        if !self.addresses.take(call.client, rate(self.plan.address), call.now).within {
            return Err(ErrorCode::Limit(ADDRESS));
        }
        let key = call.field(&KEY);
        let key =
            if key.is_empty() { query.text("CMC_PRO_API_KEY").unwrap_or_default() } else { key };
        if key.is_empty() {
            return Err(ErrorCode::KeyMissing);
        }
        if self.key.as_ref().is_some_and(|known| *known != key) {
            return Err(ErrorCode::KeyInvalid);
        }
        if !self.minutes.take((), rate(self.plan.minute), call.now).within {
            return Err(ErrorCode::Limit(MINUTE));
        }
        Ok(())
    }

    fn data(&self, call: &Call<'_>, query: &Query) -> Result<Reply, ErrorCode> {
        match Endpoint::of(call.method, call.uri.path()) {
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
        // Asking what is left is free.
        Reply { data, credits: 0, total: None }
    }

    /// A refusal as it is sent; `status`: the one that a script insists on.
    fn say(
        &self,
        refusal: &ErrorCode,
        call: &Call<'_>,
        status: Option<StatusCode>,
    ) -> MockResponse {
        let usual = if self.errors_as_200 { StatusCode::OK } else { refusal.status() };
        MockResponse::json(status.unwrap_or(usual), Some(refusal.body(call.now)))
    }
}

const KEY: HeaderName = HeaderName::from_static("x-cmc_pro_api_key");
const A_MINUTE: Duration = Duration::from_secs(60);
const MINUTE: u32 = 1008;
const DAY: u32 = 1009;
const MONTH: u32 = 1010;
const ADDRESS: u32 = 1011;

#[cfg(test)]
mod tests;
