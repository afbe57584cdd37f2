//! Compares a response through larder with the one that the origin sends to a direct request.

use crate::client::End;
use crate::strict_response::{Fault, Fields, ReceivedResponse};
use crate::zoo::cases::{Case, Expect};

/// Fields that belong to one connection, or that a cache sets itself (RFC 9110 §7.6, RFC 9111 §5.1).
/// `Trailer` announces what an intermediary may discard (RFC 9110 §6.5.1).
const NOT_COMPARED: [&str; 13] = [
    "age",
    "cache-status",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "proxy-status",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The fields, except `Date`, that a 304 must contain if the 200 would have contained them (RFC 9110
/// §15.4.5).
const OF_304: [&str; 5] = ["cache-control", "content-location", "etag", "expires", "vary"];

/// The source of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The origin; larder passes the response on.
    Origin,
    /// The origin, or larder from a stored response.
    Either,
}

/// All differences, as text. `direct` is the origin's direct response, `whole` its response to a `GET` of the
/// same path without conditions.
pub fn differences(
    case: &Case,
    direct: &ReceivedResponse,
    whole: &ReceivedResponse,
    through: &Result<ReceivedResponse, Fault>,
    by: Source,
) -> Vec<String> {
    if case.expect == Expect::Cut {
        return compare_cut(direct, through);
    }
    let through = match through {
        Ok(through) => through,
        Err(fault) => return vec![format!("no response: {fault:?}")],
    };
    let mut found = Vec::new();
    if through.status != direct.status {
        let body = String::from_utf8_lossy(&through.body[..through.body.len().min(200)]);
        found.push(format!("status {} for {}: {body}", through.status, direct.status));
        return found;
    }
    if direct.status == 416 && by == Source::Either {
        compare_416(whole, through, &mut found);
        return found;
    }
    if through.end == End::Truncated {
        found.push(format!("cut after {} of {} bytes", through.body.len(), direct.body.len()));
    } else if through.body != direct.body {
        found.push(body_difference(&direct.body, &through.body));
    }
    if direct.status == 304 {
        compare_304(direct, whole, through, &mut found);
    } else {
        // A part of a stored response may contain all the fields that the whole contains.
        let whole = (direct.status == 206 && by == Source::Either).then_some(whole);
        compare_fields(direct, whole, through, &mut found);
    }
    compare_length(case, direct, whole, through, &mut found);
    if !through.trailers.is_empty() && through.trailers != direct.trailers {
        found.push(format!("trailers {:?} for {:?}", through.trailers, direct.trailers));
    }
    // RFC 9110 §15.2: interim responses are forwarded.
    if by == Source::Origin && undated(through) != undated(direct) {
        found.push(format!("interim {:?} for {:?}", through.interim, direct.interim));
    }
    found
}

/// The interim responses without their `Date`, which differs between two calls.
fn undated(received: &ReceivedResponse) -> Vec<(u16, Fields)> {
    let mut interim = received.interim.clone();
    for (_, fields) in &mut interim {
        fields.remove("date");
    }
    interim
}

fn body_difference(direct: &[u8], through: &[u8]) -> String {
    let at = direct.iter().zip(through).position(|(one, other)| one != other);
    let at = at.unwrap_or(direct.len().min(through.len()));
    format!("body of {} bytes for {}, other from byte {at}", through.len(), direct.len())
}

fn compare_fields(
    direct: &ReceivedResponse,
    whole: Option<&ReceivedResponse>,
    through: &ReceivedResponse,
    found: &mut Vec<String>,
) {
    let mut names: Vec<&String> = direct.fields.keys().chain(through.fields.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (expected, got) = (direct.fields.get(name), through.fields.get(name));
        let of_whole = whole.and_then(|whole| whole.fields.get(name));
        let is_of_whole = expected.is_none() && got == of_whole;
        if !NOT_COMPARED.contains(&name.as_str()) && expected != got && !is_of_whole {
            found.push(format!("{name}: {got:?} for {expected:?}"));
        }
    }
}

/// Checks larder's own response to a range beyond the stored body (RFC 9110 §15.5.17).
fn compare_416(whole: &ReceivedResponse, through: &ReceivedResponse, found: &mut Vec<String>) {
    let (expected, got) = (format!("bytes */{}", length(whole)), through.field("content-range"));
    if got != Some(&expected) || through.end == End::Truncated {
        found.push(format!("content-range of a 416: {got:?} for {expected}"));
    }
}

/// A 304 from larder itself may contain fields of the 200 that the origin's 304 omits.
fn compare_304(
    direct: &ReceivedResponse,
    whole: &ReceivedResponse,
    through: &ReceivedResponse,
    found: &mut Vec<String>,
) {
    for name in OF_304 {
        let of = |fields: &Fields| fields.get(name).cloned();
        let (expected, got) = (of(&direct.fields), of(&through.fields));
        let is_of_200 = expected.is_none() && got == of(&whole.fields);
        if expected != got && !is_of_200 {
            found.push(format!("{name} of a 304: {got:?} for {expected:?}"));
        }
    }
}

/// The origin's `Content-Length` is passed on. Where the origin sends none, larder may add the length of the
/// body that a `GET` receives (RFC 9110 §8.6).
fn compare_length(
    case: &Case,
    direct: &ReceivedResponse,
    whole: &ReceivedResponse,
    through: &ReceivedResponse,
    found: &mut Vec<String>,
) {
    let of = |r: &ReceivedResponse| r.fields.get("content-length").cloned();
    let (expected, got) = (of(direct), of(through));
    let right = match direct.status {
        304 => got.is_none() || got == of(whole) || got == Some(vec![length(whole)]),
        204 => got.is_none(),
        _ if expected.is_some() => got == expected,
        _ if case.method == "HEAD" => got.is_none() || got == Some(vec![length(whole)]),
        _ => got.is_none() || got == Some(vec![length(direct)]),
    };
    if !right {
        found.push(format!("content-length: {got:?} for {expected:?}"));
    }
}

fn length(response: &ReceivedResponse) -> String {
    response.body.len().to_string()
}

/// A response that the origin cut must reach the client as cut, or as larder's own error.
fn compare_cut(direct: &ReceivedResponse, through: &Result<ReceivedResponse, Fault>) -> Vec<String> {
    match through {
        // The connection was closed or reset before the head.
        Err(Fault::NotProcessed | Fault::NoResponse | Fault::Reset(_)) => Vec::new(),
        Err(Fault::Violation(what)) => vec![format!("no response: {what}")],
        Ok(through) if through.status == 502 && through.fields.contains_key("proxy-status") => Vec::new(),
        Ok(through) if through.end == End::Complete => {
            vec![format!("{} bytes shown as whole: {}", through.body.len(), through.status)]
        }
        Ok(through) if through.status != direct.status => {
            vec![format!("status {} for {}", through.status, direct.status)]
        }
        Ok(through) => {
            let known = crate::zoo_files::body(16_384);
            let other = !known.starts_with(&through.body);
            other.then(|| "other bytes before the cut".to_owned()).into_iter().collect()
        }
    }
}
