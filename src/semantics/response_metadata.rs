//! The cache-relevant fields of a response, parsed once.
//!
//! Owns: parsing and validation of `Date`, `Expires`, `Age`, `Last-Modified`, `ETag` (RFC 9110 §6.6, §8.8,
//! RFC 9111 §5); the metadata by each targeted field (RFC 9213).
//! Never touches: the consequences of the metadata, the body.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, ETAG, EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED, SET_COOKIE};
use http::{HeaderName, StatusCode};

use crate::semantics::cache_control::{CacheControl, Directive, delta_seconds};
use crate::semantics::date;
use crate::semantics::field_list;
use crate::semantics::status;
use crate::semantics::targeted_cache_control;

/// The part of a response's head that determines freshness, storability and validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMetadata {
    /// The cache directives.
    pub cache_control: CacheControl,
    /// `no-store`, after applying `must-understand` and the status (RFC 9111 §5.2.2.3).
    pub no_store: bool,
    /// `Date`, if it is valid.
    pub date: Option<SystemTime>,
    /// `Expires`, if it is present.
    pub expires: Option<Expires>,
    /// `Age`, clamped. `None` if it is absent or malformed (RFC 9111 §5.1).
    pub age: Option<Duration>,
    /// `Last-Modified`, if it is a valid date.
    pub last_modified: Option<LastModified>,
    /// `ETag`.
    pub etag: Option<EntityTag>,
    /// Whether the response has a `Set-Cookie`.
    pub has_set_cookie: bool,
    /// The metadata for caches that use a targeted field, whose directives replace `Cache-Control` and
    /// `Expires`. Contains only valid fields (RFC 9213 §2.1), so it is short or empty.
    pub targeted: Vec<(HeaderName, Self)>,
}

/// `Expires` (RFC 9111 §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// The given time.
    At(SystemTime),
    /// An invalid date, or several values, which counts as a time in the past.
    Past,
}

/// `Last-Modified` (RFC 9110 §8.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastModified {
    /// The parsed time.
    pub time: SystemTime,
    /// The value as received, to send back unchanged.
    pub raw: HeaderValue,
}

/// `ETag` (RFC 9110 §8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// The value as received, to send back unchanged.
    pub raw: HeaderValue,
    /// Whether the tag only guarantees equivalence, not equal bytes.
    pub weak: bool,
}

impl EntityTag {
    /// Parses one tag. A tag without quotes is not a valid entity-tag, but some origins send and compare such
    /// tags, so it counts as weak. A value that could be read as a list or as `*` is rejected.
    pub fn parse(raw: &HeaderValue) -> Option<Self> {
        let opaque = raw.as_bytes();
        let opaque = opaque.strip_prefix(b"W/").unwrap_or(opaque);
        let (inner, quoted) = match opaque {
            [b'"', inner @ .., b'"'] => (inner, true),
            bare => (bare, false),
        };
        let bare = |b: &u8| b.is_ascii_graphic() && !matches!(b, b',' | b'*');
        let sound = !inner.contains(&b'"') && (quoted || (!inner.is_empty() && inner.iter().all(bare)));
        let weak = !quoted || opaque.len() < raw.len();
        sound.then(|| Self { raw: raw.clone(), weak })
    }

    /// The tag without its `W/`, for weak comparison (RFC 9110 §8.8.3.2).
    pub fn opaque(&self) -> &[u8] {
        let raw = self.raw.as_bytes();
        raw.strip_prefix(b"W/").unwrap_or(raw)
    }
}

impl CacheMetadata {
    /// Approximate heap memory in bytes, without the struct itself.
    pub fn weight(&self) -> usize {
        const MEMBER: usize = 2 * size_of::<(HeaderName, CacheMetadata)>() + 64;
        let targeted = self.targeted.iter();
        let targeted = targeted.map(|(name, metadata)| MEMBER + name.as_str().len() + metadata.weight());
        self.cache_control.weight() + targeted.sum::<usize>()
    }

    /// Reads the metadata of a response with this status and these fields.
    pub fn from_response(status: StatusCode, headers: &HeaderMap) -> Self {
        let cache_control = CacheControl::from_response(headers);
        let date = headers.get(DATE).and_then(|value| date::parse_undated(value.as_bytes()));
        let mut metadata = Self {
            no_store: no_store(status, &cache_control),
            cache_control,
            date,
            expires: expires(headers, date),
            age: age(headers),
            last_modified: last_modified(headers, date),
            etag: only_value(headers, &ETAG).and_then(EntityTag::parse),
            has_set_cookie: headers.contains_key(SET_COOKIE),
            targeted: Vec::new(),
        };
        for name in headers.keys().filter(|name| targeted_cache_control::is_targeted(name)) {
            if let Some(cache_control) = targeted_cache_control::read(headers, name) {
                let targeted = metadata.with_targeted(status, cache_control);
                metadata.targeted.push((name.clone(), targeted));
            }
        }
        metadata
    }

    /// The metadata for a cache that uses these targeted fields: that of the first field in `targets` which
    /// is present and valid, otherwise that of `Cache-Control` and `Expires` (RFC 9213 §2.2).
    pub fn select_targeted(&self, targets: &[HeaderName]) -> &Self {
        if self.targeted.is_empty() {
            return self;
        }
        let for_target = |target: &HeaderName| self.targeted.iter().find(|(name, _)| name == target);
        targets.iter().find_map(for_target).map_or(self, |(_, metadata)| metadata)
    }

    /// Whether `Last-Modified` is a strong validator (RFC 9110 §8.8.2.2): the response was made after that
    /// second, so no further change can have the same date.
    pub fn has_strong_date(&self) -> bool {
        let changed = self.last_modified.as_ref().map(|changed| changed.time);
        changed.zip(self.date).is_some_and(|(changed, received)| changed < received)
    }

    fn with_targeted(&self, status: StatusCode, cache_control: CacheControl) -> Self {
        Self {
            no_store: no_store(status, &cache_control),
            cache_control,
            expires: None,
            targeted: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether the response has a validator for revalidation (RFC 9111 §4.3.1).
    pub fn has_validator(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

/// RFC 9111 §5.2.2.3: `must-understand` overrides a `no-store` if larder understands the status, and forbids
/// storing if it does not.
fn no_store(status: StatusCode, cache_control: &CacheControl) -> bool {
    if cache_control.has(Directive::MustUnderstand) {
        !status::is_understood(status)
    } else {
        cache_control.has(Directive::NoStore)
    }
}

fn expires(headers: &HeaderMap, date: Option<SystemTime>) -> Option<Expires> {
    // Not `only_value`: several lines are an invalid value, which counts as a past time.
    let mut lines = headers.get_all(EXPIRES).iter();
    let first = lines.next()?;
    let read = if lines.next().is_some() { None } else { parse_date(first, date) };
    Some(read.map_or(Expires::Past, Expires::At))
}

/// RFC 9111 §5.1: the first member of a list applies. If it is not a number, the field is ignored.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let first = field_list::members(headers.get_all(AGE)).next()?;
    delta_seconds(first)
}

fn last_modified(headers: &HeaderMap, date: Option<SystemTime>) -> Option<LastModified> {
    let raw = only_value(headers, &LAST_MODIFIED)?;
    Some(LastModified { time: parse_date(raw, date)?, raw: raw.clone() })
}

/// Parses a date in a response. The response's `Date` determines the century of a two-digit year.
fn parse_date(value: &HeaderValue, date: Option<SystemTime>) -> Option<SystemTime> {
    match date {
        Some(near) => date::parse(value.as_bytes(), near),
        None => date::parse_undated(value.as_bytes()),
    }
}

/// The field's value, if it has exactly one.
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::semantics::cache_control::MAX_DELTA;
    use crate::semantics::response_metadata::{CacheMetadata, Expires};

    fn metadata(fields: &[(&'static str, &'static str)]) -> CacheMetadata {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        CacheMetadata::from_response(StatusCode::OK, &headers)
    }

    #[test]
    fn only_the_first_member_of_age_applies_if_it_is_a_number() {
        // RFC 9111 §5.1.
        for (lines, expected) in [
            (vec!["30"], Some(30)),
            (vec!["30, 7200"], Some(30)),
            (vec!["30", "7200"], Some(30)),
            (vec!["0"], Some(0)),
            (vec!["4294967296"], Some(MAX_DELTA.as_secs())),
            (vec!["abc"], None),
            (vec!["abc, 30"], None),
            (vec!["-30"], None),
            (vec!["30.5"], None),
            (vec!["\"30\""], None),
            (vec![""], None),
            (vec![], None),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("age", *line)).collect();
            assert_eq!(metadata(&fields).age, expected.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn an_invalid_or_repeated_expires_is_in_the_past() {
        // RFC 9111 §5.3.
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(metadata(&[]).expires, None);
        assert!(matches!(metadata(&[("expires", DATE)]).expires, Some(Expires::At(_))));
        assert_eq!(metadata(&[("expires", "0")]).expires, Some(Expires::Past));
        assert_eq!(metadata(&[("expires", "")]).expires, Some(Expires::Past));
        assert_eq!(metadata(&[("expires", DATE), ("expires", DATE)]).expires, Some(Expires::Past));
    }

    #[test]
    fn the_responses_date_determines_the_century_of_two_digit_years() {
        let fields = |date| metadata(&[("date", date), ("expires", "Monday, 01-Jun-77 00:00:00 GMT")]);
        let (old, new) = (fields("Wed, 01 Jun 1977 00:00:00 GMT"), fields("Fri, 01 Jun 2040 00:00:00 GMT"));
        assert_eq!(old.expires, Some(Expires::At(old.date.unwrap())));
        assert!(matches!(new.expires, Some(Expires::At(at)) if at > new.date.unwrap()));
    }

    #[test]
    fn entity_tags_are_weak_or_strong_and_never_a_list() {
        for (raw, expected) in [
            ("\"a\"", Some(false)),
            ("\"\"", Some(false)),
            ("W/\"a\"", Some(true)),
            ("w/\"a\"", None),
            ("\"a,b\"", Some(false)),
            ("bare", Some(true)),
            ("*", None),
            ("", None),
            ("\"a\", \"b\"", None),
            ("a,b", None),
            ("\"a", None),
        ] {
            assert_eq!(metadata(&[("etag", raw)]).etag.map(|tag| tag.weak), expected, "{raw:?}");
        }
        assert_eq!(metadata(&[("etag", "\"a\""), ("etag", "\"b\"")]).etag, None);
    }

    #[test]
    fn must_understand_overrides_or_implies_no_store() {
        // RFC 9111 §5.2.2.3.
        let with = |status: u16, line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", HeaderValue::from_static(line));
            CacheMetadata::from_response(StatusCode::from_u16(status).unwrap(), &headers).no_store
        };
        assert!(with(200, "no-store"));
        assert!(!with(200, "must-understand, no-store"));
        assert!(with(299, "must-understand, no-store"));
        assert!(with(299, "must-understand, max-age=60"));
        assert!(!with(299, "max-age=60"));
    }

    #[test]
    fn the_first_valid_targeted_field_replaces_cache_control_and_expires() {
        // RFC 9213 §2.2, §3.1.
        const NAMES: [HeaderName; 2] = [
            HeaderName::from_static("examplecdn-cache-control"),
            HeaderName::from_static("cdn-cache-control"),
        ];
        let secs = |n| Some(Duration::from_secs(n));
        let all = metadata(&[
            ("cache-control", "no-store, max-age=60, s-maxage=120"),
            ("expires", "0"),
            ("cdn-cache-control", "max-age=600"),
            ("examplecdn-cache-control", ""),
            ("age", "7"),
        ]);
        let targeted = all.select_targeted(&NAMES);
        assert_eq!((targeted.cache_control.max_age, targeted.cache_control.s_maxage), (secs(600), None));
        assert_eq!((targeted.no_store, targeted.expires, targeted.age), (false, None, secs(7)));
        let plain = all.select_targeted(&[]);
        assert_eq!((plain.no_store, plain.expires), (true, Some(Expires::Past)));
        assert_eq!(all.select_targeted(&NAMES[..1]), plain, "an empty field counts as absent");
        let both =
            metadata(&[("cdn-cache-control", "max-age=600"), ("examplecdn-cache-control", "no-store")]);
        assert!(both.select_targeted(&NAMES).no_store);
        assert!(!both.select_targeted(&NAMES[1..]).no_store);
        assert_eq!(metadata(&[("cache-control", "max-age=1")]).targeted, []);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_field_are_read(
            values in vec(vec(any::<u8>(), 0..40), 12),
            status in 100u16..1000,
        ) {
            let mut headers = HeaderMap::new();
            let names = ["date", "expires", "age", "last-modified", "etag", "cache-control"];
            for (name, value) in names.into_iter().cycle().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(HeaderName::from_static(name), value);
                }
            }
            let metadata = CacheMetadata::from_response(StatusCode::from_u16(status).unwrap(), &headers);
            assert_eq!(metadata.expires.is_some(), headers.contains_key("expires"));
            assert!(metadata.age.is_none_or(|age| age <= MAX_DELTA));
        }
    }
}
