//! Log events of other crates, mainly pingora: limited in rate and reduced to text that is known to be
//! harmless.
//!
//! Owns: the detection of such events; the part of their text that is logged (ADM-07, OVL-11).
//! Never touches: larder's own lines.

use std::time::Duration;

use parking_lot::Mutex;
use tracing::{Event, Metadata, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::Clock;
use crate::telemetry::log::LARDER_TARGET;
use crate::telemetry::log::escape::split_at_limit;
use crate::telemetry::log_limiter::Limiter;

/// Whether an event with this target is from another crate.
pub(super) fn is_third_party(target: &str) -> bool {
    target.strip_prefix(LARDER_TARGET).is_none_or(|rest| !rest.is_empty() && !rest.starts_with("::"))
}

/// The part of a message of another crate that is constant text and not data of a client or an origin.
/// pingora appends up to 2 KiB of a raw head after `buf:`, error texts after `context:` and `cause:`, and the
/// request line before `, Host:`.
pub(super) fn harmless_part(message: &str) -> &str {
    let (shown, _) = split_at_limit(message, MAX_MESSAGE_BYTES);
    let cut = MARKERS
        .iter()
        .filter_map(|marker| shown.find(marker))
        .chain(shown.find(|c: char| c.is_control() || "\"{[\\?@".contains(c)))
        .chain(request_line(shown))
        .min()
        .unwrap_or(shown.len());
    shown.split_at(cut).0.trim_end_matches([' ', ',', ':'])
}

/// The start of a request line or of a URL.
fn request_line(text: &str) -> Option<usize> {
    let slash = text.find(" /").or_else(|| text.find("://"))?;
    let (before, _) = text.split_at(slash);
    // The word before it is a method or a scheme, which is data too.
    Some(before.rfind(' ').map_or(0, |space| space + 1))
}

const MARKERS: [&str; 7] = ["buf:", "context:", "cause:", ", Host:", "HTTP/", "eader:", "eaders:"];

/// Maximum number of bytes that are used of a message of another crate.
const MAX_MESSAGE_BYTES: usize = 512;

/// Lets at most ten events of other crates pass per second: with a failing origin, pingora writes one line
/// per request.
pub(super) struct RateLimitedLayer {
    lines: Mutex<Limiter>,
    clock: Clock,
}

impl RateLimitedLayer {
    pub(super) fn new() -> Self {
        let lines = Mutex::new(Limiter::new(10, Duration::from_secs(1)));
        Self { lines, clock: Clock::system() }
    }

    fn may_pass(&self, metadata: &Metadata<'_>) -> bool {
        !is_third_party(metadata.target()) || self.lines.lock().admit(self.clock.instant()).is_some()
    }
}

impl<S: Subscriber> Layer<S> for RateLimitedLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        match event.normalized_metadata() {
            Some(bridged) => self.may_pass(&bridged),
            None => self.may_pass(event.metadata()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_constant_text_of_a_third_party_message_is_logged() {
        let table = [
            (
                "Fail to proxy:  Downstream InvalidHTTPHeader context: buf: GET /S6, status: 400",
                "Fail to proxy:  Downstream InvalidHTTPHeader",
            ),
            (
                "Fail to proxy:  Upstream ConnectionClosed, status: 502, tries: 1, retry: false, \
                 GET /a?token=S3, Host: h",
                "Fail to proxy:  Upstream ConnectionClosed, status: 502, tries: 1, retry: false",
            ),
            ("connecting to http://user:S5@host/x", "connecting to"),
            ("RequestHeader { method: GET }", "RequestHeader"),
            ("header: Authorization S1", "h"),
            ("existing_buf_end 3, buf: b\"S6\"", "existing_buf_end 3"),
            ("GET /S6 HTTP/1.1\r\nA: S1", ""),
            ("Server starting", "Server starting"),
        ];
        for (message, shown) in table {
            assert_eq!(harmless_part(message), shown, "{message}");
        }
    }

    #[test]
    fn a_long_third_party_message_is_cut_at_a_character_boundary() {
        assert!(harmless_part(&"ü".repeat(600)).len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_target_belongs_to_larder_if_its_first_segment_is_larder() {
        assert!(!is_third_party("larder"));
        assert!(!is_third_party("larder::engine::fill"));
        assert!(is_third_party("larderous"));
        assert!(is_third_party("pingora_proxy"));
        assert!(is_third_party("log"));
    }
}
