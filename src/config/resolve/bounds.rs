//! What a limit may be: below one bound no request can keep it, beyond others it is surely a slip.
//!
//! Owns: those bounds. Never touches: what is being limited.

use std::time::Duration;

use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::duration;
use crate::config::reader::{Reader, Section, Spanned, count as whole};

/// The bounds of a time.
pub(super) struct DurationBounds {
    /// Less is refused.
    least: Duration,
    /// Less or more is noted.
    usual: [Duration; 2],
    /// What comes of less.
    short: &'static str,
    /// What comes of more.
    long: &'static str,
}

const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A TLS handshake inside a tunnel has this time, too.
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
    long: "lets clients that have gone keep their connections",
};

/// In a tunnel nothing moves while an API thinks.
pub(super) const TUNNEL_IDLE: DurationBounds = DurationBounds {
    least: SECOND,
    usual: [MINUTE, Duration::MAX],
    short: "cuts off tunnels whose API takes longer to answer, and WebSockets between two messages",
    long: "",
};

pub(super) const BODY_IDLE: DurationBounds = DurationBounds {
    least: TENTH,
    usual: [SECOND, HOUR],
    short: "answers 408 to clients whose line pauses for a moment",
    long: "lets a client that never ends its body keep a connection",
};

pub(super) const DRAIN: DurationBounds = DurationBounds {
    least: Duration::from_nanos(1),
    usual: [SECOND, HOUR],
    short: "cuts what is in flight at every stop",
    long: "lets a stop take as long as the slowest download",
};

/// The bounds of a number.
pub(super) struct CountBounds {
    /// Less is refused, and more than the second.
    bounds: [usize; 2],
    /// Less is noted.
    usual: usize,
    /// What comes of less.
    few: &'static str,
}

/// curl sends four or five behind a proxy, other clients more, browsers some twenty.
pub(super) const HEADERS: CountBounds = CountBounds {
    bounds: [8, 256],
    usual: 32,
    few: "is fewer fields than a browser or an SDK may send: such requests are refused with 431",
};

pub(super) const CONNECTIONS: CountBounds = CountBounds {
    bounds: [1, usize::MAX],
    usual: 16,
    few: "is fewer connections than one client may open: others wait, and are told 503",
};

pub(super) const WAITERS: CountBounds = CountBounds {
    bounds: [0, usize::MAX],
    usual: 1,
    few: "answers 503 to every request for what another is just waiting for",
};

/// The time under `key`, or `usual`.
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
        odd(reader, &at, times.short);
    } else if at.value > long {
        odd(reader, &at, times.long);
    }
    at.value
}

/// The number under `key`, or `usual`.
pub(super) fn count(
    section: &mut Section<'_>,
    reader: &mut Reader<'_>,
    key: &'static str,
    usual: usize,
    counts: &CountBounds,
) -> usize {
    let [from, to] = counts.bounds;
    let read = |text: &str| match whole(from, to)(text) {
        Err(wrong) if whole(0, from)(text).is_ok() => {
            let what = format!("is less than {from}: it {}", counts.few);
            Err(ValueError::new(wrong.wanted, what, wrong.fix))
        }
        read => read,
    };
    let Some(at) = section.scalar(reader, key, read) else { return usual };
    if at.value < counts.usual {
        odd(reader, &at, counts.few);
    }
    at.value
}

fn odd<T>(reader: &mut Reader<'_>, at: &Spanned<T>, what: &str) {
    reader.note(at, WarningKind::OddLimit, what);
}
