//! A client of HTTP/2 that keeps every part of a response: what is malformed by RFC 9113 (a length that
//! is not that of the body, fields of HTTP/1.1 connections) is refused by the `h2` crate.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::End;
use crate::strict::{Fault, Fields, Framing, PATIENCE, Received, Wire};

/// What may be on its way at once, so that a body of 8 MiB need not wait for window updates often.
const WINDOW: u32 = 1 << 20;

/// A connection of HTTP/2, on which one request follows another.
pub struct H2 {
    send: SendRequest<Bytes>,
    running: JoinHandle<()>,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl H2 {
    /// A connection over a stream on which HTTP/2 was agreed.
    pub async fn over(stream: impl Wire + 'static) -> Result<Self, Fault> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (send, connection) = builder.handshake(stream).await.map_err(|_| Fault::Closed)?;
        let running = tokio::spawn(async move {
            // Its streams tell how it ended.
            let _ended = connection.await;
        });
        Ok(Self { send, running })
    }

    /// Whether another request may follow.
    pub fn is_reusable(&self) -> bool {
        !self.running.is_finished()
    }

    /// Waits until the connection has ended; false if it does not.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        timeout(time, &mut self.running).await.is_ok()
    }

    /// Sends a request without a body and reads its response.
    pub async fn ask(
        &mut self,
        method: &str,
        url: &str,
        fields: &[(&str, String)],
    ) -> Result<Received, Fault> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.body(()).expect("a request");
        let ready = self.send.clone().ready().await;
        self.send = ready.map_err(|_| Fault::Closed)?;
        let (answer, _) = self.send.send_request(request, true).map_err(|_| Fault::Closed)?;
        match timeout(PATIENCE, received(answer)).await {
            Ok(response) => response,
            Err(_elapsed) => Err(Fault::Violation("no whole response in time".into())),
        }
    }
}

async fn received(mut answer: ResponseFuture) -> Result<Received, Fault> {
    let mut interim = Vec::new();
    while let Some(early) = poll_fn(|context| answer.poll_informational(context)).await {
        let early = early.map_err(|error| no_head(&error))?;
        interim.push((early.status().as_u16(), section(early.headers())));
    }
    let answer = answer.await.map_err(|error| no_head(&error))?;
    let (head, mut stream) = answer.into_parts();
    let head = Response::from_parts(head, ());
    let mut body = Vec::new();
    let (mut pieces, mut empty_last) = (0, false);
    let mut end = End::Whole;
    while let Some(piece) = stream.data().await {
        let Ok(piece) = piece else {
            end = End::Cut;
            break;
        };
        pieces += 1;
        empty_last = pieces > 1 && piece.is_empty();
        body.extend_from_slice(&piece);
        // A stream that has ended needs no window any more.
        let _ended = stream.flow_control().release_capacity(piece.len());
    }
    let mut trailers = Fields::new();
    if end == End::Whole {
        match stream.trailers().await {
            Ok(section_of) => trailers = section_of.as_ref().map(section).unwrap_or_default(),
            Err(_reset) => end = End::Cut,
        }
    }
    Ok(Received {
        status: head.status().as_u16(),
        fields: section(head.headers()),
        body,
        trailers,
        interim,
        framing: Framing::Stream { empty_last },
        end,
    })
}

/// A connection that ends in order, or refuses the stream, has done nothing with the request.
fn no_head(error: &h2::Error) -> Fault {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let in_order = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    if refused || in_order {
        Fault::Closed
    } else if error.is_io() {
        Fault::Gone
    } else if error.is_library() {
        Fault::Violation(error.to_string())
    } else {
        Fault::Reset(error.to_string())
    }
}

fn section(map: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in map {
        let value = value.as_bytes().iter().copied().map(char::from).collect();
        fields.entry(name.as_str().to_owned()).or_default().push(value);
    }
    fields
}
