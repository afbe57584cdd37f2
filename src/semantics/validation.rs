//! Conditional requests: evaluating a client's conditions against a stored response (RFC 9111 §4.3.2),
//! revalidating with stored validators (§4.3.1), and applying the origin's 304 (§3.2, §4.3.4).
//!
//! Owns: comparison of validators; the fields of a 304 in both directions.
//! Never touches: ranges (`ranges`), the freshness of the stored response.

use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, DATE, ETAG,
    EXPIRES, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, VARY,
};
use http::{HeaderMap, StatusCode};

use crate::semantics::date;
use crate::semantics::hop_by_hop;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::vary::Vary;

/// The fields that make a request conditional (RFC 9110 §13.1).
pub const CONDITIONALS: [HeaderName; 5] =
    [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE];

/// The result of evaluating a request's conditions against a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreconditionResult {
    /// The stored response itself.
    Full,
    /// A 304, because the client already has the response.
    NotModified,
}

/// The result of comparing the 200 to a `HEAD` with the stored response to a `GET` (RFC 9111 §4.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadComparison {
    /// The stored response is unchanged; its fields may be updated.
    Same,
    /// The stored response has changed.
    Changed,
    /// No conclusion: the `HEAD` response has no validator, or describes another representation.
    Inconclusive,
}

/// Whether the request has any condition.
pub fn has_conditionals(headers: &HeaderMap) -> bool {
    // This runs for every request: scanning its field names costs less than looking up each conditional
    // field.
    headers.keys().any(|name| CONDITIONALS.contains(name))
}

/// Whether the request has a condition on the whole response, not only on its ranges.
pub fn has_conditions_on_the_whole(headers: &HeaderMap) -> bool {
    CONDITIONALS.iter().any(|name| *name != IF_RANGE && headers.contains_key(name))
}

/// Whether the request has a condition that only its origin evaluates.
pub fn has_origin_conditions(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| [IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE].contains(name))
}

/// Whether a cache can evaluate `If-None-Match` or `If-Modified-Since` of the request with a response that has
/// these validators. True if it has neither.
pub fn can_evaluate(request: &HeaderMap, metadata: &CacheMetadata) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return metadata.etag.is_some();
    }
    !request.contains_key(IF_MODIFIED_SINCE) || metadata.last_modified.is_some()
}

/// Evaluates `If-None-Match` and `If-Modified-Since` of a `GET` or `HEAD` against a stored response (RFC 9111
/// §4.3.2). Only origins evaluate `If-Match` and `If-Unmodified-Since`.
pub fn evaluate(request: &HeaderMap, metadata: &CacheMetadata, status: StatusCode) -> PreconditionResult {
    // RFC 9110 §13.2.1: conditions apply only if the response would otherwise be a success.
    if !status.is_success() {
        return PreconditionResult::Full;
    }
    let not_modified = if request.contains_key(IF_NONE_MATCH) {
        // RFC 9110 §13.1.3: If-None-Match takes precedence over If-Modified-Since.
        request.get_all(IF_NONE_MATCH).iter().any(|line| matches_stored_tag(line.as_bytes(), metadata))
    } else {
        request.contains_key(IF_MODIFIED_SINCE) && unmodified_since(request, metadata)
    };
    if not_modified { PreconditionResult::NotModified } else { PreconditionResult::Full }
}

/// The fields of a 304 made from a stored response (RFC 9110 §15.4.5).
pub fn not_modified_head(stored: &HeaderMap) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(8);
    let mut names = vec![ETAG, DATE, VARY, CONTENT_LOCATION, CACHE_CONTROL, EXPIRES];
    if !stored.contains_key(ETAG) {
        // Without a tag the client can identify its copy only by the date.
        names.push(LAST_MODIFIED);
    }
    for name in names {
        for value in stored.get_all(&name) {
            head.append(name.clone(), value.clone());
        }
    }
    head
}

/// The conditional fields to revalidate a stored response with the origin (RFC 9111 §4.3.1).
pub fn conditional_fields(metadata: &CacheMetadata) -> Vec<(HeaderName, HeaderValue)> {
    let tag = metadata.etag.as_ref().map(|tag| (IF_NONE_MATCH, tag.raw.clone()));
    let date = metadata.last_modified.as_ref().map(|date| (IF_MODIFIED_SINCE, date.raw.clone()));
    tag.into_iter().chain(date).collect()
}

/// Whether a 304 applies to this stored response. It does not if it has a different strong tag or a different
/// `Vary` (RFC 9111 §4.3.4); then the whole response must be fetched again.
pub fn applies_to(not_modified: &HeaderMap, stored: &HeaderMap, metadata: &CacheMetadata) -> bool {
    let tag =
        CacheMetadata::from_response(StatusCode::NOT_MODIFIED, not_modified).etag.filter(|tag| !tag.weak);
    let same_tag = match (&tag, &metadata.etag) {
        (Some(new), Some(known)) => new.opaque() == known.opaque(),
        (Some(_), None) | (None, _) => true,
    };
    let same_vary =
        !not_modified.contains_key(VARY) || Vary::from_response(not_modified) == Vary::from_response(stored);
    same_tag && same_vary
}

/// Compares the fields of a 200 to a `HEAD` with a stored response and the length of its body. The RFC also
/// allows a response without any validator to update the stored one, but nothing then confirms that it
/// describes the stored bytes.
pub fn compare_head(
    head: &HeaderMap,
    stored: &HeaderMap,
    metadata: &CacheMetadata,
    length: usize,
) -> HeadComparison {
    let other = |name: &HeaderName| head.get(name) != stored.get(name);
    if other(&CONTENT_ENCODING)
        || (head.contains_key(VARY) && Vary::from_response(head) != Vary::from_response(stored))
    {
        return HeadComparison::Inconclusive;
    }
    let head_metadata = CacheMetadata::from_response(StatusCode::OK, head);
    let changed = head_metadata.etag.is_some() && head_metadata.etag != metadata.etag
        || head_metadata.last_modified.is_some() && head_metadata.last_modified != metadata.last_modified
        || head.get(CONTENT_LENGTH).is_some_and(|value| !is_number(value, length));
    match (changed, head_metadata.has_validator()) {
        (true, _) => HeadComparison::Changed,
        (false, true) => HeadComparison::Same,
        (false, false) => HeadComparison::Inconclusive,
    }
}

fn is_number(value: &HeaderValue, number: usize) -> bool {
    value.to_str().is_ok_and(|text| text.trim().parse() == Ok(number))
}

/// The stored fields after a 304 (RFC 9111 §3.2): each field of the 304 replaces the stored one, except the
/// fields that describe the bytes of the stored body. `Age` and `Date` belong to one exchange, so the old
/// ones are removed even if the 304 has none.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut update = not_modified.clone();
    hop_by_hop::strip(&mut update);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE] {
        update.remove(name);
    }
    // nginx confirms an encoded response, `W/"a"`, with the tag of the unencoded one, `"a"`. If that counted
    // as strong, ranges of both could be combined.
    if opaque(stored.get(ETAG)).is_some_and(|tag| opaque(update.get(ETAG)) == Some(tag)) {
        update.remove(ETAG);
    }
    let mut fields = stored.clone();
    for name in [&AGE, &DATE].into_iter().chain(update.keys()) {
        fields.remove(name);
    }
    for (name, value) in &update {
        fields.append(name.clone(), value.clone());
    }
    fields
}

/// A tag without the prefix of weak tags.
fn opaque(tag: Option<&HeaderValue>) -> Option<&[u8]> {
    let tag = tag?.as_bytes().trim_ascii();
    Some(tag.strip_prefix(b"W/").unwrap_or(tag))
}

/// Whether `If-None-Match` matches the stored response: by `*`, or by its tag in weak comparison
/// (RFC 9110 §8.8.3.2, §13.1.2).
fn matches_stored_tag(list: &[u8], metadata: &CacheMetadata) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(stored) = &metadata.etag else { return false };
    tags(list).any(|tag| tag == stored.opaque())
}

/// The opaque parts of a list of tags. `field_list` is unsuitable, because a backslash in a tag is not an
/// escape.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', more @ ..] = rest {
            rest = more;
        }
        rest = rest.strip_prefix(b"W/").unwrap_or(rest);
        let end = match rest {
            [] => return None,
            [b'"', inner @ ..] => inner.iter().position(|&b| b == b'"').map(|at| at + 2),
            bare => bare.iter().position(|&b| b == b','),
        };
        let (tag, more) = rest.split_at(end.unwrap_or(rest.len()));
        rest = more;
        Some(tag.trim_ascii_end())
    })
}

/// RFC 9110 §13.1.3, RFC 9111 §4.3.2: whether the stored response was not modified after the client's date.
/// Without `Last-Modified`, its `Date` is compared instead.
fn unmodified_since(request: &HeaderMap, metadata: &CacheMetadata) -> bool {
    let mut lines = request.get_all(IF_MODIFIED_SINCE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let changed = metadata.last_modified.as_ref().map(|date| date.time).or(metadata.date);
    let Some(changed) = changed else { return false };
    date::parse(line.as_bytes(), changed).is_some_and(|since| since >= changed)
}

#[cfg(test)]
mod tests;
