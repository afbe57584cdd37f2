//! The log: one line per event on stderr, without secrets and without control characters.
//!
//! Owns: the format and the maximum length of a line, the level filter, the bridge from the `log` crate,
//! which pingora uses. Never touches: the choice of the events that are logged.

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

pub mod copies;
mod escape;
mod format;
mod redact;
mod third_party;

/// Installs the log of this process, which writes to stderr. Only the first call has an effect, because tests
/// start many servers in one process.
pub fn install(log: &config::Log) {
    install_to(log, io::stderr);
}

fn install_to<W>(log: &config::Log, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer().with_writer(writer).event_format(LineFormat(log.format));
    // stderr is locked per line, so the lines of two threads never mix.
    let subscriber = Registry::default().with(filter).with(third_party::RateLimitedLayer::new()).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_ok() && LEVEL_HANDLE.set(handle).is_ok() {
        bridge(log.level);
    }
}

/// Changes the level of the log that [`install`] installed. Has no effect if another subscriber is installed.
pub fn set_level(level: config::LogLevel) {
    let Some(handle) = LEVEL_HANDLE.get() else { return };
    if let Err(error) = handle.reload(filter(level)) {
        tracing::warn!(%error, "Log level not changed");
    }
    tracing_log::log::set_max_level(third_party_level(level).as_log());
}

/// The handle to the level of the installed log. There is one per process, like the log itself.
static LEVEL_HANDLE: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

fn filter(level: config::LogLevel) -> Targets {
    Targets::new()
        .with_default(third_party_level(level))
        .with_target(CONNECTOR_TARGET, connector_level(level))
        .with_target(LARDER_TARGET, larder_level(level))
}

/// The subscriber that [`install`] installs, but with `writer` and a constant level.
pub fn subscriber<W>(log: &config::Log, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).event_format(LineFormat(log.format));
    Registry::default().with(filter(log.level)).with(third_party::RateLimitedLayer::new()).with(lines)
}

/// Forwards records of the `log` crate to the current subscriber.
fn bridge(level: config::LogLevel) {
    let bridged = LogTracer::builder().with_max_level(third_party_level(level).as_log()).init();
    if let Err(error) = bridged {
        tracing::warn!(%error, "Log bridge not installed");
    }
}

/// The target of pingora's connection events. They do not contain the origin; larder logs failed calls
/// itself.
const CONNECTOR_TARGET: &str = "pingora_core::connectors";

/// The target of larder's own events.
const LARDER_TARGET: &str = "larder";

fn larder_level(level: config::LogLevel) -> LevelFilter {
    match level {
        config::LogLevel::Error => LevelFilter::ERROR,
        config::LogLevel::Warn => LevelFilter::WARN,
        config::LogLevel::Info => LevelFilter::INFO,
        config::LogLevel::Debug => LevelFilter::DEBUG,
        config::LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The level filter for other crates. Their `debug` and `trace` events contain header fields and buffers and
/// are never logged (ADM-07). Their `error` events appear as `warn`, their `warn` events as `debug`, e.g.
/// that an origin closed a pooled connection.
fn third_party_level(level: config::LogLevel) -> LevelFilter {
    match level {
        config::LogLevel::Error => LevelFilter::OFF,
        config::LogLevel::Warn | config::LogLevel::Info => LevelFilter::ERROR,
        config::LogLevel::Debug | config::LogLevel::Trace => LevelFilter::INFO,
    }
}

fn connector_level(level: config::LogLevel) -> LevelFilter {
    match third_party_level(level) {
        LevelFilter::ERROR => LevelFilter::OFF,
        shown => shown,
    }
}

#[cfg(test)]
pub(crate) mod captured;
#[cfg(test)]
mod tests;
