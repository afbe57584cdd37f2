//! What is logged, for tests that read it.
//!
//! Owns: a writer that keeps what it is given. Never touches: what is logged.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Subscriber;

use crate::config::{self, LogFormat, LogLevel};
use crate::telemetry::log::subscriber;

/// What was written so far.
#[derive(Clone, Default)]
pub(crate) struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The lines of a log in JSON.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// A log in JSON that is written here from `INFO` on.
    pub(crate) fn log(&self) -> impl Subscriber + Send + Sync + use<> {
        let written = self.clone();
        let log = config::Log { format: LogFormat::Json, level: LogLevel::Info };
        subscriber(&log, move || written.clone())
    }
}

impl io::Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
