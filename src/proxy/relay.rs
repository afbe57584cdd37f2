//! The pass-through: forwards requests that no route caches, and those that the engine does not handle.
//!
//! Owns: one call for one client, with both bodies in transfer at the same time. Never touches: changes to a
//! message (`forwarded_message`), the decision on a retry (`retry`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::sleep_until;

use crate::clock;
use crate::frontend::session::{BodyLength, ClientError, ClientSession};
use crate::frontend::shared_connection::SharedConnection;
use crate::proxy::connection_auth;
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::detached_call::ClientWatch;
use crate::proxy::forwarded_message;
use crate::proxy::handler::{ExchangeEnd, PingoraHandler};
use crate::proxy::inactivity::{InactivityTimer, SilentPeer};
use crate::proxy::mount_headers;
use crate::proxy::upload::RequestUpload;
use crate::semantics::hop_by_hop;
use crate::semantics::max_forwards;
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::is_event_stream;
use crate::upstream::client::{AttemptError, FreeRepeats};
use crate::upstream::connection_pool::{CallChannel, ConnectionOwner, ConnectionUse};
use crate::upstream::error::UpstreamError;
use crate::upstream::routing::UpstreamTarget;
use crate::upstream::session::{RequestPart, SessionEvent, UpstreamHead};

/// The time after which other calls no longer wait for a call that its client delays.
const STEP_ASIDE_AFTER: Duration = Duration::from_millis(250);

/// The time after which larder sends `100 Continue` itself if the origin has not.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// The result of one attempt.
enum RelayAttempt {
    Answered(Box<UpstreamHead>, CallChannel),
    Failed(UpstreamError),
    Client(ClientError),
    /// The client must sign in again with this scheme.
    SignedOut(&'static str),
}

/// The reason why no response head was received.
enum NoResponseHead {
    Origin(AttemptError),
    Client(ClientError),
}

impl From<ClientError> for NoResponseHead {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl PingoraHandler {
    /// Passes `request` through.
    pub(super) async fn relay(
        self: &Arc<Self>,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if max_forwards::left(&request.method, &request.headers) == Some(0) {
            return self.last_hop(request, client, ctx).await;
        }
        let upstream = self.network.upstreams.place(&request.target);
        if let Some(scheme) = connection_auth::lost(request, client, &upstream) {
            return self.signed_out(request, client, ctx, scheme).await;
        }
        let mut upload = RequestUpload::new(&self.network.in_flight);
        let (head, channel) = loop {
            match self.attempt(request, client, ctx, &upstream, &mut upload).await {
                RelayAttempt::Answered(head, channel) => {
                    ctx.answered(head.status).await;
                    let is_incomplete = !upload.is_all_here() && !client.has_read_body();
                    if let Some(permit) = ctx.pass.as_mut().filter(|_| is_incomplete) {
                        permit.spares_the_origin();
                    }
                    if head.status == StatusCode::REQUEST_TIMEOUT && is_incomplete {
                        ctx.pass = None;
                    }
                    if let Some(reply) = self.stale_head(request, ctx, &head).await {
                        return self.reply(request, client, ctx, reply).await;
                    }
                    if !self.is_asked_again(ctx, &head, upload.is_whole()) {
                        break (head, channel);
                    }
                }
                RelayAttempt::Failed(failure) => {
                    ctx.unanswered(failure).await;
                    ctx.spare_the_origin(request, failure, &upload);
                    if let Some(reply) = self.stale_instead(request, ctx, failure).await {
                        return self.reply(request, client, ctx, reply).await;
                    }
                    if !self.fails(ctx, failure, upload.is_whole()) {
                        return self.failed(request, client, ctx, failure).await;
                    }
                }
                RelayAttempt::Client(error) => {
                    return Err(self.broken_by_client(request, client, ctx, error).await);
                }
                RelayAttempt::SignedOut(scheme) => {
                    return self.signed_out(request, client, ctx, scheme).await;
                }
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(request, client, ctx, *head, channel).await;
        }
        if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return self.not_a_proxy(request, client, ctx).await;
        }
        self.forward_response(request, client, ctx, *head, (channel, upload), &upstream).await
    }

    /// One attempt, from admission to the head of a response.
    async fn attempt(
        self: &Arc<Self>,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        upstream: &UpstreamTarget,
        upload: &mut RequestUpload,
    ) -> RelayAttempt {
        let owner = connection_auth::owner(request, client, upstream);
        ctx.signed_in = !matches!(owner, ConnectionOwner::Pool);
        match unless_gone(client, self.passed(ctx, request, upstream)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return RelayAttempt::Failed(failure),
            Err(gone) => return RelayAttempt::Client(gone),
        }
        let outgoing = forwarded_message::outgoing(self, request, client, upstream);
        let (mut repeats, mut connection) = (FreeRepeats::default(), ConnectionUse::Pooled);
        loop {
            upload.begin();
            let begun = {
                // Pinned here and passed by reference, so that the caller's future does not contain it twice.
                let work = pin!(self.network.begin(
                    upstream,
                    request.listener,
                    &outgoing,
                    connection,
                    owner.clone()
                ));
                unless_gone(client, work).await
            };
            let attempt = match begun {
                Err(gone) => return RelayAttempt::Client(gone),
                Ok(Err(attempt)) => attempt,
                Ok(Ok(mut channel)) => {
                    ctx.doubt = ctx.doubt.take().or_else(|| self.engine.doubt(request));
                    let mut watch =
                        ClientWatch::new(self, request, upstream, (ctx, upload), &mut channel);
                    let head = self.await_head(client, &mut watch).await;
                    watch.over(!matches!(head, Err(NoResponseHead::Client(_))));
                    match head {
                        Ok(head) => {
                            connection_auth::heard(&head.headers, client, &mut channel, upstream);
                            return RelayAttempt::Answered(head, channel);
                        }
                        Err(NoResponseHead::Client(error)) => return RelayAttempt::Client(error),
                        Err(NoResponseHead::Origin(attempt)) => attempt,
                    }
                }
            };
            let repeat = upload.is_whole() && repeats.again(attempt, request.is_idempotent());
            if (repeat || attempt == AttemptError::SignedOut)
                && let Some(scheme) = connection_auth::lost(request, client, upstream)
            {
                return RelayAttempt::SignedOut(scheme);
            }
            if !repeat {
                return RelayAttempt::Failed(attempt.failure());
            }
            self.network.gate.redialled(upstream, ctx.route);
            connection = ConnectionUse::New;
        }
    }

    /// Sends the body of the request until the head of the final response arrives.
    async fn await_head(
        &self,
        client: &mut ClientSession,
        watch: &mut ClientWatch<'_>,
    ) -> Result<Box<UpstreamHead>, NoResponseHead> {
        let ClientWatch { asked: request, place: upstream, ctx, channel, upload, .. } = watch;
        // The client is not expected to send its body before it gets a `100 Continue`.
        let mut awaits_continue = request.expects_continue() && !client.has_read_body();
        if awaits_continue && channel.goes_on_unasked() {
            client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
            awaits_continue = false;
        }
        let mut timer = self.head_timer(request, upstream).among(client.siblings());
        let began = clock::of_timers();
        let (step_aside_at, continue_at) = (began + STEP_ASIDE_AFTER, began + CONTINUE_AFTER);
        loop {
            send_what_is_at_hand(channel, upload);
            // If the client is slow to send its body, the origin is not at fault.
            let waits_for_client = channel.has_room() && upload.needs_more();
            timer.is_of(if waits_for_client && !awaits_continue {
                SilentPeer::Client
            } else {
                SilentPeer::Origin
            });
            timer.is_held(!waits_for_client && !client.has_read_body());
            let before = upload.came_so_far();
            tokio::select! {
                biased;
                event = channel.next(true) => match event {
                    Ok(SessionEvent::Head(head)) if is_interim(head.status) => {
                        awaits_continue &= head.status != StatusCode::CONTINUE;
                        let mut headers = head.headers;
                        forwarded_message::strip(&mut headers);
                        mount_headers::confine(request.in_browser, &mut headers);
                        client.write_interim(head.status, headers).await?;
                    }
                    Ok(SessionEvent::Head(head)) => return Ok(head),
                    Ok(SessionEvent::Room) => timer.broken(),
                    Ok(SessionEvent::Data(_) | SessionEvent::End(_)) => {
                        return Err(NoResponseHead::Origin(AttemptError::Failed(UpstreamError::Protocol)));
                    }
                    // The origin has waited for the client for long enough, and so would larder.
                    Err(_error) if waits_for_client && ctx.aside => {
                        return Err(NoResponseHead::Client(ClientError::Stalled));
                    }
                    Err(error) => return Err(NoResponseHead::Origin(AttemptError::after(error, channel))),
                },
                piece = upload.news(client, waits_for_client) => {
                    if let Some(piece) = piece? {
                        channel.send(RequestPart::Data(piece));
                    }
                    awaits_continue = false;
                    timer.came(upload.came_so_far() - before);
                }
                // RFC 9110 §10.1.1: clients do not wait indefinitely, and some origins send no 100.
                () = sleep_until(continue_at), if awaits_continue => {
                    client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
                    awaits_continue = false;
                }
                () = sleep_until(step_aside_at), if waits_for_client && !ctx.aside => ctx.step_aside(),
                // Other calls wait for the slot, which a slow client would occupy without a limit.
                () = ctx.has_to_make_way(), if waits_for_client && ctx.aside =>
                    return Err(NoResponseHead::Client(ClientError::Stalled)),
                peer = timer.lasted() => {
                    if peer == SilentPeer::Client {
                        return Err(NoResponseHead::Client(ClientError::Stalled));
                    }
                    channel.distrust();
                    return Err(NoResponseHead::Origin(AttemptError::Failed(UpstreamError::FirstByteTimeout)));
                }
            }
        }
    }

    fn head_timer(&self, request: &ProxyRequest, upstream: &UpstreamTarget) -> InactivityTimer {
        // An event stream or a WebSocket may be inactive for a long time.
        let origin = (!forwarded_message::streams(request)).then_some(upstream.timeouts.first_byte);
        let timer = InactivityTimer::new(origin, None);
        if forwarded_message::converses(request) { timer } else { timer.with(self.body) }
    }

    /// Forwards the response from its head to its end.
    async fn forward_response(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        head: UpstreamHead,
        (channel, upload): (CallChannel, RequestUpload),
        upstream: &UpstreamTarget,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let UpstreamHead { status, mut headers, framing, ended, spelling, .. } = head;
        if connection_auth::is_left_to_http1(request, client, ctx, (status, &headers)) {
            return Ok(ExchangeEnd::Answered);
        }
        let timeout = (!forwarded_message::streams(request) && !is_event_stream(&headers))
            .then_some(upstream.timeouts.between_bytes);
        forwarded_message::strip(&mut headers);
        self.heard(request, ctx, status, &headers, framing).await;
        forwarded_message::incoming(ctx, status, &mut headers);
        self.finish_head(request, client, ctx, &mut headers);
        let length = forwarded_message::length(request, status, &headers, framing, ended);
        let has_body = !matches!(length, BodyLength::None | BodyLength::Known(0));
        client.write_head(status, headers, length, &spelling).await?;
        if request.method == Method::HEAD || ended {
            self.ended(ctx).await;
        }
        let mut trailers = pump(client, channel, upload, ctx, timeout, |ctx, piece| {
            ctx.upstream_bytes += piece.len() as u64;
            forwarded_message::copied(piece, ctx);
            has_body
        })
        .await?;
        self.ended(ctx).await;
        if let Some(trailers) = &mut trailers {
            hop_by_hop::strip_trailers(trailers);
        }
        client.end(trailers.filter(|trailers| !trailers.is_empty())).await?;
        Ok(ExchangeEnd::Answered)
    }
}

/// Transfers both bodies until the end of the response and returns its trailers. `passes` gets each piece
/// and returns whether to send it to the client.
async fn pump(
    client: &mut ClientSession,
    mut channel: CallChannel,
    mut upload: RequestUpload,
    ctx: &mut RequestContext,
    timeout: Option<Duration>,
    passes: impl Fn(&mut RequestContext, &Bytes) -> bool,
) -> Result<Option<HeaderMap>, ExchangeFailure> {
    // A response that has begun may last as long as its client sends (gRPC).
    let mut timer = InactivityTimer::new(timeout, None).among(client.siblings());
    client.is_ahead(channel.ahead());
    let mut since = clock::of_timers();
    loop {
        send_what_is_at_hand(&mut channel, &mut upload);
        let waits_for_client = channel.has_room() && upload.needs_more();
        // The unsent part of the response limits reading from the origin, but never from the client.
        let reads = client.has_room();
        if reads && !ctx.aside {
            since = clock::of_timers();
        }
        timer.is_of(if waits_for_client || !reads {
            SilentPeer::Client
        } else {
            SilentPeer::Origin
        });
        timer.is_held(!waits_for_client && !client.has_read_body());
        tokio::select! {
            biased;
            event = channel.next(reads) => match event {
                Ok(SessionEvent::Data(piece)) => {
                    if passes(ctx, &piece) {
                        client.queue(piece)?;
                    }
                    timer.broken();
                }
                Ok(SessionEvent::End(trailers)) => return Ok(trailers),
                Ok(SessionEvent::Room) => timer.broken(),
                Ok(SessionEvent::Head(_)) | Err(_) => return Err(ExchangeFailure::Answer(UpstreamError::Cut)),
            },
            piece = upload.news(client, waits_for_client) => {
                if let Some(piece) = piece? {
                    channel.send(RequestPart::Data(piece));
                }
                timer.broken();
            }
            () = sleep_until(since + STEP_ASIDE_AFTER), if !reads && !ctx.aside => ctx.step_aside(),
            _peer = timer.lasted() => {
                channel.distrust();
                return Err(ExchangeFailure::Answer(UpstreamError::BodyTimeout));
            }
        }
    }
}

/// The result of `work` unless the client disconnects before. The client's body is not read meanwhile.
async fn unless_gone<T>(
    client: &mut ClientSession,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    let mut stalled_upload = client.siblings().map(SharedConnection::holding);
    if let Some(upload) = &mut stalled_upload {
        upload.is(!client.has_read_body());
    }
    tokio::select! {
        biased;
        done = work => Ok(done),
        gone = client.gone() => Err(gone),
    }
}

pub(super) fn send_what_is_at_hand(channel: &mut CallChannel, upload: &mut RequestUpload) {
    while channel.has_room() {
        let Some(part) = upload.at_hand() else { return };
        channel.send(part);
    }
}

pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
