//! What a web page of another site is told that a mount lets in (Fetch Standard, "CORS protocol").
//!
//! Owns: larder's answer to a preflight, and the fields by which a browser lets the page read an answer.
//! Never touches: which pages are let in (`front::page`).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::frontend::session::{BodyLength, ClientSession};
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::handler::{ExchangeEnd, PingoraHandler};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::ProxyRequest;

/// How long a browser may go by the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const ANY: HeaderValue = HeaderValue::from_static("*");

/// A page of a public site asks this host (Private Network Access).
const ASKS_PRIVATE: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What larder itself says to a preflight.
const OURS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ALLOWS_PRIVATE,
];

/// Whether a browser only asks whether the page may ask.
pub(super) fn is_preflight(asked: &ProxyRequest) -> bool {
    asked.page.is_some()
        && asked.method == Method::OPTIONS
        && asked.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets the page read the answer, whatever the API says of pages: it is not the one that is asked here.
pub(super) fn tell(asked: &ProxyRequest, headers: &mut HeaderMap) {
    let Some(page) = &asked.page else { return };
    // What the API grants pages it grants to others, and with the cookies of its own site.
    let granted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-") && !OURS.contains(name))
        .cloned()
        .collect();
    for name in granted {
        headers.remove(name);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    headers.append(VARY, HeaderValue::from(ORIGIN));
}

impl PingoraHandler {
    /// Answers a preflight: the page may ask what it likes, as any program may.
    pub(super) async fn preflight(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut headers = HeaderMap::new();
        let wished = |name| asked.headers.get(name).cloned();
        if let Some(method) = wished(ACCESS_CONTROL_REQUEST_METHOD) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
        }
        if let Some(names) = wished(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        if asked.headers.contains_key(ASKS_PRIVATE) {
            headers.insert(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        client.skip_body();
        self.finish_head(asked, client, ctx, &mut headers);
        client
            .write_head(StatusCode::NO_CONTENT, headers, BodyLength::None, &FieldCase::default())
            .await?;
        client.end(None).await?;
        Ok(ExchangeEnd::Answered)
    }
}
