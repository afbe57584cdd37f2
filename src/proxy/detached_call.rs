//! A call whose client disconnects before the response: it continues without the client if its upstream
//! limits calls by their outcome.
//!
//! Owns: that the call keeps its permit until its outcome is known, within the deadlines of its upstream.
//! Never touches: clients; the effect of an outcome on other calls (`upstream::admission`).
//!
//! An API counts such a call even if its client is gone. The number of detached calls is bounded by
//! `rate_limit.in_flight`, which includes them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::engine::pass_through::PassThroughStart;
use crate::engine::purger::UnknownOutcomeGuard;
use crate::proxy::ProxyHandler;
use crate::proxy::context::RequestContext;
use crate::proxy::upload::RequestUpload;
use crate::semantics::connection_auth;
use crate::semantics::hop_by_hop;
use crate::semantics::invalidation;
use crate::semantics::request::RequestFraming;
use crate::semantics::status;
use crate::upstream::Body;
use crate::upstream::admission::Permit;
use crate::upstream::client::{AttemptError, response_body};
use crate::upstream::connect::pool::{CallChannel, ConnectionOwner};
use crate::upstream::connect::session::{SessionError, SessionEvent, UpstreamHead};
use crate::upstream::outcome::body_inspection;
use crate::upstream::outcome::buffered_body::buffer;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routed_request::RoutedRequest;

/// How long a detached call with an incomplete request waits for an early response. The connection to the
/// origin and the slot of the call are released later by this time.
const EARLY_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a detached call waits for its head if `timeouts.first_byte` is off.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long the body for the rules may take. The call has already released its slot, so no other limit
/// bounds the number of these calls.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Watches a call while its client waits. If it is dropped without a call of [`ClientWatch::finish`], the
/// client has disconnected: the end of an HTTP/2 connection drops the futures of all its requests.
pub(super) struct ClientWatch<'a> {
    pub(super) handler: &'a Arc<ProxyHandler>,
    pub(super) routed: &'a Arc<RoutedRequest>,
    pub(super) ctx: &'a mut RequestContext,
    pub(super) channel: &'a mut CallChannel,
    pub(super) upload: &'a mut RequestUpload,
    complete: bool,
}

impl<'a> ClientWatch<'a> {
    pub(super) fn new(
        handler: &'a Arc<ProxyHandler>,
        routed: &'a Arc<RoutedRequest>,
        (ctx, upload): (&'a mut RequestContext, &'a mut RequestUpload),
        channel: &'a mut CallChannel,
    ) -> Self {
        Self { handler, routed, ctx, channel, upload, complete: false }
    }

    /// Ends the wait. If not `complete`, the call may continue without its client.
    pub(super) fn finish(mut self, complete: bool) {
        self.complete = complete;
    }

    /// The call without its client, if it should continue.
    fn detach(&mut self) -> Option<DetachedCall> {
        let has_body = self.routed.request.body != RequestFraming::None;
        let is_complete = !has_body || self.upload.is_complete();
        let permit = self.ctx.permit.take_if(|permit| permit.continues_without_client(is_complete))?;
        let mut channel = self.channel.take();
        if self.ctx.signed_in {
            // Other users must not use a connection with a sign-in.
            channel.set_owner(ConnectionOwner::Call);
        }
        let empty = RequestUpload::new(&self.handler.network.in_flight);
        Some(DetachedCall {
            handler: Arc::clone(self.handler),
            routed: Arc::clone(self.routed),
            start: self.ctx.pass_through_start.take().filter(|_| !self.ctx.signed_in),
            guard: self.ctx.unknown_outcome.take(),
            permit,
            channel,
            upload: std::mem::replace(self.upload, empty),
            is_complete,
        })
    }
}

impl Drop for ClientWatch<'_> {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        // Without a runtime larder has already stopped.
        if let (Some(call), Ok(runtime)) = (self.detach(), Handle::try_current()) {
            runtime.spawn(call.run());
        }
    }
}

/// A call without a client.
struct DetachedCall {
    handler: Arc<ProxyHandler>,
    routed: Arc<RoutedRequest>,
    start: Option<PassThroughStart>,
    guard: Option<UnknownOutcomeGuard>,
    permit: Permit,
    channel: CallChannel,
    upload: RequestUpload,
    /// Whether the whole request is available.
    is_complete: bool,
}

impl DetachedCall {
    async fn run(mut self) {
        let first_byte = self.routed.upstream().timeouts.first_byte.time().unwrap_or(LONGEST_WAIT);
        let limit = if self.is_complete { first_byte } else { first_byte.min(EARLY_RESPONSE_TIMEOUT) };
        match timeout(limit, self.head()).await {
            Ok(Ok(head)) => self.on_head(*head).await,
            Ok(Err(error)) => self.on_error(error),
            Err(_elapsed) => self.on_timeout(),
        }
    }

    /// Waits for the head of the final response.
    async fn head(&mut self) -> Result<Box<UpstreamHead>, SessionError> {
        loop {
            self.upload.send_available(&mut self.channel);
            match self.channel.next(true).await? {
                SessionEvent::Head(head) if !status::is_interim(head.status) => return Ok(head),
                SessionEvent::Head(_) | SessionEvent::SendReady => {}
                SessionEvent::Data(_) | SessionEvent::End(_) => return Err(SessionError::Protocol),
            }
        }
    }

    /// Handles an error before the head. If an idle connection had ended, or the request was incomplete, the
    /// error does not show a fault of the origin: the permit is dropped, and the call counts as abandoned.
    fn on_error(mut self, error: SessionError) {
        if let (true, AttemptError::Failed(failure)) = (self.is_complete, self.channel.attempt_error(error)) {
            self.permit.on_failure(failure);
        }
    }

    fn on_timeout(mut self) {
        // An event stream may be silent for long.
        if self.is_complete && !self.routed.request.expects_stream() {
            self.channel.stop_reuse();
            self.permit.on_failure(UpstreamError::FirstByteTimeout);
        }
    }

    async fn on_head(mut self, head: UpstreamHead) {
        let UpstreamHead { status, mut headers, .. } = head;
        if let Some(guard) = self.guard.take().filter(|_| !invalidation::leaves_outcome_unknown(status)) {
            guard.resolved();
        }
        if status == StatusCode::REQUEST_TIMEOUT && !self.is_complete {
            return;
        }
        if connection_auth::is_in_response(&headers) {
            self.channel.set_owner(ConnectionOwner::Call);
        }
        if !self.is_complete {
            self.permit.mark_client_at_fault();
        }
        hop_by_hop::strip(&mut headers);
        let inspects = self.permit.reads_body_of(status)
            && status != StatusCode::SWITCHING_PROTOCOLS
            && body_inspection::coding(&headers).is_some();
        if inspects {
            self.permit.on_head_unread(status, &headers);
        } else {
            self.permit.on_response(status, &headers, None);
        }
        let engine = &self.handler.engine;
        engine.purger.invalidate(&self.routed.request, status, &headers, || ()).await;
        if let Some(start) = &self.start {
            let response = (status, self.permit.is_rate_limited());
            engine.pass_through.on_read_response(&self.routed, start, response, &headers).await;
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            self.read_body(status, &headers, inspects).await;
        }
    }

    /// Reads the body for the rules if `inspects`. Then reads the rest of a short body, so that other calls
    /// can use the connection.
    async fn read_body(mut self, status: StatusCode, headers: &HeaderMap, inspects: bool) {
        let mut body: Box<dyn Body> = response_body(headers, self.channel, self.routed.upstream());
        let in_flight = &self.handler.network.in_flight;
        if inspects {
            let inspection = body_inspection::read(headers, body, in_flight);
            let Ok((inspected, rest)) = timeout(INSPECTION_TIMEOUT, inspection).await else {
                return;
            };
            match inspected.json() {
                Some(json) => _ = self.permit.on_body(status, headers, json),
                None => self.permit.finish_without_body(),
            }
            body = rest;
        }
        buffer(body, in_flight).await;
    }
}
