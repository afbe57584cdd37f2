//! A call whose client leaves before its answer comes: where its upstream counts calls, it goes on alone.
//!
//! Owns: that it keeps its place at the gate until it is known what it comes to, within the deadlines of its
//! upstream. Never touches: clients; what an answer changes for others (`upstream::gate`).
//!
//! An API counts such a call whether or not anybody is there for its answer. What clients leave behind is
//! bounded by `rate_limit.in_flight`, among which it counts.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::engine::head_update::PassThroughStart;
use crate::engine::unsafe_request::UnknownOutcomeGuard;
use crate::proxy::context::RequestContext;
use crate::proxy::forwarded_message;
use crate::proxy::handler::PingoraHandler;
use crate::proxy::relay::{is_interim, send_what_is_at_hand};
use crate::proxy::upload::RequestUpload;
use crate::semantics::connection_auth;
use crate::semantics::invalidation;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::upstream::Body;
use crate::upstream::admission::Permit;
use crate::upstream::body_inspection;
use crate::upstream::buffered_body::buffer;
use crate::upstream::client::{AttemptError, body_behind};
use crate::upstream::connection_pool::{CallChannel, ConnectionOwner};
use crate::upstream::error::UpstreamError;
use crate::upstream::routing::UpstreamTarget;
use crate::upstream::session::{SessionError, SessionEvent, UpstreamHead};

/// How long an early answer is waited for where the rest of a request will never come. Its origin learns so
/// much later that it need not wait, and its place is another's so much later.
const EARLY: Duration = Duration::from_secs(5);

/// How long a body that rules read may take. Its call has given its place back: nothing else bounds how many
/// there are.
const READ: Duration = Duration::from_secs(5);

/// A call that its client waits for. Dropped before it is `over`, its client has left, in whatever way: a
/// connection of HTTP/2 that ends takes all that was asked on it along.
pub(super) struct ClientWatch<'a> {
    handler: &'a Arc<PingoraHandler>,
    pub(super) asked: &'a ProxyRequest,
    pub(super) place: &'a UpstreamTarget,
    pub(super) ctx: &'a mut RequestContext,
    pub(super) channel: &'a mut CallChannel,
    pub(super) upload: &'a mut RequestUpload,
    over: bool,
}

impl<'a> ClientWatch<'a> {
    pub(super) fn new(
        handler: &'a Arc<PingoraHandler>,
        asked: &'a ProxyRequest,
        place: &'a UpstreamTarget,
        (ctx, upload): (&'a mut RequestContext, &'a mut RequestUpload),
        channel: &'a mut CallChannel,
    ) -> Self {
        Self { handler, asked, place, ctx, channel, upload, over: false }
    }

    /// The wait has ended; unless the call is `over`, it goes on alone.
    pub(super) fn over(mut self, over: bool) {
        self.over = over;
    }

    /// The call without its client, if it is to go on.
    fn alone(&mut self) -> Option<DetachedCall> {
        let whole = self.asked.body == RequestFraming::None || self.upload.is_all_here();
        let pass = self.ctx.pass.take_if(|pass| pass.outlives_its_client(whole))?;
        let mut channel = self.channel.take();
        if self.ctx.signed_in {
            // What its user may do on it is nobody else's to do.
            channel.belongs_to(ConnectionOwner::Call);
        }
        let rest = RequestUpload::new(&self.handler.network.in_flight);
        Some(DetachedCall {
            handler: Arc::clone(self.handler),
            asked: self.asked.clone(),
            place: self.place.clone(),
            route: self.ctx.route,
            sent: self.ctx.sent.take().filter(|_| !self.ctx.signed_in),
            doubt: self.ctx.doubt.take(),
            pass,
            channel,
            upload: std::mem::replace(self.upload, rest),
            whole,
        })
    }
}

impl Drop for ClientWatch<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Without a runtime larder itself has ended.
        if let (Some(alone), Ok(runtime)) = (self.alone(), Handle::try_current()) {
            runtime.spawn(alone.run());
        }
    }
}

/// A call that nobody waits for.
struct DetachedCall {
    handler: Arc<PingoraHandler>,
    asked: ProxyRequest,
    place: UpstreamTarget,
    route: usize,
    sent: Option<PassThroughStart>,
    doubt: Option<UnknownOutcomeGuard>,
    pass: Permit,
    channel: CallChannel,
    upload: RequestUpload,
    /// All of its request is there.
    whole: bool,
}

impl DetachedCall {
    async fn run(mut self) {
        let first_byte = self.place.timeouts.first_byte;
        let patience = if self.whole { first_byte } else { first_byte.min(EARLY) };
        match timeout(patience, self.head()).await {
            Ok(Ok(head)) => self.answered(*head).await,
            Ok(Err(broken)) => self.broke(broken),
            Err(_elapsed) => self.unanswered(),
        }
    }

    /// The head of the final answer.
    async fn head(&mut self) -> Result<Box<UpstreamHead>, SessionError> {
        loop {
            send_what_is_at_hand(&mut self.channel, &mut self.upload);
            match self.channel.next(true).await? {
                SessionEvent::Head(head) if !is_interim(head.status) => return Ok(head),
                SessionEvent::Head(_) | SessionEvent::Room => {}
                SessionEvent::Data(_) | SessionEvent::End(_) => return Err(SessionError::Protocol),
            }
        }
    }

    /// A connection that waited for a call and had ended, and half a request, say nothing of the origin: as
    /// the pass is dropped, the call counts as abandoned.
    fn broke(mut self, broken: SessionError) {
        if let (true, AttemptError::Failed(failure)) =
            (self.whole, AttemptError::after(broken, &self.channel))
        {
            self.pass.failed(failure);
        }
    }

    fn unanswered(mut self) {
        // An event stream may be silent for long.
        if self.whole && !forwarded_message::streams(&self.asked) {
            self.channel.distrust();
            self.pass.failed(UpstreamError::FirstByteTimeout);
        }
    }

    async fn answered(mut self, head: UpstreamHead) {
        let UpstreamHead { status, mut headers, .. } = head;
        if let Some(doubt) = self.doubt.take().filter(|_| !invalidation::leaves_open(status)) {
            doubt.resolved();
        }
        if status == StatusCode::REQUEST_TIMEOUT && !self.whole {
            return;
        }
        if connection_auth::is_asked_for(&headers) {
            self.channel.belongs_to(ConnectionOwner::Call);
        }
        if !self.whole {
            self.pass.spares_the_origin();
        }
        forwarded_message::strip(&mut headers);
        let reads = self.pass.reads_bodies()
            && status != StatusCode::SWITCHING_PROTOCOLS
            && body_inspection::coding(&headers).is_some();
        if reads {
            self.pass.on_head_unread(status, &headers);
        } else {
            self.pass.answered(status, &headers, None);
        }
        let asked = (self.route, self.sent.as_ref());
        let said = (status, self.pass.is_limited());
        self.handler.heard_alone(&self.asked, asked, said, &headers).await;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            self.read(status, &headers, reads).await;
        }
    }

    /// A body that rules read is read; a short one is taken off its connection, which others can use then.
    async fn read(mut self, status: StatusCode, headers: &HeaderMap, reads: bool) {
        let mut body: Box<dyn Body> = body_behind(headers, self.channel, &self.place);
        let in_flight = &self.handler.network.in_flight;
        if reads {
            let reading = body_inspection::read(headers, body, in_flight);
            let Ok((said, rest)) = timeout(READ, reading).await else {
                return;
            };
            match said.says() {
                Some(json) => _ = self.pass.read(status, headers, json),
                None => self.pass.finish_without_body(),
            }
            body = rest;
        }
        buffer(body, in_flight).await;
    }
}
