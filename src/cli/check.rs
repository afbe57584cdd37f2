//! `larder check`: validates the configuration and describes its effect.
//!
//! Owns: its arguments and its output. Never touches: the rules for a valid configuration; the network.

mod explain;

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::{ConfigArg, Context, ExitStatus};
use crate::config::diagnostics::{Report, Warning};
use crate::config::{self, Config, describe};
use crate::route::table::Route;
use crate::semantics::redaction;

/// The arguments of `larder check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Explain how a request would be handled: its route, its key, its credentials.
    #[arg(long, num_args = 2, value_names = ["METHOD", "URL"])]
    explain: Option<Vec<String>>,
    /// A header field of the explained request, such as 'Authorization: Bearer x'; repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "explain")]
    headers: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the file and prints its effect or its problems.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    if let Err(exit) = args.config.locate(context) {
        return exit;
    }
    let printed = match config::load(args.config.path(), &context.env) {
        Err(report) => print_invalid(&report, args.json, context).map(|()| ExitStatus::Invalid),
        Ok(config) => match &args.explain {
            None => print_valid(args, &config, context.out).map(|()| ExitStatus::Ok),
            Some(method_and_url) => print_explained(args, &config, method_and_url, context),
        },
    };
    // If the output is closed, only the exit code reports the failure.
    printed.unwrap_or(ExitStatus::Failed)
}

fn print_invalid(report: &Report, json: bool, context: &mut Context<'_>) -> io::Result<()> {
    if !json {
        return writeln!(context.err, "{report}");
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
    writeln!(context.out, "{value:#}")
}

fn print_explained(
    args: &Args,
    config: &Config,
    method_and_url: &[String],
    context: &mut Context<'_>,
) -> io::Result<ExitStatus> {
    let request = match explain::build_request(config, method_and_url, &args.headers) {
        Ok(request) => request,
        Err(error) => {
            writeln!(context.err, "larder check: {error}")?;
            return Ok(ExitStatus::Usage);
        }
    };
    let explanation = explain::explain(config, &request);
    if args.json {
        writeln!(context.out, "{:#}", explanation.to_json())?;
    } else {
        explanation.print(context.out)?;
    }
    Ok(ExitStatus::Ok)
}

fn print_valid(args: &Args, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{:#}", to_json(args, config));
    }
    let routes = config.routes.routes();
    writeln!(out, "{} is valid: {}.", args.config.path().display(), counted(routes.len(), "route"))?;
    writeln!(out)?;
    for address in &config.listen {
        writeln!(out, "listens on      {address}, {}", describe::users(config, *address))?;
    }
    match &config.admin {
        Some(admin) => {
            writeln!(out, "admin           {}, {}", admin.listen, describe::admin(admin))?;
        }
        None => writeln!(out, "admin           off")?,
    }
    writeln!(out, "intercepts      {}", describe::interception(config))?;
    if config.intercepts() {
        writeln!(out, "authority       {}", describe::certificate_authority(config))?;
    }
    writeln!(out, "store           {}", describe::store(&config.store))?;
    for rule in &config.resolve {
        writeln!(out, "resolve         {}", describe::resolve(rule))?;
    }
    if let Some(parents) = config.proxies.describe() {
        writeln!(out, "parent proxy    {parents}")?;
    }
    for upstream in &config.upstreams {
        writeln!(out, "upstream        {}: {}", upstream.name, describe::upstream(upstream))?;
        for (label, text) in describe::upstream_policy(upstream) {
            writeln!(out, "  {label:<14}{text}")?;
        }
    }
    writeln!(out, "\nRoutes, the first match wins; other requests pass through and are not stored:")?;
    print_routes(routes, out)?;
    let (notes, warnings): (Vec<_>, Vec<_>) =
        config.warnings.iter().partition(|warning| warning.kind.is_documented_use());
    print_warnings("Warnings", &warnings, out)?;
    print_warnings("Notes", &notes, out)
}

/// Prints the routes in their order. The policy of adjacent routes is printed once, below them; one that was
/// printed before is named by its first route.
fn print_routes(routes: &[Arc<Route>], out: &mut dyn Write) -> io::Result<()> {
    let mut printed: Vec<(Vec<(&str, String)>, &str)> = Vec::new();
    let lines = |route: &Route| describe::policy(&route.policy);
    for adjacent in routes.chunk_by(|one, next| lines(one) == lines(next)) {
        writeln!(out)?;
        let width = adjacent.iter().map(|route| route.name.chars().count()).max().unwrap_or_default();
        for route in adjacent {
            let pattern = redaction::paths_in(&route.pattern.to_string()).into_owned();
            writeln!(out, "  {:<width$}  {pattern}", route.name)?;
        }
        let Some(first) = adjacent.first() else { continue };
        let policy = lines(first);
        if let Some((_, name)) = printed.iter().find(|(earlier, _)| *earlier == policy) {
            writeln!(out, "    as {name}")?;
            continue;
        }
        for (label, text) in &policy {
            writeln!(out, "    {label:<10}{text}")?;
        }
        printed.push((policy, &first.name));
    }
    Ok(())
}

/// Prints warnings below a heading. Those with equal texts are printed once, with the number of the others.
fn print_warnings(heading: &str, warnings: &[&Warning], out: &mut dyn Write) -> io::Result<()> {
    if !warnings.is_empty() {
        writeln!(out, "\n{heading}:")?;
    }
    for (index, warning) in warnings.iter().enumerate() {
        let is_same = |other: &&&Warning| other.kind == warning.kind && other.text == warning.text;
        if warnings.iter().take(index).any(|other| is_same(&other)) {
            continue;
        }
        let more = match warnings.iter().skip(index + 1).filter(is_same).count() {
            0 => String::new(),
            count => format!(" (and at {})", counted(count, "more place")),
        };
        writeln!(out, "  {warning}{more}")?;
    }
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn to_json(args: &Args, config: &Config) -> Value {
    let warning = |warning: &Warning| {
        json!({
            "kind": warning.kind.token(),
            "line": warning.place.line,
            "column": warning.place.column,
            "path": warning.path,
            "text": warning.text,
        })
    };
    json!({
        "valid": true,
        "file": args.config.path().to_string_lossy(),
        "listen": config.listen,
        "admin": config.admin.as_ref().map(|admin| admin.listen),
        "upstreams": config.upstreams.iter().map(|up| &*up.name).collect::<Vec<_>>(),
        "routes": config.routes.routes().iter().map(|route| route_to_json(route)).collect::<Vec<_>>(),
        "notes": config.warnings.iter().map(warning).collect::<Vec<_>>(),
    })
}

fn route_to_json(route: &Route) -> Value {
    let mut value = json!({
        "name": &*route.name,
        "match": redaction::paths_in(&route.pattern.to_string()),
    });
    for (label, text) in describe::policy(&route.policy) {
        value[label] = text.into();
    }
    value
}

#[cfg(test)]
mod tests;
