//! The log: one line per event on stderr, without secrets and without control characters.
//!
//! Owns: the form of a line, its bound, which events are written; the bridge from the `log` crate,
//! through which pingora speaks.
//! Never touches: what is worth a line.

use std::io;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config;
use crate::telemetry::log::format::LineFormat;

mod escape;
mod format;
mod redact;
mod third_party;

/// Writes the log of this process to stderr. The first call of a process counts, later ones do
/// nothing: tests start many servers in one process.
pub fn install(log: &config::Log) {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer().with_writer(io::stderr).event_format(LineFormat::new(log.format));
    // stderr is locked per line: lines of two threads never mix.
    let subscriber =
        Registry::default().with(filter).with(third_party::RateLimitedLayer::new()).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_ok() && LEVEL.set(handle).is_ok() {
        bridge(log.level);
    }
}

/// Another level for the log that [`install`] installed; nothing where another one is.
pub fn set_level(level: config::LogLevel) {
    let Some(handle) = LEVEL.get() else { return };
    if let Err(error) = handle.reload(filter(level)) {
        tracing::warn!(%error, "Log level not changed");
    }
    tracing_log::log::set_max_level(foreign_level(level).as_log());
}

/// The level of the installed log: one per process, as the log itself.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

fn filter(level: config::LogLevel) -> Targets {
    Targets::new()
        .with_default(foreign_level(level))
        .with_target(DIALLING, dialling_level(level))
        .with_target(OWN, own_level(level))
}

/// What [`install`] installs, writing to `writer`, at one level for good.
pub fn subscriber<W>(log: &config::Log, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).event_format(LineFormat::new(log.format));
    Registry::default()
        .with(filter(log.level))
        .with(third_party::RateLimitedLayer::new())
        .with(lines)
}

/// Brings what is logged through the `log` crate to the current subscriber.
fn bridge(level: config::LogLevel) {
    let bridged = LogTracer::builder().with_max_level(foreign_level(level).as_log()).init();
    if let Err(error) = bridged {
        tracing::warn!(%error, "Log bridge not installed");
    }
}

/// What pingora says of connections names no origin; larder itself says what comes of a call.
const DIALLING: &str = "pingora_core::connectors";

/// The target of larder's own events.
const OWN: &str = "larder";

fn own_level(level: config::LogLevel) -> LevelFilter {
    match level {
        config::LogLevel::Error => LevelFilter::ERROR,
        config::LogLevel::Warn => LevelFilter::WARN,
        config::LogLevel::Info => LevelFilter::INFO,
        config::LogLevel::Debug => LevelFilter::DEBUG,
        config::LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Other crates write header fields and buffers at `debug` and `trace`: never shown (ADM-07). Their
/// `error` is larder's `warn`, what they warn of is larder's `debug`: a pooled connection that an
/// origin has closed, say.
fn foreign_level(level: config::LogLevel) -> LevelFilter {
    match level {
        config::LogLevel::Error => LevelFilter::OFF,
        config::LogLevel::Warn | config::LogLevel::Info => LevelFilter::ERROR,
        config::LogLevel::Debug | config::LogLevel::Trace => LevelFilter::INFO,
    }
}

fn dialling_level(level: config::LogLevel) -> LevelFilter {
    match foreign_level(level) {
        LevelFilter::ERROR => LevelFilter::OFF,
        shown => shown,
    }
}

#[cfg(test)]
pub(crate) mod captured;
#[cfg(test)]
mod tests;
