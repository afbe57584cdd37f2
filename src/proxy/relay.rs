//! The pass-through: forwards requests that no route caches, and those that the engine does not handle.
//!
//! Owns: one call for one client, with both bodies in transfer at the same time. Never touches: changes to a
//! message (`forwarded_message`), the decision on a retry (`retry`).

use std::pin::pin;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::time::sleep_until;

use crate::clock::Clock;
use crate::frontend::session::{BodyLength, ClientError, ClientSession};
use crate::frontend::shared_connection::SharedConnection;
use crate::proxy::context::ExchangeFailure;
use crate::proxy::detached_call::ClientWatch;
use crate::proxy::exchange::Exchange;
use crate::proxy::forwarded_message;
use crate::proxy::inactivity::{InactivityTimer, SilentPeer};
use crate::proxy::mount_headers;
use crate::proxy::upload::RequestUpload;
use crate::proxy::{ExchangeEnd, ProxyHandler};
use crate::semantics::event_stream;
use crate::semantics::hop_by_hop;
use crate::semantics::max_forwards;
use crate::semantics::request::ProxyRequest;
use crate::semantics::status;
use crate::upstream::client::{AttemptError, TransparentRetries};
use crate::upstream::connect::pool::{CallChannel, ConnectionOwner, ConnectionUse};
use crate::upstream::connect::session::{RequestPart, SessionEvent, UpstreamHead};
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::retry::AttemptFailure;
use crate::upstream::routed_request::RoutedRequest;

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

impl From<UpstreamError> for NoResponseHead {
    fn from(error: UpstreamError) -> Self {
        Self::Origin(AttemptError::Failed(error))
    }
}

impl From<ClientError> for NoResponseHead {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Exchange {
    /// Passes the request through.
    pub(super) async fn relay(&mut self) -> Result<ExchangeEnd, ExchangeFailure> {
        let request = self.request();
        if max_forwards::remaining(&request.method, &request.headers) == Some(0) {
            return self.reply_as_last_hop().await;
        }
        if let Some(scheme) = self.lost_sign_in() {
            return self.reply_signed_out(scheme).await;
        }
        let mut upload = RequestUpload::new(&self.handler.network.in_flight);
        let (head, channel) = loop {
            match self.attempt(&mut upload).await {
                RelayAttempt::Answered(head, channel) => {
                    self.on_answer(&head, &upload).await;
                    if let Some(reply) = self.stale_for_error(&head).await {
                        return self.reply(reply).await;
                    }
                    let failure = self.record_response(&head);
                    if !self.schedule_retry(failure.filter(|_| upload.is_repeatable())) {
                        break (head, channel);
                    }
                }
                RelayAttempt::Failed(error) => {
                    self.ctx.on_failure(error).await;
                    self.ctx.ignore_early_close(&self.routed.request, error, &upload);
                    if let Some(reply) = self.stale_for_failure(error).await {
                        return self.reply(reply).await;
                    }
                    if let Some(permit) = &mut self.ctx.permit {
                        permit.on_failure(error);
                    }
                    let failure = AttemptFailure::from_error(error);
                    if !self.schedule_retry(failure.filter(|_| upload.is_repeatable())) {
                        return self.reply_error(error).await;
                    }
                }
                RelayAttempt::Client(error) => {
                    self.pause_retries();
                    return Err(self.on_client_error(error).await);
                }
                RelayAttempt::SignedOut(scheme) => return self.reply_signed_out(scheme).await,
            }
        };
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => self.switch_protocol(*head, channel).await,
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => self.reply_origin_407().await,
            _ => self.forward_response(*head, channel, upload).await,
        }
    }

    /// Handles the head of a final response before its status is used.
    async fn on_answer(&mut self, head: &UpstreamHead, upload: &RequestUpload) {
        self.ctx.on_response(head.status).await;
        let is_incomplete = !upload.is_complete() && !self.client.has_read_body();
        if let Some(permit) = self.ctx.permit.as_mut().filter(|_| is_incomplete) {
            permit.mark_client_at_fault();
        }
        if head.status == StatusCode::REQUEST_TIMEOUT && is_incomplete {
            self.ctx.permit = None;
        }
    }

    /// One attempt, from admission to the head of a response.
    async fn attempt(&mut self, upload: &mut RequestUpload) -> RelayAttempt {
        let owner = self.connection_owner();
        self.ctx.signed_in = !matches!(owner, ConnectionOwner::Pool);
        let admission = self.ctx.admit(&self.handler, &self.routed);
        match unless_gone(&mut self.client, admission).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return RelayAttempt::Failed(failure),
            Err(gone) => return RelayAttempt::Client(gone),
        }
        let outgoing = forwarded_message::outgoing_request(self);
        let (mut repeats, mut connection) = (TransparentRetries::default(), ConnectionUse::Pooled);
        loop {
            upload.begin();
            let begun = {
                let (network, upstream) = (&self.handler.network, self.routed.upstream());
                // Pinned here and passed by reference, so that the caller's future does not contain it twice.
                let work = pin!(network.begin(upstream, &outgoing, connection, owner.clone()));
                unless_gone(&mut self.client, work).await
            };
            let attempt = match begun {
                Err(gone) => return RelayAttempt::Client(gone),
                Ok(Err(attempt)) => attempt,
                Ok(Ok(mut channel)) => match self.await_head(&mut channel, upload).await {
                    Ok(head) => {
                        self.on_sign_in_head(&head.headers, &mut channel);
                        return RelayAttempt::Answered(head, channel);
                    }
                    Err(NoResponseHead::Client(error)) => return RelayAttempt::Client(error),
                    Err(NoResponseHead::Origin(attempt)) => attempt,
                },
            };
            let may_repeat = self.request().is_idempotent() && !self.ctx.is_slow();
            let repeat = upload.is_repeatable() && repeats.should_retry(attempt, may_repeat);
            if (repeat || attempt == AttemptError::SignedOut)
                && let Some(scheme) = self.lost_sign_in()
            {
                return RelayAttempt::SignedOut(scheme);
            }
            if !repeat {
                return RelayAttempt::Failed(attempt.upstream_error());
            }
            self.handler.network.admission.record_reconnect(&self.routed);
            connection = ConnectionUse::New;
        }
    }

    /// Sends the body of the request until the head of the final response arrives. If the client disconnects
    /// meanwhile, the call may continue without it.
    async fn await_head(
        &mut self,
        channel: &mut CallChannel,
        upload: &mut RequestUpload,
    ) -> Result<Box<UpstreamHead>, NoResponseHead> {
        let Self { handler, routed, client, ctx } = self;
        if ctx.unknown_outcome.is_none() {
            ctx.unknown_outcome = handler.engine.purger.guard_outcome(&routed.request);
        }
        let mut watch = ClientWatch::new(handler, routed, (ctx, upload), channel);
        let head = send_until_head(client, &mut watch).await;
        watch.finish(!matches!(head, Err(NoResponseHead::Client(_))));
        head
    }

    /// Forwards the response from its head to its end.
    async fn forward_response(
        &mut self,
        head: UpstreamHead,
        channel: CallChannel,
        upload: RequestUpload,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let UpstreamHead { status, mut headers, framing, ended, spelling, .. } = head;
        if self.needs_http1(status, &headers) {
            return Ok(ExchangeEnd::Completed);
        }
        let timeout = (!self.request().expects_stream() && !event_stream::is_response(&headers))
            .then(|| self.routed.upstream().timeouts.body_limit());
        hop_by_hop::strip(&mut headers);
        self.on_head(status, &headers, framing).await;
        forwarded_message::add_status_fields(&self.ctx, status, &mut headers);
        self.finish_head(&mut headers);
        let is_head = self.request().method == Method::HEAD;
        let length = forwarded_message::body_length(self.request(), status, &headers, framing, ended);
        let has_body = !matches!(length, BodyLength::None | BodyLength::Known(0));
        self.client.write_head(status, headers, length, &spelling).await?;
        if is_head || ended {
            self.on_body_end().await;
        }
        let mut trailers = self.pump(channel, upload, timeout, has_body).await?;
        self.on_body_end().await;
        if let Some(trailers) = &mut trailers {
            hop_by_hop::strip_trailers(trailers);
        }
        self.client.end(trailers.filter(|trailers| !trailers.is_empty())).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Transfers both bodies until the end of the response and returns its trailers. `has_body`: the client
    /// gets the body.
    async fn pump(
        &mut self,
        mut channel: CallChannel,
        mut upload: RequestUpload,
        timeout: Option<Duration>,
        has_body: bool,
    ) -> Result<Option<HeaderMap>, ExchangeFailure> {
        let Self { client, ctx, .. } = self;
        // A response that has begun may last as long as its client sends (gRPC).
        let mut timer =
            InactivityTimer::new(timeout, None).with_shared_connection(client.shared_connection());
        client.set_read_ahead(channel.receive_window());
        let mut since = Clock::timer_now();
        loop {
            upload.send_available(&mut channel);
            let waits_for_client = channel.can_send() && upload.needs_more();
            // The unsent part of the response limits reading from the origin, but never from the client.
            let reads = client.has_room();
            if reads && !ctx.stepped_aside {
                since = Clock::timer_now();
            }
            timer.wait_for(if waits_for_client || !reads { SilentPeer::Client } else { SilentPeer::Origin });
            timer.set_stalled(!waits_for_client && !client.has_read_body());
            tokio::select! {
                biased;
                event = channel.next(reads) => match event {
                    Ok(SessionEvent::Data(piece)) => {
                        ctx.upstream_bytes += piece.len() as u64;
                        ctx.capture_piece(&piece);
                        if has_body {
                            client.queue(piece)?;
                        }
                        timer.restart();
                    }
                    Ok(SessionEvent::End(trailers)) => return Ok(trailers),
                    Ok(SessionEvent::SendReady) => timer.restart(),
                    Ok(SessionEvent::Head(_)) | Err(_) => return Err(ExchangeFailure::Response(UpstreamError::Cut)),
                },
                piece = upload.next_event(client, waits_for_client) => {
                    if let Some(piece) = piece? {
                        channel.send(RequestPart::Data(piece));
                    }
                    timer.restart();
                }
                () = sleep_until(since + STEP_ASIDE_AFTER), if !reads && !ctx.stepped_aside => ctx.step_aside(),
                _peer = timer.expired() => {
                    channel.stop_reuse();
                    return Err(ExchangeFailure::Response(UpstreamError::BodyTimeout));
                }
            }
        }
    }
}

/// Sends the body of the request until the head of the final response arrives.
async fn send_until_head(
    client: &mut ClientSession,
    watch: &mut ClientWatch<'_>,
) -> Result<Box<UpstreamHead>, NoResponseHead> {
    let ClientWatch { handler, routed, ctx, channel, upload, .. } = watch;
    let request = &routed.request;
    // The client is not expected to send its body before it gets a `100 Continue`.
    let mut awaits_continue = request.expects_continue() && !client.has_read_body();
    if awaits_continue && channel.requires_local_continue() {
        client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
        awaits_continue = false;
    }
    let mut timer =
        head_timer(handler, routed, ctx.is_slow()).with_shared_connection(client.shared_connection());
    let began = Clock::timer_now();
    let (step_aside_at, continue_at) = (began + STEP_ASIDE_AFTER, began + CONTINUE_AFTER);
    loop {
        upload.send_available(channel);
        // If the client is slow to send its body, the origin is not at fault.
        let waits_for_client = channel.can_send() && upload.needs_more();
        let client_is_next = waits_for_client && !awaits_continue;
        timer.wait_for(if client_is_next { SilentPeer::Client } else { SilentPeer::Origin });
        timer.set_stalled(!waits_for_client && !client.has_read_body());
        let before = upload.received_bytes();
        tokio::select! {
            biased;
            event = channel.next(true) => match event {
                Ok(SessionEvent::Head(head)) if status::is_interim(head.status) => {
                    awaits_continue &= head.status != StatusCode::CONTINUE;
                    write_interim(client, request, *head).await?;
                }
                Ok(SessionEvent::Head(head)) => return Ok(head),
                Ok(SessionEvent::SendReady) => timer.restart(),
                Ok(SessionEvent::Data(_) | SessionEvent::End(_)) => return Err(UpstreamError::Protocol.into()),
                // The origin has waited for the client for long enough, and so would larder.
                Err(_error) if waits_for_client && ctx.stepped_aside => return Err(ClientError::Stalled.into()),
                Err(error) => return Err(NoResponseHead::Origin(channel.attempt_error(error))),
            },
            piece = upload.next_event(client, waits_for_client) => {
                if let Some(piece) = piece? {
                    channel.send(RequestPart::Data(piece));
                }
                awaits_continue = false;
                timer.on_bytes(upload.received_bytes() - before);
            }
            // RFC 9110 §10.1.1: clients do not wait indefinitely, and some origins send no 100.
            () = sleep_until(continue_at), if awaits_continue => {
                client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
                awaits_continue = false;
            }
            () = sleep_until(step_aside_at), if waits_for_client && !ctx.stepped_aside => ctx.step_aside(),
            // Other calls wait for the slot, which a slow client would occupy without a limit.
            () = ctx.preempted(), if waits_for_client && ctx.stepped_aside => return Err(ClientError::Stalled.into()),
            peer = timer.expired() => match peer {
                SilentPeer::Client => return Err(ClientError::Stalled.into()),
                SilentPeer::Origin if timer.begin_patience() => {
                    if let Some(permit) = &mut ctx.permit {
                        permit.on_slow(request.expects_stream());
                    }
                }
                SilentPeer::Origin => {
                    channel.stop_reuse();
                    return Err(UpstreamError::FirstByteTimeout.into());
                }
            },
        }
    }
}

/// The timer for the head: until the soft deadline, after it until the end of the patience. `is_slow`: the soft
/// one has passed.
fn head_timer(handler: &ProxyHandler, routed: &RoutedRequest, is_slow: bool) -> InactivityTimer {
    let (request, timeouts) = (&routed.request, routed.upstream().timeouts);
    // An event stream or a WebSocket may be inactive for a long time.
    let limit = (!request.expects_stream()).then(|| timeouts.head_limit());
    let soft = timeouts.first_byte.soft().filter(|soft| !is_slow && limit.is_none_or(|limit| *soft < limit));
    let timer = match soft {
        Some(soft) => InactivityTimer::new(Some(soft), None).with_patience(limit),
        None => InactivityTimer::new(limit, None),
    };
    if forwarded_message::is_bidirectional(request) { timer } else { timer.with_body_limits(handler.body) }
}

/// The result of `work` unless the client disconnects before. The client's body is not read meanwhile.
async fn unless_gone<T>(client: &mut ClientSession, work: impl Future<Output = T>) -> Result<T, ClientError> {
    let mut stalled_upload = client.shared_connection().map(SharedConnection::stalled_upload);
    if let Some(upload) = &mut stalled_upload {
        upload.set_stalled(!client.has_read_body());
    }
    tokio::select! {
        biased;
        done = work => Ok(done),
        gone = client.until_gone() => Err(gone),
    }
}

async fn write_interim(
    client: &mut ClientSession,
    request: &ProxyRequest,
    head: UpstreamHead,
) -> Result<(), ClientError> {
    let mut headers = head.headers;
    hop_by_hop::strip(&mut headers);
    mount_headers::confine(request.in_browser, &mut headers);
    client.write_interim(head.status, headers).await
}
