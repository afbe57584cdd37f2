//! A hit at the door: the head of a fresh stored response, written without a session.
//!
//! Owns: that it is byte for byte what `write` and pingora make of the same response. Never touches:
//! which responses may go this way (`engine::hit`), the connection.

use std::cell::RefCell;
use std::time::{Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use http::header::{self, AGE, CONNECTION, CONTENT_LENGTH, DATE, VIA};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::account::{Exchange, ResultKind};
use crate::clock;
use crate::engine::hit::Hit;
use crate::front::Ready;
use crate::proxy::handler::Handler;
use crate::semantics::asked::Asked;
use crate::semantics::cache_status::CACHE_STATUS;

/// Room for the head of most answers.
const ROOM: usize = 512;

impl Handler {
    /// The answer to `asked` if it is at hand.
    pub(super) fn at_hand(&self, asked: &mut Asked) -> Option<Ready> {
        if self.stage.borrow().is_closing() {
            return None;
        }
        let route = self.prepare(asked)?;
        let hit = self.engine.at_hand(asked, route)?;
        // These have no body, and a length that says nothing of it.
        if matches!(hit.stored.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return None;
        }
        let cache_status = hit.status.value();
        let head = head(&hit, &cache_status, &self.via);
        let (route, status, body) = (route.index, hit.stored.status, hit.stored.body.clone());
        Some(Ready { head, body, route, status, cache_status })
    }

    /// Records an answer that was at hand.
    pub(super) fn written(&self, asked: &Asked, ready: &Ready, bytes: u64, since: Instant) {
        self.account.record(&Exchange {
            route: ready.route,
            result: ResultKind::Hit,
            why: None,
            method: &asked.method,
            host: asked.target.host(),
            path: asked.target.path(),
            status: Some(ready.status),
            cache_status: ready.cache_status.to_str().ok(),
            error: None,
            duration: clock::monotonic().saturating_duration_since(since),
            client_bytes: bytes,
            upstream_bytes: 0,
        });
    }
}

/// In the order in which the other way adds its fields.
fn head(hit: &Hit, cache_status: &HeaderValue, via: &HeaderValue) -> BytesMut {
    let stored = &hit.stored;
    let mut out = BytesMut::with_capacity(ROOM);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(stored.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(stored.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let added = Added { hit, cache_status, via };
    let mut seen = Seen::default();
    let mut fields = stored.headers.iter().peekable();
    while let Some((name, value)) = fields.next() {
        if !added.replaces(name, &mut seen, &mut out) {
            put(&mut out, name, value.as_bytes());
        }
        if fields.peek().is_none_or(|(next, _)| *next != name) {
            added.follows(name, &mut seen, &mut out);
        }
    }
    put(&mut out, &AGE, itoa::Buffer::new().format(hit.age.as_secs()).as_bytes());
    for name in [&CACHE_STATUS, &CONTENT_LENGTH, &VIA, &DATE] {
        added.follows(name, &mut seen, &mut out);
        added.replaces(name, &mut seen, &mut out);
    }
    put(&mut out, &CONNECTION, b"keep-alive");
    out.put_slice(b"\r\n");
    out
}

/// What an answer has besides what is stored.
struct Added<'a> {
    hit: &'a Hit,
    cache_status: &'a HeaderValue,
    via: &'a HeaderValue,
}

/// Which of it is written already.
#[derive(Default)]
struct Seen {
    date: bool,
    length: bool,
    cache_status: bool,
    via: bool,
}

impl Added<'_> {
    /// Writes a field that stands in place of a stored one of its name; true if this is one.
    fn replaces(&self, name: &HeaderName, seen: &mut Seen, out: &mut BytesMut) -> bool {
        if *name == DATE {
            if !std::mem::replace(&mut seen.date, true) {
                date(self.hit.now, |text| put(out, &DATE, text));
            }
        } else if *name == CONTENT_LENGTH {
            if !std::mem::replace(&mut seen.length, true) {
                let length = self.hit.stored.body.len();
                put(out, &CONTENT_LENGTH, itoa::Buffer::new().format(length).as_bytes());
            }
        } else {
            return false;
        }
        true
    }

    /// Writes larder's member behind those of others before it.
    fn follows(&self, name: &HeaderName, seen: &mut Seen, out: &mut BytesMut) {
        let (seen, value) = if *name == CACHE_STATUS {
            (&mut seen.cache_status, self.cache_status)
        } else if *name == VIA {
            (&mut seen.via, self.via)
        } else {
            return;
        };
        if !std::mem::replace(seen, true) {
            put(out, name, value.as_bytes());
        }
    }
}

fn put(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.put_slice(spelled(name).as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// The capitals that pingora gives to some names.
fn spelled(name: &HeaderName) -> &str {
    match *name {
        header::ACCEPT_RANGES => "Accept-Ranges",
        AGE => "Age",
        header::CACHE_CONTROL => "Cache-Control",
        CONNECTION => "Connection",
        header::CONTENT_TYPE => "Content-Type",
        header::CONTENT_ENCODING => "Content-Encoding",
        CONTENT_LENGTH => "Content-Length",
        DATE => "Date",
        header::SERVER => "Server",
        header::SET_COOKIE => "Set-Cookie",
        _ => name.as_str(),
    }
}

/// `now` as a `Date`, made once a second by each thread.
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header;
    use pingora_http::ResponseHeader;

    use super::*;

    #[test]
    fn names_are_spelled_as_pingora_spells_them() {
        let names = [
            header::ACCEPT_RANGES,
            AGE,
            header::CACHE_CONTROL,
            CONNECTION,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            CONTENT_LENGTH,
            DATE,
            header::SERVER,
            header::SET_COOKIE,
            VIA,
            CACHE_STATUS,
            header::ETAG,
            header::LAST_MODIFIED,
            header::EXPIRES,
            header::VARY,
            header::LOCATION,
            header::CONTENT_LANGUAGE,
            header::CONTENT_LOCATION,
            header::LINK,
            header::CONTENT_DISPOSITION,
            header::CONTENT_RANGE,
            header::ALLOW,
            header::PRAGMA,
            header::STRICT_TRANSPORT_SECURITY,
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::CONTENT_SECURITY_POLICY,
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            HeaderName::from_static("x-request-id"),
        ];
        for name in names {
            let mut head = ResponseHeader::build_no_case(200, None).unwrap();
            head.insert_header(name.clone(), HeaderValue::from_static("v")).unwrap();
            let (mut theirs, mut ours) = (Vec::new(), BytesMut::new());
            head.header_to_h1_wire(&mut theirs);
            put(&mut ours, &name, b"v");
            assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
        }
    }
}
