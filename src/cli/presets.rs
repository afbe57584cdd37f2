//! `larder presets`: lists the shipped configurations for well-known APIs, or prints one.
//!
//! Owns: its arguments and its output; the texts of the presets, and how several become one file.
//! Never touches: files (`init` writes one).

use std::io::{self, Write};

use serde_json::json;

use crate::cli::{Context, ExitStatus};

/// The arguments of `larder presets`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Print this preset instead of the list.
    name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
A preset is a whole proxy.yaml: an API's hosts, limits, errors and costs, and routes
with lifetimes. `larder init NAME` writes one.

Examples:
  larder presets
  larder presets openai
  larder init openai stripe";

/// A shipped configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// The API and its use, in a line.
    pub summary: &'static str,
    /// The file.
    pub text: &'static str,
}

macro_rules! preset {
    ($name:literal, $summary:literal) => {
        Preset {
            name: $name,
            summary: $summary,
            text: include_str!(concat!("../../docs/presets/", $name, ".yaml")),
        }
    };
}

/// All presets, sorted by name.
pub const ALL: [Preset; 16] = [
    preset!("anthropic", "Anthropic: limits of requests and tokens, overloads, the list of models"),
    preset!("coinmarketcap", "CoinMarketCap: quotes and listings, error codes, credits of the month"),
    preset!("discord", "Discord, for a bot: roles and members, bucket limits, ban guard"),
    preset!("gemini", "Google Gemini: limits of the minute and the day, the list of models"),
    preset!("github", "GitHub REST: free revalidation by ETag, primary and secondary limits"),
    preset!("google-maps", "Google Maps: geocoding, places and routes, errors in 200s, price of a call"),
    preset!("hubspot", "HubSpot CRM: objects and properties, limits of the second and the day"),
    preset!("jira", "Jira Cloud: issues, fields and projects, quotas and bursts"),
    preset!("linear", "Linear: GraphQL limits of requests and complexity, RATELIMITED in a 400"),
    preset!("notion", "Notion: pages, blocks and users, three calls a second"),
    preset!("openai", "OpenAI: limits of requests and tokens, spent money, the list of models"),
    preset!("openweather", "OpenWeather: current weather and forecasts, calls of the day"),
    preset!("salesforce", "Salesforce: describes and records, calls in 24 hours"),
    preset!("shopify", "Shopify Admin: products and orders, REST and GraphQL limits"),
    preset!("slack", "Slack: users and channels, limits per method, errors in 200s"),
    preset!("stripe", "Stripe: products, prices and customers, vetoes and locks"),
];

/// Lists the presets, or prints one.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let printed = match &args.name {
        Some(name) => match find(name) {
            Ok(preset) => print_one(preset, args.json, context.out),
            Err(reason) => return context.fail(reason, ExitStatus::Usage),
        },
        None => print_all(args.json, context.out),
    };
    // If the output is closed, only the exit code reports the failure.
    printed.map_or(ExitStatus::Failed, |()| ExitStatus::Ok)
}

/// The preset with this name, or an error that names the nearest one.
pub(super) fn find(name: &str) -> Result<&'static Preset, String> {
    let wanted = name.to_ascii_lowercase();
    ALL.iter().find(|preset| preset.name == wanted).ok_or_else(|| {
        let names = ALL.map(|preset| preset.name);
        let fix = crate::config::nearest(&wanted, &names)
            .map_or_else(|| format!("known: {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
        format!("there is no preset `{}`: {fix}", name.escape_default())
    })
}

fn print_all(json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let all = ALL.map(|preset| json!({ "name": preset.name, "summary": preset.summary }));
        return writeln!(out, "{}", json!({ "presets": all }));
    }
    for Preset { name, summary, .. } in ALL {
        writeln!(out, "{name:<14} {summary}")?;
    }
    Ok(())
}

fn print_one(preset: &Preset, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let Preset { name, summary, text } = preset;
        return writeln!(out, "{}", json!({ "name": name, "summary": summary, "text": text }));
    }
    out.write_all(preset.text.as_bytes())
}

/// One configuration with the upstreams and routes of several presets. Their `defaults` are left out: they
/// repeat larder's own, which a test compares.
pub(super) fn merged(presets: &[&Preset]) -> String {
    if let [only] = presets {
        return only.text.to_owned();
    }
    let names = presets.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    let hosts = presets.iter().flat_map(|preset| constrained_hosts(preset.text)).collect::<Vec<_>>();
    let mut text = format!(
        "# larder in front of {names}.  Try it: larder check\nversion: 1\n\
         # larder's authority signs for these hosts only.\n\
         tls: {{ ca: {{ constrain: [{}] }} }}\n",
        hosts.join(", ")
    );
    for key in ["upstreams:", "routes:"] {
        text.push_str(key);
        text.push('\n');
        text.extend(presets.iter().map(|preset| block(preset.text, key)));
    }
    text
}

/// The hosts in `tls: { ca: { constrain: [a, b] } }`.
fn constrained_hosts(text: &'static str) -> Vec<&'static str> {
    let list = text.split_once("constrain: [").and_then(|(_, rest)| rest.split_once(']'));
    list.map(|(hosts, _)| hosts.split(',').map(str::trim).collect()).unwrap_or_default()
}

/// The lines below a key of the top level.
fn block(text: &str, key: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != key).skip(1);
    let inside = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
    inside.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::diagnostics::WarningKind;
    use crate::config::env::Env;
    use crate::config::{self, Config};
    use crate::policy::Policy;

    fn parsed(text: &str) -> Config {
        let env: Env = [("DISCORD_TOKEN", "x"), ("CMC_API_KEY", "x")].into_iter().collect();
        config::parse("proxy.yaml", text, &env).unwrap_or_else(|report| panic!("{report}\n{text}"))
    }

    #[test]
    fn every_preset_is_valid_and_has_a_dialect_a_host_and_routes() {
        for preset in ALL {
            let config = parsed(preset.text);
            let unexpected = |kind: WarningKind| kind != WarningKind::OverridesOrigin;
            assert!(config.warnings.iter().all(|note| !unexpected(note.kind)), "{:?}", config.warnings);
            assert_eq!(config.upstreams.len(), 1, "{}", preset.name);
            assert_eq!(&*config.upstreams[0].name, preset.name);
            assert!(!config.routes.routes().is_empty(), "{}", preset.name);
            assert!(preset.text.starts_with("# larder in front of "), "{}", preset.name);
        }
    }

    /// The policy with the window that larder's defaults have, where none is written.
    fn windowed(policy: &Policy) -> Policy {
        let mut policy = policy.clone();
        policy.stale_if_error.window.get_or_insert(Duration::from_secs(86_400));
        policy
    }

    #[test]
    fn several_presets_resolve_as_each_does_alone() {
        let all: Vec<_> = ALL.iter().collect();
        let merged = parsed(&merged(&all));
        assert_eq!(merged.upstreams.len(), ALL.len());
        for preset in ALL {
            let alone = parsed(preset.text);
            let upstream = merged.upstreams.iter().find(|one| *one.name == *preset.name);
            assert_eq!(upstream, Some(&alone.upstreams[0]));
            for route in alone.routes.routes() {
                let same = merged.routes.routes().iter().find(|other| other.name == route.name);
                assert_eq!(
                    same.map(|same| windowed(&same.policy)),
                    Some(windowed(&route.policy)),
                    "{}",
                    preset.name
                );
            }
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        assert!(find("opnai").unwrap_err().contains("did you mean `openai`?"));
        assert!(find("facebook-graph").unwrap_err().contains("known: anthropic, "));
        assert_eq!(find("GitHub").unwrap().name, "github");
    }
}
