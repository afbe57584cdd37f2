//! A request head: from raw bytes to a clean [`ProxyRequest`](crate::semantics::asked::ProxyRequest) or a refusal.
//!
//! Owns: strict reading (RFC 9112 §2-6): what is ambiguous is refused, because two readers would
//! read it in two ways. Never touches: sockets, time, policy.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use crate::semantics::field_list;
use crate::semantics::hop_by_hop;
use crate::semantics::request::RequestFraming;
use crate::semantics::target::{Target, TargetError, authority, path_equivalence};
use crate::telemetry::problem::Problem;

/// A head that was read and makes sense.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// What is asked for.
    pub target: HeadTarget,
    /// 1.0 or 1.1.
    pub version: Version,
    /// All fields but `Host`, hop-by-hop ones included.
    pub fields: HeaderMap,
    /// `Host`; HTTP/1.0 may have none.
    pub host: Option<HeaderValue>,
    /// How the body is framed.
    pub framing: RequestFraming,
    /// The protocols that the client asks to switch to, if it does.
    pub upgrade: Option<HeaderValue>,
    /// Whether the client reads trailer fields.
    pub trailers: bool,
    /// Whether the connection goes on after the answer.
    pub persists: bool,
    /// Whether that is all that `Connection` says.
    pub plain: bool,
}

/// The forms of target (RFC 9112 §3.2).
#[derive(Debug)]
pub enum HeadTarget {
    /// `GET http://host/path`.
    Absolute(Target),
    /// `GET /path`, or `OPTIONS *`: where to, the way in must say.
    Origin(String),
    /// `CONNECT host:port`.
    Authority(String, u16),
}

const fn bad(class: &'static str, reason: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, class, reason, "http_request_error")
}

const MALFORMED: Problem = bad("malformed_head", "the request head is not valid HTTP/1.1");
/// A target that is no URL.
pub const BAD_TARGET: Problem = bad("malformed_target", "the request target is not a valid URL");
/// No method, target or version has a space in it: another reader might take a part of the line for another.
const SPACE: Problem =
    bad("malformed_target", "the request target holds a space: it is written %20 in a URL");
/// A request in origin form that is below no mount.
pub const NOT_PROXY: Problem = bad(
    "not_a_proxy_request",
    "larder is a forward proxy: set HTTP_PROXY to it, or ask below a path that an upstream mounts",
);
const BAD_HOST: Problem =
    bad("malformed_host", "HTTP/1.1 needs exactly one Host, which names a host");
const BAD_FRAMING: Problem =
    bad("ambiguous_framing", "the body's length is missing, malformed or contradictory");
const BAD_CONNECTION: Problem =
    bad("protected_field", "Connection names a field that no proxy may drop");
const VERSION_UNSUPPORTED: Problem = Problem::new(
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    "http_version",
    "larder speaks HTTP/1.0 and HTTP/1.1 here",
    "http_request_error",
);
const CODING_UNKNOWN: Problem = Problem::new(
    StatusCode::NOT_IMPLEMENTED,
    "transfer_coding",
    "chunked is the only transfer coding larder reads",
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

/// How far a search for the end of a head has come.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadScanner {
    seen: usize,
}

impl HeadScanner {
    /// Looks for the blank line that ends the head; the length of the head with it, once it is
    /// there. A line feed without a carriage return is refused (RFC 9112 §2.2 allows to accept it:
    /// then another reader might not).
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Problem> {
        while let Some(place) =
            bytes.get(self.seen..).and_then(|b| b.iter().position(|c| *c == b'\n'))
        {
            let feed = self.seen + place;
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

    /// Which limit a head without an end has broken.
    pub fn overrun(bytes: &[u8]) -> Problem {
        if bytes.contains(&b'\n') { HEAD_TOO_LARGE } else { TARGET_TOO_LONG }
    }
}

/// Reads a complete head (blank line included) of at most `most` fields.
pub fn read(bytes: &Bytes, most: usize) -> Result<RequestHead, Problem> {
    // The parser skips empty lines in front; the door has skipped the one that may be there.
    if matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
        return Err(MALFORMED);
    }
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut slots);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => build(bytes, &request, most),
        Err(httparse::Error::TooManyHeaders) => {
            let mut slots = vec![httparse::EMPTY_HEADER; most];
            let mut request = httparse::Request::new(&mut slots);
            match request.parse(bytes) {
                Ok(httparse::Status::Complete(_)) => build(bytes, &request, most),
                Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY_FIELDS),
                Ok(httparse::Status::Partial) | Err(_) => Err(MALFORMED),
            }
        }
        Err(httparse::Error::Version) if has_spaced_target(bytes) => Err(SPACE),
        Err(httparse::Error::Version) if names_another_version(bytes) => Err(VERSION_UNSUPPORTED),
        Ok(httparse::Status::Partial) | Err(_) => Err(MALFORMED),
    }
}

/// Whether the first line is one but for single spaces inside its target.
fn has_spaced_target(bytes: &[u8]) -> bool {
    let mut words: Vec<_> = first_line(bytes).split(|c| *c == b' ').collect();
    let version = words.pop().unwrap_or_default();
    matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        && words.len() > 2
        && words.iter().all(|word| !word.is_empty())
}

fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|c| *c == b'\r').next().unwrap_or_default()
}

fn names_another_version(bytes: &[u8]) -> bool {
    let line = first_line(bytes);
    let version = line.rsplit(|c| *c == b' ').next().unwrap_or_default();
    let spoken = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    !spoken && version.len() == 8 && version.starts_with(b"HTTP/") && version[5].is_ascii_digit()
}

fn build(
    bytes: &Bytes,
    request: &httparse::Request<'_, '_>,
    most: usize,
) -> Result<RequestHead, Problem> {
    if request.headers.len() > most {
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
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_invalid| MALFORMED)?;
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
    protected(&fields)?;
    let framing = framing(&method, version, &fields)?;
    let target = target(&method, path)?;
    if host.as_ref().is_some_and(|host| !is_host(host)) {
        return Err(BAD_HOST);
    }
    let switches = version == Version::HTTP_11 && hop_by_hop::is_upgrade(&fields);
    let upgrade = switches.then(|| fields.get(UPGRADE).cloned()).flatten();
    let trailers = version == Version::HTTP_11 && hop_by_hop::takes_trailers(&fields);
    let persists = persists(version, &fields);
    let keeps = |option: &HeaderValue| option.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    let plain = fields.get_all(CONNECTION).iter().all(keeps);
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
        plain,
    })
}

/// RFC 9112 §3.2: what is no authority is refused, also where the target has one of its own.
fn is_host(value: &HeaderValue) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    // Most are plain names, for which nothing need be copied.
    let labels = value.as_bytes().split(|byte| *byte == b'.');
    let is_name = value.len() < 254
        && labels.into_iter().all(|label| !label.is_empty() && label.iter().all(plain));
    is_name || value.is_empty() || value.to_str().is_ok_and(|host| authority::split(host).is_ok())
}

/// RFC 9112 §9.3.
fn persists(version: Version, fields: &HeaderMap) -> bool {
    if !fields.contains_key(CONNECTION) {
        return version == Version::HTTP_11;
    }
    let says = |wanted: &[u8]| {
        field_list::members(fields.get_all(CONNECTION))
            .any(|option| option.eq_ignore_ascii_case(wanted))
    };
    !says(b"close") && (version == Version::HTTP_11 || says(b"keep-alive"))
}

fn target(method: &Method, path: &str) -> Result<HeadTarget, Problem> {
    if *method == Method::CONNECT {
        let (host, port) = authority::parse(path).map_err(|_: TargetError| BAD_TARGET)?;
        return Ok(HeadTarget::Authority(host, port));
    }
    // What follows carries the target in this type: what it cannot hold is refused here, in
    // larder's own words.
    let fits = |path: &str| Uri::try_from(path).map(drop).map_err(|_invalid| BAD_TARGET);
    // RFC 9112 §3.2.4: the asterisk is for OPTIONS alone.
    if path.starts_with('/') || (path == "*" && *method == Method::OPTIONS) {
        let path = path_equivalence::carried(path);
        fits(&path)?;
        return Ok(HeadTarget::Origin(path.into_owned()));
    }
    let target = Target::absolute(path).map_err(|_: TargetError| BAD_TARGET)?;
    fits(target.path_and_query())?;
    if *method == Method::OPTIONS && names_no_path(path) {
        let authority = target.authority();
        let whole = Target::with_authority(target.scheme(), &authority, "*");
        return whole.map(HeadTarget::Absolute).map_err(|_: TargetError| BAD_TARGET);
    }
    Ok(HeadTarget::Absolute(target))
}

/// `http://host` and nothing behind it: an `OPTIONS` of the server as a whole (RFC 9112 §3.2.4).
fn names_no_path(absolute: &str) -> bool {
    absolute.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']))
}

/// RFC 9112 §6.3, without its lenient branches.
fn framing(
    method: &Method,
    version: Version,
    fields: &HeaderMap,
) -> Result<RequestFraming, Problem> {
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
        // What an HTTP/1.0 client sends after such a head would be taken for the next request.
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

/// A client must not have a proxy drop what frames, addresses or authorises its request.
fn protected(fields: &HeaderMap) -> Result<(), Problem> {
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
