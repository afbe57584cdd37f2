//! Protocol upgrades (RFC 9110 §7.8), such as `WebSocket`.
//!
//! Owns: the 101 response and the bytes after it. Never touches: the meaning of the bytes.

use std::time::Duration;

use http::HeaderValue;
use http::header::{CONNECTION, UPGRADE};
use tokio::io::AsyncWriteExt;

use crate::frontend::session::{BodyLength, ClientSession, Http1Session};
use crate::frontend::splice::{self, splice};
use crate::proxy::ExchangeEnd;
use crate::proxy::context::ExchangeFailure;
use crate::proxy::exchange::Exchange;
use crate::proxy::forwarded_message;
use crate::semantics::hop_by_hop;
use crate::upstream::connect::pool::CallChannel;
use crate::upstream::connect::session::UpstreamHead;
use crate::upstream::outcome::error::UpstreamError;

impl Exchange {
    /// Forwards the 101 and then passes bytes between client and origin.
    pub(super) async fn switch_protocol(
        &mut self,
        head: UpstreamHead,
        channel: CallChannel,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut headers = head.headers;
        let protocol = headers.get(UPGRADE).cloned();
        hop_by_hop::strip(&mut headers);
        forwarded_message::add_status_fields(&self.ctx, head.status, &mut headers);
        self.finish_head(&mut headers);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = protocol {
            headers.insert(UPGRADE, protocol);
        }
        let client = &mut self.client;
        client.write_head(head.status, headers, BodyLength::None, &head.spelling).await?;
        client.flush().await?;
        let (Some(origin), ClientSession::Http1(session)) = (channel.into_upgraded(), client) else {
            return Err(ExchangeFailure::Response(UpstreamError::Protocol));
        };
        let idle = self.handler.tunnel_idle;
        self.ctx.upstream_bytes = tunnel(session, origin.stream, &origin.buffered, idle).await;
        Ok(ExchangeEnd::Switched)
    }
}

/// Passes bytes both ways until both sides have ended, or no byte was passed for `idle`. Returns the number
/// of bytes sent to the client.
async fn tunnel(
    client: &mut Http1Session,
    mut origin: pingora_core::protocols::Stream,
    buffered: &[u8],
    idle: Duration,
) -> u64 {
    let (io, from_client) = client.raw();
    let sent = async {
        origin.write_all(from_client).await?;
        origin.flush().await?;
        io.write_all(buffered).await?;
        io.flush().await
    };
    if sent.await.is_err() {
        return 0;
    }
    io.keep_alive();
    let spliced = splice(io.transport(), &mut origin, idle).await;
    if spliced.end == splice::SpliceEnd::Idle {
        // A truncated stream must not look complete, so the client gets a reset.
        io.arm_reset();
    }
    tracing::debug!(up = spliced.up, down = spliced.down, end = ?spliced.end, "Upgraded connection closed");
    spliced.down + buffered.len() as u64
}
