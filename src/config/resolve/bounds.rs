//! Bounds of values that several sections share: values that no request could meet are refused, unusual
//! limits cause a warning.
//!
//! Owns: those bounds, and the fix for other values. Never touches: the objects that are limited.

use std::time::Duration;

use http::Method;

use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::duration;
use crate::config::number::count as whole;
use crate::config::reader::{Reader, Section};

/// The bounds of a duration.
pub(super) struct DurationBounds {
    /// Smaller values are refused.
    least: Duration,
    /// Values outside this range cause a warning.
    usual: [Duration; 2],
    /// The effect of a smaller value.
    short: &'static str,
    /// The effect of a larger value.
    long: &'static str,
}

const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Also the time for a TLS handshake inside a tunnel.
pub(super) const HEAD_TIMEOUT: DurationBounds = DurationBounds {
    least: TENTH,
    usual: [SECOND, Duration::from_secs(10 * 60)],
    short: "cuts off clients whose head takes two packets, or a TLS handshake",
    long: "lets a client that never ends its head keep a connection",
};

pub(super) const IDLE: DurationBounds = DurationBounds {
    least: TENTH,
    usual: [SECOND, DAY],
    short: "closes connections that their clients are about to use again",
    long: "keeps connections of clients that are gone",
};

/// A tunnel is idle while the origin processes a request.
pub(super) const TUNNEL_IDLE: DurationBounds = DurationBounds {
    least: SECOND,
    usual: [MINUTE, Duration::MAX],
    short: "cuts off tunnels whose API takes longer to respond, and WebSockets between two messages",
    long: "",
};

pub(super) const PATIENCE: DurationBounds = DurationBounds {
    least: SECOND,
    usual: [MINUTE, DAY],
    short: "cuts off calls that clients would still wait for, such as reports and answers of language models",
    long: "keeps calls that no origin will ever answer",
};

pub(super) const BODY_IDLE: DurationBounds = DurationBounds {
    least: TENTH,
    usual: [SECOND, HOUR],
    short: "responds with 408 to clients whose connection pauses for a moment",
    long: "lets a client that never ends its body keep a connection",
};

pub(super) const DRAIN: DurationBounds = DurationBounds {
    least: Duration::from_nanos(1),
    usual: [SECOND, HOUR],
    short: "aborts requests in flight at every stop",
    long: "lets a stop take as long as the slowest download",
};

/// The bounds of a number.
pub(super) struct CountBounds {
    /// Smaller and larger values are refused.
    bounds: [usize; 2],
    /// Smaller values cause a warning.
    usual: usize,
    /// The effect of a smaller value.
    few: &'static str,
}

/// curl sends four or five fields to a proxy, other clients more, browsers about twenty.
pub(super) const HEADERS: CountBounds = CountBounds {
    bounds: [8, 256],
    usual: 32,
    few: "is fewer fields than a browser or an SDK may send: such requests are refused with 431",
};

pub(super) const CONNECTIONS: CountBounds = CountBounds {
    bounds: [1, usize::MAX],
    usual: 16,
    few: "is fewer connections than one client may open: others wait, and receive 503",
};

pub(super) const WAITERS: CountBounds = CountBounds {
    bounds: [0, usize::MAX],
    usual: 1,
    few: "responds with 503 to every request that would wait for a fetch in flight",
};

/// The duration under `key`, or the default `usual`.
pub(super) fn time(
    section: &mut Section<'_>,
    reader: &mut Reader<'_>,
    key: &'static str,
    usual: Duration,
    times: &DurationBounds,
) -> Duration {
    let read = |text: &str| {
        let time = duration::parse_positive(text)?;
        if time >= times.least {
            return Ok(time);
        }
        let wanted = "a duration that a request can keep";
        let least = duration::show(times.least);
        let what = format!("is shorter than {least}: it {}", times.short);
        Err(ValueError::new(wanted, what, format!("write `{least}` at least, better the default")))
    };
    let Some(at) = section.scalar(reader, key, read) else { return usual };
    let [short, long] = times.usual;
    if at.value < short {
        reader.warn(&at, WarningKind::OddLimit, times.short);
    } else if at.value > long {
        reader.warn(&at, WarningKind::OddLimit, times.long);
    }
    at.value
}

/// The number under `key`, or the default `usual`.
pub(super) fn count(
    section: &mut Section<'_>,
    reader: &mut Reader<'_>,
    key: &'static str,
    usual: usize,
    counts: &CountBounds,
) -> usize {
    let [from, to] = counts.bounds;
    let read = |text: &str| match whole(from, to)(text) {
        Err(error) if whole(0, from)(text).is_ok() => {
            let what = format!("is less than {from}: it {}", counts.few);
            Err(ValueError::new(error.wanted, what, error.fix))
        }
        read => read,
    };
    let Some(at) = section.scalar(reader, key, read) else { return usual };
    if at.value < counts.usual {
        reader.warn(&at, WarningKind::OddLimit, counts.few);
    }
    at.value
}

/// A parser for the word that switches a section off; `fix` is for other text.
pub(super) fn off(fix: &str) -> impl Fn(&str) -> Result<(), ValueError> {
    move |text| match text {
        "off" | "false" => Ok(()),
        _ => Err(ValueError::new("a map or `off`", "is neither a map nor `off`", fix)),
    }
}

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
    let wait = duration::parse_positive(text)?;
    if wait <= LONGEST_WAIT {
        return Ok(wait);
    }
    let wanted = "a duration of up to ten minutes";
    let what = "is longer than any client waits: its connection would stay open for nothing";
    Err(ValueError::new(wanted, what, "write `10m` or less"))
}
