//! Conditional requests: answering a client's from what is stored (RFC 9111 §4.3.2), asking the
//! origin with stored validators (§4.3.1), and taking in its 304 (§3.2, §4.3.4).
//!
//! Owns: comparing validators; the fields of a 304 in both directions.
//! Never touches: ranges (`ranges`), whether the stored response is fresh.

use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, DATE,
    ETAG, EXPIRES, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
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

/// How a stored response answers a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreconditionResult {
    /// As it is.
    Full,
    /// With a 304: the client has it already.
    NotModified,
}

/// What the 200 to a `HEAD` says of the stored response to a `GET` (RFC 9111 §4.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadComparison {
    /// It is still the same: its fields may be updated.
    Same,
    /// It has changed.
    Changed,
    /// Nothing: it names no validator, or speaks of another representation.
    Nothing,
}

/// Whether the request has any condition.
pub fn has_conditionals(headers: &HeaderMap) -> bool {
    // Every request asks: looking at its names costs less than looking for these.
    headers.keys().any(|name| CONDITIONALS.contains(name))
}

/// Whether the request has a condition that is about the whole response, not about its ranges.
pub fn has_conditions_on_the_whole(headers: &HeaderMap) -> bool {
    CONDITIONALS.iter().any(|name| *name != IF_RANGE && headers.contains_key(name))
}

/// Answers `If-None-Match` and `If-Modified-LifetimeStart` of a `GET` or `HEAD` from a stored response
/// (RFC 9111 §4.3.2). `If-Match` and `If-Unmodified-LifetimeStart` are for origins alone.
pub fn evaluate(asked: &HeaderMap, said: &CacheMetadata, status: StatusCode) -> PreconditionResult {
    // RFC 9110 §13.2.1: conditions apply to what would otherwise be a success.
    if !status.is_success() {
        return PreconditionResult::Full;
    }
    let has_it = if asked.contains_key(IF_NONE_MATCH) {
        // RFC 9110 §13.1.3: then If-Modified-Since does not count.
        asked.get_all(IF_NONE_MATCH).iter().any(|line| names_stored(line.as_bytes(), said))
    } else {
        asked.contains_key(IF_MODIFIED_SINCE) && unmodified_since(asked, said)
    };
    if has_it { PreconditionResult::NotModified } else { PreconditionResult::Full }
}

/// The fields of a 304 made from a stored response (RFC 9110 §15.4.5).
pub fn not_modified_head(stored: &HeaderMap) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(8);
    let mut names = vec![ETAG, DATE, VARY, CONTENT_LOCATION, CACHE_CONTROL, EXPIRES];
    if !stored.contains_key(ETAG) {
        // Without a tag the date is the only thing that tells the client which one it has.
        names.push(LAST_MODIFIED);
    }
    for name in names {
        for value in stored.get_all(&name) {
            head.append(name.clone(), value.clone());
        }
    }
    head
}

/// The fields that ask the origin whether the stored response is still right (RFC 9111 §4.3.1).
pub fn conditional_fields(said: &CacheMetadata) -> Vec<(HeaderName, HeaderValue)> {
    let tag = said.etag.as_ref().map(|tag| (IF_NONE_MATCH, tag.raw.clone()));
    let date = said.last_modified.as_ref().map(|date| (IF_MODIFIED_SINCE, date.raw.clone()));
    tag.into_iter().chain(date).collect()
}

/// Whether a 304 speaks of this stored response: a strong tag that differs, or another `Vary`,
/// means that it does not (RFC 9111 §4.3.4), and the whole must be asked for again.
pub fn is_about(not_modified: &HeaderMap, stored: &HeaderMap, said: &CacheMetadata) -> bool {
    let tag =
        CacheMetadata::of(StatusCode::NOT_MODIFIED, not_modified).etag.filter(|tag| !tag.weak);
    let same_tag = match (&tag, &said.etag) {
        (Some(new), Some(known)) => new.opaque() == known.opaque(),
        (Some(_), None) | (None, _) => true,
    };
    let same_vary = !not_modified.contains_key(VARY) || Vary::of(not_modified) == Vary::of(stored);
    same_tag && same_vary
}

/// Compares the fields of a 200 to a `HEAD` with a stored response and the length of its body. The
/// RFC lets an answer without any validator update the stored one, too; but nothing then tells that
/// it is about the stored bytes.
pub fn head_says(
    head: &HeaderMap,
    stored: &HeaderMap,
    said: &CacheMetadata,
    length: usize,
) -> HeadComparison {
    let other = |name: &HeaderName| head.get(name) != stored.get(name);
    if other(&CONTENT_ENCODING) || (head.contains_key(VARY) && Vary::of(head) != Vary::of(stored)) {
        return HeadComparison::Nothing;
    }
    let says = CacheMetadata::of(StatusCode::OK, head);
    let changed = says.etag.is_some() && says.etag != said.etag
        || says.last_modified.is_some() && says.last_modified != said.last_modified
        || head.get(CONTENT_LENGTH).is_some_and(|value| !is_number(value, length));
    match (changed, says.has_validator()) {
        (true, _) => HeadComparison::Changed,
        (false, true) => HeadComparison::Same,
        (false, false) => HeadComparison::Nothing,
    }
}

fn is_number(value: &HeaderValue, number: usize) -> bool {
    value.to_str().is_ok_and(|text| text.trim().parse() == Ok(number))
}

/// The stored fields after a 304 (RFC 9111 §3.2): each field of the 304 replaces the stored one,
/// but never those that describe the stored body's bytes. `Age` and `Date` tell of one exchange:
/// the old ones go even where the 304 brings none.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut update = not_modified.clone();
    hop_by_hop::strip_response(&mut update);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE] {
        update.remove(name);
    }
    // nginx confirms what it encoded, `W/"a"`, by the tag of what it encoded it from, `"a"`. Taken for
    // strong, ranges of the two would be joined.
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

/// A tag without the mark of a weak one.
fn opaque(tag: Option<&HeaderValue>) -> Option<&[u8]> {
    let tag = tag?.as_bytes().trim_ascii();
    Some(tag.strip_prefix(b"W/").unwrap_or(tag))
}

/// Whether `If-None-Match` names the stored response: `*`, or its tag by weak comparison
/// (RFC 9110 §8.8.3.2, §13.1.2).
fn names_stored(list: &[u8], said: &CacheMetadata) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(stored) = &said.etag else { return false };
    tags(list).any(|tag| tag == stored.opaque())
}

/// The opaque parts in a list of tags. Not `field_list`: in a tag a backslash escapes nothing.
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

/// RFC 9110 §13.1.3, RFC 9111 §4.3.2: not changed after the date that the client has; where the
/// stored response does not say when it changed, not received after it.
fn unmodified_since(asked: &HeaderMap, said: &CacheMetadata) -> bool {
    let mut lines = asked.get_all(IF_MODIFIED_SINCE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let changed = said.last_modified.as_ref().map(|date| date.time).or(said.date);
    let Some(changed) = changed else { return false };
    date::parse(line.as_bytes(), changed).is_some_and(|since| since >= changed)
}

#[cfg(test)]
mod tests;
