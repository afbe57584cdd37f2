//! The response that both strict clients return, and the syntax rules for an HTTP/1.1 response (RFC 9110,
//! RFC 9112).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::End;

/// A field section: names in lower case, each with its values in order.
pub type Fields = BTreeMap<String, Vec<String>>;

/// Longer than any response in a test takes.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// How the end of the body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body: HEAD, 204, 304.
    NoBody,
    Length,
    Chunked,
    /// The body ends when the connection is closed.
    Close,
    /// HTTP/2; `empty_last` is whether the last of several DATA frames was empty.
    Stream {
        empty_last: bool,
    },
}

/// A response with all its parts.
#[derive(Debug, Clone)]
pub struct ReceivedResponse {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Status and fields of the interim (1xx) responses before it.
    pub interim: Vec<(u16, Fields)>,
    pub framing: Framing,
    pub end: End,
}

impl ReceivedResponse {
    /// The value of a field; `None` if there is none or more than one.
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

/// The reason that there is no valid response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection was closed, or the request refused, before the request was processed.
    NotProcessed,
    /// The connection was closed before the first byte of the response.
    NoResponse,
    /// HTTP/2: the stream or its connection was reset before the response head.
    Reset(String),
    /// The response violates the RFCs.
    Violation(String),
}

/// The byte stream of a connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// The result for an invalid response.
pub fn violation<T>(description: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Violation(description.into()))
}

/// Parses a status line (RFC 9112 §4); its status.
pub fn parse_status_line(line: &str) -> Result<u16, Fault> {
    let mut parts = line.splitn(3, ' ');
    let (version, status, reason) = (parts.next(), parts.next(), parts.next());
    let digits = status.filter(|s| s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit()));
    match (version, digits.and_then(|digits| digits.parse().ok()), reason) {
        (Some("HTTP/1.1"), Some(status), Some(_)) if (100..600).contains(&status) => Ok(status),
        _ => violation(format!("the status line {line:?}")),
    }
}

/// Parses field lines (RFC 9112 §5): no folding, no whitespace around names, no control characters.
pub fn parse_fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Fields, Fault> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut fields = Fields::new();
    for line in lines {
        let name_and_value = line.split_once(':').filter(|(name, value)| {
            let valid_name = !name.is_empty() && name.bytes().all(is_token);
            valid_name && !value.chars().any(|c| c != '\t' && c.is_ascii_control())
        });
        let Some((name, value)) = name_and_value else {
            return violation(format!("the field line {line:?}"));
        };
        let value = value.trim_matches([' ', '\t']).to_owned();
        fields.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    Ok(fields)
}

/// Whether there is a framing field.
pub fn is_framed(fields: &Fields) -> bool {
    fields.contains_key("content-length") || fields.contains_key("transfer-encoding")
}

/// The framing of a response (RFC 9112 §6.3).
pub fn framing(method: &str, status: u16, fields: &Fields) -> Result<Framing, Fault> {
    let coding = fields.get("transfer-encoding").map(Vec::as_slice);
    let length = content_length(fields)?;
    match (coding, length) {
        (Some(_), Some(_)) => violation("both Content-Length and Transfer-Encoding"),
        (Some([coding]), _) if !coding.eq_ignore_ascii_case("chunked") => {
            violation(format!("the transfer coding {coding:?}"))
        }
        (Some([] | [_, _, ..]), _) => violation("several transfer codings"),
        _ if status == 204 && is_framed(fields) => violation("a 204 with a framing field"),
        _ if method == "HEAD" || status == 204 || status == 304 => Ok(Framing::NoBody),
        (Some(_), None) => Ok(Framing::Chunked),
        (None, Some(_)) => Ok(Framing::Length),
        (None, None) => Ok(Framing::Close),
    }
}

/// The value of `Content-Length`.
pub fn content_length(fields: &Fields) -> Result<Option<usize>, Fault> {
    match fields.get("content-length").map(Vec::as_slice) {
        None => Ok(None),
        Some([digits]) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Some).or_else(|_| violation("a Content-Length beyond 64 bits"))
        }
        Some(values) => violation(format!("Content-Length {values:?}")),
    }
}
