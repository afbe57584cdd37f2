//! `Cache-Status` (RFC 9211): reports in the response how larder handled the request.
//!
//! Owns: the serialised form of larder's member. Never touches: the members of other caches.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

/// The field's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Larder's member of `Cache-Status`. `hit` and `fwd` exclude each other.
///
/// ```
/// # use http::StatusCode;
/// use larder::semantics::cache_status::CacheStatus;
///
/// assert_eq!(CacheStatus::hit(59).value(), "larder; hit; ttl=59");
/// let miss = CacheStatus::forwarded("uri-miss").status(StatusCode::OK).stored().ttl(60);
/// assert_eq!(miss.value(), "larder; fwd=uri-miss; fwd-status=200; stored; ttl=60");
/// ```
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
    /// The response comes from the store and the origin was not contacted; `ttl` is the remaining freshness.
    pub fn hit(ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..Self::new(HitOrForward::Hit) }
    }

    /// The request was forwarded to the origin; `reason` is a token of RFC 9211 §2.2.
    pub fn forwarded(reason: &'static str) -> Self {
        Self::new(HitOrForward::Forward(reason))
    }

    /// The request was neither served from the store nor forwarded.
    pub fn refused() -> Self {
        Self::new(HitOrForward::Refused)
    }

    /// The status of the origin's response.
    #[must_use]
    pub fn status(self, status: StatusCode) -> Self {
        Self { forward_status: Some(status), ..self }
    }

    /// The response was stored.
    #[must_use]
    pub fn stored(self) -> Self {
        Self { stored: true, ..self }
    }

    /// The remaining freshness in seconds; negative when stale.
    #[must_use]
    pub fn ttl(self, ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The request was collapsed: it received the response to another request's fetch.
    #[must_use]
    pub fn collapsed(self) -> Self {
        Self { collapsed: true, ..self }
    }

    /// An additional action of larder and its reason (empty: no reason).
    #[must_use]
    pub fn detail(self, action: &'static str, reason: &'static str) -> Self {
        Self { detail: Some((action, reason)), ..self }
    }

    /// The member as a field value.
    #[expect(clippy::missing_panics_doc, reason = "it writes only characters that a field value allows")]
    pub fn value(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(96);
        text.extend_from_slice(b"larder");
        match self.handled {
            HitOrForward::Hit => text.extend_from_slice(b"; hit"),
            HitOrForward::Forward(reason) => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(reason.as_bytes());
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
        if let Some((action, reason)) = self.detail {
            text.extend_from_slice(b"; detail=\"");
            write_string(&mut text, action);
            if !reason.is_empty() {
                text.push(b'/');
                write_string(&mut text, reason);
            }
            text.push(b'"');
        }
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .expect("tokens, digits and visible characters are a valid field value")
    }

    /// Appends the member after those of other caches, because larder handled the response last
    /// (RFC 9211 §2).
    pub fn append_to(&self, headers: &mut HeaderMap) {
        headers.append(CACHE_STATUS, self.value());
    }

    fn new(handled: HitOrForward) -> Self {
        Self { handled, forward_status: None, stored: false, ttl: None, collapsed: false, detail: None }
    }
}

/// Writes an integer within the bounds of RFC 8941 §3.3.1: at most 15 digits.
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

/// Writes a string with the characters of RFC 8941 §3.3.3: visible ASCII and spaces.
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
    fn members_are_written_in_the_documented_form() {
        let code = |code| StatusCode::from_u16(code).unwrap();
        for (status, expected) in [
            (CacheStatus::hit(5230), "larder; hit; ttl=5230"),
            (
                CacheStatus::hit(-40).detail("stale-while-revalidate", ""),
                "larder; hit; ttl=-40; detail=\"stale-while-revalidate\"",
            ),
            (
                CacheStatus::forwarded("stale").status(code(429)).detail("stale-if-error", "rate-limited"),
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
    fn members_of_other_caches_stay_first() {
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
