//! The pass-through: requests that no route caches, and those the engine leaves to the origin.
//!
//! Owns: one call for one client, both bodies on their way at once. Never touches: what is changed in a
//! message (`message`), whether a call is made again (`tries`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::time::sleep;

use crate::front::session::{ClientError, Http1, Length, Session};
use crate::proxy::exchange::{Broken, Ctx};
use crate::proxy::handler::{End, Handler};
use crate::proxy::message;
use crate::proxy::upload::Upload;
use crate::semantics::asked::Asked;
use crate::semantics::storing::is_event_stream;
use crate::upstream::connect::{Channel, Over};
use crate::upstream::failure::Failure;
use crate::upstream::fetch::{Attempt, Repeats};
use crate::upstream::place::Place;
use crate::upstream::session::{Event, Head, Part};

/// How one try went.
enum Tried {
    Answered(Box<Head>, Channel),
    Failed(Failure),
    Client(ClientError),
}

/// Why waiting for a head ended without one.
enum NoHead {
    Origin(Attempt),
    Client(ClientError),
}

impl From<ClientError> for NoHead {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Handler {
    /// Passes `asked` through.
    pub(super) async fn relay(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
    ) -> Result<End, Broken> {
        let place = self.network.upstreams.place(&asked.target);
        let mut upload = Upload::default();
        let (head, channel) = loop {
            match self.tried(asked, client, ctx, &place, &mut upload).await {
                Tried::Answered(head, channel) => {
                    if let Some(reply) = self.stale_head(asked, ctx, &head).await {
                        return self.reply(client, ctx, reply).await;
                    }
                    if !self.is_asked_again(ctx, &head, upload.is_whole()) {
                        break (head, channel);
                    }
                }
                Tried::Failed(failure) => {
                    if let Some(reply) = self.stale_instead(asked, ctx, failure).await {
                        return self.reply(client, ctx, reply).await;
                    }
                    if !self.fails(ctx, failure, upload.is_whole()) {
                        return self.failed(asked, client, ctx, failure).await;
                    }
                }
                Tried::Client(error) => {
                    return Err(self.broken_by_client(asked, client, ctx, error).await);
                }
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(client, ctx, *head, channel).await;
        }
        self.answered(asked, client, ctx, *head, (channel, upload), &place).await
    }

    /// One try: through the gate, to the head of an answer.
    async fn tried(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
        place: &Place,
        upload: &mut Upload,
    ) -> Tried {
        if let Err(failure) = self.passed(ctx, asked, place).await {
            return Tried::Failed(failure);
        }
        let request = message::outgoing(self, asked, client, place);
        let (mut repeats, mut over) = (Repeats::default(), Over::Pooled);
        loop {
            upload.begin();
            let begun = self.network.begin(place, asked.listener, &request, over).await;
            let attempt = match begun {
                Err(attempt) => attempt,
                Ok(mut channel) => {
                    match self.head(asked, client, &mut channel, upload, place).await {
                        Ok(head) => return Tried::Answered(head, channel),
                        Err(NoHead::Client(error)) => return Tried::Client(error),
                        Err(NoHead::Origin(attempt)) => attempt,
                    }
                }
            };
            if !upload.is_whole() || !repeats.again(attempt, &asked.method) {
                return Tried::Failed(attempt.failure());
            }
            self.network.gate.redialled(place.index, ctx.route);
            over = Over::New;
        }
    }

    /// Sends the request's body until the head of the final answer comes.
    async fn head(
        &self,
        asked: &Asked,
        client: &mut Session,
        channel: &mut Channel,
        upload: &mut Upload,
        place: &Place,
    ) -> Result<Box<Head>, NoHead> {
        if asked.expects_continue() && channel.goes_on_unasked() && !client.has_read_body() {
            client.write_interim(StatusCode::CONTINUE, &HeaderMap::new()).await?;
        }
        // An event stream or a WebSocket may be silent for long.
        let patience = (!message::streams(asked)).then_some(place.timeouts.first_byte);
        let silence = sleep(patience.unwrap_or_default());
        tokio::pin!(silence);
        loop {
            send_what_is_at_hand(channel, upload);
            // A client that is slow with its body is no fault of the origin's.
            let waits_for_client = channel.has_room() && upload.needs_more();
            tokio::select! {
                biased;
                event = channel.next() => match event {
                    Ok(Event::Head(head)) if is_interim(head.status) => {
                        let mut headers = head.headers;
                        message::strip(&mut headers);
                        client.write_interim(head.status, &headers).await?;
                    }
                    Ok(Event::Head(head)) => return Ok(head),
                    Ok(Event::Room) => silence.set(sleep(patience.unwrap_or_default())),
                    Ok(Event::Data(_) | Event::End(_)) => {
                        return Err(NoHead::Origin(Attempt::Failed(Failure::Protocol)));
                    }
                    Err(broken) => return Err(NoHead::Origin(Attempt::after(broken, channel))),
                },
                piece = upload.news(client, waits_for_client) => {
                    if let Some(piece) = piece? {
                        channel.send(Part::Data(piece));
                    }
                    silence.set(sleep(patience.unwrap_or_default()));
                }
                () = &mut silence, if patience.is_some() && !waits_for_client => {
                    return Err(NoHead::Origin(Attempt::Failed(Failure::FirstByteTimeout)));
                }
            }
        }
    }

    /// The answer, from its head to its end.
    async fn answered(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
        head: Head,
        (channel, upload): (Channel, Upload),
        place: &Place,
    ) -> Result<End, Broken> {
        let Head { status, mut headers, framing, ended, spelling, .. } = head;
        let patience = (!message::streams(asked) && !is_event_stream(&headers))
            .then_some(place.timeouts.between_bytes);
        message::strip(&mut headers);
        self.heard(asked, ctx, status, &headers, framing).await;
        message::incoming(ctx, status, &mut headers);
        self.finish_head(client, ctx, &mut headers);
        let length = message::length(asked, status, &headers, framing, ended);
        let has_body = !matches!(length, Length::None | Length::Known(0));
        client.write_head(status, headers, length, &spelling).await?;
        if asked.method == Method::HEAD || ended {
            self.ended(ctx);
        }
        let trailers = pump(client, channel, upload, ctx, patience, |ctx, piece| {
            ctx.upstream_bytes += piece.len() as u64;
            message::copied(piece, ctx);
            has_body
        })
        .await?;
        self.ended(ctx);
        client.end(trailers).await?;
        Ok(End::Answered)
    }

    /// Both sides speak another protocol from here on (RFC 9110 §7.8).
    async fn switched(
        &self,
        client: &mut Session,
        ctx: &mut Ctx,
        head: Head,
        channel: Channel,
    ) -> Result<End, Broken> {
        let mut headers = head.headers;
        let protocol = headers.get(http::header::UPGRADE).cloned();
        message::strip(&mut headers);
        message::incoming(ctx, head.status, &mut headers);
        self.finish_head(client, ctx, &mut headers);
        headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = protocol {
            headers.insert(http::header::UPGRADE, protocol);
        }
        client.write_head(head.status, headers, Length::None, &head.spelling).await?;
        client.flush().await?;
        let (Some(origin), Session::Http1(session)) = (channel.into_raw(), client) else {
            return Err(Broken::Answer(Failure::Protocol));
        };
        ctx.upstream_bytes = switch(session, origin.stream, &origin.early).await;
        Ok(End::Switched)
    }
}

/// Passes bytes both ways until both sides have ended; how many went to the client.
async fn switch(
    client: &mut Http1,
    mut origin: pingora_core::protocols::Stream,
    early: &[u8],
) -> u64 {
    let (io, from_client) = client.raw();
    let sent = async {
        origin.write_all(from_client).await?;
        origin.flush().await?;
        io.write_all(early).await?;
        io.flush().await
    };
    if sent.await.is_err() {
        return 0;
    }
    // One side broke off: how much went through before is not known.
    let (_up, down) = copy_bidirectional(io.transport(), &mut origin).await.unwrap_or_default();
    down + early.len() as u64
}

/// Moves both bodies to the end of the answer; its trailers. `passes` sees each piece, and says whether
/// the client gets it.
async fn pump(
    client: &mut Session,
    mut channel: Channel,
    mut upload: Upload,
    ctx: &mut Ctx,
    patience: Option<Duration>,
    passes: impl Fn(&mut Ctx, &Bytes) -> bool,
) -> Result<Option<HeaderMap>, Broken> {
    let silence = sleep(patience.unwrap_or_default());
    tokio::pin!(silence);
    loop {
        send_what_is_at_hand(&mut channel, &mut upload);
        let waits_for_client = channel.has_room() && upload.needs_more();
        tokio::select! {
            biased;
            event = channel.next() => match event {
                Ok(Event::Data(piece)) => {
                    if passes(ctx, &piece) {
                        client.write_body(piece).await?;
                    }
                    silence.set(sleep(patience.unwrap_or_default()));
                }
                Ok(Event::End(trailers)) => return Ok(trailers),
                Ok(Event::Room) => silence.set(sleep(patience.unwrap_or_default())),
                Ok(Event::Head(_)) | Err(_) => return Err(Broken::Answer(Failure::Cut)),
            },
            piece = upload.news(client, waits_for_client) => {
                if let Some(piece) = piece? {
                    channel.send(Part::Data(piece));
                }
                silence.set(sleep(patience.unwrap_or_default()));
            }
            () = &mut silence, if patience.is_some() && !waits_for_client => {
                return Err(Broken::Answer(Failure::BodyTimeout));
            }
        }
    }
}

fn send_what_is_at_hand(channel: &mut Channel, upload: &mut Upload) {
    while channel.has_room() {
        let Some(part) = upload.at_hand() else { return };
        channel.send(part);
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
