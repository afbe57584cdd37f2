//! Inspection of bodies that an upstream's rules read.
//!
//! Owns: which bodies are read, how much of them, how far they are inflated, and that the receiver still gets
//! the whole body. Never touches: the interpretation of the body (`classify`).

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::semantics::accept_encoding;
use crate::upstream::Body;
use crate::upstream::in_flight_bytes::{ALWAYS_INSPECTED, BufferedPieces, BytesPermit, InFlightBytes};
use crate::upstream::outcome::buffered_body::{PrefixedBody, Remainder};

/// A longer body, as received or inflated, is not read.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// A body that inflates to more than this many times its length is not read.
const MAX_RATIO: usize = 100;

/// A body with more values is not read: each value takes more memory than it has bytes.
const MAX_VALUES: usize = 1 << 20;

/// The memory of a value beside its bytes, in a growing list.
const VALUE_OVERHEAD: usize = 2 * size_of::<Value>();

/// The memory of a non-empty list beside its values: it starts with room for four.
const LIST_OVERHEAD: usize = 80;

/// The memory of an object beside its values: its tree node has room for eleven.
const OBJECT_OVERHEAD: usize = 640;

/// Bodies up to this length are parsed inline. Longer ones would delay other tasks.
const INLINE_LIMIT: usize = ALWAYS_INSPECTED;

/// Limits how many large bodies are parsed at the same time.
static LARGE_PARSERS: Semaphore = Semaphore::const_new(4);

/// The result of reading a body.
#[derive(Debug, Clone, PartialEq)]
pub enum InspectedBody {
    /// The body is this JSON value.
    Json(Value),
    /// The body is not JSON.
    NotJson,
    /// The body may be JSON, but was not read: no memory budget, too large, or another content coding.
    Unread,
}

impl InspectedBody {
    /// The JSON value, if the body is one.
    pub fn json(&self) -> Option<&Value> {
        match self {
            Self::Json(value) => Some(value),
            Self::NotJson | Self::Unread => None,
        }
    }
}

/// The content coding of a readable body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// No coding.
    Identity,
    /// gzip.
    Gzip,
}

impl ContentCoding {
    /// The maximum inflated length of a body of this length.
    fn max_inflated(self, length: usize) -> usize {
        match self {
            Self::Identity => length,
            Self::Gzip => length.saturating_mul(MAX_RATIO).min(MAX_BODY),
        }
    }

    /// Whether a body that begins with this byte can be JSON.
    fn can_begin_with(self, first: u8) -> bool {
        match self {
            Self::Identity => {
                first.is_ascii_digit() || first.is_ascii_whitespace() || b"{[\"-tfn\xef".contains(&first)
            }
            Self::Gzip => first == 0x1f,
        }
    }
}

/// Reduces `Accept-Encoding` to readable codings: gzip if the client accepts it, else identity.
pub fn accept_encoding(headers: &mut HeaderMap) {
    accept_encoding::reduce(headers);
    let accepted = headers.get(ACCEPT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    let gzip = accepted.windows(4).any(|coding| coding == b"gzip");
    let reduced = HeaderValue::from_static(if gzip { "gzip" } else { "identity" });
    headers.insert(ACCEPT_ENCODING, reduced);
}

/// The content coding in which the body under this head is read. `None`: it is not read, because its media
/// type is not JSON, or it has another coding, or is too long. A body without a media type is read.
pub fn coding(headers: &HeaderMap) -> Option<ContentCoding> {
    if !may_be_json(headers) || is_too_long(headers) {
        return None;
    }
    let coding = lower(headers, &CONTENT_ENCODING);
    match coding.as_slice() {
        b"" | b"identity" => Some(ContentCoding::Identity),
        b"gzip" | b"x-gzip" => Some(ContentCoding::Gzip),
        _ => None,
    }
}

/// Whether a body under this head may be JSON, readable or not.
pub fn may_be_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(is_json)
}

fn is_json(value: &HeaderValue) -> bool {
    let value = value.as_bytes().to_ascii_lowercase();
    let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    essence == b"application/json" || essence.ends_with(b"+json")
}

fn is_too_long(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > MAX_BODY)
}

/// All lines of a field, joined.
fn lower(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.join(&b","[..]).trim_ascii().to_ascii_lowercase()
}

/// Reads a body to its end if it may be JSON. Returns the result, and a body that yields the same bytes and
/// ends in the same way. If it proves unreadable, or exceeds the memory budget of all buffered bodies, the
/// rest streams unread.
pub async fn read(
    headers: &HeaderMap,
    body: Box<dyn Body>,
    in_flight: &Arc<InFlightBytes>,
) -> (InspectedBody, Box<dyn Body>) {
    let Some(coding) = coding(headers) else {
        let inspected = if may_be_json(headers) { InspectedBody::Unread } else { InspectedBody::NotJson };
        return (inspected, body);
    };
    let is_not_json = |read: &BufferedPieces| read.first().is_some_and(|first| !coding.can_begin_with(first));
    let enough = |read: &BufferedPieces| read.len() > MAX_BODY || is_not_json(read);
    let prefixed = PrefixedBody::read_until(body, BufferedPieces::for_inspection(in_flight), enough).await;
    let inspected = match prefixed.rest {
        Remainder::Ended => parse_off_thread(coding, &prefixed.prefix).await,
        Remainder::Open(_) if is_not_json(&prefixed.prefix) => InspectedBody::NotJson,
        Remainder::Open(_) | Remainder::Failed(_) => InspectedBody::Unread,
    };
    (inspected, Box::new(prefixed))
}

/// Parses a complete body inline.
fn parse(coding: ContentCoding, body: &BufferedPieces) -> InspectedBody {
    match joined(coding, body) {
        Some((body, permit)) => parse_within(coding, &body, permit),
        None => InspectedBody::Unread,
    }
}

/// The joined body, with a permit for the memory of its inflated form.
fn joined(coding: ContentCoding, body: &BufferedPieces) -> Option<(Bytes, BytesPermit)> {
    if body.len() > MAX_BODY {
        return None;
    }
    let inflated = match coding {
        ContentCoding::Identity => 0,
        ContentCoding::Gzip => coding.max_inflated(body.len()),
    };
    body.try_joined(inflated)
}

fn parse_within(coding: ContentCoding, body: &[u8], mut permit: BytesPermit) -> InspectedBody {
    match coding {
        ContentCoding::Identity => parse_text(body, &mut permit),
        ContentCoding::Gzip => match inflate(body) {
            None => InspectedBody::NotJson,
            Some(text) if text.len() > coding.max_inflated(body.len()) => InspectedBody::Unread,
            Some(text) => parse_text(&text, &mut permit),
        },
    }
}

/// Parses a complete body. A large body is parsed on a blocking thread, a few of them at a time.
pub async fn parse_off_thread(coding: ContentCoding, body: &BufferedPieces) -> InspectedBody {
    if coding.max_inflated(body.len()) <= INLINE_LIMIT {
        return parse(coding, body);
    }
    let Ok(_parser) = LARGE_PARSERS.acquire().await else { return InspectedBody::Unread };
    let Some((body, permit)) = joined(coding, body) else { return InspectedBody::Unread };
    let parsed = tokio::task::spawn_blocking(move || parse_within(coding, &body, permit)).await;
    parsed.unwrap_or(InspectedBody::Unread)
}

/// The inflated body, or one byte more than allowed.
fn inflate(body: &[u8]) -> Option<Vec<u8>> {
    let max = u64::try_from(ContentCoding::Gzip.max_inflated(body.len())).ok()?;
    let mut text = Vec::new();
    MultiGzDecoder::new(body).take(max + 1).read_to_end(&mut text).ok()?;
    Some(text)
}

/// serde's own limit on nesting (128) bounds the stack.
fn parse_text(text: &[u8], permit: &mut BytesPermit) -> InspectedBody {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let begins_value = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    let values = text.iter().filter(begins_value).count();
    let objects = text.split(|byte| *byte == b'{').count() - 1;
    let lists = text.split(|byte| *byte == b'[').count() - 1;
    let tree = values * VALUE_OVERHEAD + lists * LIST_OVERHEAD + objects * OBJECT_OVERHEAD;
    // A short body is parsed inline: at any time no more of them than there are threads.
    let mut has_capacity = || text.len() <= INLINE_LIMIT || permit.try_reserve(text.len() + tree);
    if values >= MAX_VALUES || !has_capacity() {
        return InspectedBody::Unread;
    }
    serde_json::from_slice(text).map_or(InspectedBody::NotJson, InspectedBody::Json)
}

#[cfg(test)]
mod tests;
