//! The chunked transfer coding (RFC 9112 §7.1), decoded incrementally.
//!
//! Owns: finding the end of a chunked body, and rejecting encodings that two parsers could interpret
//! differently. Never touches: sockets, the meaning of a body.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Maximum bytes of a chunk-size line, extensions included.
const MAX_LINE: usize = 4 * 1024;

/// Maximum bytes of all trailer fields.
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// Maximum number of trailer fields.
const MAX_TRAILERS: usize = 100;

/// Maximum hexadecimal digits of a size: 60 bits, so that no arithmetic overflows.
const MAX_SIZE_DIGITS: usize = 15;

/// Which deviations from the grammar are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// A request: only the grammar of RFC 9112 §7.1, extensions included.
    Request,
    /// A response: also blanks after a size, and extensions of any form without control characters.
    Response,
}

/// The encoding is invalid, or two parsers could interpret it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a valid chunked body (RFC 9112 §7.1)")]
pub struct MalformedChunk;

/// One decoded event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkEvent {
    /// Bytes of the body, at least one.
    Data(Bytes),
    /// The last chunk and the trailer section have been read.
    End(HeaderMap),
}

/// A decoder of one chunked body.
#[derive(Debug)]
pub struct Decoder {
    strictness: Strictness,
    state: State,
    trailers: HeaderMap,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A chunk-size line comes next.
    Size,
    /// This number of bytes of the chunk is still missing.
    Data(u64),
    /// The line end after a chunk's data comes next.
    DataEnd,
    /// A trailer field or the last empty line comes next.
    Trailer,
    Ended,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(strictness: Strictness) -> Self {
        Self { strictness, state: State::Size, trailers: HeaderMap::new(), trailer_bytes: 0 }
    }

    /// Consumes the next event from the front of `input`. `None` means that more bytes are needed. After the
    /// end of the body it consumes nothing.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<ChunkEvent>, MalformedChunk> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(input, MAX_LINE)? else { return Ok(None) };
                    self.state = match size(&line, self.strictness)? {
                        0 => State::Trailer,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    if here == 0 {
                        return Ok(None);
                    }
                    self.state = match left - here as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(Some(ChunkEvent::Data(input.split_to(here).freeze())));
                }
                State::DataEnd => {
                    if !b"\r\n".starts_with(input.get(..input.len().min(2)).unwrap_or_default()) {
                        return Err(MalformedChunk);
                    }
                    if input.len() < 2 {
                        return Ok(None);
                    }
                    input.advance(2);
                    self.state = State::Size;
                }
                State::Trailer => {
                    let capacity = MAX_TRAILER_BYTES - self.trailer_bytes;
                    let Some(line) = take_line(input, capacity)? else { return Ok(None) };
                    if line.is_empty() {
                        self.state = State::Ended;
                        return Ok(Some(ChunkEvent::End(std::mem::take(&mut self.trailers))));
                    }
                    self.trailer_bytes += line.len() + 2;
                    self.add_trailer(&line)?;
                }
                State::Ended => return Ok(None),
            }
        }
    }

    fn add_trailer(&mut self, line: &[u8]) -> Result<(), MalformedChunk> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(MalformedChunk)?;
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name).map_err(|_invalid| MalformedChunk)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = HeaderValue::from_bytes(value).map_err(|_invalid| MalformedChunk)?;
        self.trailers.append(name, value);
        if self.trailers.len() > MAX_TRAILERS { Err(MalformedChunk) } else { Ok(()) }
    }
}

/// The next line without its CRLF. A bare line feed is an error.
fn take_line(input: &mut BytesMut, max_length: usize) -> Result<Option<BytesMut>, MalformedChunk> {
    let window = input.get(..input.len().min(max_length)).unwrap_or_default();
    let Some(line_feed) = window.iter().position(|byte| *byte == b'\n') else {
        return if input.len() < max_length { Ok(None) } else { Err(MalformedChunk) };
    };
    let end = line_feed.checked_sub(1).filter(|end| window.get(*end) == Some(&b'\r'));
    let mut line = input.split_to(line_feed + 1);
    line.truncate(end.ok_or(MalformedChunk)?);
    if line.contains(&b'\r') { Err(MalformedChunk) } else { Ok(Some(line)) }
}

/// The size in a chunk-size line.
fn size(line: &[u8], strictness: Strictness) -> Result<u64, MalformedChunk> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    if digits == 0 || digits > MAX_SIZE_DIGITS {
        return Err(MalformedChunk);
    }
    let valid = match strictness {
        Strictness::Request => is_extension_list(extensions),
        Strictness::Response => {
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
            let starts_with_semicolon =
                extensions.iter().find(|byte| !blank(byte)).is_none_or(|b| *b == b';');
            starts_with_semicolon && !extensions.iter().any(|byte| byte.is_ascii_control() && !blank(byte))
        }
    };
    let text = std::str::from_utf8(size).map_err(|_invalid| MalformedChunk)?;
    if valid { u64::from_str_radix(text, 16).map_err(|_invalid| MalformedChunk) } else { Err(MalformedChunk) }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`, RFC 9112 §7.1.1.
fn is_extension_list(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let Some(rest) = skip_blanks(text).strip_prefix(b";") else { return false };
        let Some(rest) = skip_token(skip_blanks(rest)) else { return false };
        text = match skip_blanks(rest).strip_prefix(b"=") {
            None => rest,
            Some(value) => match skip_value(skip_blanks(value)) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
    true
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    text.get(blanks..).unwrap_or_default()
}

fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let length = text.iter().take_while(|byte| is_token(byte)).count();
    (length > 0).then(|| text.get(length..).unwrap_or_default())
}

fn skip_value(text: &[u8]) -> Option<&[u8]> {
    let Some(mut quoted) = text.strip_prefix(b"\"") else { return skip_token(text) };
    loop {
        let (byte, rest) = quoted.split_first()?;
        quoted = match byte {
            b'"' => return Some(rest),
            b'\\' => rest.split_first().filter(|(byte, _)| is_quoted_text(**byte))?.1,
            byte if is_quoted_text(*byte) => rest,
            _ => return None,
        };
    }
}

/// Whether a quoted string may contain this byte: any but control characters other than the tab.
fn is_quoted_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests;
