//! The `larder` command.
//!
//! Owns: the process: its arguments and its exit code. Never touches: the work of the subcommands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder::cli::{
    Context, ca, check, cost, doctor, env, environment, exec, fake, init, inspect, ls, mode, presets, purge,
    reload, run, schema, stats, upstreams,
};

const START_HERE: &str = "\
Start here:
  larder init github         a proxy.yaml for an API; `larder presets` lists more
  larder check               what it does with which requests
  larder exec -- CMD         your app, in any language, HTTPS included
  larder run &               or: a larder for all apps of this host
  larder stats               what was answered without the API

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid, 4 larder not reachable";

/// A caching sidecar for outgoing API traffic.
///
/// Start an app through larder (or point `HTTP_PROXY` at it) and change nothing else: routes in
/// proxy.yaml specify which responses to store, for how long, and how to respond when the API fails.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, arg_required_else_help = true)]
#[command(after_help = START_HERE)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy until SIGTERM or SIGINT. SIGHUP reloads the configuration.
    Run(run::Args),
    /// Write a proxy.yaml to begin with, from presets for well-known APIs.
    Init(init::Args),
    /// List the presets that `init` writes, or print one.
    Presets(presets::Args),
    /// Check a configuration; with --explain, show how a request would be handled.
    Check(check::Args),
    /// Run a command that uses larder, in any programming language.
    Exec(exec::Args),
    /// Show, export or replace the certificate authority for intercepted connections.
    Ca(ca::Args),
    /// Run a command as `exec` does, and report which of its connections bypassed larder, and why.
    Doctor(doctor::Args),
    /// The larder process of `exec --fallback-direct`.
    #[command(hide = true)]
    ExecServe(exec::serve::Args),
    /// The private larder that commands of `exec` share.
    #[command(hide = true)]
    ExecShared(exec::shared_serve::Args),
    /// Print the environment that makes a command use the running larder.
    Env(env::Args),
    /// Print the JSON Schema of proxy.yaml, for editors.
    Schema(schema::Args),
    /// Make a running larder reload its configuration.
    Reload(reload::Args),
    /// Show or set the mode of a running larder: cache, bypass or offline.
    Mode(mode::Args),
    /// Make stored responses of a running larder unusable, or only stale.
    Purge(purge::Args),
    /// List the stored responses of a running larder.
    Ls(ls::Args),
    /// Show all details of the stored responses of one URL.
    Inspect(inspect::Args),
    /// Show the state of the upstreams of a running larder: cooldowns, limits, circuit breakers.
    Upstreams(upstreams::Args),
    /// Show the requests of a running larder by route: hits, calls to the API, reasons for misses.
    Stats(stats::Args),
    /// Show the cost of upstreams today and this month, and the cost avoided.
    Cost(cost::Args),
    /// Run a fake API on this machine, to try larder against.
    Fake(fake::Args),
}

fn main() -> ExitCode {
    // rustls must not guess the provider: every TLS connection uses this one.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let command = Command::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut context = Context { env: environment(), out: &mut out, err: &mut err };
    let exit = match &command.verb {
        Verb::Run(args) => run::run(args, &mut context),
        Verb::Init(args) => init::run(args, &mut context),
        Verb::Presets(args) => presets::run(args, &mut context),
        Verb::Check(args) => check::run(args, &mut context),
        Verb::Exec(args) => exec::run(args, &mut context),
        Verb::Ca(args) => ca::run(args, &mut context),
        Verb::Doctor(args) => doctor::run(args, &mut context),
        Verb::ExecServe(args) => exec::serve::run(args, &mut context),
        Verb::ExecShared(args) => exec::shared_serve::run(args, &mut context),
        Verb::Env(args) => env::run(args, &mut context),
        Verb::Schema(args) => schema::run(args, &mut context),
        Verb::Reload(args) => reload::run(args, &mut context),
        Verb::Mode(args) => mode::run(args, &mut context),
        Verb::Purge(args) => purge::run(args, &mut context),
        Verb::Ls(args) => ls::run(args, &mut context),
        Verb::Inspect(args) => inspect::run(args, &mut context),
        Verb::Upstreams(args) => upstreams::run(args, &mut context),
        Verb::Stats(args) => stats::run(args, &mut context),
        Verb::Cost(args) => cost::run(args, &mut context),
        Verb::Fake(args) => fake::run(args, &mut context),
    };
    ExitCode::from(exit.code())
}
