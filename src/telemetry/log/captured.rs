//! Captured log for tests.
//!
//! Owns: a writer that stores the log in memory. Never touches: the contents of the log.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Subscriber;

use crate::config::{self, LogFormat, LogLevel};
use crate::telemetry::log::subscriber;

/// The log that was written so far.
#[derive(Clone, Default)]
pub(crate) struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// The whole text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The lines of a JSON log.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// A subscriber that writes a JSON log from level `INFO` on to this object.
    pub(crate) fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        let writer = self.clone();
        let log = config::Log { format: LogFormat::Json, level: LogLevel::Info };
        subscriber(&log, move || writer.clone())
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
