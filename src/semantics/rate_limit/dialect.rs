//! The rate limits of one API in its own words: which fields and body values state them, in which units.
//!
//! Owns: the table of a dialect, and reading a response with it. Never touches: the clock (`now` is a
//! parameter), the class of an error (`policy::upstream::ErrorRule`), what a limit means for later calls.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use crate::semantics::json_path::JsonPath;
use crate::semantics::rate_limit::unit::TimeUnit;
use crate::semantics::rate_limit::{LimitScope, LimitUnit, MAX_TIME, RateLimitState};
use crate::semantics::retry_after;
use crate::semantics::time_zone::TimeZone;

/// Where a dialect states its limits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LimitTable {
    /// Whether the fields of the generic reading (`X-RateLimit-*`, `RateLimit`) count, too.
    pub generic: bool,
    /// The limits in header fields.
    pub limits: Vec<LimitFields>,
    /// Times to wait in fields other than `Retry-After`.
    pub waits: Vec<(HeaderName, TimeUnit)>,
    /// Times to wait in the bodies of errors.
    pub body_waits: Vec<BodyWait>,
    /// A balance of cost points in bodies.
    pub balance: Option<Balance>,
}

/// One limit, in fields of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitFields {
    /// Its name in reports.
    pub name: Box<str>,
    /// The field with the number of a window.
    pub limit: Option<HeaderName>,
    /// The field with the number that is left.
    pub remaining: Option<HeaderName>,
    /// The field with both, as `32/40`.
    pub usage: Option<Usage>,
    /// When the window ends.
    pub reset: Option<Reset>,
    /// The length of the window, where no field states it.
    pub window: Option<Duration>,
    /// The unit that the limit counts.
    pub unit: LimitUnit,
    /// The scope of the limit.
    pub scope: LimitScope,
}

/// A field that states the used and the allowed number: `32/40`, or `api-usage=18/5000` after `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The field.
    pub field: HeaderName,
    /// The key before the numbers.
    pub key: Option<Box<str>>,
}

/// When a window ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Reset {
    /// As this field states.
    Field(HeaderName, TimeUnit),
    /// This long after the response.
    After(Duration),
    /// At midnight in this zone.
    Midnight(TimeZone),
}

/// A time to wait in a body.
#[derive(Debug, Clone, PartialEq)]
pub struct BodyWait {
    /// The path of the values.
    pub path: JsonPath,
    /// The words before the time, if the value is a sentence.
    pub after: Option<Box<str>>,
    /// The unit.
    pub unit: TimeUnit,
}

/// A balance of points that fills up at a constant rate (GraphQL APIs).
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// The path of the points that the request needed.
    pub requested: JsonPath,
    /// The path of the points that are there.
    pub available: JsonPath,
    /// The path of the most points that can be there.
    pub maximum: JsonPath,
    /// The path of the points that are added in a second.
    pub per_second: JsonPath,
}

impl LimitTable {
    /// Whether it reads bodies of errors, or with `is_error: false` those of other responses.
    pub fn reads_bodies(&self, is_error: bool) -> bool {
        self.balance.is_some() || is_error && !self.body_waits.is_empty()
    }

    /// The limits that a response states in the dialect's own fields and values.
    pub fn limits(&self, headers: &HeaderMap, json: Option<&Value>, now: SystemTime) -> Vec<RateLimitState> {
        let in_fields = self.limits.iter().filter_map(|limit| limit.read(headers, now));
        let balance = self.balance.as_ref().zip(json).and_then(|(balance, body)| balance.read(body));
        in_fields.chain(balance.map(Points::state)).collect()
    }

    /// The time that a response requests before the next call, beside `Retry-After`: the longest.
    pub fn wait(&self, headers: &HeaderMap, json: Option<&Value>, now: SystemTime) -> Option<Duration> {
        let all = self.waits.iter().flat_map(|(name, unit)| {
            headers.get_all(name).iter().filter_map(|value| unit.parse(value.as_bytes(), now))
        });
        let in_body = json.into_iter().flat_map(|body| {
            let waits = self.body_waits.iter().filter_map(|wait| wait.read(body, now));
            let balance = self.balance.as_ref().and_then(|balance| balance.read(body)?.wait());
            waits.chain(balance)
        });
        all.chain(in_body).max()
    }
}

impl LimitFields {
    fn read(&self, headers: &HeaderMap, now: SystemTime) -> Option<RateLimitState> {
        let field = |name: &Option<HeaderName>| number(headers.get(name.as_ref()?)?.as_bytes());
        let usage = self.usage.as_ref().and_then(|usage| usage.read(headers));
        let limit = usage.map(|(_, limit)| limit).or_else(|| field(&self.limit));
        let left = usage.map(|(used, limit)| limit.saturating_sub(used)).or_else(|| field(&self.remaining));
        let resets_in = match self.reset.as_ref() {
            Some(Reset::Field(name, unit)) => {
                headers.get(name).and_then(|value| unit.parse(value.as_bytes(), now))
            }
            Some(Reset::After(time)) => left.map(|_| *time),
            Some(Reset::Midnight(zone)) => left.map(|_| zone.until_midnight(now)),
            None => None,
        };
        let is_stated = limit.is_some() || left.is_some() || resets_in.is_some();
        is_stated.then(|| RateLimitState {
            name: self.name.clone(),
            limit,
            window: self.window,
            remaining: left,
            resets_in,
            unit: self.unit,
            scope: self.scope,
            bucket: None,
        })
    }
}

impl Usage {
    fn read(&self, headers: &HeaderMap) -> Option<(u64, u64)> {
        let lines = headers.get_all(&self.field).iter().filter_map(|value| value.to_str().ok());
        let mut members = lines.flat_map(|line| line.split([',', ';'])).map(str::trim);
        members.find_map(|member| {
            let numbers = match &self.key {
                Some(key) => member.strip_prefix(&**key)?.trim_start().strip_prefix('=')?,
                None => member,
            };
            let (used, limit) = numbers.trim().split_once('/')?;
            let digits = limit.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            Some((used.trim().parse().ok()?, digits.parse().ok()?))
        })
    }
}

impl BodyWait {
    fn read(&self, body: &Value, now: SystemTime) -> Option<Duration> {
        self.path.all(body).filter_map(|value| self.time(value, now)).max()
    }

    fn time(&self, value: &Value, now: SystemTime) -> Option<Duration> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        let Some(after) = &self.after else { return self.unit.parse(text.as_bytes(), now) };
        let (_, rest) = text.split_once(&**after)?;
        let word = rest.split_whitespace().next()?.trim_end_matches(['.', ',', ';', '!']);
        self.unit.parse(word.as_bytes(), now)
    }
}

/// The values of a balance.
#[derive(Clone, Copy)]
struct Points {
    requested: f64,
    available: f64,
    maximum: f64,
    per_second: f64,
}

impl Balance {
    fn read(&self, body: &Value) -> Option<Points> {
        let value = |path: &JsonPath| path.first(body)?.as_f64().filter(|number| *number >= 0.0);
        Some(Points {
            requested: value(&self.requested).unwrap_or_default(),
            available: value(&self.available)?,
            maximum: value(&self.maximum)?,
            per_second: value(&self.per_second).filter(|rate| *rate > 0.0)?,
        })
    }
}

impl Points {
    fn state(self) -> RateLimitState {
        RateLimitState {
            name: "points".into(),
            limit: whole(self.maximum),
            remaining: whole(self.available),
            resets_in: self.until(self.maximum),
            unit: LimitUnit::Other,
            ..RateLimitState::default()
        }
    }

    /// The time until the request can be repeated.
    fn wait(self) -> Option<Duration> {
        self.until(self.requested).filter(|time| !time.is_zero())
    }

    /// The time until there are so many points.
    fn until(self, points: f64) -> Option<Duration> {
        let missing = (points - self.available).max(0.0);
        Duration::try_from_secs_f64(missing / self.per_second).ok().filter(|time| *time <= MAX_TIME)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and is not negative"
)]
fn whole(points: f64) -> Option<u64> {
    points.is_finite().then_some(points as u64)
}

/// Negative numbers and other texts mean that there is no limit.
fn number(value: &[u8]) -> Option<u64> {
    let number = retry_after::seconds(value)?;
    (!value.trim_ascii().starts_with(b"-")).then_some(number.as_secs())
}
