//! What a response says about its own reuse, read once from its fields.
//!
//! Owns: `Date`, `Expires`, `Age`, `Last-Modified`, `ETag` (RFC 9110 §6.6, §8.8, RFC 9111 §5) and
//! which of their spellings count; what each targeted field says in their place (RFC 9213).
//! Never touches: what follows from them, the body.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, ETAG, EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED, SET_COOKIE};
use http::{HeaderName, StatusCode};

use crate::semantics::cache_control::{CacheControl, Directive, delta_seconds};
use crate::semantics::date;
use crate::semantics::field_list;
use crate::semantics::status;
use crate::semantics::targeted_cache_control;

/// The part of a response's head that bears on freshness, storing and validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMetadata {
    /// The directives.
    pub cache_control: CacheControl,
    /// `no-store`, with `must-understand` and the status reckoned in (RFC 9111 §5.2.2.3).
    pub no_store: bool,
    /// `Date`, where it is one.
    pub date: Option<SystemTime>,
    /// `Expires`, where there is one.
    pub expires: Option<Expires>,
    /// `Age`, clamped; `None` where it is absent or malformed (RFC 9111 §5.1).
    pub age: Option<Duration>,
    /// `Last-Modified`, where it is a date.
    pub last_modified: Option<LastModified>,
    /// `ETag`.
    pub etag: Option<EntityTag>,
    /// Whether there is a `Set-Cookie`.
    pub has_set_cookie: bool,
    /// The same response to those who listen to a targeted field: its directives in place of
    /// `Cache-Control` and `Expires`. Only fields that count (RFC 9213 §2.1), few or none.
    pub targeted: Vec<(HeaderName, Self)>,
}

/// `Expires` (RFC 9111 §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// At this time.
    At(SystemTime),
    /// Not a date, or several: in the past.
    Past,
}

/// `Last-Modified` (RFC 9110 §8.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastModified {
    /// As a time.
    pub time: SystemTime,
    /// As received, to be sent back as it is.
    pub raw: HeaderValue,
}

/// `ETag` (RFC 9110 §8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// As received, to be sent back as it is.
    pub raw: HeaderValue,
    /// Whether it only promises equivalence, not equal bytes.
    pub weak: bool,
}

impl EntityTag {
    /// Reads one tag. A tag without quotes is no entity-tag, but some origins send and compare
    /// them: it counts as weak. What could be taken for a list or for `*` does not count at all.
    pub fn parse(raw: &HeaderValue) -> Option<Self> {
        let opaque = raw.as_bytes();
        let opaque = opaque.strip_prefix(b"W/").unwrap_or(opaque);
        let (inner, quoted) = match opaque {
            [b'"', inner @ .., b'"'] => (inner, true),
            bare => (bare, false),
        };
        let bare = |b: &u8| b.is_ascii_graphic() && !matches!(b, b',' | b'*');
        let sound =
            !inner.contains(&b'"') && (quoted || (!inner.is_empty() && inner.iter().all(bare)));
        let weak = !quoted || opaque.len() < raw.len();
        sound.then(|| Self { raw: raw.clone(), weak })
    }

    /// The tag without its `W/`: what weak comparison compares (RFC 9110 §8.8.3.2).
    pub fn opaque(&self) -> &[u8] {
        let raw = self.raw.as_bytes();
        raw.strip_prefix(b"W/").unwrap_or(raw)
    }
}

impl CacheMetadata {
    /// About how many bytes of memory it takes beside itself.
    pub fn weight(&self) -> usize {
        const MEMBER: usize = 2 * size_of::<(HeaderName, CacheMetadata)>() + 64;
        let targeted = self.targeted.iter();
        let targeted = targeted.map(|(name, said)| MEMBER + name.as_str().len() + said.weight());
        self.cache_control.weight() + targeted.sum::<usize>()
    }

    /// What a response with this status and these fields says.
    pub fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let cache_control = CacheControl::response(headers);
        let date = headers.get(DATE).and_then(|value| date::parse_undated(value.as_bytes()));
        let mut said = Self {
            no_store: no_store(status, &cache_control),
            cache_control,
            date,
            expires: expires(headers, date),
            age: age(headers),
            last_modified: last_modified(headers, date),
            etag: only(headers, &ETAG).and_then(EntityTag::parse),
            has_set_cookie: headers.contains_key(SET_COOKIE),
            targeted: Vec::new(),
        };
        for name in headers.keys().filter(|name| targeted_cache_control::is_targeted(name)) {
            if let Some(cache_control) = targeted_cache_control::read(headers, name) {
                let own = said.in_place(status, cache_control);
                said.targeted.push((name.clone(), own));
            }
        }
        said
    }

    /// What the response says to a cache that listens to these targeted fields: the first that
    /// counts, else `Cache-Control` and `Expires` (RFC 9213 §2.2).
    pub fn select_targeted(&self, targets: &[HeaderName]) -> &Self {
        if self.targeted.is_empty() {
            return self;
        }
        let of = |target: &HeaderName| self.targeted.iter().find(|(name, _)| name == target);
        targets.iter().find_map(of).map_or(self, |(_, told)| told)
    }

    /// Whether `Last-Modified` tells one state of the bytes from every other (RFC 9110 §8.8.2.2):
    /// nothing can have changed since within its second.
    pub fn has_strong_date(&self) -> bool {
        let changed = self.last_modified.as_ref().map(|changed| changed.time);
        changed.zip(self.date).is_some_and(|(changed, received)| changed < received)
    }

    fn in_place(&self, status: StatusCode, cache_control: CacheControl) -> Self {
        Self {
            no_store: no_store(status, &cache_control),
            cache_control,
            expires: None,
            targeted: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether there is anything to revalidate with (RFC 9111 §4.3.1).
    pub fn has_validator(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

/// RFC 9111 §5.2.2.3: `must-understand` lifts the `no-store` beside it where the status is
/// understood, and forbids storing where it is not.
fn no_store(status: StatusCode, cache_control: &CacheControl) -> bool {
    if cache_control.has(Directive::MustUnderstand) {
        !status::is_understood(status)
    } else {
        cache_control.has(Directive::NoStore)
    }
}

fn expires(headers: &HeaderMap, date: Option<SystemTime>) -> Option<Expires> {
    // Not `only`: several lines are an invalid value, and invalid means past.
    let mut lines = headers.get_all(EXPIRES).iter();
    let first = lines.next()?;
    let read = if lines.next().is_some() { None } else { dated(first, date) };
    Some(read.map_or(Expires::Past, Expires::At))
}

/// RFC 9111 §5.1: of a list the first member counts, and nothing where that is no number.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let first = field_list::members(headers.get_all(AGE)).next()?;
    delta_seconds(first)
}

fn last_modified(headers: &HeaderMap, date: Option<SystemTime>) -> Option<LastModified> {
    let raw = only(headers, &LAST_MODIFIED)?;
    Some(LastModified { time: dated(raw, date)?, raw: raw.clone() })
}

/// A date in a response: its own `Date` says which century a two-digit year is in.
fn dated(value: &HeaderValue, date: Option<SystemTime>) -> Option<SystemTime> {
    match date {
        Some(near) => date::parse(value.as_bytes(), near),
        None => date::parse_undated(value.as_bytes()),
    }
}

/// The field's value, where it has exactly one.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
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

    fn said(fields: &[(&'static str, &'static str)]) -> CacheMetadata {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        CacheMetadata::of(StatusCode::OK, &headers)
    }

    #[test]
    fn the_first_member_of_age_counts_and_only_when_it_is_a_number() {
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
            assert_eq!(said(&fields).age, expected.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn an_expires_that_is_no_date_or_stands_twice_is_in_the_past() {
        // RFC 9111 §5.3.
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(said(&[]).expires, None);
        assert!(matches!(said(&[("expires", DATE)]).expires, Some(Expires::At(_))));
        assert_eq!(said(&[("expires", "0")]).expires, Some(Expires::Past));
        assert_eq!(said(&[("expires", "")]).expires, Some(Expires::Past));
        assert_eq!(said(&[("expires", DATE), ("expires", DATE)]).expires, Some(Expires::Past));
    }

    #[test]
    fn two_digit_years_are_read_by_the_responses_own_date() {
        let fields = |date| said(&[("date", date), ("expires", "Monday, 01-Jun-77 00:00:00 GMT")]);
        let (old, new) =
            (fields("Wed, 01 Jun 1977 00:00:00 GMT"), fields("Fri, 01 Jun 2040 00:00:00 GMT"));
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
            assert_eq!(said(&[("etag", raw)]).etag.map(|tag| tag.weak), expected, "{raw:?}");
        }
        assert_eq!(said(&[("etag", "\"a\""), ("etag", "\"b\"")]).etag, None);
    }

    #[test]
    fn must_understand_decides_about_no_store() {
        // RFC 9111 §5.2.2.3.
        let with = |status: u16, line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", HeaderValue::from_static(line));
            CacheMetadata::of(StatusCode::from_u16(status).unwrap(), &headers).no_store
        };
        assert!(with(200, "no-store"));
        assert!(!with(200, "must-understand, no-store"));
        assert!(with(299, "must-understand, no-store"));
        assert!(with(299, "must-understand, max-age=60"));
        assert!(!with(299, "max-age=60"));
    }

    #[test]
    fn the_first_listed_field_that_counts_replaces_cache_control_and_expires() {
        // RFC 9213 §2.2, §3.1.
        const NAMES: [HeaderName; 2] = [
            HeaderName::from_static("examplecdn-cache-control"),
            HeaderName::from_static("cdn-cache-control"),
        ];
        let secs = |n| Some(Duration::from_secs(n));
        let all = said(&[
            ("cache-control", "no-store, max-age=60, s-maxage=120"),
            ("expires", "0"),
            ("cdn-cache-control", "max-age=600"),
            ("examplecdn-cache-control", ""),
            ("age", "7"),
        ]);
        let told = all.select_targeted(&NAMES);
        assert_eq!((told.cache_control.max_age, told.cache_control.s_maxage), (secs(600), None));
        assert_eq!((told.no_store, told.expires, told.age), (false, None, secs(7)));
        let plain = all.select_targeted(&[]);
        assert_eq!((plain.no_store, plain.expires), (true, Some(Expires::Past)));
        assert_eq!(all.select_targeted(&NAMES[..1]), plain, "empty is as absent");
        let both =
            said(&[("cdn-cache-control", "max-age=600"), ("examplecdn-cache-control", "no-store")]);
        assert!(both.select_targeted(&NAMES).no_store);
        assert!(!both.select_targeted(&NAMES[1..]).no_store);
        assert_eq!(said(&[("cache-control", "max-age=1")]).targeted, []);
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
            let said = CacheMetadata::of(StatusCode::from_u16(status).unwrap(), &headers);
            assert_eq!(said.expires.is_some(), headers.contains_key("expires"));
            assert!(said.age.is_none_or(|age| age <= MAX_DELTA));
        }
    }
}
