//! A log in a file, with a copy of each line for those who listen.
//!
//! Owns: the largest size of the file; which lines report a problem. Never touches: the format of a line.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::config;

/// One line of the log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// Whether its level is `warn` or `error`.
    pub is_problem: bool,
    /// The text, with its line end.
    pub text: Arc<str>,
}

/// Installs the log of this process as [`super::install`] does, but writes it to `file`, if there is one, and
/// to the receivers of the returned sender. A line that cannot be written is lost.
pub fn install_copied(log: &config::Log, file: Option<File>) -> broadcast::Sender<LogLine> {
    let (lines, _) = broadcast::channel(MAX_WAITING);
    let file = Arc::new(Mutex::new(file.map(|file| BoundedFile { file, left: MAX_FILE })));
    super::install_to(log, Copies { file, lines: lines.clone() });
    lines
}

/// The file and the listeners.
#[derive(Debug)]
struct Copies {
    file: Arc<Mutex<Option<BoundedFile>>>,
    lines: broadcast::Sender<LogLine>,
}

#[derive(Debug)]
struct BoundedFile {
    file: File,
    left: usize,
}

/// Writes one line.
#[derive(Debug)]
struct LineWriter<'a> {
    copies: &'a Copies,
    is_problem: bool,
}

impl<'a> MakeWriter<'a> for Copies {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { copies: self, is_problem: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        LineWriter { copies: self, is_problem: *metadata.level() <= Level::WARN }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(bounded) = &mut *self.copies.file.lock()
            && bounded.left >= line.len()
        {
            bounded.left -= line.len();
            // An error must not reach the request that logs. The line is lost.
            let _written = bounded.file.write_all(line);
        }
        let text = String::from_utf8_lossy(line).into();
        // There may be no receiver.
        let _sent = self.copies.lines.send(LogLine { is_problem: self.is_problem, text });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that a slow listener may be behind; it loses older ones.
const MAX_WAITING: usize = 256;

/// The bytes of the file. Later lines are not written to it.
const MAX_FILE: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Log, LogFormat, LogLevel};
    use crate::telemetry::log::subscriber;

    #[test]
    fn each_line_is_in_the_file_and_sent_with_its_severity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (lines, mut received) = broadcast::channel(8);
        let bounded = BoundedFile { file: File::create(&path).unwrap(), left: 100 };
        let copies = Copies { file: Arc::new(Mutex::new(Some(bounded))), lines };
        let log = Log { format: LogFormat::Pretty, level: LogLevel::Info };
        tracing::subscriber::with_default(subscriber(&log, copies), || {
            tracing::info!("first");
            tracing::warn!("second");
            tracing::error!("too long for the rest of the file: {}", "x".repeat(100));
        });
        let lines: Vec<_> = std::iter::from_fn(|| received.try_recv().ok()).collect();
        let severities: Vec<_> = lines.iter().map(|line| line.is_problem).collect();
        assert_eq!(severities, [false, true, true]);
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written, format!("{}{}", lines[0].text, lines[1].text));
    }
}
