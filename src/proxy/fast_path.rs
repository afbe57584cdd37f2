//! A hit at the door: the head of a fresh stored response, written without a session.
//!
//! Owns: that it is byte for byte what `write` and `front::session` make of the same response. Never touches:
//! which responses may go this way (`engine::hit`), the connection.

use std::cell::RefCell;
use std::time::{Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, DATE, VIA};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::clock;
use crate::engine::fast_path::FastHit;
use crate::frontend::PreparedResponse;
use crate::proxy::handler::PingoraHandler;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::field_case::usual;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::{RequestEvent, ResultKind};

/// Room for the head of most answers.
const ROOM: usize = 512;

impl PingoraHandler {
    /// The answer to `asked` if it is at hand.
    pub(super) fn at_hand(&self, asked: &mut ProxyRequest) -> Option<PreparedResponse> {
        if self.stage.borrow().is_closing() {
            return None;
        }
        let route = self.prepare(asked)?;
        let hit = self.engine.fast_hit(asked, route)?;
        // The first two have no body, and a length that says nothing of it; the last is not told as it is.
        if matches!(
            hit.stored.status,
            StatusCode::NO_CONTENT
                | StatusCode::NOT_MODIFIED
                | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        ) {
            return None;
        }
        let cache_status = hit.status.value();
        let head = head(&hit, &cache_status, &self.via);
        let (route, status, body) = (route.index, hit.stored.status, hit.stored.body.clone());
        Some(PreparedResponse { head, body, route, status, cache_status })
    }

    /// Records an answer that was at hand.
    pub(super) fn written(
        &self,
        asked: &ProxyRequest,
        ready: &PreparedResponse,
        bytes: u64,
        since: Instant,
    ) {
        self.account.fast_hit();
        self.account.record(&RequestEvent {
            route: ready.route,
            result: ResultKind::Hit,
            why: None,
            method: &asked.method,
            host: asked.target.host(),
            port: asked.target.port(),
            path: asked.target.path(),
            status: Some(ready.status),
            cache_status: ready.cache_status.to_str().ok(),
            error: None,
            duration: clock::monotonic().saturating_duration_since(since),
            client_bytes: bytes,
            upstream_bytes: 0,
            filled_bytes: 0,
            is_larders: false,
        });
    }
}

/// In the order in which the other way adds its fields.
fn head(hit: &FastHit, cache_status: &HeaderValue, via: &HeaderValue) -> BytesMut {
    let stored = &hit.stored;
    let mut out = BytesMut::with_capacity(ROOM);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(stored.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(stored.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let mut own = OwnFields { hit, cache_status, via, written: [false; 4] };
    let mut fields = stored.headers.iter().peekable();
    while let Some((name, value)) = fields.next() {
        let field = OwnField::of(name);
        if !field.is_some_and(OwnField::replaces) {
            put(&mut out, name, value.as_bytes());
        }
        let is_last = fields.peek().is_none_or(|(next, _)| *next != name);
        if let Some(field) = field.filter(|field| field.replaces() || is_last) {
            own.put(field, &mut out);
        }
    }
    own.put(OwnField::Date, &mut out);
    put(&mut out, &AGE, itoa::Buffer::new().format(hit.age.as_secs()).as_bytes());
    for field in [OwnField::CacheStatus, OwnField::Length, OwnField::Via] {
        own.put(field, &mut out);
    }
    put(&mut out, &CONNECTION, b"keep-alive");
    out.put_slice(b"\r\n");
    out
}

/// A field that larder writes itself, whether or not one of its name is stored.
#[derive(Clone, Copy)]
enum OwnField {
    CacheStatus,
    Length,
    Via,
    Date,
}

impl OwnField {
    fn of(name: &HeaderName) -> Option<Self> {
        if *name == DATE {
            Some(Self::Date)
        } else if *name == CONTENT_LENGTH {
            Some(Self::Length)
        } else if *name == VIA {
            Some(Self::Via)
        } else if *name == CACHE_STATUS {
            Some(Self::CacheStatus)
        } else {
            None
        }
    }

    /// Whether it stands in place of stored ones; else it is a member behind theirs.
    fn replaces(self) -> bool {
        matches!(self, Self::Length)
    }
}

/// What larder writes itself, each once.
struct OwnFields<'a> {
    hit: &'a FastHit,
    cache_status: &'a HeaderValue,
    via: &'a HeaderValue,
    written: [bool; 4],
}

impl OwnFields<'_> {
    fn put(&mut self, field: OwnField, out: &mut BytesMut) {
        let Some(written) = self.written.get_mut(field as usize) else { return };
        if std::mem::replace(written, true) {
            return;
        }
        match field {
            OwnField::CacheStatus => put(out, &CACHE_STATUS, self.cache_status.as_bytes()),
            OwnField::Length => {
                let length = self.hit.stored.body.len();
                put(out, &CONTENT_LENGTH, itoa::Buffer::new().format(length).as_bytes());
            }
            OwnField::Via => put(out, &VIA, self.via.as_bytes()),
            // RFC 9110 §6.6.1: the origin's, as it came; where there is none, when it was received.
            OwnField::Date if self.hit.stored.headers.contains_key(DATE) => {}
            OwnField::Date => {
                date(self.hit.stored.response_time, |text| put(out, &DATE, text));
            }
        }
    }
}

fn put(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.put_slice(usual(name).as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// A time as a `Date`, made once for hits of the same second.
fn date(now: SystemTime, then: impl FnOnce(&[u8])) {
    thread_local! {
        static MADE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    MADE.with_borrow_mut(|(made, text)| {
        if *made != second {
            *made = second;
            *text = httpdate::fmt_http_date(now);
        }
        then(text.as_bytes());
    });
}
