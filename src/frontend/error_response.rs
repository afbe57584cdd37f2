//! Error responses that larder sends before a session exists.
//!
//! Owns: the format of these responses, and their delivery. Never touches: the reasons for them.

use std::time::Duration;

use http::HeaderValue;
use http::header::PROXY_AUTHENTICATE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::frontend::access::USER_REQUIRED;
use crate::frontend::http1::{Frontend, KeepAlive};
use crate::frontend::stream::ClientStream;
use crate::semantics::date;
use crate::telemetry::RejectEvent;
use crate::telemetry::problem::Problem;

/// After an error response the client may still be sending. Its bytes are read and dropped within these
/// limits, so that a reset does not discard the response.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

impl Frontend {
    /// [`Frontend::refuse`] as the last step of a request.
    pub(super) async fn reject_and_close(&self, io: ClientStream, problem: &Problem) -> Option<KeepAlive> {
        self.refuse(io, problem).await;
        None
    }

    /// Records a rejection, sends the error response and closes the connection.
    pub(super) async fn refuse(&self, io: ClientStream, problem: &Problem) {
        self.telemetry.refused(&RejectEvent { class: problem.class, client: Some(io.peer()) });
        self.write_error(io, problem).await;
    }

    /// Sends an error response and closes the connection.
    pub(super) async fn write_error(&self, mut io: ClientStream, problem: &Problem) {
        let response = self.error_response(problem);
        let written = async {
            io.write_all(&response).await?;
            io.flush().await?;
            io.shutdown().await
        };
        if timeout(LINGER, written).await.is_ok_and(|w| w.is_ok()) {
            drain(&mut io).await;
        }
    }

    fn error_response(&self, problem: &Problem) -> Vec<u8> {
        let (mut headers, body) = problem.response();
        if problem.class == USER_REQUIRED.class {
            headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"larder\""));
        }
        date::add_if_missing(&mut headers, self.clock.now());
        let reason = problem.status.canonical_reason().unwrap_or("Error");
        let mut out = format!("HTTP/1.1 {} {reason}\r\n", problem.status.as_u16()).into_bytes();
        for (name, value) in &headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"connection: close\r\n\r\n");
        out.extend_from_slice(&body);
        out
    }
}

async fn drain(io: &mut ClientStream) {
    let read = async {
        let mut left = LINGER_BYTES;
        let mut sink = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = io.read(&mut sink).await {
            left = left.saturating_sub(n);
            if left == 0 {
                // Nothing more is read, but the connection stays open for a moment, so that the client can
                // read the response: an earlier close would reset the connection and discard the response.
                return std::future::pending().await;
            }
        }
    };
    // After the timeout the client has had its chance to read the response.
    let _late = timeout(LINGER, read).await;
}
