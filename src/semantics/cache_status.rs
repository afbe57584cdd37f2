//! `Cache-Status` (RFC 9211): what larder did, told to whoever reads the answer's fields.
//!
//! Owns: the written form of larder's member. Never touches: the members of other caches.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

/// The field's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Larder's member of `Cache-Status`. `hit` and `fwd` cannot both be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStatus {
    handled: HitOrForward,
    forward_status: Option<StatusCode>,
    stored: bool,
    ttl: Option<i64>,
    collapsed: bool,
    detail: Option<(&'static str, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HitOrForward {
    Hit,
    Forward(&'static str),
    Refused,
}

impl CacheStatus {
    /// Answered from the store without asking the origin; `ttl` is the remaining freshness.
    pub fn hit(ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..Self::new(HitOrForward::Hit) }
    }

    /// The origin was asked; `why` is a token of RFC 9211 §2.2.
    pub fn forwarded(why: &'static str) -> Self {
        Self::new(HitOrForward::Forward(why))
    }

    /// Neither answered from the store nor forwarded.
    pub fn refused() -> Self {
        Self::new(HitOrForward::Refused)
    }

    /// What the origin answered.
    #[must_use]
    pub fn status(self, status: StatusCode) -> Self {
        Self { forward_status: Some(status), ..self }
    }

    /// The answer is stored.
    #[must_use]
    pub fn stored(self) -> Self {
        Self { stored: true, ..self }
    }

    /// The remaining freshness in seconds; negative when stale.
    #[must_use]
    pub fn ttl(self, ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The request waited for another's answer.
    #[must_use]
    pub fn collapsed(self) -> Self {
        Self { collapsed: true, ..self }
    }

    /// What larder did beyond that, and what made it (empty: nothing to add).
    #[must_use]
    pub fn detail(self, act: &'static str, cause: &'static str) -> Self {
        Self { detail: Some((act, cause)), ..self }
    }

    /// The member as a field value.
    #[expect(clippy::missing_panics_doc, reason = "it writes nothing that a value may not hold")]
    pub fn value(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(96);
        text.extend_from_slice(b"larder");
        match self.handled {
            HitOrForward::Hit => text.extend_from_slice(b"; hit"),
            HitOrForward::Forward(why) => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(why.as_bytes());
            }
            HitOrForward::Refused => {}
        }
        if let Some(status) = self.forward_status {
            text.extend_from_slice(b"; fwd-status=");
            text.extend_from_slice(status.as_str().as_bytes());
        }
        if self.stored {
            text.extend_from_slice(b"; stored");
        }
        if let Some(ttl) = self.ttl {
            text.extend_from_slice(b"; ttl=");
            write_integer(&mut text, ttl);
        }
        if self.collapsed {
            text.extend_from_slice(b"; collapsed");
        }
        if let Some((act, cause)) = self.detail {
            text.extend_from_slice(b"; detail=\"");
            write_string(&mut text, act);
            if !cause.is_empty() {
                text.push(b'/');
                write_string(&mut text, cause);
            }
            text.push(b'"');
        }
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .expect("tokens, digits and visible characters are a field value")
    }

    /// Adds the member behind those of other caches, as the last one to have handled the answer
    /// (RFC 9211 §2).
    pub fn append_to(&self, headers: &mut HeaderMap) {
        headers.append(CACHE_STATUS, self.value());
    }

    fn new(handled: HitOrForward) -> Self {
        Self {
            handled,
            forward_status: None,
            stored: false,
            ttl: None,
            collapsed: false,
            detail: None,
        }
    }
}

/// An integer as RFC 8941 §3.3.1 bounds it: at most 15 digits.
fn write_integer(text: &mut Vec<u8>, value: i64) {
    if value < 0 {
        text.push(b'-');
    }
    let mut rest = value.unsigned_abs().min(999_999_999_999_999);
    let start = text.len();
    loop {
        // The remainder is a single digit.
        text.push(b'0' + u8::try_from(rest % 10).unwrap_or_default());
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text[start..].reverse();
}

/// A string as RFC 8941 §3.3.3 bounds it: visible ASCII and spaces.
fn write_string(text: &mut Vec<u8>, string: &str) {
    for byte in string.bytes() {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => text.push(byte),
            _ => text.push(b'?'),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::{any, proptest};

    use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};

    #[test]
    fn the_documented_forms_are_written() {
        let code = |code| StatusCode::from_u16(code).unwrap();
        for (status, expected) in [
            (CacheStatus::hit(5230), "larder; hit; ttl=5230"),
            (
                CacheStatus::hit(-40).detail("stale-while-revalidate", ""),
                "larder; hit; ttl=-40; detail=\"stale-while-revalidate\"",
            ),
            (
                CacheStatus::forwarded("stale")
                    .status(code(429))
                    .detail("stale-if-error", "rate-limited"),
                "larder; fwd=stale; fwd-status=429; detail=\"stale-if-error/rate-limited\"",
            ),
            (
                CacheStatus::forwarded("uri-miss").status(code(200)).stored().ttl(7200).collapsed(),
                "larder; fwd=uri-miss; fwd-status=200; stored; ttl=7200; collapsed",
            ),
            (
                CacheStatus::forwarded("partial")
                    .status(code(200))
                    .stored()
                    .detail("batch 6/8 from store", ""),
                "larder; fwd=partial; fwd-status=200; stored; detail=\"batch 6/8 from store\"",
            ),
            (CacheStatus::forwarded("bypass"), "larder; fwd=bypass"),
            (CacheStatus::hit(0), "larder; hit; ttl=0"),
            (CacheStatus::hit(i64::MIN), "larder; hit; ttl=-999999999999999"),
            (
                CacheStatus::forwarded("stale").detail("a\"b\\c\r\nd\u{fc}", ""),
                "larder; fwd=stale; detail=\"a\\\"b\\\\c??d??\"",
            ),
        ] {
            assert_eq!(status.value(), expected);
        }
    }

    #[test]
    fn members_of_other_caches_stay_in_front() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_STATUS, HeaderValue::from_static("Edge; fwd=uri-miss"));
        CacheStatus::hit(1).append_to(&mut headers);
        let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(lines, ["Edge; fwd=uri-miss", "larder; hit; ttl=1"]);
    }

    proptest! {
        #[test]
        fn any_ttl_can_be_written(ttl in any::<i64>()) {
            let value = CacheStatus::hit(ttl).value();
            let written = value.to_str().unwrap().strip_prefix("larder; hit; ttl=").unwrap();
            let bound = 999_999_999_999_999;
            assert_eq!(written, ttl.clamp(-bound, bound).to_string());
        }
    }
}
