//! Properties of the parsed limits for arbitrary fields of an origin.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

use crate::semantics::rate_limit::{MAX_TIME, RateLimitState, read};

/// 2016-08-02 20:50:18 UTC, with half a second.
const NOW: Duration = Duration::from_millis(1_470_171_018_500);

const NAMES: [&str; 14] = [
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-reset-after",
    "x-ratelimit-bucket",
    "x-ratelimit-resource",
    "x-ratelimit-scope",
    "x-ratelimit-global",
    "x-rate-limit-reset",
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        "-?[0-9]{0,30}(\\.[0-9]{0,30})?(;w=[0-9]{0,20})?(, [0-9]{1,4}){0,20}".prop_map(String::into_bytes),
        "(\"[a-c]\";(r|q|t|w)=[0-9]{1,15}(;(r|q|t|w|qu|pk)=[0-9a-z\":]{0,9})?,? ?){0,20}"
            .prop_map(String::into_bytes),
        "(limit|remaining|reset)=[0-9]{0,16}(, (limit|remaining|reset)=-?[0-9.]{0,16}){0,3}"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn parsed_limits_are_bounded_for_any_fields(
        fields in vec((select(&NAMES[..]), value()), 0..8),
        since in any::<u64>(),
    ) {
        let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        if let Some(quota) = read(&headers, now.unwrap_or(SystemTime::UNIX_EPOCH)) {
            prop_assert!(quota.resets_in.is_none_or(|time| time <= MAX_TIME));
            prop_assert!(quota.window.is_none_or(|time| !time.is_zero() && time <= MAX_TIME));
            let name = quota.bucket.as_ref().map_or("a", |bucket| &bucket.name);
            prop_assert!((1..=128).contains(&name.len()));
            prop_assert!(quota != RateLimitState::default());
        }
    }

    #[test]
    fn a_reset_has_the_same_meaning_in_every_notation(ahead in 0u64..2_764_800) {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let then = NOW + Duration::from_secs(ahead);
        for written in [
            ahead.to_string(),
            format!("{}.{:03}", then.as_secs(), then.subsec_millis()),
            then.as_millis().to_string(),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-ratelimit-reset", HeaderValue::from_str(&written).expect("a value"));
            let resets_in = read(&headers, now).and_then(|quota| quota.resets_in);
            prop_assert_eq!(resets_in, Some(Duration::from_secs(ahead)), "{}", written);
        }
    }

    #[test]
    fn a_bucket_name_is_neither_empty_nor_too_long(name in "[!-~]{0,200}", github in any::<bool>()) {
        let field = if github { "x-ratelimit-resource" } else { "x-ratelimit-bucket" };
        let mut headers = HeaderMap::new();
        headers.insert(field, HeaderValue::from_str(&name).expect("a value"));
        let bucket = read(&headers, SystemTime::UNIX_EPOCH + NOW).and_then(|quota| quota.bucket);
        prop_assert_eq!(bucket.is_some(), (1..=128).contains(&name.len()));
        prop_assert!(bucket.is_none_or(|b| *b.name == name && b.per_resource != github));
    }
}
