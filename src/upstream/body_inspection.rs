//! Bodies that an upstream's rules look into.
//!
//! Owns: which bodies are read, how much of them, how far they are inflated; that reading takes nothing
//! away from who gets the body. Never touches: what the rules make of it (`classify`).

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
use crate::upstream::buffered_body::{PrefixedBody, Remainder};
use crate::upstream::in_flight_bytes::{BufferedPieces, BytesPermit, InFlightBytes, READ_ALWAYS};

/// A body that is longer, as it came or inflated, is not readable.
pub const LARGEST: usize = 8 * 1024 * 1024;

/// Nor is one that inflates to more than so many times its length.
const RATIO: usize = 100;

/// Nor is one of more values: each takes more memory than it has bytes.
const MOST_VALUES: usize = 1 << 20;

/// What a value takes beside its bytes, in a list that grows.
const VALUE: usize = 2 * size_of::<Value>();

/// What a list that is not empty takes beside its values: it has room for four at first.
const LIST: usize = 80;

/// What an object takes beside its values: the node of its tree has room for eleven.
const OBJECT: usize = 640;

/// So much is parsed on the spot; more would keep others waiting.
const AT_ONCE: usize = READ_ALWAYS;

/// How many large bodies are parsed at the same time.
static LARGE_ONES: Semaphore = Semaphore::const_new(4);

/// What reading a body comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum InspectedBody {
    /// It says this.
    Says(Value),
    /// It is no JSON.
    NoJson,
    /// It may be, and was not read: there is no room, or it is too large, or coded otherwise.
    Unread,
}

impl InspectedBody {
    /// What it says.
    pub fn says(&self) -> Option<&Value> {
        match self {
            Self::Says(value) => Some(value),
            Self::NoJson | Self::Unread => None,
        }
    }
}

/// How a readable body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// As it is.
    Identity,
    /// With gzip.
    Gzip,
}

impl ContentCoding {
    /// The most that so many bytes may inflate to.
    fn largest(self, length: usize) -> usize {
        match self {
            Self::Identity => length,
            Self::Gzip => length.saturating_mul(RATIO).min(LARGEST),
        }
    }

    /// Whether a body that begins like this can be JSON.
    fn begins(self, first: u8) -> bool {
        match self {
            Self::Identity => {
                first.is_ascii_digit()
                    || first.is_ascii_whitespace()
                    || b"{[\"-tfn\xef".contains(&first)
            }
            Self::Gzip => first == 0x1f,
        }
    }
}

/// Reduces `Accept-Encoding` to what can be read: gzip if the client takes it, else nothing coded.
pub fn accept_encoding(headers: &mut HeaderMap) {
    accept_encoding::reduce(headers);
    let accepted = headers.get(ACCEPT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    let gzip = accepted.windows(4).any(|coding| coding == b"gzip");
    let reduced = HeaderValue::from_static(if gzip { "gzip" } else { "identity" });
    headers.insert(ACCEPT_ENCODING, reduced);
}

/// How the body under this head is to be read. `None`: not at all, for it is not called JSON, or is
/// coded otherwise, or too long. One that is not called anything is tried.
pub fn coding(headers: &HeaderMap) -> Option<ContentCoding> {
    if !may_be_json(headers) || is_too_long(headers) {
        return None;
    }
    let coded = lower(headers, &CONTENT_ENCODING);
    match coded.as_slice() {
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
    length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > LARGEST)
}

/// All lines of a field as one.
fn lower(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.join(&b","[..]).trim_ascii().to_ascii_lowercase()
}

/// Reads a body to its end if it may be JSON, gives what it says, and a body that yields the same bytes
/// and ends in the same way. Where it turns out not to be readable, or there is no room for it among all
/// bodies that are held, the rest flows as it comes, unread.
pub async fn read(
    headers: &HeaderMap,
    body: Box<dyn Body>,
    in_flight: &Arc<InFlightBytes>,
) -> (InspectedBody, Box<dyn Body>) {
    let Some(coding) = coding(headers) else {
        let reading =
            if may_be_json(headers) { InspectedBody::Unread } else { InspectedBody::NoJson };
        return (reading, body);
    };
    let is_none = |read: &BufferedPieces| read.first().is_some_and(|first| !coding.begins(first));
    let enough = |read: &BufferedPieces| read.len() > LARGEST || is_none(read);
    let begun = PrefixedBody::until(body, BufferedPieces::to_read(in_flight), enough).await;
    let reading = match begun.rest {
        Remainder::Ended => parse_apart(coding, &begun.read).await,
        Remainder::Open(_) if is_none(&begun.read) => InspectedBody::NoJson,
        Remainder::Open(_) | Remainder::Failed(_) => InspectedBody::Unread,
    };
    (reading, Box::new(begun))
}

/// What a complete body says, found out on the spot.
fn parse(coding: ContentCoding, body: &BufferedPieces) -> InspectedBody {
    match in_one_piece(coding, body) {
        Some((body, share)) => parse_within(coding, &body, share),
        None => InspectedBody::Unread,
    }
}

/// The body, and room for what it says: that is inflated first.
fn in_one_piece(coding: ContentCoding, body: &BufferedPieces) -> Option<(Bytes, BytesPermit)> {
    if body.len() > LARGEST {
        return None;
    }
    let inflated = match coding {
        ContentCoding::Identity => 0,
        ContentCoding::Gzip => coding.largest(body.len()),
    };
    body.joined_within(inflated)
}

fn parse_within(coding: ContentCoding, body: &[u8], mut share: BytesPermit) -> InspectedBody {
    match coding {
        ContentCoding::Identity => parse_text(body, &mut share),
        ContentCoding::Gzip => match inflate(body) {
            None => InspectedBody::NoJson,
            Some(text) if text.len() > coding.largest(body.len()) => InspectedBody::Unread,
            Some(text) => parse_text(&text, &mut share),
        },
    }
}

/// What a complete body says. A large body is parsed where nothing else waits for it, a few of them at a
/// time.
pub async fn parse_apart(coding: ContentCoding, body: &BufferedPieces) -> InspectedBody {
    if coding.largest(body.len()) <= AT_ONCE {
        return parse(coding, body);
    }
    let Ok(_turn) = LARGE_ONES.acquire().await else { return InspectedBody::Unread };
    let Some((body, share)) = in_one_piece(coding, body) else { return InspectedBody::Unread };
    let parsed = tokio::task::spawn_blocking(move || parse_within(coding, &body, share)).await;
    parsed.unwrap_or(InspectedBody::Unread)
}

/// The inflated body, or one byte more than it may have.
fn inflate(body: &[u8]) -> Option<Vec<u8>> {
    let most = u64::try_from(ContentCoding::Gzip.largest(body.len())).ok()?;
    let mut text = Vec::new();
    MultiGzDecoder::new(body).take(most + 1).read_to_end(&mut text).ok()?;
    Some(text)
}

/// serde's own bound on nesting (128) keeps the stack small.
fn parse_text(text: &[u8], share: &mut BytesPermit) -> InspectedBody {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let begins_one = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    let values = text.iter().filter(begins_one).count();
    let objects = text.split(|byte| *byte == b'{').count() - 1;
    let lists = text.split(|byte| *byte == b'[').count() - 1;
    let tree = values * VALUE + lists * LIST + objects * OBJECT;
    // A short one is parsed on the spot: no more of those at a time than there are threads.
    let mut room = || text.len() <= AT_ONCE || share.add(text.len() + tree);
    if values >= MOST_VALUES || !room() {
        return InspectedBody::Unread;
    }
    serde_json::from_slice(text).map_or(InspectedBody::NoJson, InspectedBody::Says)
}

#[cfg(test)]
mod tests;
