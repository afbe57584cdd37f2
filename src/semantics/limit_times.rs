//! The times in an API's refusal, adjusted for a client that gets the same refusal later.
//!
//! Owns: which fields tell how long to wait, and their forms: seconds, milliseconds, times since 1970, units
//! (`6m0s`), the IETF draft's `t=`. Never touches: the meaning of other fields; the clock (`now` is an argument).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::semantics::date;

/// Numbers from this on are seconds since 1970, not a duration.
const EPOCH_SECONDS: f64 = 1e9;
/// Numbers from this on are milliseconds since 1970.
const EPOCH_MILLIS: f64 = 1e12;

/// The moment for which the fields of an older response are adjusted.
#[derive(Debug, Clone, Copy)]
pub struct LaterMoment {
    /// The time since the response arrived.
    pub elapsed: Duration,
    /// The time that is left at least: a shorter one would invite a call that is not made.
    pub at_least: Duration,
    /// The time of day.
    pub now: SystemTime,
}

/// Adjusts all times to wait in `headers`. `Retry-After` is added if it is missing.
pub fn adjust(headers: &mut HeaderMap, later: LaterMoment) {
    for (name, value) in &mut *headers {
        if let Some(adjusted) = adjusted(name, value, later) {
            *value = adjusted;
        }
    }
    if !headers.contains_key(RETRY_AFTER) {
        headers.extend(HeaderValue::try_from(whole(later.at_least, 1000)).map(|value| (RETRY_AFTER, value)));
    }
}

fn adjusted(name: &HeaderName, value: &HeaderValue, later: LaterMoment) -> Option<HeaderValue> {
    let (name, text) = (name.as_str(), value.to_str().ok()?.trim());
    let is_limit = name.contains("ratelimit") || name.contains("rate-limit");
    let text = if name == "ratelimit" {
        draft(text, later)
    } else if name.starts_with("retry-after") || is_limit && name.contains("reset") {
        number(name, text, later).or_else(|| units(text, later)).or_else(|| date(text, later))?
    } else {
        return None;
    };
    HeaderValue::try_from(text).ok()
}

/// A number of seconds or milliseconds, from now or from 1970.
fn number(name: &str, text: &str, later: LaterMoment) -> Option<String> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let since_epoch = later.now.duration_since(UNIX_EPOCH).ok()?;
    let least = since_epoch + later.at_least;
    if number >= EPOCH_MILLIS {
        return Some(text.to_owned())
            .filter(|_| number >= least.as_secs_f64() * 1000.0)
            .or(Some(whole(least, 1)));
    }
    if number >= EPOCH_SECONDS {
        return Some(text.to_owned()).filter(|_| number >= least.as_secs_f64()).or(Some(whole(least, 1000)));
    }
    let is_millis = name.ends_with("-ms") || name.contains("milliseconds");
    let time = Duration::try_from_secs_f64(if is_millis { number / 1000.0 } else { number }).ok()?;
    let left = left(time, later);
    Some(match (is_millis, text.contains('.')) {
        (true, _) => whole(left, 1),
        (false, true) => format!("{:.3}", left.as_secs_f64()),
        (false, false) => whole(left, 1000),
    })
}

/// `6m0s`, `12ms`.
fn units(text: &str, later: LaterMoment) -> Option<String> {
    let left = left(humantime::parse_duration(text).ok()?, later);
    Some(if left < Duration::from_secs(1) {
        format!("{}ms", whole(left, 1))
    } else {
        format!("{}s", whole(left, 1000))
    })
}

/// A date that is too early becomes a later one in the form of HTTP.
fn date(text: &str, later: LaterMoment) -> Option<String> {
    let until = date::parse(text.as_bytes(), later.now)?;
    let least = later.now.checked_add(later.at_least)?;
    (until < least).then(|| httpdate::fmt_http_date(least))
}

/// `"default";r=0;t=30`.
fn draft(text: &str, later: LaterMoment) -> String {
    let parts = text.split(';').map(|part| {
        let seconds = part.trim().strip_prefix("t=").and_then(|seconds| seconds.parse().ok());
        let left = seconds.map(|seconds| left(Duration::from_secs(seconds), later));
        left.map_or_else(|| part.to_owned(), |left| format!("t={}", whole(left, 1000)))
    });
    parts.collect::<Vec<_>>().join(";")
}

fn left(time: Duration, later: LaterMoment) -> Duration {
    time.saturating_sub(later.elapsed).max(later.at_least)
}

/// A time in units of this many milliseconds, rounded up and at least one.
fn whole(time: Duration, unit: u128) -> String {
    time.as_millis().div_ceil(unit).max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that a client gets 10 s later, if no call is made for another 3 s.
    fn later(name: &str, value: &str) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (elapsed, at_least) = (Duration::from_secs(10), Duration::from_secs(3));
        let name = HeaderName::try_from(name).unwrap();
        let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::try_from(value).unwrap())]);
        adjust(&mut headers, LaterMoment { elapsed, at_least, now });
        headers[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn each_form_of_time_becomes_the_time_left() {
        for (name, received, expected) in [
            ("retry-after", "30", "20"),
            ("retry-after", "5", "3"),
            ("retry-after", "Fri, 15 Jan 2027 08:00:00 GMT", "Fri, 15 Jan 2027 08:00:03 GMT"),
            ("retry-after", "Fri, 15 Jan 2027 09:00:00 GMT", "Fri, 15 Jan 2027 09:00:00 GMT"),
            ("retry-after-ms", "30000", "20000"),
            ("x-ratelimit-reset-after", "30.5", "20.500"),
            ("x-ratelimit-reset", "1800000020", "1800000020"),
            ("x-ratelimit-reset", "1799999999", "1800000003"),
            ("x-ratelimit-requests-reset", "1799999999000", "1800000003000"),
            ("x-ratelimit-reset-tokens", "6m0s", "350s"),
            ("x-ratelimit-reset-requests", "12ms", "3s"),
            ("ratelimit-reset", "60", "50"),
            ("ratelimit", "\"default\";r=0;t=30", "\"default\";r=0;t=20"),
            ("anthropic-ratelimit-tokens-reset", "2027-01-15T08:00:30Z", "2027-01-15T08:00:30Z"),
            ("x-ratelimit-limit", "5", "5"),
            ("x-ratelimit-reset", "soon", "soon"),
            ("content-length", "30", "30"),
        ] {
            assert_eq!(later(name, received), expected, "{name}: {received}");
        }
    }

    #[test]
    fn a_refusal_without_a_time_gets_one() {
        let mut headers = HeaderMap::new();
        let (elapsed, at_least) = (Duration::from_secs(10), Duration::from_millis(2100));
        adjust(&mut headers, LaterMoment { elapsed, at_least, now: UNIX_EPOCH });
        assert_eq!(headers[RETRY_AFTER], "3");
    }
}
