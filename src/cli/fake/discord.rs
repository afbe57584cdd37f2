//! `larder fake discord`.
//!
//! Owns: its arguments. Never touches: what the fake answers.

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

/// How the fake Discord starts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    #[command(flatten)]
    conduct: FaultFlags,
    /// The Cache-Control of its answers; Discord sends none.
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<HeaderValue>,
    /// Keep limits: so many calls for each bucket, guild and caller.
    #[arg(long, value_name = "RATE", num_args = 0..=1, default_missing_value = "50/s")]
    limit: Option<Rate>,
    /// Keep limits: so many calls of one caller in all; 50/s if there are any limits.
    #[arg(long, value_name = "RATE")]
    global: Option<Rate>,
    /// Keep limits: so many calls about one guild, whoever makes them, such as 7=5/s.
    #[arg(long, value_parser = parse_shared, value_name = "ID=RATE")]
    shared: Vec<Shared>,
    /// Keep limits: ban who gets more 401, 403 and 429 than this; 10000/10m if there are any limits.
    #[arg(long, value_name = "RATE")]
    ban: Option<Rate>,
    /// How long a ban lasts.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "TIME")]
    ban_for: Duration,
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
            cache_control: self.cache_control.clone(),
            behaviour: self.conduct.behaviour(),
            script: self.conduct.script(Some(1)),
            limits: self.limits(),
            clock: Clock::system(),
        }
    }

    fn limits(&self) -> Option<Limits> {
        let rates = [self.limit, self.global, self.ban];
        if rates.iter().all(Option::is_none) && self.shared.is_empty() {
            return None;
        }
        let usual = Limits::default();
        let after = self.ban.unwrap_or(Ban::default().after);
        Some(Limits {
            route: self.limit.unwrap_or(usual.route),
            global: self.global.unwrap_or(usual.global),
            shared: self.shared.clone(),
            ban: Some(Ban { after, length: self.ban_for }),
        })
    }
}

fn parse_shared(text: &str) -> Result<Shared, String> {
    let (resource, rate) = text.split_once('=').ok_or("say whose limit it is, such as 7=5/s")?;
    let rate = rate.parse::<Rate>().map_err(|error| error.to_string())?;
    Ok(Shared { resource: resource.to_owned(), rate })
}

pub(super) const LESSON: QuickStart = QuickStart {
    api: "discord",
    name: "Discord",
    host: "discord.example.test",
    path: "/api/v10/guilds/1/roles",
    fields: "",
};

/// What `--help` says at its end.
pub(super) fn help() -> String {
    format!("{SCRIPTS}\n  GET  /_fake/limits    429 by scope, bans\n\n{EXAMPLE}")
}

const EXAMPLE: &str = "\
A storm of a minute, then an outage of ten, at a Discord that keeps its limits:
  larder fake discord --limit 50/s --storm 60s --outage 10m";
