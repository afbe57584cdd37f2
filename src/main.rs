//! The `larder` command.
//!
//! Owns: the process: its arguments and its exit code. Never touches: what verbs do.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder::cli::{
    Context, ca, check, cost, doctor, env, environment, exec, fake, inspect, ls, mode, purge,
    reload, run, schema, upstreams,
};

const START_HERE: &str = "\
Start here:
  larder fake discord &      a fake API to try things on
  larder run &               the proxy, configured by ./proxy.yaml; `version: 1` in it is enough
  curl -x http://127.0.0.1:8080 -si http://discord.example.test/api/v10/guilds/1/roles

Your own app, in any language, HTTPS included:
  larder exec -- CMD

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid, 4 larder not reachable";

/// A caching sidecar for outgoing API traffic.
///
/// Start an app through larder (or point `HTTP_PROXY` at it) and change nothing else: routes in
/// proxy.yaml say which answers to keep, for how long, and what to do when the API fails.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, arg_required_else_help = true)]
#[command(after_help = START_HERE)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy until SIGTERM or SIGINT. SIGHUP reads the configuration again.
    Run(run::Args),
    /// Check a configuration; with --explain, say what would happen to a request.
    Check(check::Args),
    /// Run a command that uses larder, whatever it is written in.
    Exec(exec::Args),
    /// Show, hand out or replace the certificate authority of intercepted connections.
    Ca(ca::Args),
    /// Run a command as `exec` does, and say which of its connections went around larder, and why.
    Doctor(doctor::Args),
    /// The larder of `exec --fallback-direct`.
    #[command(hide = true)]
    ExecServe(exec::serve::Args),
    /// Print what a command must be told to use the larder that runs.
    Env(env::Args),
    /// Print the JSON Schema of proxy.yaml, for editors.
    Schema(schema::Args),
    /// Have a running larder read its configuration again.
    Reload(reload::Args),
    /// Tell or turn the mode of a running larder: cache, bypass or offline.
    Mode(mode::Args),
    /// Make stored answers of a running larder unusable, or only stale.
    Purge(purge::Args),
    /// List what a running larder has stored.
    Ls(ls::Args),
    /// Show everything about the stored answers of one URL.
    Inspect(inspect::Args),
    /// Tell how the upstreams of a running larder stand: holds, limits, breakers.
    Upstreams(upstreams::Args),
    /// Tell what upstreams have cost today and this month, and what was not spent.
    Cost(cost::Args),
    /// Run a fake API on this machine, to try larder against.
    Fake(fake::Args),
}

fn main() -> ExitCode {
    // rustls must not guess: every TLS connection uses this provider.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let command = Command::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut world = Context { env: environment(), out: &mut out, err: &mut err };
    let exit = match &command.verb {
        Verb::Run(args) => run::run(args, &mut world),
        Verb::Check(args) => check::run(args, &mut world),
        Verb::Exec(args) => exec::run(args, &mut world),
        Verb::Ca(args) => ca::run(args, &mut world),
        Verb::Doctor(args) => doctor::run(args, &mut world),
        Verb::ExecServe(args) => exec::serve::run(args, &mut world),
        Verb::Env(args) => env::run(args, &mut world),
        Verb::Schema(args) => schema::run(args, &mut world),
        Verb::Reload(args) => reload::run(args, &mut world),
        Verb::Mode(args) => mode::run(args, &mut world),
        Verb::Purge(args) => purge::run(args, &mut world),
        Verb::Ls(args) => ls::run(args, &mut world),
        Verb::Inspect(args) => inspect::run(args, &mut world),
        Verb::Upstreams(args) => upstreams::run(args, &mut world),
        Verb::Cost(args) => cost::run(args, &mut world),
        Verb::Fake(args) => fake::run(args, &mut world),
    };
    ExitCode::from(exit.code())
}
