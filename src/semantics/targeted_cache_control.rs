//! Targeted fields (RFC 9213): directives for certain caches only, such as `CDN-Cache-Control`.
//!
//! Owns: recognising targeted fields; parsing one as a structured dictionary (RFC 8941 §3.2).
//! Never touches: a route's choice of targeted fields (`policy`), the meaning of a directive.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser, Version};

use crate::semantics::cache_control::{Argument, CacheControl};

/// Whether a field of this name can be a targeted one. The suffix is only a convention (RFC 9213 §2.4), so
/// the configuration has to list the fields.
pub fn is_targeted(name: &HeaderName) -> bool {
    name.as_str().ends_with("-cache-control")
}

/// Parses the directives of the field, which replace `Cache-Control`. `None` if the field is absent, empty or
/// not a dictionary, all of which count as absent (RFC 9213 §2.1).
pub(super) fn read(headers: &HeaderMap, name: &HeaderName) -> Option<CacheControl> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    let joined = lines.join(&b", "[..]);
    let parser = Parser::new(&joined).with_version(Version::Rfc8941);
    let members: Dictionary = parser.parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut control = CacheControl::default();
    for (name, value) in &members {
        add(&mut control, name.as_str(), value);
    }
    Some(control)
}

/// RFC 9213 §2.1: a value of the wrong type must not be used. The directive then counts as malformed, which
/// is never the more permissive interpretation: a lifetime of zero, or the whole response instead of some of
/// its fields.
fn add(control: &mut CacheControl, name: &str, value: &ListEntry) {
    let item = match value {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    };
    let permits = matches!(name, "public" | "must-understand");
    let names_fields = matches!(name, "private" | "no-cache");
    match item {
        Some(BareItem::Boolean(true)) => control.add(name.as_bytes(), Argument::None),
        _ if permits => {}
        Some(BareItem::Integer(number)) if !names_fields => {
            control.add(name.as_bytes(), Argument::Text(number.to_string().as_bytes()));
        }
        Some(BareItem::String(list)) if names_fields => {
            control.add(name.as_bytes(), Argument::Text(list.as_str().as_bytes()));
        }
        _ => control.add(name.as_bytes(), Argument::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::semantics::cache_control::{CacheControl, Directive, MAX_DELTA};
    use crate::semantics::targeted_cache_control::{is_targeted, read};

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

    fn parsed(lines: &[&'static str]) -> Option<CacheControl> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN, HeaderValue::from_static(line));
        }
        read(&headers, &CDN)
    }

    #[test]
    fn only_names_with_the_conventional_suffix_can_be_targeted() {
        for (name, expected) in [
            ("cdn-cache-control", true),
            ("examplecdn-cache-control", true),
            ("cache-control", false),
            ("cdn-cache-controls", false),
            ("surrogate-control", false),
        ] {
            assert_eq!(is_targeted(&HeaderName::from_static(name)), expected, "{name}");
        }
    }

    #[test]
    fn an_empty_or_invalid_dictionary_counts_as_absent() {
        // RFC 9213 §2.1, RFC 8941 §4.2.2.
        for lines in [
            &[][..],
            &[""],
            &["  "],
            &["max-age=10000, &&&&&"],
            &["max-age=60,"],
            &["max-age =60"],
            &["max-age= 60"],
            &["MaX-aGe=60"],
            &["max-age=60, no-store=\"open"],
            &["max-age=60", "private=\""],
            &["max-age=1234567890123456"],
            &["max-age=@60"],
            &["max-age=60 private"],
        ] {
            assert_eq!(parsed(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_gives_no_lifetime_and_lifts_no_prohibition() {
        // RFC 9213 §2.1.
        for (line, lifetime) in [
            ("max-age=60", Some(60)),
            ("max-age=60;a=1;b", Some(60)),
            ("foobar, max-age=3600", Some(3600)),
            ("max-age=1, max-age=60", Some(60)),
            ("max-age=99999999999", Some(MAX_DELTA.as_secs())),
            ("max-age=\"10000\"", Some(0)),
            ("max-age=60.5", Some(0)),
            ("max-age=-60", Some(0)),
            ("max-age=a60", Some(0)),
            ("max-age", Some(0)),
            ("max-age=?0", Some(0)),
            ("max-age=(60)", Some(0)),
            ("none", None),
        ] {
            let control = parsed(&[line]).expect(line);
            assert_eq!(control.max_age, lifetime.map(Duration::from_secs), "{line}");
        }
        for (line, directive) in [
            ("no-store", Directive::NoStore),
            ("no-store=?0", Directive::NoStore),
            ("private=1", Directive::Private),
            ("private=x-a", Directive::Private),
            ("no-cache=(a b)", Directive::NoCache),
            ("must-revalidate=\"x\"", Directive::MustRevalidate),
        ] {
            assert!(parsed(&[line]).expect(line).has(directive), "{line}");
        }
        for (line, directive) in [
            ("public=?0", Directive::Public),
            ("public=1", Directive::Public),
            ("must-understand=?0", Directive::MustUnderstand),
            ("private=\"x-a\"", Directive::Private),
        ] {
            assert!(!parsed(&[line]).expect(line).has(directive), "{line}");
        }
    }

    #[test]
    fn all_lines_are_one_dictionary() {
        let control = parsed(&["max-age=60, private=\"x-a, x-b\"", "no-cache=\"x-c\", s-maxage=5"]);
        let control = control.expect("a dictionary");
        assert_eq!(control.max_age, Some(Duration::from_secs(60)));
        assert_eq!(control.s_maxage, Some(Duration::from_secs(5)));
        assert_eq!(control.private_fields.len(), 2);
        assert_eq!(control.no_cache_fields.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(lines in vec(vec(any::<u8>(), 0..60), 1..3)) {
            let mut headers = HeaderMap::new();
            for line in lines {
                if let Ok(line) = HeaderValue::from_bytes(&line) {
                    headers.append(CDN, line);
                }
            }
            if let Some(control) = read(&headers, &CDN) {
                assert!(control.max_age.is_none_or(|age| age <= MAX_DELTA));
            }
        }
    }
}
