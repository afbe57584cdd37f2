//! Tests of the arguments and the output.

use std::time::Duration;

use clap::{CommandFactory, Parser};
use http::StatusCode;

use super::*;
use crate::config::env::Env;
use crate::fake::coinmarketcap::{Options as CmcOptions, Plan};
use crate::fake::discord::Options;
use crate::fake::discord::limits::{Ban, Limits, Shared};
use crate::fake::faults::{Fault, Faults, Percentage, RateLimited};
use crate::fake::rate::Rate;
use crate::fake::script::{Phase, Script};

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &str) -> Result<Args, clap::Error> {
    CommandLine::try_parse_from(["fake"].into_iter().chain(line.split(' '))).map(|line| line.args)
}

fn options(line: &str) -> Options {
    let Api::Discord(discord) = parse(line).unwrap().api else { panic!("{line}") };
    discord.options()
}

fn cmc_options(line: &str) -> CmcOptions {
    let Api::CoinMarketCap(coins) = parse(line).unwrap().api else { panic!("{line}") };
    coins.options()
}

#[test]
fn each_fault_has_its_argument() {
    let table = [
        ("--status 503", Fault::Status(StatusCode::SERVICE_UNAVAILABLE)),
        ("--rate-limited", Fault::rate_limited(1)),
        ("--rate-limited 7", Fault::rate_limited(7)),
        ("--rate-limited-mutely", Fault::RateLimited(RateLimited::default())),
        ("--close", Fault::Close),
        ("--cut", Fault::Cut),
    ];
    for (line, fault) in table {
        let expected = Faults::always(fault);
        assert_eq!(options(&format!("discord {line}")).behaviour, expected);
        assert_eq!(cmc_options(&format!("coinmarketcap {line}")).behaviour, expected);
    }
}

#[test]
fn latency_times_share_and_cache_control_are_applied() {
    let line = "discord --latency 50ms --cut --times 3 --share 0.5 --cache-control max-age=60";
    let options = options(line);
    assert_eq!(options.behaviour.latency, Duration::from_millis(50));
    assert_eq!(options.behaviour.times, Some(3));
    assert_eq!(options.behaviour.share, Percentage::from_fraction(0.5).unwrap());
    assert_eq!(options.cache_control.unwrap(), "max-age=60");
    assert_eq!((options.script, options.limits), (None, None));
}

#[test]
fn a_storm_precedes_an_outage_with_the_retry_after_of_the_api() {
    let minute = Duration::from_secs(60);
    let script = |retry_after| {
        let storm = Phase::storm(minute, retry_after);
        Some(Script::try_from(vec![storm, Phase::outage(10 * minute)]).unwrap())
    };
    assert_eq!(options("discord --outage 10m --storm 60s").script, script(Some(1)));
    assert_eq!(cmc_options("coinmarketcap --storm 60s --outage 10m").script, script(None));
    let outage = Script::try_from(vec![Phase::outage(minute)]).unwrap();
    assert_eq!(options("discord --outage 1m").script, Some(outage));
}

#[test]
fn a_script_is_an_argument_or_a_file() {
    let json = r#"[{"for":"60s","fault":{"status":503}},{"fault":null}]"#;
    let script: Script = serde_json::from_str(json).unwrap();
    assert_eq!(options(&format!("discord --script {json}")).script, Some(script.clone()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script.json");
    std::fs::write(&path, json).unwrap();
    let line = format!("coinmarketcap --script {}", path.display());
    assert_eq!(cmc_options(&line).script, Some(script));
    for (line, part) in [
        ("discord --script nowhere.json", "not a JSON list"),
        (r#"discord --script [{"fault":"cut"},{"for":"1s"}]"#, "phase 1"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn any_limit_enables_the_default_limits() {
    let rate = |limit, seconds| Rate { limit, window: Duration::from_secs(seconds) };
    assert_eq!(options("discord --limit").limits, Some(Limits::default()));
    let all = "discord --limit 5/s --global 20/2s --shared 7=1/m --ban 100/10m --ban-for 5m";
    let expected = Limits {
        route: rate(5, 1),
        global: rate(20, 2),
        shared: vec![Shared { resource: "7".to_owned(), rate: rate(1, 60) }],
        ban: Some(Ban { after: rate(100, 600), length: Duration::from_secs(300) }),
    };
    assert_eq!(options(all).limits, Some(expected));
}

#[test]
fn the_plan_the_key_and_the_price_are_applied() {
    let line = "coinmarketcap --key k --per-minute 30 --per-day 333 --per-month 10000 \
                --per-address 60 --price 0.5 --errors-as-200 --validators";
    let options = cmc_options(line);
    let plan = Plan { minute: Some(30), day: Some(333), month: Some(10_000), address: Some(60) };
    assert_eq!((options.plan, options.key.as_deref()), (plan, Some("k")));
    assert!(options.errors_as_200 && options.validators);
    assert_eq!(options.price_per_credit.to_bits(), 0.5_f64.to_bits());
    assert_eq!(cmc_options("coinmarketcap").plan, Plan::default());
}

#[test]
fn invalid_or_contradictory_arguments_are_rejected() {
    for line in [
        "discord --cut --close",
        "discord --times 3",
        "discord --share 0.5",
        "discord --cut --share 2",
        "discord --status 99",
        "discord --latency 5",
        "discord --storm 60s --cut",
        "discord --storm 60s --script []",
        "discord --script [] --latency 1s",
        "discord --limit fifty",
        "discord --shared 5/s",
        "coinmarketcap --per-day many",
        "slack",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn help_explains_scripts_and_control_paths() {
    for (api, probe) in [("discord", "/_fake/limits"), ("coinmarketcap", "/_fake/bill")] {
        let mut command = CommandLine::command();
        let help = command.find_subcommand_mut(api).unwrap().render_long_help().to_string();
        for part in ["--storm", "--outage", "--script", "/_fake/script", probe] {
            assert!(help.contains(part), "{api}: {part}: {help}");
        }
        let script = help.split_once("first:\n").unwrap().1.split_once("Faults").unwrap().0;
        assert!(serde_json::from_str::<Script>(script).is_ok(), "{api}: {script}");
    }
}

async fn output_of(line: &str) -> String {
    let mut out = Vec::new();
    parse(line).unwrap().api.serve(&mut out, std::future::ready(())).await.unwrap();
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn the_address_and_the_quick_start_are_printed_at_the_start() {
    let out = output_of("discord --listen 127.0.0.1:0").await;
    assert!(out.starts_with("The fake Discord listens on http://127.0.0.1:"), "{out}");
    assert!(out.contains("resolve: { discord.example.test: \"127.0.0.1:"), "{out}");
    assert!(out.contains("/_fake/behave"), "{out}");
    let out = output_of("coinmarketcap --listen 127.0.0.1:0").await;
    assert!(out.starts_with("The fake CoinMarketCap listens on http://127.0.0.1:"), "{out}");
    assert!(out.contains("-H 'X-CMC_PRO_API_KEY: any'"), "{out}");
    let out = output_of("coinmarketcap --listen 127.0.0.1:0 --json").await;
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["api"], "coinmarketcap");
}

#[test]
fn a_port_in_use_is_reported_in_one_line_and_fails() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    for (api, name) in [("discord", "Discord"), ("coinmarketcap", "CoinMarketCap")] {
        let args = parse(&format!("{api} --listen {addr}")).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut context = Context { env: Env::default(), out: &mut out, err: &mut err };
        assert_eq!(run(&args, &mut context), ExitStatus::Failed);
        let err = String::from_utf8(err).unwrap();
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(&addr.to_string()) && err.contains("--listen"), "{err}");
        assert!(err.contains(name), "{err}");
        assert!(out.is_empty());
    }
}
