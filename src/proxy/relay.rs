//! The pass-through: requests that no route caches, and those the engine leaves to the origin.
//!
//! Owns: one call for one client, both bodies on their way at once. Never touches: what is changed in a
//! message (`message`), whether a call is made again (`tries`).

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

/// How long others wait for what a call that is held up by its own client may find out.
const ASIDE: Duration = Duration::from_millis(250);

/// How long an origin has to give leave to send a body before larder does.
const LEAVE: Duration = Duration::from_secs(1);

/// How one try went.
enum RelayAttempt {
    Answered(Box<UpstreamHead>, CallChannel),
    Failed(UpstreamError),
    Client(ClientError),
    /// The client has to sign in again, by this scheme.
    SignedOut(&'static str),
}

/// Why waiting for a head ended without one.
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
    /// Passes `asked` through.
    pub(super) async fn relay(
        self: &Arc<Self>,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if max_forwards::left(&asked.method, &asked.headers) == Some(0) {
            return self.last_hop(asked, client, ctx).await;
        }
        let place = self.network.upstreams.place(&asked.target);
        if let Some(scheme) = connection_auth::lost(asked, client, &place) {
            return self.signed_out(asked, client, ctx, scheme).await;
        }
        let mut upload = RequestUpload::new(&self.network.in_flight);
        let (head, channel) = loop {
            match self.tried(asked, client, ctx, &place, &mut upload).await {
                RelayAttempt::Answered(head, channel) => {
                    ctx.answered(head.status).await;
                    let half = !upload.is_all_here() && !client.has_read_body();
                    if let Some(pass) = ctx.pass.as_mut().filter(|_| half) {
                        pass.spares_the_origin();
                    }
                    if head.status == StatusCode::REQUEST_TIMEOUT && half {
                        ctx.pass = None;
                    }
                    if let Some(reply) = self.stale_head(asked, ctx, &head).await {
                        return self.reply(asked, client, ctx, reply).await;
                    }
                    if !self.is_asked_again(ctx, &head, upload.is_whole()) {
                        break (head, channel);
                    }
                }
                RelayAttempt::Failed(failure) => {
                    ctx.unanswered(failure).await;
                    ctx.spare_the_origin(asked, failure, &upload);
                    if let Some(reply) = self.stale_instead(asked, ctx, failure).await {
                        return self.reply(asked, client, ctx, reply).await;
                    }
                    if !self.fails(ctx, failure, upload.is_whole()) {
                        return self.failed(asked, client, ctx, failure).await;
                    }
                }
                RelayAttempt::Client(error) => {
                    return Err(self.broken_by_client(asked, client, ctx, error).await);
                }
                RelayAttempt::SignedOut(scheme) => {
                    return self.signed_out(asked, client, ctx, scheme).await;
                }
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(asked, client, ctx, *head, channel).await;
        }
        if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return self.not_a_proxy(asked, client, ctx).await;
        }
        self.answered(asked, client, ctx, *head, (channel, upload), &place).await
    }

    /// One try: through the gate, to the head of an answer.
    async fn tried(
        self: &Arc<Self>,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        place: &UpstreamTarget,
        upload: &mut RequestUpload,
    ) -> RelayAttempt {
        let owner = connection_auth::owner(asked, client, place);
        ctx.signed_in = !matches!(owner, ConnectionOwner::Pool);
        match while_there(client, self.passed(ctx, asked, place)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return RelayAttempt::Failed(failure),
            Err(gone) => return RelayAttempt::Client(gone),
        }
        let request = forwarded_message::outgoing(self, asked, client, place);
        let (mut repeats, mut over) = (FreeRepeats::default(), ConnectionUse::Pooled);
        loop {
            upload.begin();
            let begun = {
                // Pinned here and lent: who waits for it must not have room for it a second time.
                let work =
                    pin!(self.network.begin(place, asked.listener, &request, over, owner.clone()));
                while_there(client, work).await
            };
            let attempt = match begun {
                Err(gone) => return RelayAttempt::Client(gone),
                Ok(Err(attempt)) => attempt,
                Ok(Ok(mut channel)) => {
                    ctx.doubt = ctx.doubt.take().or_else(|| self.engine.doubt(asked));
                    let mut watch =
                        ClientWatch::new(self, asked, place, (ctx, upload), &mut channel);
                    let head = self.head(client, &mut watch).await;
                    watch.over(!matches!(head, Err(NoResponseHead::Client(_))));
                    match head {
                        Ok(head) => {
                            connection_auth::heard(&head.headers, client, &mut channel, place);
                            return RelayAttempt::Answered(head, channel);
                        }
                        Err(NoResponseHead::Client(error)) => return RelayAttempt::Client(error),
                        Err(NoResponseHead::Origin(attempt)) => attempt,
                    }
                }
            };
            let again = upload.is_whole() && repeats.again(attempt, asked.is_idempotent());
            if (again || attempt == AttemptError::SignedOut)
                && let Some(scheme) = connection_auth::lost(asked, client, place)
            {
                return RelayAttempt::SignedOut(scheme);
            }
            if !again {
                return RelayAttempt::Failed(attempt.failure());
            }
            self.network.gate.redialled(place, ctx.route);
            over = ConnectionUse::New;
        }
    }

    /// Sends the request's body until the head of the final answer comes.
    async fn head(
        &self,
        client: &mut ClientSession,
        watch: &mut ClientWatch<'_>,
    ) -> Result<Box<UpstreamHead>, NoResponseHead> {
        let ClientWatch { asked, place, ctx, channel, upload, .. } = watch;
        // A client that waits for leave to send is waited for by nobody until it has it.
        let mut awaits_leave = asked.expects_continue() && !client.has_read_body();
        if awaits_leave && channel.goes_on_unasked() {
            client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
            awaits_leave = false;
        }
        let mut silence = self.silence_before_head(asked, place).among(client.siblings());
        let began = clock::of_timers();
        let (aside, leave) = (began + ASIDE, began + LEAVE);
        loop {
            send_what_is_at_hand(channel, upload);
            // A client that is slow with its body is no fault of the origin's.
            let waits_for_client = channel.has_room() && upload.needs_more();
            silence.is_of(if waits_for_client && !awaits_leave {
                SilentPeer::Client
            } else {
                SilentPeer::Origin
            });
            silence.is_held(!waits_for_client && !client.has_read_body());
            let before = upload.came_so_far();
            tokio::select! {
                biased;
                event = channel.next(true) => match event {
                    Ok(SessionEvent::Head(head)) if is_interim(head.status) => {
                        awaits_leave &= head.status != StatusCode::CONTINUE;
                        let mut headers = head.headers;
                        forwarded_message::strip(&mut headers);
                        mount_headers::confine(asked.in_browser, &mut headers);
                        client.write_interim(head.status, headers).await?;
                    }
                    Ok(SessionEvent::Head(head)) => return Ok(head),
                    Ok(SessionEvent::Room) => silence.broken(),
                    Ok(SessionEvent::Data(_) | SessionEvent::End(_)) => {
                        return Err(NoResponseHead::Origin(AttemptError::Failed(UpstreamError::Protocol)));
                    }
                    // It has waited for the client for long enough, as larder would.
                    Err(_broken) if waits_for_client && ctx.aside => {
                        return Err(NoResponseHead::Client(ClientError::Stalled));
                    }
                    Err(broken) => return Err(NoResponseHead::Origin(AttemptError::after(broken, channel))),
                },
                piece = upload.news(client, waits_for_client) => {
                    if let Some(piece) = piece? {
                        channel.send(RequestPart::Data(piece));
                    }
                    awaits_leave = false;
                    silence.came(upload.came_so_far() - before);
                }
                // RFC 9110 §10.1.1: no client waits for leave without end, and not every origin gives it.
                () = sleep_until(leave), if awaits_leave => {
                    client.write_interim(StatusCode::CONTINUE, HeaderMap::new()).await?;
                    awaits_leave = false;
                }
                () = sleep_until(aside), if waits_for_client && !ctx.aside => ctx.step_aside(),
                // Others wait for the place that it would keep for as long as its client likes.
                () = ctx.has_to_make_way(), if waits_for_client && ctx.aside =>
                    return Err(NoResponseHead::Client(ClientError::Stalled)),
                whose = silence.lasted() => {
                    if whose == SilentPeer::Client {
                        return Err(NoResponseHead::Client(ClientError::Stalled));
                    }
                    channel.distrust();
                    return Err(NoResponseHead::Origin(AttemptError::Failed(UpstreamError::FirstByteTimeout)));
                }
            }
        }
    }

    fn silence_before_head(&self, asked: &ProxyRequest, place: &UpstreamTarget) -> InactivityTimer {
        // An event stream or a WebSocket may be silent for long.
        let origin = (!forwarded_message::streams(asked)).then_some(place.timeouts.first_byte);
        let silence = InactivityTimer::new(origin, None);
        if forwarded_message::converses(asked) { silence } else { silence.with(self.body) }
    }

    /// The answer, from its head to its end.
    async fn answered(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        head: UpstreamHead,
        (channel, upload): (CallChannel, RequestUpload),
        place: &UpstreamTarget,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let UpstreamHead { status, mut headers, framing, ended, spelling, .. } = head;
        if connection_auth::is_left_to_http1(asked, client, ctx, (status, &headers)) {
            return Ok(ExchangeEnd::Answered);
        }
        let patience = (!forwarded_message::streams(asked) && !is_event_stream(&headers))
            .then_some(place.timeouts.between_bytes);
        forwarded_message::strip(&mut headers);
        self.heard(asked, ctx, status, &headers, framing).await;
        forwarded_message::incoming(ctx, status, &mut headers);
        self.finish_head(asked, client, ctx, &mut headers);
        let length = forwarded_message::length(asked, status, &headers, framing, ended);
        let has_body = !matches!(length, BodyLength::None | BodyLength::Known(0));
        client.write_head(status, headers, length, &spelling).await?;
        if asked.method == Method::HEAD || ended {
            self.ended(ctx).await;
        }
        let mut trailers = pump(client, channel, upload, ctx, patience, |ctx, piece| {
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

/// Moves both bodies to the end of the answer; its trailers. `passes` sees each piece, and says whether
/// the client gets it.
async fn pump(
    client: &mut ClientSession,
    mut channel: CallChannel,
    mut upload: RequestUpload,
    ctx: &mut RequestContext,
    patience: Option<Duration>,
    passes: impl Fn(&mut RequestContext, &Bytes) -> bool,
) -> Result<Option<HeaderMap>, ExchangeFailure> {
    // An answer that has begun may last as long as its client sends (gRPC).
    let mut silence = InactivityTimer::new(patience, None).among(client.siblings());
    client.is_ahead(channel.ahead());
    let mut since = clock::of_timers();
    loop {
        send_what_is_at_hand(&mut channel, &mut upload);
        let waits_for_client = channel.has_room() && upload.needs_more();
        // What the client has not taken bounds what is read, and never what it sends.
        let reads = client.has_room();
        if reads && !ctx.aside {
            since = clock::of_timers();
        }
        silence.is_of(if waits_for_client || !reads {
            SilentPeer::Client
        } else {
            SilentPeer::Origin
        });
        silence.is_held(!waits_for_client && !client.has_read_body());
        tokio::select! {
            biased;
            event = channel.next(reads) => match event {
                Ok(SessionEvent::Data(piece)) => {
                    if passes(ctx, &piece) {
                        client.queue(piece)?;
                    }
                    silence.broken();
                }
                Ok(SessionEvent::End(trailers)) => return Ok(trailers),
                Ok(SessionEvent::Room) => silence.broken(),
                Ok(SessionEvent::Head(_)) | Err(_) => return Err(ExchangeFailure::Answer(UpstreamError::Cut)),
            },
            piece = upload.news(client, waits_for_client) => {
                if let Some(piece) = piece? {
                    channel.send(RequestPart::Data(piece));
                }
                silence.broken();
            }
            () = sleep_until(since + ASIDE), if !reads && !ctx.aside => ctx.step_aside(),
            _whose = silence.lasted() => {
                channel.distrust();
                return Err(ExchangeFailure::Answer(UpstreamError::BodyTimeout));
            }
        }
    }
}

/// What `work` comes to, unless the client is gone before. More of its body is not read meanwhile.
async fn while_there<T>(
    client: &mut ClientSession,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    let mut held = client.siblings().map(SharedConnection::holding);
    if let Some(held) = &mut held {
        held.is(!client.has_read_body());
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
