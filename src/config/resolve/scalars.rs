//! Parsers of single values that several sections share.
//!
//! Owns: the values that are valid, and the fix for others. Never touches: sections.

use std::time::Duration;

use http::Method;

use crate::config::diagnostics::ValueError;
use crate::config::duration::parse_positive;

/// No client waits longer for a response.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Parses a method that a routed request can have.
pub(super) fn method(text: &str) -> Result<Method, ValueError> {
    let wanted = "a method such as `GET`";
    let upper = text.to_ascii_uppercase();
    if upper != text {
        let fix = format!("write `{upper}`: methods are case-sensitive");
        return Err(ValueError::new(wanted, "is not a method that clients send", fix));
    }
    if text == "CONNECT" {
        let fix = "name the methods of the requests inside the tunnel";
        return Err(ValueError::new(wanted, "opens a tunnel and is never routed", fix));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| ValueError::is_not(wanted))
}

/// Parses how long a client may wait.
pub(super) fn client_wait(text: &str) -> Result<Duration, ValueError> {
    let wait = parse_positive(text)?;
    if wait <= LONGEST_WAIT {
        return Ok(wait);
    }
    let wanted = "a duration of up to ten minutes";
    let what = "is longer than any client waits: its connection would stay open for nothing";
    Err(ValueError::new(wanted, what, "write `10m` or less"))
}
