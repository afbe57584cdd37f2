//! Writes HTTP/1 request heads to origins and parses their response heads.
//!
//! Owns: which response heads are invalid, and how a response body is framed (RFC 9112 §4 to §6, §9.3).
//! Never touches: connections.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::semantics::field_case::FieldCase;
use crate::semantics::field_list;
use crate::semantics::request::RequestFraming;
use crate::upstream::BodyFraming;
use crate::upstream::connect::session::{
    MAX_HEAD_BYTES, MAX_HEAD_FIELDS, OutgoingRequest, SessionError, UpstreamHead, has_no_body,
    is_within_bounds, length,
};

/// Serialises the head of a request.
pub(super) fn request_head(request: &OutgoingRequest) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nHost: ");
    out.put_slice(request.authority.as_bytes());
    out.put_slice(b"\r\n");
    let mut headers = request.headers.clone();
    headers.remove(CONTENT_LENGTH);
    match request.body {
        RequestFraming::None if expects_a_body(&request.method) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        }
        RequestFraming::None => {}
        RequestFraming::Length(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        RequestFraming::Chunked => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if let Some(protocols) = &request.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocols.clone());
    }
    request.spelling.write(&headers, &mut out);
    out.put_slice(b"\r\n");
    out.freeze()
}

/// Methods for which a request without a body has `Content-Length: 0` (RFC 9110 §8.6).
fn expects_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The offset of the end of the head; `None`: the head is incomplete. `scanned` is the offset of the first
/// line that has not been examined; the next call continues there.
pub(super) fn find_head_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, SessionError> {
    while let Some(feed) = input.get(*scanned..).and_then(|b| b.iter().position(|c| *c == b'\n')) {
        let line = input.get(*scanned..*scanned + feed).unwrap_or_default();
        *scanned += feed + 1;
        // A leading empty line does not end a head.
        if (line.is_empty() || line == b"\r") && *scanned > 2 {
            return Ok(Some(*scanned));
        }
    }
    if input.len() > MAX_HEAD_BYTES + 64 * MAX_HEAD_FIELDS { Err(SessionError::Protocol) } else { Ok(None) }
}

pub(super) fn parse_response_head(raw: &Bytes) -> Result<UpstreamHead, SessionError> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
    let mut response = httparse::Response::new(&mut slots);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    let parsed = parser.parse_response(&mut response, raw);
    if !matches!(parsed, Ok(httparse::Status::Complete(_))) {
        return Err(SessionError::Protocol);
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| status.as_u16() < 600).ok_or(SessionError::Protocol)?;
    let version = match response.version {
        Some(1) => Version::HTTP_11,
        Some(0) => Version::HTTP_10,
        _ => return Err(SessionError::Protocol),
    };
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| SessionError::Protocol)?;
        let value = HeaderValue::from_maybe_shared(raw.slice_ref(field.value));
        headers.append(name, value.map_err(|_invalid| SessionError::Protocol)?);
    }
    if !is_within_bounds(&headers) {
        return Err(SessionError::Protocol);
    }
    let spelling = FieldCase::from_head(raw.clone());
    let framing = BodyFraming::Length(0);
    Ok(UpstreamHead { status, version, headers, spelling, framing, ended: false })
}

/// RFC 9112 §6.3. Larder sends no `TE` with codings, so only `chunked` is allowed, and only with HTTP/1.1. A
/// length in addition is ambiguous.
pub(super) fn framing(head: &UpstreamHead, method: &Method) -> Result<BodyFraming, SessionError> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let (coding, repeated) = (codings.next(), codings.next().is_some());
    let length = length(&head.headers)?;
    let chunked = match coding {
        None => false,
        Some(coding) => {
            let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !chunked || repeated || length.is_some() || head.version != Version::HTTP_11 {
                return Err(SessionError::Protocol);
            }
            true
        }
    };
    if has_no_body(method, head.status) {
        return Ok(BodyFraming::Length(0));
    }
    Ok(match length {
        _ if chunked => BodyFraming::Delimited,
        Some(length) => BodyFraming::Length(length),
        None => BodyFraming::Close,
    })
}

/// Whether the head declares a body where none is allowed (RFC 9112 §6.1, §6.2). The response ends with its
/// head, and bytes that the origin still sends must not be taken for the next response.
pub(super) fn is_misframed(head: &UpstreamHead) -> bool {
    let coded = head.headers.contains_key(TRANSFER_ENCODING);
    let long = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    match head.status {
        StatusCode::NO_CONTENT => coded || long,
        StatusCode::NOT_MODIFIED => coded,
        _ => false,
    }
}

/// Whether the connection persists after this response (RFC 9112 §9.3).
pub(super) fn persists(head: &UpstreamHead) -> bool {
    let mut options = field_list::members(head.headers.get_all(CONNECTION)).peekable();
    let has_options = options.peek().is_some();
    let mut keeps = head.version == Version::HTTP_11 || has_options;
    for option in options {
        let keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
        keeps &= !option.eq_ignore_ascii_case(b"close");
        keeps &= head.version == Version::HTTP_11 || keep_alive;
    }
    keeps
}

#[cfg(test)]
mod tests;
