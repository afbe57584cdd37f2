//! `larder env`: prints the variables of `larder exec`, for commands that are started in another way.
//!
//! Owns: its arguments, and the directory of the files that the variables name.
//! Never touches: the variables of each runtime (`exec_env`).

mod format;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::env::format::Format;
use crate::cli::exec::data_dir;
use crate::cli::exec::discovery::{self, RunningLarder};
use crate::cli::{ConfigFlag, Context, ExitStatus};
use crate::config::Config;
use crate::config::env::Env;
use crate::exec_env::ExecEnv;
use crate::exec_env::no_proxy::NoProxy;

/// The arguments of `larder env`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
    /// The syntax of the output.
    #[arg(long, value_enum, default_value_t = Format::Sh)]
    format: Format,
    /// The directory for the files that the variables name (certificates, settings, shims), such as a
    /// volume that containers mount at the same path; else below the user's cache directory.
    #[arg(long, value_name = "DIRECTORY")]
    files: Option<PathBuf>,
}

const EXAMPLE: &str = "\
larder must be running. sh and fish extend variables of the shell, such as
NODE_OPTIONS; the other formats ignore the environment. A container reaches
larder if it shares its network (--network host, the same pod), or if `listen`
has an address that the container reaches.

Examples:
  eval \"$(larder env)\"
  larder env --format fish | source
  larder env --format docker > larder.env; docker run --network host --env-file larder.env ...
  larder env --format k8s --files /larder-files";

/// Writes the files and prints the variables.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    try_run(args, context).map_or_else(|exit| exit, |()| ExitStatus::Ok)
}

fn try_run(args: &Args, context: &mut Context<'_>) -> Result<(), ExitStatus> {
    let file = args.config.locate(context)?;
    let config = context.load(&file)?;
    let running = discovery::find(&file, &config, &context.env).map_err(|not_found| {
        context.fail(format!("larder env: {}", not_found.message()), ExitStatus::Unreachable)
    })?;
    let variables = variables(args, &file, &config, &running, &context.env).map_err(|error| {
        context.fail(format!("larder env: cannot write the files: {error}"), ExitStatus::Failed)
    })?;
    if let Some(parents) = config.proxies.describe() {
        context.print_error(format_args!("larder: origins are reached through the parent proxy {parents}"));
    }
    // If the output is closed, only the exit code reports the failure.
    print(args.format, &variables, context.out).map_err(|_closed| ExitStatus::Failed)
}

fn variables(
    args: &Args,
    file: &Path,
    config: &Config,
    running: &RunningLarder,
    caller: &Env,
) -> io::Result<Vec<(String, String)>> {
    let directory = if let Some(directory) = &args.files {
        fs::create_dir_all(directory)?;
        directory.clone()
    } else {
        let cache_directory = data_dir::env_files(caller, file).map_err(|error| {
            io::Error::new(error.kind(), format!("{error}: name a place with --files DIR"))
        })?;
        data_dir::create_private_dir(&cache_directory)?;
        cache_directory
    };
    let directory = fs::canonicalize(directory)?;
    let empty = Env::default();
    let env = if args.format.is_for_shells() { caller } else { &empty };
    let no_proxy = NoProxy::from_config(config, env);
    let exec_env = ExecEnv {
        proxy: running.endpoint.proxy,
        password: None,
        ca: &running.endpoint.ca,
        no_proxy: &no_proxy,
        directory: &directory,
        env,
    };
    let variables = exec_env.prepare()?.into_iter();
    Ok(variables.map(|variable| keep_earlier(variable, env, &directory)).collect())
}

/// Keeps the value of a variable that an earlier `larder env` of this shell set: it names these files, so it
/// is not extended twice, and no bundle is built from larder's own.
fn keep_earlier((name, value): (String, String), env: &Env, directory: &Path) -> (String, String) {
    let ours = directory.to_string_lossy();
    let earlier = env.get(&name).filter(|earlier| earlier.contains(&*ours));
    let value = earlier.map_or(value, str::to_owned);
    (name, value)
}

fn print(format: Format, variables: &[(String, String)], out: &mut dyn Write) -> io::Result<()> {
    for (name, value) in variables {
        writeln!(out, "{}", format.line(name, value))?;
    }
    out.flush()
}
