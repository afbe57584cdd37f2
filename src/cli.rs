//! Arguments and environment → verb → exit code. One file per verb, each with the same parts in the
//! same order: `Args`, then `run`.
//!
//! Owns: the command line and the printed output; the only reader of the environment.
//! Never touches: the work of the verbs.

mod admin_client;
pub mod ca;
pub mod check;
pub mod cost;
pub mod doctor;
pub mod env;
pub mod exec;
pub mod fake;
pub mod init;
pub mod inspect;
pub mod ls;
pub mod mode;
pub mod presets;
pub mod purge;
pub mod reload;
pub mod run;
pub mod schema;
pub mod upstreams;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::env::Env;
use crate::config::{self, Config};

/// The environment and the output streams of a verb, passed in so that tests can replace them.
pub struct Context<'a> {
    /// The environment variables.
    pub env: Env,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

impl Context<'_> {
    /// Loads the configuration at `file`, or prints its problems.
    fn load(&mut self, file: &Path) -> Result<Config, ExitStatus> {
        config::load(file, &self.env).map_err(|report| self.fail(report, ExitStatus::Invalid))
    }

    /// Prints the reason of a failure.
    fn fail(&mut self, reason: impl fmt::Display, exit: ExitStatus) -> ExitStatus {
        self.print_error(reason);
        exit
    }

    /// Prints a line to standard error. If it is closed, the line is lost.
    fn print_error(&mut self, line: impl fmt::Display) {
        let _closed = writeln!(self.err, "{line}");
    }
}

/// The configuration file of a verb: its positional argument, or `--config` as for verbs that have another
/// positional argument.
#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration.
    #[arg(default_value = "proxy.yaml", value_name = "FILE")]
    file: PathBuf,
    /// The same, in the form of other commands.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    /// The path of the file.
    fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(&self.file)
    }
}

/// The result of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: success.
    Ok,
    /// 1: the operation failed.
    Failed,
    /// 2: the arguments are invalid.
    Usage,
    /// 3: the configuration is invalid.
    Invalid,
    /// 4: no larder responds at the address.
    Unreachable,
    /// The exit code of the command that was run.
    Command(u8),
}

impl ExitStatus {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Unreachable => 4,
            Self::Command(code) => code,
        }
    }
}

/// The environment of this process, without variables that are not Unicode.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn environment() -> Env {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
