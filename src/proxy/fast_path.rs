//! The fast path for hits: serialises the head of a fresh stored response without a session.
//!
//! Owns: that the head is byte for byte the one that `response_writer` and `frontend::session` produce for
//! the same response. Never touches: the choice of the responses (`engine::fast_path`), the connection.

use std::cell::RefCell;
use std::time::{Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, DATE, VIA};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::engine::fast_path::{FastHit, FastPath};
use crate::frontend::{Prepared, PreparedResponse};
use crate::proxy::ProxyHandler;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::field_case::default_spelling;
use crate::semantics::mount_location;
use crate::telemetry::{RequestEvent, ResultKind};
use crate::upstream::routed_request::RoutedRequest;

/// Initial capacity, sufficient for most response heads.
const HEAD_CAPACITY: usize = 512;

impl ProxyHandler {
    /// The response to `routed` if it can be served on the fast path.
    pub(super) fn prepare(&self, routed: &RoutedRequest) -> Prepared {
        if self.drain.borrow().is_closing() {
            return Prepared::NotPrepared(None);
        }
        let hit = match self.engine.fast_path(routed) {
            FastPath::Hit(hit) => hit,
            FastPath::Miss(looked_up) => return Prepared::NotPrepared(looked_up),
        };
        // The first two have no body although they may have a length; the last one is replaced by an error.
        if matches!(
            hit.stored.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        ) {
            return Prepared::NotPrepared(None);
        }
        if routed.request.mount.is_some() && mount_location::has_reference(&hit.stored.headers) {
            return Prepared::NotPrepared(None);
        }
        let cache_status = hit.status.value();
        let head = head(&hit, &cache_status, &self.via);
        let (status, body) = (hit.stored.status, hit.stored.body.clone());
        Prepared::Response(PreparedResponse { head, body, status, cache_status })
    }

    /// Records a response of the fast path in the telemetry.
    pub(super) fn record_prepared(
        &self,
        routed: &RoutedRequest,
        response: &PreparedResponse,
        bytes: u64,
        since: Instant,
    ) {
        let request = &routed.request;
        self.telemetry.fast_hit();
        self.telemetry.record(&RequestEvent {
            route: routed.route_index,
            result: ResultKind::Hit,
            forward_reason: None,
            method: &request.method,
            host: request.target.host(),
            port: request.target.port(),
            path: request.target.path(),
            status: Some(response.status),
            cache_status: response.cache_status.to_str().ok(),
            error: None,
            duration: self.clock.instant().saturating_duration_since(since),
            client_bytes: bytes,
            upstream_bytes: 0,
            filled_bytes: 0,
            is_own_error: false,
        });
    }
}

/// The head, with the fields in the order of the normal path.
fn head(hit: &FastHit, cache_status: &HeaderValue, via: &HeaderValue) -> BytesMut {
    let stored = &hit.stored;
    let mut out = BytesMut::with_capacity(HEAD_CAPACITY);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(stored.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(stored.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let mut own = OwnFields { hit, cache_status, via, written: [false; 4] };
    let mut fields = stored.headers.iter().peekable();
    while let Some((name, value)) = fields.next() {
        let field = OwnField::from_name(name);
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
    fn from_name(name: &HeaderName) -> Option<Self> {
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

    /// Whether the field replaces stored ones; otherwise it is written after them.
    fn replaces(self) -> bool {
        matches!(self, Self::Length)
    }
}

/// Writes larder's own fields, each once.
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
            // RFC 9110 §6.6.1: the origin's date as received, or else the time of receipt.
            OwnField::Date if self.hit.stored.headers.contains_key(DATE) => {}
            OwnField::Date => {
                date(self.hit.stored.response_time, |text| put(out, &DATE, text));
            }
        }
    }
}

fn put(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.put_slice(default_spelling(name).as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Passes `now` as a `Date` value to `then`. The text is cached for hits of the same second.
fn date(now: SystemTime, then: impl FnOnce(&[u8])) {
    thread_local! {
        static CACHED: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    CACHED.with_borrow_mut(|(cached, text)| {
        if *cached != second {
            *cached = second;
            *text = httpdate::fmt_http_date(now);
        }
        then(text.as_bytes());
    });
}
