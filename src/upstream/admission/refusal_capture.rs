//! Captures the body of a response by which the API refuses a call, while it passes.
//!
//! Owns: which responses are captured, and that only a whole body is. Never touches: which call gets the refusal
//! later (`refusals`).

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};

use crate::semantics::hop_by_hop;
use crate::semantics::vary::{VariantId, Vary, VaryFields};
use crate::upstream::Body;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::refusals::{MAX_BODY, Refusal};
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::error::UpstreamError;

/// The fields of a refusal that are not repeated: they belong to the one exchange.
const NOT_REPEATED: [&str; 6] =
    ["date", "age", "set-cookie2", "authentication-info", "www-authenticate", "proxy-authenticate"];

/// A refusal whose body is still arriving.
#[derive(Debug)]
pub struct RefusalCapture {
    control: AdmissionControl,
    call: CallContext,
    status: StatusCode,
    headers: HeaderMap,
    is_limit: bool,
    body: BytesMut,
    vary: VaryFields,
    variant: VariantId,
}

impl RefusalCapture {
    /// A capture, if the response refuses the call: a rate limit, or a failure of the API.
    pub(super) fn new(
        control: &AdmissionControl,
        call: &CallContext,
        status: StatusCode,
        headers: &HeaderMap,
        outcome: &CallOutcome,
    ) -> Option<Self> {
        let is_limit = outcome.is_rate_limited();
        let is_whole = call.routed.request.method != Method::HEAD;
        if !is_whole || !(is_limit || status.is_server_error()) {
            return None;
        }
        let mut headers = headers.clone();
        hop_by_hop::strip(&mut headers);
        for name in [SET_COOKIE, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        for name in NOT_REPEATED {
            headers.remove(name);
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > MAX_BODY {
            return None;
        }
        let Vary::Fields(vary) = Vary::effective(&headers) else { return None };
        let variant = control.variant(call, &vary)?;
        let (control, call, body) = (control.clone(), call.clone(), BytesMut::new());
        Some(Self { control, call, status, headers, is_limit, body, vary, variant })
    }

    /// The next piece of the body. Returns false if the body is too large to be kept.
    pub fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= MAX_BODY;
        if fits {
            self.body.extend_from_slice(piece);
        }
        fits
    }

    /// The body has arrived whole: the refusal is remembered.
    pub fn finish(self) {
        let Self { control, call, status, headers, is_limit, body, vary, variant } = self;
        let received = control.instant();
        let refusal = Refusal { status, headers, body: body.freeze(), vary, variant, received, is_limit };
        control.remember_refusal(&call, refusal);
    }
}

/// A body that is captured while it is read.
pub(in crate::upstream) struct CapturedBody {
    /// The body.
    pub(in crate::upstream) body: Box<dyn Body>,
    /// The capture, until the body has ended or is too large.
    pub(in crate::upstream) capture: Option<RefusalCapture>,
}

#[async_trait]
impl Body for CapturedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let next = self.body.next().await?;
        match &next {
            Some(piece) => drop(self.capture.take_if(|capture| !capture.push(piece))),
            None => {
                if let Some(capture) = self.capture.take() {
                    capture.finish();
                }
            }
        }
        Ok(next)
    }

    fn receive_window(&self) -> usize {
        self.body.receive_window()
    }
}
