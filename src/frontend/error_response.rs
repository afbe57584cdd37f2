//! Refusals: what a client is told that gets no answer from anywhere.
//!
//! Owns: how larder's own errors are written before there is a session, and that they arrive.
//! Never touches: why something is refused.

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

/// After a refusal the client may still be sending: what comes within these bounds is read and
/// dropped, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

impl Frontend {
    /// [`Frontend::refuse`], as the end of a request.
    pub(super) async fn reject_and_close(
        &self,
        io: ClientStream,
        problem: &Problem,
    ) -> Option<KeepAlive> {
        self.refuse(io, problem).await;
        None
    }

    /// Records a refusal, answers with it and closes.
    pub(super) async fn refuse(&self, io: ClientStream, problem: &Problem) {
        self.account.refused(&RejectEvent { class: problem.class, client: Some(io.peer()) });
        self.write_error(io, problem).await;
    }

    /// Answers with larder's own error and closes.
    pub(super) async fn write_error(&self, mut io: ClientStream, problem: &Problem) {
        let answer = self.refusal(problem);
        let written = async {
            io.write_all(&answer).await?;
            io.flush().await?;
            io.shutdown().await
        };
        if timeout(LINGER, written).await.is_ok_and(|w| w.is_ok()) {
            drain(&mut io).await;
        }
    }

    fn refusal(&self, problem: &Problem) -> Vec<u8> {
        let (mut headers, body) = problem.response();
        if problem.class == USER_REQUIRED.class {
            headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"larder\""));
        }
        date::add_where_missing(&mut headers, self.clock.now());
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
                // It gets no more room, and still a moment to read the refusal: a close before it has would
                // reset the connection, and the answer with it.
                return std::future::pending().await;
            }
        }
    };
    // Past the time the client has had its chance to read the refusal.
    let _late = timeout(LINGER, read).await;
}
