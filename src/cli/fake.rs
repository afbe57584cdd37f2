//! `larder fake`: a fake API on this machine, to try larder against.
//!
//! Owns: its arguments and what it prints. Never touches: what the fake answers.

mod coinmarketcap;
mod discord;
mod faults;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Context, ExitStatus};
use crate::fake::api;
use crate::fake::server::FakeServer;

/// The arguments of `larder fake`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    api: Api,
}

/// Which API.
#[derive(Debug, clap::Subcommand)]
enum Api {
    /// Discord: roles, members, users; changes on request, fails on request.
    #[command(after_help = discord::help())]
    Discord(discord::Args),
    /// CoinMarketCap: quotes of coins that are made up, limits, error codes, a bill.
    #[command(name = "coinmarketcap", after_help = coinmarketcap::help())]
    CoinMarketCap(coinmarketcap::Args),
}

/// What a newcomer is told about an API.
struct QuickStart {
    /// As it is called in JSON.
    api: &'static str,
    /// As people call it.
    name: &'static str,
    /// The host it stands for in examples.
    host: &'static str,
    /// A path worth asking.
    path: &'static str,
    /// What curl needs beside the URL.
    fields: &'static str,
}

/// Runs a fake until it is told to stop.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let stop = interrupted()?;
            args.api.serve(world.out, stop).await
        })
    });
    match ended {
        Ok(()) => ExitStatus::Ok,
        Err(error) => {
            let (lesson, listen) = args.api.place();
            complain(world.err, lesson.name, listen, &error);
            ExitStatus::Failed
        }
    }
}

impl Api {
    async fn serve(&self, out: &mut dyn Write, stop: impl Future<Output = ()>) -> io::Result<()> {
        match self {
            Self::Discord(args) => {
                serve(&discord::LESSON, args.start().await?, args.json, out, stop).await
            }
            Self::CoinMarketCap(args) => {
                serve(&coinmarketcap::LESSON, args.start().await?, args.json, out, stop).await
            }
        }
    }

    fn place(&self) -> (&'static QuickStart, SocketAddr) {
        match self {
            Self::Discord(args) => (&discord::LESSON, args.listen),
            Self::CoinMarketCap(args) => (&coinmarketcap::LESSON, args.listen),
        }
    }
}

async fn serve<A: api::Api>(
    lesson: &QuickStart,
    fake: FakeServer<A>,
    json: bool,
    out: &mut dyn Write,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    if json {
        let listening = serde_json::json!({ "api": lesson.api, "listen": fake.addr });
        writeln!(out, "{listening}")?;
    } else {
        lesson.teach(out, fake.addr)?;
    }
    out.flush()?;
    stop.await;
    fake.stop().await;
    Ok(())
}

impl QuickStart {
    /// Three lines from nothing to an answer out of the store, and how to break it.
    fn teach(&self, out: &mut dyn Write, addr: SocketAddr) -> io::Result<()> {
        let Self { name, host, path, fields, api: _ } = self;
        writeln!(out, "The fake {name} listens on http://{addr}")?;
        writeln!(out, "  ask it:          curl {fields}'http://{addr}{path}'")?;
        writeln!(
            out,
            "  through larder:  put `resolve: {{ {host}: \"{addr}\" }}` into proxy.yaml, \
             start `larder run`,\n                   \
             then curl -i -x http://127.0.0.1:8080 {fields}'http://{host}{path}'"
        )?;
        writeln!(
            out,
            "  make it fail:    curl -d '{{\"fault\": {{\"rate_limited\": {{\"retry_after\": 1}}}}, \
             \"times\": 3}}' http://{addr}/_fake/behave"
        )?;
        writeln!(
            out,
            "  a storm, then an outage:\n                   curl -d '[{{\"for\": \"60s\", \
             \"fault\": {{\"rate_limited\": {{}}}}}}, {{\"for\": \"10m\", \"fault\": \
             {{\"status\": 503}}}}]' http://{addr}/_fake/script"
        )
    }
}

/// One line that names the address and what to do.
fn complain(err: &mut dyn Write, name: &str, listen: SocketAddr, error: &io::Error) {
    let advice = if error.kind() == io::ErrorKind::AddrInUse {
        "; choose another one with --listen"
    } else {
        ""
    };
    // If stderr is gone, the exit code still tells.
    writeln!(err, "larder: no fake {name} on {listen}: {error}{advice}").unwrap_or_default();
}

/// Ends with SIGINT or SIGTERM.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests;
