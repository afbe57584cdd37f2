//! Arguments and environment → verb → exit code. One file per verb, each with the same parts in the
//! same order: `Args`, then `run`.
//!
//! Owns: what is typed and what is printed; the only reader of the environment.
//! Never touches: what the verbs do.

mod admin_client;
pub mod ca;
pub mod check;
mod config_arg;
pub mod cost;
pub mod doctor;
pub mod env;
pub mod exec;
pub mod fake;
pub mod inspect;
pub mod ls;
pub mod mode;
pub mod purge;
pub mod reload;
pub mod run;
pub mod schema;
pub mod upstreams;

use std::io::Write;

use crate::config::env::Env;

/// What a verb needs of the world, handed in so that tests can stand in for it.
pub struct Context<'a> {
    /// The environment variables.
    pub env: Env,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0
    Ok,
    /// 1: it was tried and failed.
    Failed,
    /// 2: the arguments make no sense.
    Usage,
    /// 3: the configuration is invalid.
    Invalid,
    /// 4: no larder answers there.
    Unreachable,
    /// As the command ended that was run.
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

/// This process's environment; variables that are not Unicode are left out.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn environment() -> Env {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
