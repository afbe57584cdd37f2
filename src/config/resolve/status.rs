//! Statuses and errors as the file names them: `404`, `5xx`, `connect`, `timeout`.
//!
//! Owns: how they are written and which cannot be meant.
//! Never touches: what is done on them.

use http::StatusCode;

use crate::config::diagnostics::Wrong;
use crate::config::reader::nearest;
use crate::policy::{ErrorMatch, StatusMatch};

/// Statuses that are never stored, whatever anybody says: partial, interim, about the request's
/// form, or about a stored answer.
const NEVER_STORED: [u16; 6] = [206, 304, 400, 413, 414, 431];

/// A key of `ttl_by_status`.
pub(super) fn stored(text: &str) -> Result<StatusMatch, Wrong> {
    let matched = status(text)?;
    let never = match matched {
        StatusMatch::Exact(code) => {
            code.is_informational() || NEVER_STORED.contains(&code.as_u16())
        }
        StatusMatch::Class(class) => class == 1,
    };
    if never {
        let fix = "remove it; 1xx 206 304 400 413 414 431 pass through unchanged";
        return Err(Wrong::new(WANTED, "is never stored, whatever anybody says", fix));
    }
    Ok(matched)
}

/// A member of `stale_if_error.on`.
pub(super) fn error(text: &str) -> Result<ErrorMatch, Wrong> {
    match text {
        "connect" => return Ok(ErrorMatch::Connect),
        "timeout" => return Ok(ErrorMatch::Timeout),
        _ => {}
    }
    let wanted = "a status such as `429`, a class such as `5xx`, `connect` or `timeout`";
    let known = ["connect", "timeout", "4xx", "5xx"];
    let fix = nearest(text, &known)
        .map_or_else(|| format!("write {wanted}"), |near| format!("did you mean `{near}`?"));
    let matched = status(text).map_err(|_| Wrong::new(wanted, format!("is not {wanted}"), fix))?;
    let is_error = match matched {
        StatusMatch::Exact(code) => code.is_client_error() || code.is_server_error(),
        StatusMatch::Class(class) => class >= 4,
    };
    if is_error {
        return Ok(ErrorMatch::Status(matched));
    }
    Err(Wrong::new(wanted, "is not an error", "name statuses from 400 on"))
}

const WANTED: &str = "a status such as `404`, or a class such as `5xx`";

fn status(text: &str) -> Result<StatusMatch, Wrong> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse().ok());
    if let Some(class @ 1..=5) = class {
        return Ok(StatusMatch::Class(class));
    }
    let code = text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    code.map(StatusMatch::Exact).ok_or_else(|| Wrong::is_not(WANTED))
}
