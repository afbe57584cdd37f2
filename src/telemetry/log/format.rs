//! Formats one event as one line: JSON for machines, or time, level, message and fields for people.
//!
//! Owns: the order and the names of the parts of a line; its maximum length of 8 KiB (ADM-06).
//! Never touches: the output.

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
pub(super) struct LineFormat(pub(super) LogFormat);

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
        let is_third_party = third_party::is_third_party(metadata.target());
        let mut fields = FieldVisitor::new(self.0, is_third_party);
        event.record(&mut fields);
        let mut time = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = level_token(*metadata.level(), is_third_party);
        let mut target = String::new();
        escape::push(&mut target, metadata.target(), MAX_TARGET_BYTES);
        let FieldVisitor { message, rest, .. } = fields;
        match self.0 {
            LogFormat::Json => {
                write!(writer, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"target\":\"{target}\"")?;
                writeln!(writer, ",\"message\":\"{message}\"{rest}}}")
            }
            LogFormat::Pretty => {
                let origin = if is_third_party { target + ": " } else { String::new() };
                let level = level.to_ascii_uppercase();
                writeln!(writer, "{time} {level:5} {origin}{message}{rest}")
            }
        }
    }
}

/// The level in the log. An `error` of another crate concerns one request or connection and requires no
/// operator; larder logs its own event about it.
fn level_token(level: Level, is_third_party: bool) -> &'static str {
    match level {
        Level::ERROR if is_third_party => "warn",
        Level::ERROR => "error",
        Level::WARN | Level::INFO if is_third_party => "debug",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Collects the fields of an event, redacted, escaped and limited in length.
struct FieldVisitor {
    format: LogFormat,
    is_third_party: bool,
    message: String,
    rest: String,
    remaining: usize,
}

impl FieldVisitor {
    fn new(format: LogFormat, is_third_party: bool) -> Self {
        let remaining = MAX_LINE_BYTES - MAX_PREFIX_BYTES - MAX_TEXT_BYTES;
        Self { format, is_third_party, message: String::new(), rest: String::new(), remaining }
    }

    /// Writes a field whose value needs neither quotes nor escapes.
    fn write_plain(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if !self.may_show(field) {
            return;
        }
        let before = self.rest.len();
        let written = match self.format {
            LogFormat::Json => write!(self.rest, ",\"{}\":{value}", field.name()),
            LogFormat::Pretty => write!(self.rest, " {}={value}", field.name()),
        };
        self.commit(before, written.is_ok());
    }

    fn write_text(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let shown = if self.is_third_party { third_party::harmless_part(value) } else { value };
            self.message.clear();
            escape::push(&mut self.message, &redact(shown), MAX_TEXT_BYTES);
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
        let remaining = self.remaining.saturating_sub(used + quote.len()).min(MAX_TEXT_BYTES);
        let shown = if is_secret(field.name()) { "…".into() } else { redact(value) };
        escape::push(&mut self.rest, &shown, remaining);
        self.rest.push_str(quote);
        self.commit(before, written.is_ok());
    }

    /// Subtracts the bytes written since `before` from the remaining capacity, or removes them if they exceed
    /// it.
    fn commit(&mut self, before: usize, is_ok: bool) {
        let used = self.rest.len() - before;
        if !is_ok || used > self.remaining {
            self.rest.truncate(before);
            return;
        }
        self.remaining -= used;
    }

    // Only the shortened message of another crate's event is known to be harmless, so its fields are not
    // logged. The bridge adds the `log.*` fields.
    fn may_show(&self, field: &Field) -> bool {
        !self.is_third_party && !field.name().starts_with("log.")
    }
}

fn needs_quotes(value: &str) -> bool {
    value.is_empty() || value.contains(|c: char| c.is_whitespace() || "\"=\\".contains(c))
}

impl Visit for FieldVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write_text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write_text(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write_plain(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write_plain(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write_plain(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.write_plain(field, format_args!("{value}"));
        } else {
            // JSON has no infinite numbers and no NaN.
            self.write_text(field, &value.to_string());
        }
    }
}

/// Maximum bytes of a line, including its end.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Maximum bytes of a message and of each text field.
const MAX_TEXT_BYTES: usize = 2 * 1024;
/// Maximum bytes of time, level, target and punctuation.
const MAX_PREFIX_BYTES: usize = MAX_TARGET_BYTES + 128;
const MAX_TARGET_BYTES: usize = 128;
