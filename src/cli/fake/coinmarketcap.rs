//! `larder fake coinmarketcap`.
//!
//! Owns: its arguments. Never touches: what the fake answers.

use std::io;
use std::net::SocketAddr;

use crate::cli::fake::QuickStart;
use crate::cli::fake::faults::{FaultFlags, SCRIPTS};
use crate::clock::Clock;
use crate::fake::coinmarketcap::{Fake, Options, Plan, start};

/// How the fake CoinMarketCap starts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9002", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    #[command(flatten)]
    conduct: FaultFlags,
    /// The only key that it accepts; any if left out.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Calls that a key may make in a minute (error code 1008).
    #[arg(long, value_name = "CALLS")]
    per_minute: Option<u64>,
    /// Credits that a key may use in a UTC day (error code 1009).
    #[arg(long, value_name = "CREDITS")]
    per_day: Option<u64>,
    /// Credits that a key may use in a UTC month (error code 1010).
    #[arg(long, value_name = "CREDITS")]
    per_month: Option<u64>,
    /// Calls that an address may make in a minute (error code 1011).
    #[arg(long, value_name = "CALLS")]
    per_address: Option<u64>,
    /// What a credit costs, in US dollars.
    #[arg(long, default_value_t = 0.00167, value_name = "DOLLARS")]
    price: f64,
    /// Answer errors with status 200, so that only the body tells.
    #[arg(long)]
    errors_as_200: bool,
    /// Add validators to answers; the real ones have none.
    #[arg(long)]
    validators: bool,
    /// Print where it listens as JSON instead of how to use it.
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) async fn start(&self) -> io::Result<Fake> {
        start(self.listen, self.options()).await
    }

    pub(super) fn options(&self) -> Options {
        Options {
            behaviour: self.conduct.behaviour(),
            script: self.conduct.script(None),
            key: self.key.clone(),
            plan: Plan {
                minute: self.per_minute,
                day: self.per_day,
                month: self.per_month,
                address: self.per_address,
            },
            price_per_credit: self.price,
            errors_as_200: self.errors_as_200,
            validators: self.validators,
            clock: Clock::system(),
        }
    }
}

pub(super) const LESSON: QuickStart = QuickStart {
    api: "coinmarketcap",
    name: "CoinMarketCap",
    host: "coinmarketcap.example.test",
    path: "/v2/cryptocurrency/quotes/latest?id=1,1027",
    fields: "-H 'X-CMC_PRO_API_KEY: any' ",
};

/// What `--help` says at its end.
pub(super) fn help() -> String {
    format!(
        "{SCRIPTS}\n  GET  /_fake/bill      credits by UTC day and month, and their price\n  \
         GET  /_fake/limits    refusals by error code\n\n{EXAMPLE}"
    )
}

const EXAMPLE: &str = "\
A day's limit of 333 credits, told in the body of a 429 without Retry-After:
  larder fake coinmarketcap --per-minute 30 --per-day 333";
