//! A fake of Discord's API: roles, members and the calling user, each answer determined by the ids
//! that are asked for; with Discord's limits, if it is told to keep any.
//!
//! Owns: the order of a call: ban, script, limits, data. Never touches: sockets, the clock.

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

/// How a fake starts, and what a reset returns to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `Cache-Control` of successful answers to `GET`; none by default, as at Discord.
    pub cache_control: Option<HeaderValue>,
    /// How it behaves at first.
    pub behaviour: Faults,
    /// How it behaves in the course of time, instead of `behaviour`.
    pub script: Option<Script>,
    /// The limits that it keeps; none: it announces some, and nobody ever exceeds them.
    pub limits: Option<Limits>,
    /// What windows, phases and latencies run by.
    pub clock: Clock,
}

/// The API.
#[derive(Debug, Clone)]
pub struct Discord {
    cache_control: Option<HeaderValue>,
    data: Data,
    door: Option<RateLimiter>,
    watch: BanTracker,
    exceeded: Exceeded,
}

/// A running fake Discord.
pub type Fake = server::FakeServer<Discord>;

/// Starts a fake on `addr`; port 0 takes a free one.
pub async fn start(addr: SocketAddr, options: Options) -> io::Result<Fake> {
    let Options { cache_control, behaviour, script, limits, clock } = options;
    let watch = BanTracker::new(limits.as_ref().and_then(|limits| limits.ban));
    let door = limits.map(RateLimiter::new);
    let (data, exceeded) = (Data::default(), Exceeded::default());
    let api = Discord { cache_control, data, door, watch, exceeded };
    let script = script.unwrap_or_else(|| Script::from(behaviour));
    server::start(addr, api, script, clock).await
}

impl Fake {
    /// What went beyond its limits so far.
    pub fn exceeded(&self) -> Exceeded {
        self.look(|discord| discord.exceeded.clone())
    }
}

impl Api for Discord {
    const PROBES: &'static [&'static str] = &["limits"];

    fn endpoint(method: &Method, path: &str) -> &'static str {
        Endpoint::of(method, path).pattern()
    }

    fn answer(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        if let Some(left) = self.watch.banned(call) {
            self.exceeded.banned += 1;
            return MockResponse::banned(left);
        }
        let answer = self.unbanned(call, failure);
        if is_invalid(&answer) {
            self.exceeded.invalid += 1;
            self.exceeded.bans += u64::from(self.watch.invalid(call));
        }
        answer
    }

    fn probe(&self, name: &str) -> Option<Value> {
        (name == "limits").then(|| serde_json::to_value(&self.exceeded).unwrap_or_default())
    }
}

impl Discord {
    fn unbanned(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse {
        let endpoint = Endpoint::of(call.method, call.uri.path());
        let announced = Bucket::announced(endpoint.pattern(), call.number);
        let announced = self.door.is_none().then_some(&announced);
        match failure {
            Some(Failure::Status(status)) => {
                with_bucket(MockResponse::error(status), announced, call.now)
            }
            Some(Failure::RateLimited(limited)) => scripted(limited, endpoint, call),
            None => self.within_limits(endpoint, call, announced),
        }
    }

    fn within_limits(
        &mut self,
        endpoint: Endpoint<'_>,
        call: &Call<'_>,
        announced: Option<&Bucket>,
    ) -> MockResponse {
        let Some(door) = &mut self.door else {
            return with_bucket(self.data(endpoint, call), announced, call.now);
        };
        match door.knock(endpoint.pattern(), call) {
            LimitResult::Within(bucket) => {
                with_bucket(self.data(endpoint, call), Some(&bucket), call.now)
            }
            LimitResult::Over(scope, wait, bucket) => {
                self.exceeded.count(scope);
                let answer = MockResponse::rate_limited(scope, Some(wait));
                with_bucket(answer, bucket.as_ref(), call.now)
            }
        }
    }

    fn data(&mut self, endpoint: Endpoint<'_>, call: &Call<'_>) -> MockResponse {
        let caller = call.field(&AUTHORIZATION);
        if caller.is_empty() && endpoint.is_about_the_caller() {
            return MockResponse::error(StatusCode::UNAUTHORIZED);
        }
        let sent = serde_json::from_slice(call.body).unwrap_or(Value::Null);
        let (status, value) = self.data.reply(endpoint, &sent, &caller);
        MockResponse::json(status, value)
            .validated(call.method, call.headers)
            .with_cache_control(call.method, self.cache_control.as_ref())
    }
}

/// A 429 that a script asks for. Without a time it says nothing about limits at all.
fn scripted(limited: RateLimited, endpoint: Endpoint<'_>, call: &Call<'_>) -> MockResponse {
    let wait = limited.retry_after.map(|seconds| std::time::Duration::from_secs(seconds.into()));
    let answer = MockResponse::rate_limited(limited.scope, wait);
    let told = wait.filter(|_| limited.scope != Scope::Global);
    let bucket = told.map(|wait| Bucket::empty(endpoint.pattern(), wait));
    with_bucket(answer, bucket.as_ref(), call.now)
}

/// Whether an answer brings a ban nearer: 401, 403 and 429, except where others share the blame.
fn is_invalid(answer: &MockResponse) -> bool {
    let counted = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
    let shared = answer.headers.get(response::SCOPE).is_some_and(|scope| scope == "shared");
    counted.contains(&answer.status) && !shared
}

#[cfg(test)]
mod tests;
