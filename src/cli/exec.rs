//! `larder exec`: a command that uses larder, whatever it is written in.
//!
//! Owns: its arguments, the order of starting and ending, what is printed at the end.
//! Never touches: what each runtime is told (`launch`), how requests are served.

mod caller_proof;
pub(super) mod child;
pub(super) mod discovery;
pub(super) mod embedded;
pub(super) mod final_stats;
pub(super) mod instance;
pub mod serve;
mod summary;
mod supervisor;
mod temp_dir;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::exec::child::{ExitCode, Signals};
use crate::cli::exec::instance::Instance;
use crate::cli::exec::summary::Counts;
use crate::cli::exec::temp_dir::TempDir;
use crate::cli::{Context, ExitStatus};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::exec_env::ExecEnv;
use crate::exec_env::no_proxy::NoProxy;

/// The arguments of `larder exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "proxy.yaml")]
    config: PathBuf,
    /// Keep the command working should larder die: a private larder runs in a process of its own, and
    /// until it is back everything goes straight to its origin.
    #[arg(long)]
    fallback_direct: bool,
    /// Print nothing at the end.
    #[arg(long)]
    quiet: bool,
    /// Print what is counted at the end as one JSON line, to standard error.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Log as the configuration says, not only warnings and errors.
    #[arg(long, short)]
    verbose: bool,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLE: &str = "\
The larder that runs with this configuration is used; if none does, a private
one is started for as long as the command runs, for its user and root alone.
What it stores lasts: it lies below $XDG_CACHE_HOME/larder (~/.cache/larder).

The exit code is the command's: 128+n where signal n ended it, 127 where there
is no such command, 126 where it cannot be started; 1 and 3 also where larder
could not start.

Examples:
  larder exec -- python app.py
  larder exec --config api.yaml -- npm test";

/// Runs the command, waits for it, and ends as it ended.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let through =
        async |config: Config, world: &mut Context<'_>| through(args, config, world).await;
    with_config("exec", &args.config, args.verbose, world, through)
}

/// Does `work` for `larder VERB` with the configuration at `file`, on threads of its own.
pub(super) fn with_config(
    verb: &str,
    file: &Path,
    verbose: bool,
    world: &mut Context<'_>,
    work: impl AsyncFnOnce(Config, &mut Context<'_>) -> ExitStatus,
) -> ExitStatus {
    let config = match config::load(file, &world.env) {
        Ok(config) => config,
        Err(report) => return complain(world, &format!("{report}"), ExitStatus::Invalid),
    };
    embedded::log(&config, verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let said = format!("larder {verb}: cannot start its threads: {error}");
            return complain(world, &said, ExitStatus::Failed);
        }
    };
    let exit = runtime.block_on(work(config, world));
    // A look-up that hangs must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn through(args: &Args, config: Config, world: &mut Context<'_>) -> ExitStatus {
    // From here on a signal is for the command: without one there is nothing to leave behind.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            let said = format!("larder exec: cannot listen for signals: {error}");
            return complain(world, &said, ExitStatus::Failed);
        }
    };
    let no_proxy = NoProxy::of(&config, &world.env);
    tell_what_is_not_spared(args, &no_proxy, world);
    let found = if args.fallback_direct {
        Instance::guarded(&args.config, config, args.verbose, world).await
    } else {
        Instance::find(&args.config, config, world)
    };
    let larder = match found {
        Ok(larder) => larder,
        Err(said) => return complain(world, &format!("larder exec: {said}"), ExitStatus::Failed),
    };
    let before = larder.page();
    let ended = command(&args.command, &larder, &no_proxy, world, &mut signals).await;
    let exit = match ended {
        Ok(ExitCode(code)) => ExitStatus::Command(code),
        Err(SpawnError { said, exit }) => {
            larder.leave().await;
            return complain(world, &format!("larder exec: {said}"), exit);
        }
    };
    let shared = larder.is_shared();
    let left = larder.leave().await;
    if !args.quiet {
        let mut counts = Counts::of(&left.page).since(&Counts::of(&before));
        counts.tunnelled = left.tunnelled.into_iter().map(|(host, _)| host).collect();
        let text = if args.json { counts.json(shared).to_string() } else { counts.lines(shared) };
        tell_as_it_is(world, &text);
    }
    exit
}

/// Why the command did not run.
pub(super) struct SpawnError {
    pub(super) said: String,
    pub(super) exit: ExitStatus,
}

/// Starts the command and waits for its end. What was written for it is gone when this returns.
pub(super) async fn command(
    command: &[OsString],
    larder: &Instance,
    no_proxy: &NoProxy,
    world: &Context<'_>,
    signals: &mut Signals,
) -> Result<ExitCode, SpawnError> {
    let unwritten = |error: &io::Error| SpawnError {
        said: format!("cannot write the files that the command needs: {error}"),
        exit: ExitStatus::Failed,
    };
    let scratch =
        TempDir::new(&world.env, Clock::system().now()).map_err(|error| unwritten(&error))?;
    let launch = ExecEnv {
        proxy: larder.proxy(),
        password: larder.password(),
        ca: larder.ca(),
        no_proxy,
        directory: scratch.path(),
        env: &world.env,
    };
    let variables = launch.prepare().map_err(|error| unwritten(&error))?;
    let started = child::start(command, &variables);
    let mut child =
        started.map_err(|(said, code)| SpawnError { said, exit: ExitStatus::Command(code) })?;
    Ok(child::wait(&mut child, signals).await)
}

/// A route that names what is usually spared is meant; the caller's own words were set aside for it.
fn tell_what_is_not_spared(args: &Args, no_proxy: &NoProxy, world: &mut Context<'_>) {
    if args.quiet || no_proxy.left_out().is_empty() {
        return;
    }
    let hosts = no_proxy.left_out().join(", ");
    tell(world, &format!("not in NO_PROXY, since a route names it: {hosts}"));
}

/// A line of larder's own among those of the command.
fn tell(world: &mut Context<'_>, said: &str) {
    tell_as_it_is(world, &format!("larder: {said}"));
}

fn tell_as_it_is(world: &mut Context<'_>, text: &str) {
    // Nobody reads standard error: the command may be of use all the same.
    let _told = writeln!(world.err, "{text}");
}

fn complain(world: &mut Context<'_>, text: &str, exit: ExitStatus) -> ExitStatus {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
    exit
}
