//! `larder fake discord`.
//!
//! Owns: its arguments. Never touches: the responses of the fake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;

use crate::cli::fake::QuickStart;
use crate::cli::fake::faults::{FaultFlags, SCRIPTS};
use crate::clock::Clock;
use crate::fake::discord::limits::{Ban, Limits, Shared};
use crate::fake::discord::{Fake, Options, start};
use crate::fake::rate::Rate;

/// The arguments of the fake Discord.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The address on which it listens; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    #[command(flatten)]
    fault_flags: FaultFlags,
    /// The Cache-Control of its responses; Discord sends none.
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<HeaderValue>,
    /// Enforce limits: the calls for each bucket, guild and caller.
    #[arg(long, value_name = "RATE", num_args = 0..=1, default_missing_value = "50/s")]
    limit: Option<Rate>,
    /// Enforce limits: the calls of one caller in total; 50/s if any limit is set.
    #[arg(long, value_name = "RATE")]
    global: Option<Rate>,
    /// Enforce limits: the calls for one guild, of all callers, such as 7=5/s.
    #[arg(long, value_parser = parse_shared, value_name = "ID=RATE")]
    shared: Vec<Shared>,
    /// Enforce limits: ban a caller that receives more 401, 403 and 429 than this; 10000/10m if any limit
    /// is set.
    #[arg(long, value_name = "RATE")]
    ban: Option<Rate>,
    /// The duration of a ban.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "TIME")]
    ban_for: Duration,
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
            cache_control: self.cache_control.clone(),
            behaviour: self.fault_flags.behaviour(),
            script: self.fault_flags.script(Some(1)),
            limits: self.limits(),
            clock: Clock::system(),
        }
    }

    fn limits(&self) -> Option<Limits> {
        let rates = [self.limit, self.global, self.ban];
        if rates.iter().all(Option::is_none) && self.shared.is_empty() {
            return None;
        }
        let defaults = Limits::default();
        let after = self.ban.unwrap_or(Ban::default().after);
        Some(Limits {
            route: self.limit.unwrap_or(defaults.route),
            global: self.global.unwrap_or(defaults.global),
            shared: self.shared.clone(),
            ban: Some(Ban { after, length: self.ban_for }),
        })
    }
}

fn parse_shared(text: &str) -> Result<Shared, String> {
    let (resource, rate) = text.split_once('=').ok_or("specify the guild of the limit, such as 7=5/s")?;
    let rate = rate.parse::<Rate>().map_err(|error| error.to_string())?;
    Ok(Shared { resource: resource.to_owned(), rate })
}

pub(super) const QUICK_START: QuickStart = QuickStart {
    api: "discord",
    name: "Discord",
    host: "discord.example.test",
    path: "/api/v10/guilds/1/roles",
    fields: "",
};

/// The text at the end of `--help`.
pub(super) fn help() -> String {
    format!("{SCRIPTS}\n  GET  /_fake/limits    429 by scope, bans\n\n{EXAMPLE}")
}

const EXAMPLE: &str = "\
A 429 storm of one minute, then an outage of ten, with enforced limits:
  larder fake discord --limit 50/s --storm 60s --outage 10m";
