//! Discord's rate limits: global, for a shared resource, and per bucket and major parameter.
//!
//! Owns: which limit applies to a call, and the counts of exceeded limits. Never touches: the clock; the
//! responses.

use std::time::Duration;

use http::header::AUTHORIZATION;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::fake::api::Call;
pub use crate::fake::discord::ban::Ban;
use crate::fake::discord::response::{Bucket, bucket_name};
use crate::fake::faults::Scope;
use crate::fake::rate::{Acquired, Rate, Windows};

/// The limits that a fake enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The limit of each bucket (method and path template), major parameter and caller.
    pub route: Rate,
    /// The limit of all calls of a caller.
    pub global: Rate,
    /// The limits of single resources, shared by all callers.
    pub shared: Vec<Shared>,
    /// The rule for bans; `None`: no bans.
    pub ban: Option<Ban>,
}

/// A limit of one resource that all callers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The major parameter: the id of a guild, a channel or a webhook.
    pub resource: String,
    /// Its limit.
    pub rate: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        let rate = Rate { limit: 50, window: Duration::from_secs(1) };
        Self { route: rate, global: rate, shared: Vec::new(), ban: Some(Ban::default()) }
    }
}

/// The number of calls that exceeded a limit since the fake started or was reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exceeded {
    /// 429 for the limit of a bucket.
    pub user: u64,
    /// 429 for the global limit.
    pub global: u64,
    /// 429 for the limit of a shared resource.
    pub shared: u64,
    /// All 401, 403 and 429 that count towards a ban, including those of a script.
    pub invalid: u64,
    /// Bans.
    pub bans: u64,
    /// Calls during a ban.
    pub banned: u64,
}

impl Exceeded {
    /// Whether any limit was ever exceeded; the responses of a script do not count.
    pub fn any(&self) -> bool {
        let Self { user, global, shared, bans, banned, invalid: _ } = self;
        [user, global, shared, bans, banned].into_iter().any(|count| *count > 0)
    }

    pub(super) fn count(&mut self, scope: Scope) {
        match scope {
            Scope::User => self.user += 1,
            Scope::Global => self.global += 1,
            Scope::Shared => self.shared += 1,
        }
    }
}

/// Checks calls against all limits.
#[derive(Debug, Clone)]
pub(super) struct RateLimiter {
    limits: Limits,
    global: Windows<Caller>,
    shared: Windows<String>,
    routes: Windows<(&'static str, String, Caller)>,
}

/// The identity of a caller: a hash of its credentials, or of its address if it has none.
type Caller = u128;

/// The result of checking a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LimitResult {
    /// Within all limits; the current state of the bucket.
    Within(Bucket),
    /// Over this limit, for this long; the bucket, unless it is the global limit.
    Over(Scope, Duration, Option<Bucket>),
}

impl RateLimiter {
    pub(super) fn new(limits: Limits) -> Self {
        let (global, shared, routes) = Default::default();
        Self { limits, global, shared, routes }
    }

    /// Counts a call under the limits that apply to it.
    pub(super) fn check(&mut self, pattern: &'static str, call: &Call<'_>) -> LimitResult {
        let caller = caller(call);
        let global = self.global.acquire(caller, self.limits.global, call.now);
        if !global.within {
            return LimitResult::Over(Scope::Global, global.reset_after, None);
        }
        let major = major_parameter(call.uri.path());
        let bucket = |rate: Rate, Acquired { left, reset_after, .. }: Acquired| Bucket {
            name: bucket_name(pattern),
            limit: rate.limit,
            left,
            reset_after,
        };
        if let Some(Shared { rate, .. }) = self.limits.shared.iter().find(|shared| shared.resource == major) {
            let acquired = self.shared.acquire(major.to_owned(), *rate, call.now);
            if !acquired.within {
                let bucket = bucket(*rate, acquired);
                return LimitResult::Over(Scope::Shared, acquired.reset_after, Some(bucket));
            }
        }
        let rate = self.limits.route;
        let acquired = self.routes.acquire((pattern, major.to_owned(), caller), rate, call.now);
        let bucket = bucket(rate, acquired);
        if acquired.within {
            LimitResult::Within(bucket)
        } else {
            LimitResult::Over(Scope::User, acquired.reset_after, Some(bucket))
        }
    }
}

fn caller(call: &Call<'_>) -> Caller {
    let credentials = call.field(&AUTHORIZATION);
    let identity = if credentials.is_empty() { call.client.to_string() } else { credentials };
    xxh3_128(identity.as_bytes())
}

/// The first guild, channel or webhook in the path; empty if there is none.
fn major_parameter(path: &str) -> &str {
    let mut segments = path.split('/');
    segments.find(|segment| ["guilds", "channels", "webhooks"].contains(segment));
    segments.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_parameter_is_the_first_guild_channel_or_webhook() {
        let table = [
            ("/api/v10/guilds/7/members/8", "7"),
            ("/api/v10/channels/9/messages", "9"),
            ("/api/v10/webhooks/5/guilds/7", "5"),
            ("/api/v10/users/@me", ""),
            ("/api/v10/guilds", ""),
        ];
        for (path, id) in table {
            assert_eq!(major_parameter(path), id, "{path}");
        }
    }
}
