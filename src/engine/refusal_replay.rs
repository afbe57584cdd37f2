//! Replays the API's own refusal to the client that got it before, while larder makes no call.
//!
//! Owns: the response and its marks in `Cache-Status` and `Proxy-Status`. Never touches: which calls are made,
//! the choice of the refusal (`upstream::admission`).

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, EXPIRES, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::engine::response::{ClientResponse, ResponseBody};
use crate::key::{CacheKey, KeyBuilder};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::field_list;
use crate::semantics::limit_times::{self, LaterMoment};
use crate::telemetry::ResultKind;
use crate::telemetry::problem::PROXY_STATUS;
use crate::upstream::Origin;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::routed_request::RoutedRequest;

/// Replays refusals.
pub(crate) struct RefusalReplay {
    origin: Arc<dyn Origin>,
    key_builder: Arc<KeyBuilder>,
}

impl RefusalReplay {
    pub(super) fn new(origin: &Arc<dyn Origin>, key_builder: &Arc<KeyBuilder>) -> Self {
        Self { origin: Arc::clone(origin), key_builder: Arc::clone(key_builder) }
    }

    /// The API's last refusal in place of a call that is not made. `key`: the key of the fill; `None`: the call
    /// would pass through.
    pub(super) fn response(
        &self,
        routed: &Arc<RoutedRequest>,
        key: Option<&CacheKey>,
        rejection: Rejection,
    ) -> Option<ClientResponse> {
        let credential = self.key_builder.api_user(&routed.request);
        let call = CallContext { key: key.map(CacheKey::id), ..CallContext::new(routed, credential) };
        let replay = self.origin.last_refusal(&call, rejection)?;
        let (request, refusal) = (&routed.request, &replay.refusal);
        if !accepts_coding(&request.headers, &refusal.headers) {
            return None;
        }
        let mut headers = refusal.headers.clone();
        let (elapsed, at_least, now) = (replay.elapsed, rejection.left, replay.now);
        // The time at which a person releases a quota is unknown.
        if !rejection.is_until_released() {
            limit_times::adjust(&mut headers, LaterMoment { elapsed, at_least, now });
        }
        // No cache may keep what holds for this moment only.
        for name in [ETAG, LAST_MODIFIED, EXPIRES] {
            headers.remove(name);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(refusal.body.len()));
        let problem = rejection.problem();
        let received = refusal.status.as_u16();
        let proxy_status = format!("{}; received-status={received}", problem.proxy_status_value());
        headers.extend(HeaderValue::try_from(proxy_status).map(|value| (PROXY_STATUS, value)));
        CacheStatus::refused().detail("replayed", rejection.reason.token()).append_to(&mut headers);
        let is_head = request.method == Method::HEAD;
        Some(ClientResponse {
            status: refusal.status,
            headers,
            body: if is_head { ResponseBody::Empty } else { ResponseBody::Whole(refusal.body.clone()) },
            result: ResultKind::Error,
            forward_reason: None,
            error: Some(problem.class),
        })
    }
}

/// Whether a client that sent these fields reads the content coding of a response with those.
fn accepts_coding(request: &HeaderMap, response: &HeaderMap) -> bool {
    let accepted = || {
        let accepted = field_list::members(request.get_all(ACCEPT_ENCODING));
        // A member with a weight is not worth reading: such a client gets larder's own error.
        accepted.filter(|one| !one.contains(&b';'))
    };
    let mut codings = field_list::members(response.get_all(CONTENT_ENCODING));
    let is = |one: &[u8], coding: &[u8]| {
        one.split(|byte| *byte == b';')
            .next()
            .is_some_and(|one| one.trim_ascii().eq_ignore_ascii_case(coding))
    };
    codings.all(|coding| accepted().any(|one| is(one, coding)))
}
