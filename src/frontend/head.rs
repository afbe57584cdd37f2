//! Parses a request head: from raw bytes to a valid [`RequestHead`] or an error.
//!
//! Owns: strict parsing (RFC 9112 §2-6). Ambiguous heads are rejected, because two parsers could
//! interpret them differently. Never touches: sockets, time, policy.

mod absolute_form;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use crate::semantics::field_list;
use crate::semantics::hop_by_hop;
use crate::semantics::request::RequestFraming;
use crate::semantics::target::{Target, TargetError, authority, path_equivalence};
use crate::telemetry::problem::Problem;

/// A valid request head.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: HeadTarget,
    /// HTTP/1.0 or 1.1.
    pub version: Version,
    /// All fields except `Host`, including hop-by-hop fields.
    pub fields: HeaderMap,
    /// `Host`; an HTTP/1.0 request may lack it.
    pub host: Option<HeaderValue>,
    /// The framing of the body.
    pub framing: RequestFraming,
    /// The protocols that the client requests to switch to, if any.
    pub upgrade: Option<HeaderValue>,
    /// Whether the client accepts trailer fields.
    pub trailers: bool,
    /// Whether the connection persists after the response.
    pub persists: bool,
    /// Whether `Connection` contains no option other than `keep-alive`.
    pub only_keep_alive: bool,
}

/// The forms of a request target (RFC 9112 §3.2).
#[derive(Debug)]
pub enum HeadTarget {
    /// `GET http://host/path`.
    Absolute(Target),
    /// `GET /path`, or `OPTIONS *`: the tunnel or mount determines the origin.
    Origin(String),
    /// `CONNECT host:port`.
    Authority(String, u16),
}

const fn bad_request(class: &'static str, reason: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, class, reason, "http_request_error")
}

const MALFORMED: Problem = bad_request("malformed_head", "the request head is not valid HTTP/1.1");
/// The target is not a valid URL.
pub const BAD_TARGET: Problem = bad_request("malformed_target", "the request target is not a valid URL");
/// A method, target or version contains no space: another parser could split the request line differently.
const TARGET_WITH_SPACE: Problem =
    bad_request("malformed_target", "the request target contains a space: write it as %20");
/// A request in origin form that matches no mount.
pub const NOT_PROXY: Problem = bad_request(
    "not_a_proxy_request",
    "larder is a forward proxy: set HTTP_PROXY to it, or send requests below an upstream's mount path",
);
const BAD_HOST: Problem = bad_request("malformed_host", "HTTP/1.1 requires exactly one valid Host field");
const BAD_FRAMING: Problem =
    bad_request("ambiguous_framing", "the body's length is missing, malformed or contradictory");
const BAD_CONNECTION: Problem =
    bad_request("protected_field", "Connection names a field that a proxy must not remove");
const VERSION_UNSUPPORTED: Problem = Problem::new(
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    "http_version",
    "larder supports HTTP/1.0 and HTTP/1.1 here",
    "http_request_error",
);
const CODING_UNKNOWN: Problem = Problem::new(
    StatusCode::NOT_IMPLEMENTED,
    "transfer_coding",
    "chunked is the only transfer coding that larder supports",
    "http_request_error",
);

/// The head has more fields than `limits.headers`.
pub const TOO_MANY_FIELDS: Problem = Problem::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "too_many_fields",
    "the request has more fields than limits.headers",
    "http_request_error",
);

/// The head has more bytes than `limits.head`.
pub const HEAD_TOO_LARGE: Problem = Problem::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "the request head has more bytes than limits.head",
    "http_request_error",
);

/// The request line alone has more bytes than `limits.head`.
pub const TARGET_TOO_LONG: Problem = Problem::new(
    StatusCode::URI_TOO_LONG,
    "target_too_long",
    "the request target has more bytes than limits.head",
    "http_request_error",
);

/// The progress of the search for the end of a head.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadScanner {
    seen: usize,
}

impl HeadScanner {
    /// Searches for the blank line that ends the head. Returns the length of the head including this
    /// line once it has arrived. A line feed without a carriage return is rejected: RFC 9112 §2.2
    /// allows a recipient to accept it, but another recipient might not.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Problem> {
        while let Some(offset) = bytes.get(self.seen..).and_then(|b| b.iter().position(|c| *c == b'\n')) {
            let feed = self.seen + offset;
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(MALFORMED);
            }
            self.seen = feed + 1;
            if feed >= 3 && bytes[feed - 3..feed] == *b"\r\n\r" {
                return Ok(Some(feed + 1));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }

    /// The limit that a head without an end exceeds.
    pub fn overrun(bytes: &[u8]) -> Problem {
        if bytes.contains(&b'\n') { HEAD_TOO_LARGE } else { TARGET_TOO_LONG }
    }
}

/// Parses a complete head, including the blank line, with at most `max_fields` fields.
pub fn read(bytes: &Bytes, max_fields: usize) -> Result<RequestHead, Problem> {
    // The parser skips leading empty lines; the connection has already skipped the one that is allowed.
    if matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
        return Err(MALFORMED);
    }
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut slots);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => build(bytes, &request, max_fields),
        Err(httparse::Error::TooManyHeaders) => {
            let mut slots = vec![httparse::EMPTY_HEADER; max_fields];
            let mut request = httparse::Request::new(&mut slots);
            match request.parse(bytes) {
                Ok(httparse::Status::Complete(_)) => build(bytes, &request, max_fields),
                Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY_FIELDS),
                Ok(httparse::Status::Partial) | Err(_) => Err(MALFORMED),
            }
        }
        Err(httparse::Error::Version) if has_spaced_target(bytes) => Err(TARGET_WITH_SPACE),
        Err(httparse::Error::Version) if has_other_version(bytes) => Err(VERSION_UNSUPPORTED),
        Ok(httparse::Status::Partial) | Err(_) => Err(MALFORMED),
    }
}

/// Whether the first line is valid except for single spaces inside its target.
fn has_spaced_target(bytes: &[u8]) -> bool {
    let mut parts: Vec<_> = first_line(bytes).split(|c| *c == b' ').collect();
    let version = parts.pop().unwrap_or_default();
    matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        && parts.len() > 2
        && parts.iter().all(|part| !part.is_empty())
}

fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|c| *c == b'\r').next().unwrap_or_default()
}

fn has_other_version(bytes: &[u8]) -> bool {
    let line = first_line(bytes);
    let version = line.rsplit(|c| *c == b' ').next().unwrap_or_default();
    let supported = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    !supported && version.len() == 8 && version.starts_with(b"HTTP/") && version[5].is_ascii_digit()
}

fn build(
    bytes: &Bytes,
    request: &httparse::Request<'_, '_>,
    max_fields: usize,
) -> Result<RequestHead, Problem> {
    if request.headers.len() > max_fields {
        return Err(TOO_MANY_FIELDS);
    }
    let method = request.method.and_then(|m| Method::from_bytes(m.as_bytes()).ok());
    let (Some(method), Some(path)) = (method, request.path) else {
        return Err(MALFORMED);
    };
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut host = None;
    let mut fields = HeaderMap::with_capacity(request.headers.len());
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_invalid| MALFORMED)?;
        let value =
            HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_invalid| MALFORMED)?;
        if name == HOST {
            if host.replace(value).is_some() {
                return Err(BAD_HOST);
            }
            continue;
        }
        fields.append(name, value);
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err(BAD_HOST);
    }
    check_connection_options(&fields)?;
    let framing = framing(&method, version, &fields)?;
    let (target, user) = target(&method, path)?;
    // The client's own field takes precedence.
    if let Some(user) = user.filter(|_| !fields.contains_key(AUTHORIZATION)) {
        fields.insert(AUTHORIZATION, user);
    }
    if matches!(target, HeadTarget::Absolute(_)) {
        host = host.map(absolute_form::without_user);
    }
    if host.as_ref().is_some_and(|host| !is_host(host)) {
        return Err(BAD_HOST);
    }
    let switches = version == Version::HTTP_11 && hop_by_hop::is_upgrade(&fields);
    let upgrade = switches.then(|| fields.get(UPGRADE).cloned()).flatten();
    let trailers = version == Version::HTTP_11 && hop_by_hop::accepts_trailers(&fields);
    let persists = persists(version, &fields);
    let is_keep_alive = |option: &HeaderValue| option.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    let plain = fields.get_all(CONNECTION).iter().all(is_keep_alive);
    Ok(RequestHead {
        method,
        target,
        version,
        fields,
        host,
        framing,
        upgrade,
        trailers,
        persists,
        only_keep_alive: plain,
    })
}

/// RFC 9112 §3.2: a value that is not an authority is rejected, even if the target contains an authority.
fn is_host(value: &HeaderValue) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    // Most values are plain names, which are checked without copying.
    let labels = value.as_bytes().split(|byte| *byte == b'.');
    let is_name =
        value.len() < 254 && labels.into_iter().all(|label| !label.is_empty() && label.iter().all(plain));
    is_name || value.is_empty() || value.to_str().is_ok_and(|host| authority::split(host).is_ok())
}

/// RFC 9112 §9.3.
fn persists(version: Version, fields: &HeaderMap) -> bool {
    if !fields.contains_key(CONNECTION) {
        return version == Version::HTTP_11;
    }
    let has_option = |wanted: &[u8]| {
        field_list::members(fields.get_all(CONNECTION)).any(|option| option.eq_ignore_ascii_case(wanted))
    };
    !has_option(b"close") && (version == Version::HTTP_11 || has_option(b"keep-alive"))
}

/// The target, and the credential that it contains.
fn target(method: &Method, path: &str) -> Result<(HeadTarget, Option<HeaderValue>), Problem> {
    if *method == Method::CONNECT {
        let (host, port) = authority::parse(path).map_err(|_: TargetError| BAD_TARGET)?;
        return Ok((HeadTarget::Authority(host, port), None));
    }
    // RFC 9112 §3.2.4: only OPTIONS may use the asterisk.
    if path.starts_with('/') || (path == "*" && *method == Method::OPTIONS) {
        check_fits(path)?;
        return Ok((HeadTarget::Origin(path.to_owned()), None));
    }
    let absolute = absolute_form::read(path).map_err(|_: TargetError| BAD_TARGET)?;
    let (target, user) = (absolute.target, absolute.authorization);
    check_fits(target.path_and_query())?;
    if *method == Method::OPTIONS && has_no_path(path) {
        let authority = target.authority();
        let whole = Target::with_authority(target.scheme(), &authority, "*");
        return whole.map(|whole| (HeadTarget::Absolute(whole), user)).map_err(|_: TargetError| BAD_TARGET);
    }
    Ok((HeadTarget::Absolute(target), user))
}

/// A call over HTTP/2 carries the target in this type. A target that does not fit is rejected here, with
/// larder's own error message.
fn check_fits(path: &str) -> Result<(), Problem> {
    Uri::try_from(&*path_equivalence::encode_invalid(path)).map(drop).map_err(|_invalid| BAD_TARGET)
}

/// `http://host` without a path: an `OPTIONS` request for the server as a whole (RFC 9112 §3.2.4).
fn has_no_path(absolute: &str) -> bool {
    absolute.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']))
}

/// RFC 9112 §6.3, without its lenient branches.
fn framing(method: &Method, version: Version, fields: &HeaderMap) -> Result<RequestFraming, Problem> {
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() {
        return Err(BAD_FRAMING);
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err(BAD_FRAMING),
        (None, Some(coding)) => chunked(version, coding.as_bytes()),
        (Some(length), None) => match digits(length.as_bytes()) {
            Some(0) => Ok(RequestFraming::None),
            Some(length) => Ok(RequestFraming::Length(length)),
            None => Err(BAD_FRAMING),
        },
        // If an HTTP/1.0 client sends a body after such a head, it would be parsed as the next request.
        (None, None) if version == Version::HTTP_10 && has_content(method) => Err(BAD_FRAMING),
        (None, None) => Ok(RequestFraming::None),
    }
}

fn chunked(version: Version, coding: &[u8]) -> Result<RequestFraming, Problem> {
    if version == Version::HTTP_10 {
        return Err(BAD_FRAMING);
    }
    if coding.eq_ignore_ascii_case(b"chunked") {
        return Ok(RequestFraming::Chunked);
    }
    let one_token = coding.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-');
    Err(if one_token && !coding.is_empty() { CODING_UNKNOWN } else { BAD_FRAMING })
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn has_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// A client must not make a proxy remove fields that frame, address or authorise its request.
fn check_connection_options(fields: &HeaderMap) -> Result<(), Problem> {
    let names = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, AUTHORIZATION, EXPECT];
    for value in fields.get_all(CONNECTION) {
        for token in value.as_bytes().split(|c| *c == b',') {
            let token = token.trim_ascii();
            if names.iter().any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes())) {
                return Err(BAD_CONNECTION);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
