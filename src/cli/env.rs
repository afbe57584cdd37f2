//! `larder env`: what a command would be told, for whoever starts it otherwise.
//!
//! Owns: its arguments, where the files lie that the variables name.
//! Never touches: what each runtime is told (`launch`).

mod format;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::env::format::Format;
use crate::cli::exec::discovery::{self, RunningLarder};
use crate::cli::exec::embedded;
use crate::cli::{Context, ExitStatus};
use crate::config::env::Env;
use crate::config::{self, Config};
use crate::exec_env::ExecEnv;
use crate::exec_env::no_proxy::NoProxy;

/// The arguments of `larder env`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The configuration that larder runs with.
    #[arg(long, value_name = "FILE", default_value = "proxy.yaml")]
    config: PathBuf,
    /// For whom.
    #[arg(long, value_enum, default_value_t = Format::Sh)]
    format: Format,
    /// Where to write the files that the variables name (certificates, settings, shims), such as a
    /// volume that containers mount at the same path; else below the user's cache directory.
    #[arg(long, value_name = "DIRECTORY")]
    files: Option<PathBuf>,
}

const EXAMPLE: &str = "\
The larder must be running. sh and fish extend what the shell has already set,
such as NODE_OPTIONS; the other formats stand alone. A container reaches
larder if it shares its network (--network host, the same pod), or if `listen`
names an address that it reaches.

Examples:
  eval \"$(larder env)\"
  larder env --format fish | source
  larder env --format docker > larder.env; docker run --network host --env-file larder.env ...
  larder env --format k8s --files /larder-files";

/// Writes the files, prints the variables.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let config = match config::load(&args.config, &world.env) {
        Ok(config) => config,
        Err(report) => return complain(world, &format!("{report}"), ExitStatus::Invalid),
    };
    let running = match discovery::find(&args.config, &config, &world.env) {
        Ok(running) => running,
        Err(missing) => {
            let said = format!("larder env: {}", missing.said());
            return complain(world, &said, ExitStatus::Unreachable);
        }
    };
    match variables(args, &config, &running, &world.env) {
        Ok(variables) => match print(args.format, &variables, world.out) {
            Ok(()) => ExitStatus::Ok,
            // Whoever reads the output has gone: there is nobody left to tell.
            Err(_closed) => ExitStatus::Failed,
        },
        Err(error) => {
            let said = format!("larder env: cannot write the files: {error}");
            complain(world, &said, ExitStatus::Failed)
        }
    }
}

fn variables(
    args: &Args,
    config: &Config,
    running: &RunningLarder,
    caller: &Env,
) -> io::Result<Vec<(String, String)>> {
    let directory = if let Some(directory) = &args.files {
        fs::create_dir_all(directory)?;
        directory.clone()
    } else {
        let lasting = embedded::env_files(caller, &args.config)?;
        embedded::private(&lasting)?;
        lasting
    };
    let directory = fs::canonicalize(directory)?;
    let alone = Env::default();
    let env = if args.format.is_for_shells() { caller } else { &alone };
    let no_proxy = NoProxy::of(config, env);
    let launch = ExecEnv {
        proxy: running.proxy,
        password: None,
        ca: &running.ca,
        no_proxy: &no_proxy,
        directory: &directory,
        env,
    };
    let variables = launch.prepare()?.into_iter();
    Ok(variables.map(|variable| once(variable, env, &directory)).collect())
}

/// A shell that has asked before has variables that name these files: they are neither extended twice
/// nor given bundles made of larder's own.
fn once((name, value): (String, String), env: &Env, directory: &Path) -> (String, String) {
    let ours = directory.to_string_lossy();
    let before = env.get(&name).filter(|before| before.contains(&*ours));
    match before {
        Some(before) => (name, before.to_owned()),
        None => (name, value),
    }
}

fn print(format: Format, variables: &[(String, String)], out: &mut dyn Write) -> io::Result<()> {
    for (name, value) in variables {
        writeln!(out, "{}", format.line(name, value))?;
    }
    out.flush()
}

fn complain(world: &mut Context<'_>, text: &str, exit: ExitStatus) -> ExitStatus {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
    exit
}
