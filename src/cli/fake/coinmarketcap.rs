//! `larder fake coinmarketcap`.
//!
//! Owns: its arguments. Never touches: the responses of the fake.

use std::io;
use std::net::SocketAddr;

use crate::cli::fake::QuickStart;
use crate::cli::fake::faults::{FaultFlags, SCRIPTS};
use crate::clock::Clock;
use crate::fake::coinmarketcap::{Fake, Options, Plan, start};

/// The arguments of the fake CoinMarketCap.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The address on which it listens; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:9002", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    #[command(flatten)]
    fault_flags: FaultFlags,
    /// The only key that it accepts. Default: any key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The calls per minute for a key (error code 1008).
    #[arg(long, value_name = "CALLS")]
    per_minute: Option<u64>,
    /// The credits per UTC day for a key (error code 1009).
    #[arg(long, value_name = "CREDITS")]
    per_day: Option<u64>,
    /// The credits per UTC month for a key (error code 1010).
    #[arg(long, value_name = "CREDITS")]
    per_month: Option<u64>,
    /// The calls per minute for an address (error code 1011).
    #[arg(long, value_name = "CALLS")]
    per_address: Option<u64>,
    /// The price of a credit, in US dollars.
    #[arg(long, default_value_t = 0.00167, value_name = "DOLLARS")]
    price: f64,
    /// Send errors with status 200, so that only the body shows them.
    #[arg(long)]
    errors_as_200: bool,
    /// Add validators to responses; the real API sends none.
    #[arg(long)]
    validators: bool,
    /// Print the address as JSON instead of the quick start.
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) async fn start(&self) -> io::Result<Fake> {
        start(self.listen, self.options()).await
    }

    pub(super) fn options(&self) -> Options {
        Options {
            behaviour: self.fault_flags.behaviour(),
            script: self.fault_flags.script(None),
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

pub(super) const QUICK_START: QuickStart = QuickStart {
    api: "coinmarketcap",
    name: "CoinMarketCap",
    host: "coinmarketcap.example.test",
    path: "/v2/cryptocurrency/quotes/latest?id=1,1027",
    fields: "-H 'X-CMC_PRO_API_KEY: any' ",
};

/// The text at the end of `--help`.
pub(super) fn help() -> String {
    format!(
        "{SCRIPTS}\n  GET  /_fake/bill      credits by UTC day and month, and their price\n  \
         GET  /_fake/limits    rejections by error code\n\n{EXAMPLE}"
    )
}

const EXAMPLE: &str = "\
A limit of 333 credits a day, reported in the body of a 429 without Retry-After:
  larder fake coinmarketcap --per-minute 30 --per-day 333";
