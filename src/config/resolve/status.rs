//! Statuses and errors in the file: `404`, `5xx`, `connect`, `timeout`, `breaker`, `budget`.
//!
//! Owns: their syntax, and which are valid for which key. Never touches: the reaction to them.

use http::StatusCode;

use crate::config::diagnostics::ValueError;
use crate::config::keyword::nearest;
use crate::policy::{ErrorMatch, StatusMatch};

/// Statuses that are never stored, regardless of configuration and origin: partial content, malformed
/// requests, and 304, which describes a stored response.
const NEVER_STORED: [u16; 6] = [206, 304, 400, 413, 414, 431];

/// A key of `ttl_by_status`.
pub(super) fn stored(text: &str) -> Result<StatusMatch, ValueError> {
    let matched = status(text)?;
    let never = match matched {
        StatusMatch::Exact(code) => code.is_informational() || NEVER_STORED.contains(&code.as_u16()),
        StatusMatch::Class(class) => class == 1,
    };
    if never {
        let fix = "remove it; 1xx 206 304 400 413 414 431 pass through unchanged";
        return Err(ValueError::new(WANTED, "is never stored, regardless of configuration", fix));
    }
    Ok(matched)
}

/// A member of `stale_if_error.on`.
pub(super) fn error(text: &str) -> Result<ErrorMatch, ValueError> {
    let wanted = "a status such as `429`, a class such as `5xx`, `connect`, `timeout`, `breaker` or `budget`";
    match text {
        "connect" => Ok(ErrorMatch::Connect),
        "timeout" => Ok(ErrorMatch::Timeout),
        "breaker" => Ok(ErrorMatch::Breaker),
        "budget" => Ok(ErrorMatch::Budget),
        _ => failed(text, wanted, &["connect", "timeout", "breaker", "budget", "4xx", "5xx"])
            .map(ErrorMatch::Status),
    }
}

/// A member of `stale_if_error.ends_on`.
pub(super) fn ends(text: &str) -> Result<StatusMatch, ValueError> {
    let wanted = "a status such as `404`, or `4xx`";
    let matched = failed(text, wanted, &["404", "410", "401", "403", "4xx"])?;
    let is_temporary = match matched {
        StatusMatch::Exact(code) => code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS,
        StatusMatch::Class(class) => class >= 5,
    };
    if is_temporary {
        let what = "is a temporary failure: it does not make stored responses obsolete";
        return Err(ValueError::new(wanted, what, "name it in `stale_if_error.on`; remove it here"));
    }
    Ok(matched)
}

/// A member of `retry.on`.
pub(super) fn retried(text: &str) -> Result<ErrorMatch, ValueError> {
    let wanted = "a status such as `429`, a class such as `5xx`, `connect` or `timeout`";
    match text {
        "connect" => Ok(ErrorMatch::Connect),
        "timeout" => Ok(ErrorMatch::Timeout),
        "breaker" | "budget" => {
            let what = "prevents the call: there is nothing to retry";
            Err(ValueError::new(wanted, what, "name it in `stale_if_error.on`; remove it here"))
        }
        _ => failed(text, wanted, &["connect", "timeout", "4xx", "5xx"]).map(ErrorMatch::Status),
    }
}

/// Parses an error status; `known` are the keywords to suggest for a misspelt `text`.
pub(super) fn failed(text: &str, wanted: &'static str, known: &[&str]) -> Result<StatusMatch, ValueError> {
    let fix = nearest(text, known)
        .map_or_else(|| format!("write {wanted}"), |near| format!("did you mean `{near}`?"));
    let matched = status(text).map_err(|_| ValueError::new(wanted, format!("is not {wanted}"), fix))?;
    if is_error(matched) {
        return Ok(matched);
    }
    Err(ValueError::new(wanted, "is not an error", "name statuses from 400 on"))
}

/// Whether a status is an error by itself.
pub(super) fn is_error(matched: StatusMatch) -> bool {
    match matched {
        StatusMatch::Exact(code) => code.is_client_error() || code.is_server_error(),
        StatusMatch::Class(class) => class >= 4,
    }
}

const WANTED: &str = "a status such as `404`, or a class such as `5xx`";

/// Any status or class, such as a member of `errors[].status`.
pub(super) fn status(text: &str) -> Result<StatusMatch, ValueError> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse().ok());
    if let Some(class @ 1..=5) = class {
        return Ok(StatusMatch::Class(class));
    }
    let code = text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    code.map(StatusMatch::Exact).ok_or_else(|| ValueError::is_not(WANTED))
}
