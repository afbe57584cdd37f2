//! One event as one line: JSON for machines, or time, level, words and facts for people.
//!
//! Owns: the order and the names of what a line says; that it is at most 8 KiB (ADM-06).
//! Never touches: where the line goes.

use std::fmt;
use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::telemetry::log::redact::{is_secret, redact};
use crate::telemetry::log::{escape, third_party};

/// Writes events in one of the two forms.
pub(super) struct LineFormat {
    format: LogFormat,
}

impl LineFormat {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let bridged = event.normalized_metadata();
        let metadata = bridged.as_ref().unwrap_or_else(|| event.metadata());
        let foreign = third_party::is_foreign(metadata.target());
        let mut facts = FieldVisitor::new(self.format, foreign);
        event.record(&mut facts);
        let mut time = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = word(*metadata.level(), foreign);
        let target = metadata.target();
        match self.format {
            LogFormat::Json => {
                write!(writer, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"target\":\"")?;
                let mut shown = String::new();
                escape::push(&mut shown, target, LONGEST_TARGET);
                writeln!(writer, "{shown}\",\"message\":\"{}\"{}}}", facts.message, facts.rest)
            }
            LogFormat::Pretty => {
                let origin = if foreign { metadata.target() } else { "" };
                let mut shown = String::new();
                escape::push(&mut shown, origin, LONGEST_TARGET);
                let colon = if foreign { ": " } else { "" };
                let level = level.to_ascii_uppercase();
                writeln!(writer, "{time} {level:5} {shown}{colon}{}{}", facts.message, facts.rest)
            }
        }
    }
}

/// Another crate's `error` is about one request or one connection, which no operator must act on:
/// larder reports what it means in its own words.
fn word(level: Level, foreign: bool) -> &'static str {
    match level {
        Level::ERROR if foreign => "warn",
        Level::ERROR => "error",
        Level::WARN | Level::INFO if foreign => "debug",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What an event says, redacted, escaped and bounded.
struct FieldVisitor {
    format: LogFormat,
    foreign: bool,
    message: String,
    rest: String,
    room: usize,
}

impl FieldVisitor {
    fn new(format: LogFormat, foreign: bool) -> Self {
        let room = LONGEST_LINE - LONGEST_HEAD - LONGEST_TEXT;
        Self { format, foreign, message: String::new(), rest: String::new(), room }
    }

    /// A name and a value that needs neither quotes nor escapes.
    fn plain(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if !self.may_show(field) {
            return;
        }
        let before = self.rest.len();
        let written = match self.format {
            LogFormat::Json => write!(self.rest, ",\"{}\":{value}", field.name()),
            LogFormat::Pretty => write!(self.rest, " {}={value}", field.name()),
        };
        self.settle(before, written.is_ok());
    }

    fn text(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let shown = if self.foreign { third_party::harmless(value) } else { value };
            self.message.clear();
            escape::push(&mut self.message, &redact(shown), LONGEST_TEXT);
            return;
        }
        if !self.may_show(field) {
            return;
        }
        let before = self.rest.len();
        let quote = if self.format == LogFormat::Json || needs_quotes(value) { "\"" } else { "" };
        let written = match self.format {
            LogFormat::Json => write!(self.rest, ",\"{}\":{quote}", field.name()),
            LogFormat::Pretty => write!(self.rest, " {}={quote}", field.name()),
        };
        let used = self.rest.len() - before;
        let room = self.room.saturating_sub(used + quote.len()).min(LONGEST_TEXT);
        let shown = if is_secret(field.name()) { "…".into() } else { redact(value) };
        escape::push(&mut self.rest, &shown, room);
        self.rest.push_str(quote);
        self.settle(before, written.is_ok());
    }

    /// Takes what was written since `before` from the room, or takes it back if there was none.
    fn settle(&mut self, before: usize, written: bool) {
        let used = self.rest.len() - before;
        if !written || used > self.room {
            self.rest.truncate(before);
            return;
        }
        self.room -= used;
    }

    // The fields of another crate's event are its own business: only its message is known to be
    // harmless, once cut. `log.*` is what the bridge adds.
    fn may_show(&self, field: &Field) -> bool {
        !self.foreign && !field.name().starts_with("log.")
    }
}

fn needs_quotes(value: &str) -> bool {
    value.is_empty() || value.contains(|c: char| c.is_whitespace() || "\"=\\".contains(c))
}

impl Visit for FieldVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, format_args!("{value}"));
        } else {
            // JSON has no word for it.
            self.text(field, &value.to_string());
        }
    }
}

/// Bytes of a line, its end included.
const LONGEST_LINE: usize = 8 * 1024;
/// Bytes of a message, and of each text among the facts.
const LONGEST_TEXT: usize = 2 * 1024;
/// Bytes of time, level, target and punctuation.
const LONGEST_HEAD: usize = LONGEST_TARGET + 128;
const LONGEST_TARGET: usize = 128;
