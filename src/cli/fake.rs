//! `larder fake`: runs a fake API on this machine, to try larder with it.
//!
//! Owns: its arguments and its output. Never touches: the responses of the fake.

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

/// The available fake APIs.
#[derive(Debug, clap::Subcommand)]
enum Api {
    /// Discord: roles, members, users; data changes and faults on request.
    #[command(after_help = discord::help())]
    Discord(discord::Args),
    /// CoinMarketCap: quotes of invented coins, limits, error codes, billing.
    #[command(name = "coinmarketcap", after_help = coinmarketcap::help())]
    CoinMarketCap(coinmarketcap::Args),
}

/// The data for the quick start of an API.
struct QuickStart {
    /// Its name in JSON.
    api: &'static str,
    /// Its display name.
    name: &'static str,
    /// Its host name in examples.
    host: &'static str,
    /// A path for the example request.
    path: &'static str,
    /// The arguments that curl needs in addition to the URL.
    fields: &'static str,
}

/// Runs a fake until SIGINT or SIGTERM.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let stop = interrupted()?;
            args.api.serve(context.out, stop).await
        })
    });
    match ended {
        Ok(()) => ExitStatus::Ok,
        Err(error) => {
            let (quick_start, listen) = args.api.quick_start();
            print_error(context.err, quick_start.name, listen, &error);
            ExitStatus::Failed
        }
    }
}

impl Api {
    async fn serve(&self, out: &mut dyn Write, stop: impl Future<Output = ()>) -> io::Result<()> {
        match self {
            Self::Discord(args) => {
                serve(&discord::QUICK_START, args.start().await?, args.json, out, stop).await
            }
            Self::CoinMarketCap(args) => {
                serve(&coinmarketcap::QUICK_START, args.start().await?, args.json, out, stop).await
            }
        }
    }

    fn quick_start(&self) -> (&'static QuickStart, SocketAddr) {
        match self {
            Self::Discord(args) => (&discord::QUICK_START, args.listen),
            Self::CoinMarketCap(args) => (&coinmarketcap::QUICK_START, args.listen),
        }
    }
}

async fn serve<A: api::Api>(
    quick_start: &QuickStart,
    fake: FakeServer<A>,
    json: bool,
    out: &mut dyn Write,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    if json {
        let listening = serde_json::json!({ "api": quick_start.api, "listen": fake.addr });
        writeln!(out, "{listening}")?;
    } else {
        quick_start.print(out, fake.addr)?;
    }
    out.flush()?;
    stop.await;
    fake.stop().await;
    Ok(())
}

impl QuickStart {
    /// Prints the commands to request it directly and through larder, and to inject faults.
    fn print(&self, out: &mut dyn Write, addr: SocketAddr) -> io::Result<()> {
        let Self { name, host, path, fields, api: _ } = self;
        writeln!(out, "The fake {name} listens on http://{addr}")?;
        writeln!(out, "  request it:      curl {fields}'http://{addr}{path}'")?;
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

/// Prints one line with the address, the error and the fix.
fn print_error(err: &mut dyn Write, name: &str, listen: SocketAddr, error: &io::Error) {
    let advice =
        if error.kind() == io::ErrorKind::AddrInUse { "; choose another one with --listen" } else { "" };
    // If standard error is closed, only the exit code reports the failure.
    writeln!(err, "larder: no fake {name} on {listen}: {error}{advice}").unwrap_or_default();
}

/// A future that ends with SIGINT or SIGTERM.
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
