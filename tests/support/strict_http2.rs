//! An HTTP/2 client that returns every part of a response. The `h2` crate rejects responses that are
//! malformed by RFC 9113 (a wrong Content-Length, connection-specific fields of HTTP/1.1).

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::End;
use crate::strict_response::{ByteStream, Fault, Fields, Framing, ReceivedResponse, TIMEOUT};

/// The flow-control window, large enough that a body of 8 MiB rarely waits for window updates.
const WINDOW: u32 = 1 << 20;

/// An HTTP/2 connection, for sequential requests.
pub struct H2 {
    sender: SendRequest<Bytes>,
    connection_task: JoinHandle<()>,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.connection_task.abort();
    }
}

impl H2 {
    /// Starts a connection over a stream that has negotiated HTTP/2.
    pub async fn over(stream: impl ByteStream + 'static) -> Result<Self, Fault> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(stream).await.map_err(|_| Fault::NotProcessed)?;
        let connection_task = tokio::spawn(async move {
            // The streams report the error of the connection.
            let _ended = connection.await;
        });
        Ok(Self { sender, connection_task })
    }

    /// Whether another request may follow.
    pub fn is_reusable(&self) -> bool {
        !self.connection_task.is_finished()
    }

    /// Waits until the connection has ended; false if it is still open after `time`.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        timeout(time, &mut self.connection_task).await.is_ok()
    }

    /// Sends a request without a body and reads its response.
    pub async fn send(
        &mut self,
        method: &str,
        url: &str,
        fields: &[(&str, String)],
    ) -> Result<ReceivedResponse, Fault> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.body(()).expect("a request");
        let ready = self.sender.clone().ready().await;
        self.sender = ready.map_err(|_| Fault::NotProcessed)?;
        let (response, _) = self.sender.send_request(request, true).map_err(|_| Fault::NotProcessed)?;
        match timeout(TIMEOUT, read_response(response)).await {
            Ok(response) => response,
            Err(_elapsed) => Err(Fault::Violation("no whole response in time".into())),
        }
    }
}

async fn read_response(mut response: ResponseFuture) -> Result<ReceivedResponse, Fault> {
    let mut interim = Vec::new();
    while let Some(head) = poll_fn(|context| response.poll_informational(context)).await {
        let head = head.map_err(|error| head_fault(&error))?;
        interim.push((head.status().as_u16(), to_fields(head.headers())));
    }
    let response = response.await.map_err(|error| head_fault(&error))?;
    let (head, mut stream) = response.into_parts();
    let head = Response::from_parts(head, ());
    let mut body = Vec::new();
    let (mut pieces, mut empty_last) = (0, false);
    let mut end = End::Complete;
    while let Some(piece) = stream.data().await {
        let Ok(piece) = piece else {
            end = End::Truncated;
            break;
        };
        pieces += 1;
        empty_last = pieces > 1 && piece.is_empty();
        body.extend_from_slice(&piece);
        // An error means that the stream has ended and needs no more window.
        let _ended = stream.flow_control().release_capacity(piece.len());
    }
    let mut trailers = Fields::new();
    if end == End::Complete {
        match stream.trailers().await {
            Ok(map) => trailers = map.as_ref().map(to_fields).unwrap_or_default(),
            Err(_reset) => end = End::Truncated,
        }
    }
    Ok(ReceivedResponse {
        status: head.status().as_u16(),
        fields: to_fields(head.headers()),
        body,
        trailers,
        interim,
        framing: Framing::Stream { empty_last },
        end,
    })
}

/// The fault if no response head comes. After a GOAWAY without error or a `REFUSED_STREAM`, the request was
/// not processed.
fn head_fault(error: &h2::Error) -> Fault {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let goaway_no_error = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    if refused || goaway_no_error {
        Fault::NotProcessed
    } else if error.is_io() {
        Fault::NoResponse
    } else if error.is_library() {
        Fault::Violation(error.to_string())
    } else {
        Fault::Reset(error.to_string())
    }
}

fn to_fields(map: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in map {
        let value = value.as_bytes().iter().copied().map(char::from).collect();
        fields.entry(name.as_str().to_owned()).or_default().push(value);
    }
    fields
}
