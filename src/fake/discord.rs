//! A fake of Discord's API: roles, members and the calling user, each response determined by the ids in
//! the request; optionally with Discord's rate limits.
//!
//! Owns: the processing order of a call: ban, script, limits, data. Never touches: sockets, the clock.

mod ban;
mod data;
mod endpoint;
pub mod limits;
mod response;

use std::io;
use std::net::SocketAddr;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::clock::Clock;
use crate::fake::api::{Api, Call, Failure};
pub use crate::fake::call_log::CallLog;
use crate::fake::discord::ban::BanTracker;
use crate::fake::discord::data::Data;
use crate::fake::discord::endpoint::Endpoint;
use crate::fake::discord::limits::{Exceeded, LimitResult, Limits, RateLimiter};
use crate::fake::discord::response::{Bucket, with_bucket};
pub use crate::fake::faults;
use crate::fake::faults::{Faults, RateLimited, Scope};
use crate::fake::response::MockResponse;
use crate::fake::script::Script;
use crate::fake::server;

/// The initial options of a fake, which a reset restores.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `Cache-Control` of successful responses to `GET`; none by default, as at Discord.
    pub cache_control: Option<HeaderValue>,
    /// The initial faults.
    pub behaviour: Faults,
    /// The faults over time, instead of `behaviour`.
    pub script: Option<Script>,
    /// The limits that it enforces; `None`: it announces limits but never enforces any.
    pub limits: Option<Limits>,
    /// The clock for windows, phases and latencies.
    pub clock: Clock,
}

/// The API.
#[derive(Debug, Clone)]
pub struct Discord {
    cache_control: Option<HeaderValue>,
    data: Data,
    limiter: Option<RateLimiter>,
    ban_tracker: BanTracker,
    exceeded: Exceeded,
}

/// A running fake Discord.
pub type Fake = server::FakeServer<Discord>;

/// Starts a fake on `addr`; port 0 selects a free one.
pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Fake> {
    let Options { cache_control, behaviour, script, limits, clock } = options;
    let ban_tracker = BanTracker::new(limits.as_ref().and_then(|limits| limits.ban));
    let limiter = limits.map(RateLimiter::new);
    let (data, exceeded) = (Data::default(), Exceeded::default());
    let api = Discord { cache_control, data, limiter, ban_tracker, exceeded };
    let script = script.unwrap_or_else(|| Script::from(behaviour));
    server::start(addr, api, script, clock).await
}

impl Fake {
    /// The number of calls that exceeded its limits so far.
    pub fn exceeded(&self) -> Exceeded {
        self.with_api(|discord| discord.exceeded.clone())
    }
}

impl Api for Discord {
    const PROBES: &'static [&'static str] = &["limits"];

    fn endpoint(method: &Method, path: &str) -> &'static str {
        Endpoint::from_request(method, path).pattern()
    }

    fn respond(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        if let Some(remaining) = self.ban_tracker.remaining_ban(call) {
            self.exceeded.banned += 1;
            return MockResponse::banned(remaining);
        }
        let response = self.respond_to_unbanned(call, failure);
        if counts_as_invalid(&response) {
            self.exceeded.invalid += 1;
            self.exceeded.bans += u64::from(self.ban_tracker.record_invalid(call));
        }
        response
    }

    fn probe(&self, name: &str) -> Option<Value> {
        (name == "limits").then(|| serde_json::to_value(&self.exceeded).unwrap_or_default())
    }
}

impl Discord {
    fn respond_to_unbanned(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        let endpoint = Endpoint::from_request(call.method, call.uri.path());
        let announced = Bucket::announced(endpoint.pattern(), call.number);
        let announced = self.limiter.is_none().then_some(&announced);
        match failure {
            Some(Failure::Status(status)) => with_bucket(MockResponse::error(status), announced, call.now),
            Some(Failure::RateLimited(limited)) => scripted_rate_limit(limited, endpoint, call),
            None => self.within_limits(endpoint, call, announced),
        }
    }

    fn within_limits(
        &mut self,
        endpoint: Endpoint<'_>,
        call: &Call<'_>,
        announced: Option<&Bucket>,
    ) -> MockResponse {
        let Some(limiter) = &mut self.limiter else {
            return with_bucket(self.data(endpoint, call), announced, call.now);
        };
        match limiter.check(endpoint.pattern(), call) {
            LimitResult::Within(bucket) => with_bucket(self.data(endpoint, call), Some(&bucket), call.now),
            LimitResult::Over(scope, wait, bucket) => {
                self.exceeded.count(scope);
                let response = MockResponse::rate_limited(scope, Some(wait));
                with_bucket(response, bucket.as_ref(), call.now)
            }
        }
    }

    fn data(&mut self, endpoint: Endpoint<'_>, call: &Call<'_>) -> MockResponse {
        let caller = call.field(&AUTHORIZATION);
        if caller.is_empty() && endpoint.requires_credentials() {
            return MockResponse::error(StatusCode::UNAUTHORIZED);
        }
        let sent = serde_json::from_slice(call.body).unwrap_or(Value::Null);
        let (status, value) = self.data.reply(endpoint, &sent, &caller);
        MockResponse::json(status, value)
            .validated(call.method, call.headers)
            .with_cache_control(call.method, self.cache_control.as_ref())
    }
}

/// A 429 that a script requests. Without a time it has no rate limit fields at all.
fn scripted_rate_limit(limited: RateLimited, endpoint: Endpoint<'_>, call: &Call<'_>) -> MockResponse {
    let wait = limited.retry_after.map(|seconds| std::time::Duration::from_secs(seconds.into()));
    let response = MockResponse::rate_limited(limited.scope, wait);
    let bucket_wait = wait.filter(|_| limited.scope != Scope::Global);
    let bucket = bucket_wait.map(|wait| Bucket::empty(endpoint.pattern(), wait));
    with_bucket(response, bucket.as_ref(), call.now)
}

/// Whether a response counts towards a ban: 401, 403 and 429, except a 429 of a shared limit.
fn counts_as_invalid(response: &MockResponse) -> bool {
    let invalid = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
    let shared = response.headers.get(response::SCOPE).is_some_and(|scope| scope == "shared");
    invalid.contains(&response.status) && !shared
}

#[cfg(test)]
mod tests;
