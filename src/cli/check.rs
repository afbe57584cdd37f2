//! `larder check`: is the configuration valid, and what does it do?
//!
//! Owns: its arguments and what it prints.
//! Never touches: what makes a configuration valid; the network.

mod explain;

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::config_arg::Named;
use crate::cli::{Context, ExitStatus};
use crate::config::diagnostics::{Report, Warning};
use crate::config::{self, Config, describe};
use crate::route::table::Route;
use crate::semantics::redaction;

/// The arguments of `larder check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Named,
    /// Show what would become of a request: its route, its key, what counts as a credential.
    #[arg(long, num_args = 2, value_names = ["METHOD", "URL"])]
    explain: Option<Vec<String>>,
    /// A field of the explained request, such as 'Authorization: Bearer x'; repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "explain")]
    headers: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the file and prints what it says.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let printed = match config::load(args.config.path(), &world.env) {
        Err(report) => invalid(&report, args.json, world).map(|()| ExitStatus::Invalid),
        Ok(config) => match &args.explain {
            None => valid(args, &config, world.out).map(|()| ExitStatus::Ok),
            Some(request) => explained(args, &config, request, world),
        },
    };
    // Whoever reads the output has gone: there is nobody left to tell.
    printed.unwrap_or(ExitStatus::Failed)
}

fn invalid(report: &Report, json: bool, world: &mut Context<'_>) -> io::Result<()> {
    if !json {
        return writeln!(world.err, "{report}");
    }
    let problem = |problem: &config::diagnostics::Problem| {
        json!({
            "line": problem.place.line,
            "column": problem.place.column,
            "path": problem.path,
            "what": problem.what,
            "fix": problem.fix,
        })
    };
    let problems: Vec<_> = report.problems().iter().map(problem).collect();
    let value = json!({ "valid": false, "file": report.name(), "problems": problems });
    writeln!(world.out, "{value:#}")
}

fn explained(
    args: &Args,
    config: &Config,
    request: &[String],
    world: &mut Context<'_>,
) -> io::Result<ExitStatus> {
    let asked = match explain::asked(config, request, &args.headers) {
        Ok(asked) => asked,
        Err(error) => {
            writeln!(world.err, "larder check: {error}")?;
            return Ok(ExitStatus::Usage);
        }
    };
    let explained = explain::explain(config, &asked);
    if args.json {
        writeln!(world.out, "{:#}", explained.to_json())?;
    } else {
        explained.print(world.out)?;
    }
    Ok(ExitStatus::Ok)
}

fn valid(args: &Args, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{:#}", to_json(args, config));
    }
    let routes = config.routes.routes();
    writeln!(
        out,
        "{} is valid: {}.",
        args.config.path().display(),
        counted(routes.len(), "route")
    )?;
    writeln!(out)?;
    for address in &config.listen {
        writeln!(out, "listens on      {address}, {}", describe::users(config, *address))?;
    }
    match &config.admin {
        Some(admin) => {
            writeln!(out, "admin           {}, {}", admin.listen, describe::admin(admin))?
        }
        None => writeln!(out, "admin           off")?,
    }
    writeln!(out, "intercepts      {}", describe::interception(config))?;
    if config.intercepts() {
        writeln!(out, "authority       {}", describe::authority(config))?;
    }
    writeln!(out, "store           {}", describe::store(&config.store))?;
    for rule in &config.resolve {
        writeln!(out, "resolve         {}", describe::resolve(rule))?;
    }
    for upstream in &config.upstreams {
        writeln!(out, "upstream        {}: {}", upstream.name, describe::upstream(upstream))?;
        for (what, says) in describe::conduct(upstream) {
            writeln!(out, "  {what:<14}{says}")?;
        }
    }
    writeln!(out, "\nRoutes, the first match wins; what none matches passes through unstored:")?;
    for route in routes {
        print_route(route, out)?;
    }
    if !config.notes.is_empty() {
        writeln!(out, "\nWorth knowing:")?;
    }
    for note in &config.notes {
        writeln!(out, "  {note}")?;
    }
    Ok(())
}

fn print_route(route: &Route, out: &mut dyn Write) -> io::Result<()> {
    let pattern = redaction::paths_in(&route.pattern.to_string()).into_owned();
    writeln!(out, "\n  {}  {pattern}", route.name)?;
    for (what, says) in describe::policy(&route.policy) {
        writeln!(out, "    {what:<10}{says}")?;
    }
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn to_json(args: &Args, config: &Config) -> Value {
    let note = |note: &Warning| {
        json!({
            "kind": note.kind.token(),
            "line": note.place.line,
            "column": note.place.column,
            "path": note.path,
            "text": note.text,
        })
    };
    json!({
        "valid": true,
        "file": args.config.path().to_string_lossy(),
        "listen": config.listen,
        "admin": config.admin.as_ref().map(|admin| admin.listen),
        "upstreams": config.upstreams.iter().map(|up| &*up.name).collect::<Vec<_>>(),
        "routes": config.routes.routes().iter().map(route_to_json).collect::<Vec<_>>(),
        "notes": config.notes.iter().map(note).collect::<Vec<_>>(),
    })
}

fn route_to_json(route: &Route) -> Value {
    let mut value = json!({
        "name": &*route.name,
        "match": redaction::paths_in(&route.pattern.to_string()),
    });
    for (what, says) in describe::policy(&route.policy) {
        value[what] = says.into();
    }
    value
}

#[cfg(test)]
mod tests;
