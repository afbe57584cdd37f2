//! What sets one fake API apart from another.
//!
//! Owns: the trait, and a call as an API sees it. Never touches: sockets, the clock, counting.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use serde_json::Value;

use crate::fake::faults::RateLimited;
use crate::fake::response::MockResponse;

/// An API: its data, its limits and its way of saying no. A reset goes back to a clone of it.
pub trait Api: Clone + Send + Sync + 'static {
    /// What its `/_fake/` paths tell beside the counts.
    const PROBES: &'static [&'static str];

    /// The name under which a call is counted, such as `GET /guilds/{guild}/roles`.
    fn endpoint(method: &Method, path: &str) -> &'static str;

    /// Answers a call; `failure`: what to answer instead of data.
    fn answer(&mut self, call: &Call<'_>, failure: Option<Failure>) -> MockResponse;

    /// What one of [`Api::PROBES`] tells.
    fn probe(&self, name: &str) -> Option<Value>;
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub uri: &'a Uri,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a [u8],
    /// Where it comes from.
    pub client: IpAddr,
    /// Which call it is, from 0.
    pub number: u64,
    /// When it is answered.
    pub now: SystemTime,
}

impl Call<'_> {
    /// A field as text; empty if it is not there.
    pub fn field(&self, name: &HeaderName) -> String {
        let value = self.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        String::from_utf8_lossy(value).into_owned()
    }
}

/// An error that a script asks for and an API puts into its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// This status.
    Status(StatusCode),
    /// A 429.
    RateLimited(RateLimited),
}
