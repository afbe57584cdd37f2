//! Arguments and environment → verb → exit code. One file per verb, each with the same parts in the
//! same order: `Args`, then `run`.
//!
//! Owns: the command line and the printed output; the only reader of the environment.
//! Never touches: the work of the verbs.

mod admin_client;
pub mod ca;
pub mod check;
mod config_search;
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
pub mod stats;
pub mod upstreams;

use std::cell::OnceCell;
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

    /// Finds the configuration to use if none is named. Prints which one is used unless it is in the working
    /// directory, and which ones are not trusted.
    fn search_config(&mut self) -> Option<PathBuf> {
        let found = config_search::search();
        for skipped in &found.skipped {
            self.print_error(format_args!("larder: {skipped}"));
        }
        if let Some(above) = found.file.as_deref().filter(|file| *file != Path::new(config_search::NAME)) {
            self.print_error(format_args!("larder: using {}", above.display()));
        }
        found.file
    }

    /// [`Context::search_config`] for a verb that needs a configuration. A file that was not found is not
    /// opened: another user could create it in the meantime.
    fn require_config(&mut self) -> Result<PathBuf, ExitStatus> {
        self.search_config().ok_or_else(|| self.fail(config_search::NONE_FOUND, ExitStatus::Invalid))
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
    /// The configuration; else proxy.yaml here or in a directory above.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, in the form of other commands.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    #[clap(skip)]
    found: OnceCell<PathBuf>,
}

impl ConfigArg {
    /// Searches for the file if none is named. Called before [`ConfigArg::path`].
    fn locate(&self, context: &mut Context<'_>) -> Result<(), ExitStatus> {
        if self.config.is_none() && self.file.is_none() {
            // It is located once.
            let _located = self.found.set(context.require_config()?);
        }
        Ok(())
    }

    /// The path of the file.
    fn path(&self) -> &Path {
        let named = self.config.as_deref().or(self.file.as_deref());
        named.or(self.found.get().map(PathBuf::as_path)).unwrap_or(Path::new(config_search::NAME))
    }
}

/// `--config FILE` of a verb with other positional arguments.
#[derive(Debug, clap::Args)]
struct ConfigFlag {
    /// The configuration; else proxy.yaml here or in a directory above.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFlag {
    /// The file that is named, or the one that is found.
    fn locate(&self, context: &mut Context<'_>) -> Result<PathBuf, ExitStatus> {
        self.config.clone().map_or_else(|| context.require_config(), Ok)
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
