//! A request of HTTP/2 on its way through pingora's session, which carries nothing of ours but its
//! head.
//!
//! Owns: what is slipped into that head, and the head's form: the same as that of HTTP/1.1.
//! Never touches: frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::HOST;
use http::{HeaderValue, Uri};
use parking_lot::Mutex;
use pingora_http::RequestHeader;

use crate::front::Stream;
use crate::semantics::asked::Asked;

/// What the front door knows of a request, and what the front door wants to know of its end.
#[derive(Clone)]
pub(super) struct Slip(Arc<Inside>);

struct Inside {
    asked: Mutex<Option<Asked>>,
    finished: AtomicBool,
}

impl Slip {
    /// The front door's reading of the head, once.
    pub(super) fn take(head: &RequestHeader) -> Option<Asked> {
        head.extensions.get::<Self>()?.0.asked.lock().take()
    }

    /// The exchange with this head has not been given up by its client.
    pub(super) fn finish(head: &RequestHeader) {
        if let Some(slip) = head.extensions.get::<Self>() {
            slip.0.finished.store(true, Ordering::Relaxed);
        }
    }

    /// Whether that is so.
    pub(super) fn is_finished(&self) -> bool {
        self.0.finished.load(Ordering::Relaxed)
    }
}

/// Puts `asked` into the stream's head, which becomes what `front::head::normalised` makes of one in
/// HTTP/1.1: origin-form, `Host` from the target.
pub(super) fn hand_over(asked: Asked, stream: &mut Stream) -> Option<Slip> {
    let head = stream.req_header_mut();
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = asked.method.clone();
    parts.uri = Uri::try_from(asked.target.path_and_query()).ok()?;
    parts.version = asked.version;
    parts.headers = head.headers.clone();
    parts.headers.insert(HOST, HeaderValue::try_from(asked.target.authority()).ok()?);
    let inside = Inside { asked: Mutex::new(Some(asked)), finished: AtomicBool::new(false) };
    let slip = Slip(Arc::new(inside));
    parts.extensions.insert(slip.clone());
    *head = RequestHeader::from(parts);
    Some(slip)
}
