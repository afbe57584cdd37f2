//! `larder fake`: a fake API on this machine, to try larder against.
//!
//! Owns: its arguments and what it prints. Never touches: what the fake answers.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Exit, World};
use crate::fake::discord::behaviour::{Behaviour, Fault, final_status};
use crate::fake::discord::{self, Fake, Options};

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
    Discord(Discord),
}

/// How the fake Discord starts.
#[derive(Debug, clap::Args)]
struct Discord {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The least time an answer takes, such as 50ms.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", value_name = "TIME")]
    latency: Duration,
    /// The Cache-Control of its answers; Discord sends none.
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<HeaderValue>,
    #[command(flatten)]
    fault: FaultArgs,
    /// How many calls the fault hits; all of them if left out.
    #[arg(long, value_name = "CALLS", requires = "FaultArgs")]
    times: Option<u64>,
    /// Print where it listens as JSON instead of how to use it.
    #[arg(long)]
    json: bool,
}

/// What goes wrong; one thing at a time.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct FaultArgs {
    /// Answer with this status.
    #[arg(long, value_parser = parse_status, value_name = "CODE")]
    status: Option<StatusCode>,
    /// Answer 429, with Retry-After: SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    rate_limited: Option<u32>,
    /// Close the connection without an answer.
    #[arg(long)]
    close: bool,
    /// Close the connection in the middle of the body.
    #[arg(long)]
    cut: bool,
}

/// Runs a fake until it is told to stop.
pub fn run(args: &Args, world: &mut World<'_>) -> Exit {
    let Api::Discord(discord) = &args.api;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let stop = interrupted()?;
            serve(discord, world.out, stop).await
        })
    });
    match ended {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(world.err, discord.listen, &error);
            Exit::Failed
        }
    }
}

async fn serve(
    args: &Discord,
    out: &mut dyn Write,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let fake = discord::start(args.listen, args.options()).await?;
    if args.json {
        let listening = serde_json::json!({ "api": "discord", "listen": fake.addr });
        writeln!(out, "{listening}")?;
    } else {
        teach(out, &fake)?;
    }
    out.flush()?;
    stop.await;
    fake.stop().await;
    Ok(())
}

impl Discord {
    fn options(&self) -> Options {
        let behaviour = Behaviour {
            latency: self.latency,
            fault: self.fault.fault(),
            times: self.times,
            ..Behaviour::default()
        };
        Options { cache_control: self.cache_control.clone(), behaviour, ..Options::default() }
    }
}

impl FaultArgs {
    fn fault(&self) -> Option<Fault> {
        let status = self.status.map(Fault::Status);
        let limited = self.rate_limited.map(Fault::rate_limited);
        let close = self.close.then_some(Fault::Close);
        let cut = self.cut.then_some(Fault::Cut);
        status.or(limited).or(close).or(cut)
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().and_then(final_status);
    status.ok_or_else(|| "a status is between 200 and 999".to_owned())
}

/// Three lines from nothing to an answer out of the store.
fn teach(out: &mut dyn Write, fake: &Fake) -> io::Result<()> {
    let addr = fake.addr;
    writeln!(out, "The fake Discord listens on http://{addr}")?;
    writeln!(out, "  ask it:          curl http://{addr}{ROLES}")?;
    writeln!(
        out,
        "  through larder:  put `resolve: {{ discord.example.test: \"{addr}\" }}` into proxy.yaml, \
         start `larder run`,\n                   \
         then curl -i -x http://127.0.0.1:8080 http://discord.example.test{ROLES}"
    )?;
    writeln!(
        out,
        "  make it fail:    curl -d '{{\"fault\": {{\"rate_limited\": {{\"retry_after\": 1}}}}, \
         \"times\": 3}}' http://{addr}/_fake/behave"
    )
}

/// One line that names the address and what to do.
fn complain(err: &mut dyn Write, listen: SocketAddr, error: &io::Error) {
    let advice = if error.kind() == io::ErrorKind::AddrInUse {
        "; choose another one with --listen"
    } else {
        ""
    };
    // If stderr is gone, the exit code still tells.
    writeln!(err, "larder: no fake Discord on {listen}: {error}{advice}").unwrap_or_default();
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

const ROLES: &str = "/api/v10/guilds/1/roles";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::env::Env;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(["fake"].into_iter().chain(line.split(' '))).map(|line| line.args)
    }

    fn options(line: &str) -> Options {
        let Api::Discord(discord) = parse(line).unwrap().api;
        discord.options()
    }

    #[test]
    fn each_fault_has_its_argument() {
        let table = [
            ("--status 503", Fault::Status(StatusCode::SERVICE_UNAVAILABLE)),
            ("--rate-limited", Fault::rate_limited(1)),
            ("--rate-limited 7", Fault::rate_limited(7)),
            ("--close", Fault::Close),
            ("--cut", Fault::Cut),
        ];
        for (line, fault) in table {
            assert_eq!(options(&format!("discord {line}")).behaviour, Behaviour::always(fault));
        }
    }

    #[test]
    fn latency_times_and_cache_control_are_taken_over() {
        let line = "discord --latency 50ms --cut --times 3 --cache-control max-age=60";
        let options = options(line);
        assert_eq!(options.behaviour.latency, Duration::from_millis(50));
        assert_eq!(options.behaviour.times, Some(3));
        assert_eq!(options.cache_control.unwrap(), "max-age=60");
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        for line in [
            "discord --cut --close",
            "discord --times 3",
            "discord --status 99",
            "discord --latency 5",
            "slack",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[tokio::test]
    async fn it_says_where_it_listens_and_how_to_use_it_before_it_waits() {
        let Api::Discord(args) = parse("discord --listen 127.0.0.1:0").unwrap().api;
        let mut out = Vec::new();
        serve(&args, &mut out, std::future::ready(())).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("The fake Discord listens on http://127.0.0.1:"), "{out}");
        assert!(out.contains("resolve: { discord.example.test: \"127.0.0.1:"), "{out}");
        assert!(out.contains("/_fake/behave"), "{out}");
    }

    #[test]
    fn a_taken_port_is_one_line_and_a_failure() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let args = parse(&format!("discord --listen {addr}")).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut world = World { env: Env::default(), out: &mut out, err: &mut err };
        assert_eq!(run(&args, &mut world), Exit::Failed);
        let err = String::from_utf8(err).unwrap();
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(&addr.to_string()) && err.contains("--listen"), "{err}");
        assert!(out.is_empty());
    }
}
