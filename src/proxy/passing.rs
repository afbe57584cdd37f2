//! The pass-through: requests that no route caches, and those the engine leaves to the origin.
//!
//! Owns: what is changed in a message that passes (RFC 9110 §7.6), and that it passes the gate.
//! Never touches: bodies.

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, HOST, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderName, Method, StatusCode};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::account::problem::{PROXY_STATUS, received_error};
use crate::engine::recorded::Recording;
use crate::proxy::exchange::Ctx;
use crate::proxy::handler::Handler;
use crate::proxy::tries::again;
use crate::semantics::asked::Asked;
use crate::semantics::cache_status::CacheStatus;
use crate::upstream::clear::is_clear;
use crate::upstream::failure::Failure;

/// How many interim (1xx) answers may precede the final one.
const INTERIM: u32 = 16;

impl Handler {
    pub(super) async fn peer(&self, session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let Some(asked) = ctx.asked.take() else {
            return Error::e_explain(ErrorType::InternalError, "the head was not handed over");
        };
        let reached = self.reached(session, ctx, &asked).await;
        let streams = streams(&asked);
        ctx.asked = Some(asked);
        match reached {
            Ok(mut peer) => {
                if streams {
                    // An event stream or a WebSocket may be silent for long.
                    peer.options.read_timeout = None;
                }
                Ok(Box::new(peer))
            }
            Err(failure) => {
                ctx.failure = Some(failure);
                Err(Error::new_up(ErrorType::ConnectError))
            }
        }
    }

    /// Passes the gate and finds the way, as often as the call's plan allows.
    async fn reached(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        asked: &Asked,
    ) -> Result<HttpPeer, Failure> {
        let place = self.network.upstreams.place(&asked.target);
        loop {
            let reached = match self.passed(ctx, asked, &place).await {
                Ok(()) => self.network.peer(&place, asked.listener).await,
                Err(failure) => Err(failure),
            };
            match reached {
                Err(failure) if self.fails(session, ctx, failure) => {}
                reached => return reached,
            }
        }
    }

    pub(super) fn outgoing(&self, request: &mut RequestHeader, ctx: &Ctx) -> Result<()> {
        let Some(asked) = &ctx.asked else { return Ok(()) };
        let place = self.network.upstreams.place(&asked.target);
        let target = asked.target.with_origin(place.scheme, &place.host, place.port);
        request.insert_header(HOST, target.authority())?;
        request.append_header(VIA, self.via.clone())?;
        for name in self.routes.scope_headers(&asked.target) {
            request.remove_header(name);
        }
        place.dress(request)
    }

    pub(super) async fn incoming(
        &self,
        session: &Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let switched = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let interim = response.status.is_informational() && !switched;
        ctx.interim += u32::from(interim);
        // RFC 9110 §15.2.2: only who asked for another protocol may be sent to one.
        let unasked = switched && ctx.asked.as_ref().is_none_or(|asked| !asked.upgrade);
        if unasked || ctx.interim > INTERIM || !is_clear(response) {
            ctx.failure = Some(Failure::Protocol);
            return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
        }
        if interim {
            return Ok(());
        }
        if self.answered(session, response, ctx) {
            return Err(again());
        }
        if !switched {
            strip(response);
        }
        if let Some(asked) = &ctx.asked {
            let (status, headers) = (response.status, &response.headers);
            self.engine
                .invalidate(asked, status, headers, |target| self.routes.query_rules(target))
                .await;
            if let (Some(sent), Some(route)) = (ctx.sent, self.route(ctx)) {
                self.engine.head_answered(asked, route, sent, status, headers).await;
            }
            ctx.recording = self.recording(asked, ctx, response);
        }
        let mut added = http::HeaderMap::new();
        let mut said = CacheStatus::forwarded(ctx.why.token()).status(response.status);
        if let Some((act, cause)) = ctx.tries.detail() {
            said = said.detail(act, cause);
        }
        said.append_to(&mut added);
        for (name, value) in added {
            if let Some(name) = name {
                response.append_header(name, value)?;
            }
        }
        if let Some(received) = received_error(response.status) {
            response.append_header(PROXY_STATUS, received)?;
        }
        response.append_header(VIA, self.via.clone())?;
        Ok(())
    }
}

impl Handler {
    /// A `POST` answer that may serve later `GET`s is copied while it passes.
    fn recording(&self, asked: &Asked, ctx: &Ctx, response: &ResponseHeader) -> Option<Recording> {
        if asked.method != Method::POST {
            return None;
        }
        let get = Asked { method: Method::GET, ..asked.clone() };
        let route = self.routes.find(&get)?;
        self.engine.record(asked, route, ctx.sent?, response.status, &response.headers)
    }

    /// A piece of an answer's body has passed; with `end`, the last one.
    pub(super) fn copied(&self, piece: Option<&Bytes>, end: bool, ctx: &mut Ctx) {
        let Some(mut recording) = ctx.recording.take() else { return };
        let fits = piece.is_none_or(|piece| recording.push(piece));
        if fits && end {
            self.engine.recorded(recording);
        } else if fits {
            ctx.recording = Some(recording);
        }
    }
}

fn streams(asked: &Asked) -> bool {
    asked.upgrade
        || asked.headers.get_all(ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|a| a.to_ascii_lowercase().contains("text/event-stream"))
        })
}

/// Hop-by-hop fields (RFC 9110 §7.6.1) end here; `Transfer-Encoding` is pingora's to rewrite.
fn strip(response: &mut ResponseHeader) {
    let nominated: Vec<HeaderName> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| *name != TRANSFER_ENCODING && *name != http::header::CONTENT_LENGTH)
        .collect();
    let always = [
        CONNECTION,
        TE,
        TRAILER,
        UPGRADE,
        PROXY_AUTHENTICATE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("proxy-authentication-info"),
    ];
    for name in always.iter().chain(&nominated) {
        response.remove_header(name);
    }
}
