//! What strict clients of both versions report of a response, and the syntax that one of HTTP/1.1 must
//! have (RFC 9110, RFC 9112).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::End;

/// A field section: names in lower case, each with its values in their order.
pub type Fields = BTreeMap<String, Vec<String>>;

/// Longer than any response of a test takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How the end of a body was to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none: HEAD, 204, 304.
    Nothing,
    Length,
    Chunked,
    /// With the connection.
    Close,
    /// HTTP/2, and whether the last DATA frame of several was empty.
    Stream {
        empty_last: bool,
    },
}

/// A response with all its parts.
#[derive(Debug, Clone)]
pub struct Received {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Status and fields of the interim (1xx) responses before it.
    pub interim: Vec<(u16, Fields)>,
    pub framing: Framing,
    pub end: End,
}

impl Received {
    /// The only value of a field; `None` if there is none or there are several.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self.fields.get(name).map(Vec::as_slice) {
            Some([value]) => Some(value),
            _ => None,
        }
    }

    /// `Cache-Status`, empty if there is none.
    pub fn cache_status(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection was closed, or the request refused, before anything was done with it.
    Closed,
    /// The connection was closed where the response should begin.
    Gone,
    /// HTTP/2: the stream or its connection was reset before a head.
    Reset(String),
    /// The response is not one by the RFCs.
    Violation(String),
}

/// What a connection reads and writes.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// For a response that is none.
pub fn violation<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Violation(what.into()))
}

/// The status of a status line (RFC 9112 §4).
pub fn status(line: &str) -> Result<u16, Fault> {
    let mut parts = line.splitn(3, ' ');
    let (version, status, reason) = (parts.next(), parts.next(), parts.next());
    let digits = status.filter(|s| s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit()));
    match (version, digits.and_then(|digits| digits.parse().ok()), reason) {
        (Some("HTTP/1.1"), Some(status), Some(_)) if (100..600).contains(&status) => Ok(status),
        _ => violation(format!("the status line {line:?}")),
    }
}

/// RFC 9112 §5: no folding, no whitespace around names, no control characters.
pub fn section<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Fields, Fault> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut fields = Fields::new();
    for line in lines {
        let name_and_value = line.split_once(':').filter(|(name, value)| {
            let named = !name.is_empty() && name.bytes().all(is_token);
            named && !value.chars().any(|c| c != '\t' && c.is_ascii_control())
        });
        let Some((name, value)) = name_and_value else {
            return violation(format!("the field line {line:?}"));
        };
        let value = value.trim_matches([' ', '\t']).to_owned();
        fields.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    Ok(fields)
}

/// Whether a field speaks of a body.
pub fn is_framed(fields: &Fields) -> bool {
    fields.contains_key("content-length") || fields.contains_key("transfer-encoding")
}

/// RFC 9112 §6.3.
pub fn framing(method: &str, status: u16, fields: &Fields) -> Result<Framing, Fault> {
    let coding = fields.get("transfer-encoding").map(Vec::as_slice);
    let length = length(fields)?;
    match (coding, length) {
        (Some(_), Some(_)) => violation("both Content-Length and Transfer-Encoding"),
        (Some([coding]), _) if !coding.eq_ignore_ascii_case("chunked") => {
            violation(format!("the transfer coding {coding:?}"))
        }
        (Some([] | [_, _, ..]), _) => violation("several transfer codings"),
        _ if status == 204 && is_framed(fields) => violation("a 204 with a framing field"),
        _ if method == "HEAD" || status == 204 || status == 304 => Ok(Framing::Nothing),
        (Some(_), None) => Ok(Framing::Chunked),
        (None, Some(_)) => Ok(Framing::Length),
        (None, None) => Ok(Framing::Close),
    }
}

/// What `Content-Length` says.
pub fn length(fields: &Fields) -> Result<Option<usize>, Fault> {
    match fields.get("content-length").map(Vec::as_slice) {
        None => Ok(None),
        Some([digits]) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Some).or_else(|_| violation("a length beyond all"))
        }
        Some(values) => violation(format!("Content-Length {values:?}")),
    }
}
