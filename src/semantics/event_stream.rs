//! Streams of server-sent events: they may be silent between events, and do not end.
//!
//! Owns: recognising them in requests and responses. Never touches: timeouts, storing.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

const MEDIA_TYPE: &[u8] = b"text/event-stream";

/// Whether the request is for a stream.
pub fn is_requested(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|accept| {
        let mut parts = accept.as_bytes().windows(MEDIA_TYPE.len());
        parts.any(|part| part.eq_ignore_ascii_case(MEDIA_TYPE))
    })
}

/// Whether the response is a stream.
pub fn is_response(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let media_type = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(MEDIA_TYPE)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn event_streams_are_recognised_by_their_media_type() {
        for (value, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream ; charset=utf-8", true),
            ("text/event-streams", false),
            ("application/json", false),
        ] {
            assert_eq!(is_response(&with(CONTENT_TYPE, value)), expected, "{value}");
        }
        assert!(!is_response(&HeaderMap::new()));
    }

    #[test]
    fn any_member_of_accept_may_request_a_stream() {
        for (value, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.5", true),
            ("text/*", false),
            ("", false),
        ] {
            assert_eq!(is_requested(&with(ACCEPT, value)), expected, "{value}");
        }
    }
}
