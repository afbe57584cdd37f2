//! The log: one line per event on stderr, without secrets and without control characters.
//!
//! Owns: the form of a line, its bound, which events are written; the bridge from the `log` crate,
//! through which pingora speaks.
//! Never touches: what is worth a line.

use std::io;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt};

use crate::account::log::line::Line;
use crate::config;

mod escape;
mod foreign;
mod line;
mod redact;

/// Writes the log of this process to stderr. The first call of a process counts, later ones do
/// nothing: tests start many servers in one process.
pub fn install(log: &config::Log) {
    // stderr is locked per line: lines of two threads never mix.
    let installed = tracing::subscriber::set_global_default(subscriber(log, io::stderr)).is_ok();
    if installed {
        bridge(log.level);
    }
}

/// What [`install`] installs, writing to `writer`.
pub fn subscriber<W>(log: &config::Log, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = Targets::new()
        .with_default(foreign_level(log.level))
        .with_target(OWN, own_level(log.level));
    let lines = fmt::layer().with_writer(writer).event_format(Line::new(log.format));
    Registry::default().with(filter).with(foreign::Bounded::new()).with(lines)
}

/// Brings what is logged through the `log` crate to the current subscriber.
fn bridge(level: config::LogLevel) {
    let bridged = LogTracer::builder().with_max_level(foreign_level(level).as_log()).init();
    if let Err(error) = bridged {
        tracing::warn!(%error, "Log bridge not installed");
    }
}

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

#[cfg(test)]
mod tests;
