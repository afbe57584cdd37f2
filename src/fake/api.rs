//! The trait that a fake API implements.
//!
//! Owns: the trait, and a call as an API sees it. Never touches: sockets, the clock, counting.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use serde_json::Value;

use crate::fake::faults::RateLimited;
use crate::fake::response::MockResponse;

/// An API: its data, its limits and its error responses. A reset restores a clone of the initial state.
pub trait Api: Clone + Send + Sync + 'static {
    /// The names that its `/_fake/` paths serve besides the counts.
    const PROBES: &'static [&'static str];

    /// The name under which a call is counted, such as `GET /guilds/{guild}/roles`.
    fn endpoint(method: &Method, path: &str) -> &'static str;

    /// Responds to a call; `failure`: the error to respond with instead of data.
    fn respond(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse;

    /// The value of one of [`Api::PROBES`].
    fn probe(&self, name: &str) -> Option<Value>;
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub uri: &'a Uri,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a [u8],
    /// The IP address of the client.
    pub client: IpAddr,
    /// Its sequence number, from 0.
    pub number: u64,
    /// The time of the response.
    pub now: SystemTime,
}

impl Call<'_> {
    /// A header field as text; empty if it is absent.
    pub fn field(&self, name: &HeaderName) -> String {
        let value = self.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        String::from_utf8_lossy(value).into_owned()
    }
}

/// An error that a script requests; the API gives it its own format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// This status.
    Status(StatusCode),
    /// A 429.
    RateLimited(RateLimited),
}
