//! `larder exec`: runs a command that uses larder, in any language.
//!
//! Owns: its arguments, the order of start and end, the summary at the end.
//! Never touches: the variables of each runtime (`exec_env`), the handling of requests.

mod caller_proof;
pub(super) mod child;
pub(super) mod data_dir;
pub(super) mod discovery;
pub(super) mod embedded;
mod first_process;
pub(super) mod identity;
pub(super) mod instance;
mod lease;
mod owned_dir;
mod peer;
pub(super) mod run_dir;
pub mod serve;
mod shared;
pub mod shared_serve;
pub(super) mod summary;
mod supervisor;
mod temp_dir;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::exec::child::Signals;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::discovery::RunningLarder;
use crate::cli::exec::embedded::EmbeddedLarder;
use crate::cli::exec::instance::Instance;
use crate::cli::exec::summary::Counts;
use crate::cli::exec::supervisor::SupervisedLarder;
use crate::cli::exec::temp_dir::TempDir;
use crate::cli::{ConfigFlag, Context, ExitStatus};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::exec_env::no_proxy::NoProxy;
use crate::exec_env::{ExecEnv, chromium};

/// A command, and the configuration of its larder.
#[derive(Debug, clap::Args)]
pub(super) struct CommandArgs {
    #[command(flatten)]
    pub(super) config: ConfigFlag,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

/// The arguments of `larder exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    #[command(flatten)]
    command: CommandArgs,
    /// Keep what is stored in this directory, such as a cache that CI jobs share, and use a private larder
    /// even if another one runs.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Keep the command working if larder crashes: a private larder runs in a separate process, and
    /// until it is restarted, requests go directly to their origins.
    #[arg(long)]
    fallback_direct: bool,
    /// Print no summary at the end.
    #[arg(long)]
    quiet: bool,
    /// Print the summary as one JSON line, to standard error.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Log at the level of the configuration, not only warnings and errors.
    #[arg(long, short)]
    verbose: bool,
}

const EXAMPLE: &str = "\
The command uses the larder that runs with this configuration. If none runs, a
private one is started, for its user and root only. Commands that run at the
same time with the same configuration and the same secrets share it: its store,
its limits and its budgets. It ends with the last of them. Until then, `larder
ls`, `purge`, `cost` and `upstreams` reach it. Its store is kept below
$XDG_CACHE_HOME/larder (~/.cache/larder), or in the directory of --store.

The exit code is the command's: 128+n if signal n ended it, 127 if there is no
such command, 126 if it cannot be started; 1 and 3 also if larder could not
start.

Examples:
  larder exec -- python app.py
  larder exec --config api.yaml -- npm test";

/// Runs the command, waits for it, and returns its exit code.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    if let Some(code) = first_process::run_as_child() {
        return ExitStatus::Command(code);
    }
    let file = match args.command.config.locate(context) {
        Ok(file) => file,
        Err(exit) => return exit,
    };
    let (config, running) = match load(&file, context) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let work = async |config: Config, context: &mut Context<'_>| {
        run_command(args, (&file, config), running, context).await
    };
    with_loaded("exec", config, args.verbose, context, work)
}

/// Loads the configuration. If it is not valid, the larder that runs with its earlier contents is used, with a
/// warning.
fn load(file: &Path, context: &mut Context<'_>) -> Result<(Config, Option<RunningLarder>), ExitStatus> {
    let report = match config::load(file, &context.env) {
        Ok(config) => return Ok((config, None)),
        Err(report) => report,
    };
    let Some((running, config)) = discovery::find_by_path(file, &context.env) else {
        return Err(context.fail(report, ExitStatus::Invalid));
    };
    context.print_error(report);
    print_note(context, "the larder that runs with its last valid contents is used");
    Ok((config, Some(running)))
}

/// Runs `work` of `larder VERB` with the configuration at `file`, on a new runtime.
pub(super) fn with_config(
    verb: &str,
    file: &Path,
    verbose: bool,
    context: &mut Context<'_>,
    work: impl AsyncFnOnce(Config, &mut Context<'_>) -> Result<ExitStatus, SpawnError>,
) -> ExitStatus {
    match context.load(file) {
        Ok(config) => with_loaded(verb, config, verbose, context, work),
        Err(exit) => exit,
    }
}

fn with_loaded(
    verb: &str,
    config: Config,
    verbose: bool,
    context: &mut Context<'_>,
    work: impl AsyncFnOnce(Config, &mut Context<'_>) -> Result<ExitStatus, SpawnError>,
) -> ExitStatus {
    embedded::install_log(&config, verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("larder {verb}: cannot start its threads: {error}");
            return context.fail(message, ExitStatus::Failed);
        }
    };
    let ended = runtime.block_on(work(config, context));
    // A DNS look-up that hangs must not keep the process alive.
    runtime.shutdown_background();
    ended.unwrap_or_else(|SpawnError { message, exit }| {
        context.fail(format!("larder {verb}: {message}"), exit)
    })
}

async fn run_command(
    args: &Args,
    (file, config): (&Path, Config),
    running: Option<RunningLarder>,
    context: &mut Context<'_>,
) -> Result<ExitStatus, SpawnError> {
    // From here on, signals are forwarded to the command. Before it starts, there is nothing to clean up.
    let signals = Signals::new().map_err(|error| format!("cannot listen for signals: {error}"));
    let mut signals = signals.map_err(SpawnError::failed)?;
    let no_proxy = NoProxy::from_config(&config, &context.env);
    print_no_proxy_changes(args, &no_proxy, context);
    print_parent(args, &config, context);
    let store = shared::absolute_store(args.store.as_deref());
    let store = store.map_err(|error| SpawnError::failed(format!("--store: {error}")))?;
    let place = Place { file, store: store.as_deref(), runtime: None };
    let can_write = TempDir::new(&context.env, Clock::system().now()).map(drop);
    let larder = if let Err(error) = can_write {
        // Clients need a file to trust larder's certificates.
        print_note(context, &format!("no directory can be written ({error}): HTTPS is not intercepted"));
        EmbeddedLarder::start_without_interception(place, config, context).map(Instance::Embedded)
    } else if let Some(running) = running {
        Ok(Instance::Running(running))
    } else if args.fallback_direct {
        SupervisedLarder::start(place, config, args.verbose, context).await.map(Instance::Supervised)
    } else {
        Instance::find_or_start(place, config, args.verbose, context).await
    };
    let larder = larder.map_err(SpawnError::failed)?;
    let before = larder.metrics();
    let ended = command(&args.command.command, &larder, &no_proxy, context, &mut signals).await;
    let stats = larder.finish().await;
    let (before, shared) = (stats.before.as_ref().unwrap_or(&before), stats.shared);
    let exit = ExitStatus::Command(ended?);
    if !args.quiet {
        let mut counts = Counts::parse(&stats.metrics).since(&Counts::parse(before));
        counts.tunnelled = stats.tunnelled.into_iter().map(|(host, _)| host).collect();
        let text = if args.json { counts.to_json(shared).to_string() } else { counts.to_text(shared) };
        context.print_error(text);
    }
    Ok(exit)
}

/// The data that a client needs to use a larder.
pub(super) struct Endpoint {
    /// The address on which it listens.
    pub(super) proxy: SocketAddr,
    /// The user and the password that it requires, `USER:PASSWORD`, if any.
    pub(super) password: Option<String>,
    /// The certificate of its authority; empty if it intercepts no host.
    pub(super) ca: String,
    /// The directory in which it is steered, if it is private and has one.
    pub(super) private: Option<PathBuf>,
}

/// The reason why the command did not run.
pub(super) struct SpawnError {
    pub(super) message: String,
    pub(super) exit: ExitStatus,
}

impl SpawnError {
    /// A failure of larder itself.
    pub(super) fn failed(message: String) -> Self {
        Self { message, exit: ExitStatus::Failed }
    }
}

/// Starts the command, waits for its end, and returns its exit code. The files that were written for it are
/// removed before this returns.
pub(super) async fn command(
    command: &[OsString],
    larder: &Instance,
    no_proxy: &NoProxy,
    context: &Context<'_>,
    signals: &mut Signals,
) -> Result<u8, SpawnError> {
    let write_error = |error: io::Error| {
        SpawnError::failed(format!("cannot write the files that the command needs: {error}"))
    };
    let temp_dir = TempDir::new(&context.env, Clock::system().now());
    let Endpoint { proxy, password, ca, private } = larder.endpoint();
    let exec_env = ExecEnv {
        proxy: *proxy,
        password: password.as_deref(),
        ca,
        no_proxy,
        directory: temp_dir.as_ref().map_or(Path::new("/"), TempDir::path),
        env: &context.env,
    };
    // Without a certificate, nothing but the proxy is needed.
    let prepared = match &temp_dir {
        Err(_) if ca.is_empty() => Ok(exec_env.proxy_variables()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        Ok(_) => exec_env.prepare(),
    };
    let mut variables = prepared.map_err(write_error)?;
    // Commands below it steer the same larder. An empty value replaces that of an enclosing command.
    let private = private.as_deref().map(Path::to_string_lossy).unwrap_or_default();
    variables.push((run_dir::VARIABLE.to_owned(), private.into_owned()));
    let spawned = child::start(&chromium::command(command, &exec_env), &variables);
    let mut child =
        spawned.map_err(|(message, code)| SpawnError { message, exit: ExitStatus::Command(code) })?;
    Ok(child::wait(&mut child, signals).await)
}

/// Prints the hosts that were removed from `NO_PROXY`: a route that names a host overrides the caller's entry.
fn print_no_proxy_changes(args: &Args, no_proxy: &NoProxy, context: &mut Context<'_>) {
    if args.quiet || no_proxy.left_out().is_empty() {
        return;
    }
    let hosts = no_proxy.left_out().join(", ");
    print_note(context, &format!("not in NO_PROXY, since a route names it: {hosts}"));
}

/// Prints the proxy through which larder calls origins, since the command's variables name larder instead.
fn print_parent(args: &Args, config: &Config, context: &mut Context<'_>) {
    if let Some(parents) = config.proxies.describe().filter(|_| !args.quiet) {
        print_note(context, &format!("origins are reached through the parent proxy {parents}"));
    }
}

/// Prints a note of larder's own to standard error, between the lines of the command.
fn print_note(context: &mut Context<'_>, message: &str) {
    context.print_error(format_args!("larder: {message}"));
}
