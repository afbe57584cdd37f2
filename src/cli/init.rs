//! `larder init`: writes a proxy.yaml to begin with, from presets or a commented minimal one.
//!
//! Owns: its arguments, and that no existing file is overwritten. Never touches: the texts (`presets`).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::presets;
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The APIs, as `larder presets` lists them. Without one: a minimal file with comments.
    names: Vec<String>,
    /// The file to write. An existing one is never overwritten.
    #[arg(long, default_value = "proxy.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print the file instead.
    #[arg(long)]
    stdout: bool,
}

const EXAMPLE: &str = "\
Examples:
  larder init github
  larder init openai stripe
  larder init --stdout notion";

/// The file without a preset.
const STARTER: &str = include_str!("init/starter.yaml");

/// Writes the file, and prints what to do next.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let text = match text(&args.names) {
        Ok(text) => text,
        Err(reason) => return context.fail(reason, ExitStatus::Usage),
    };
    if args.stdout {
        let printed = context.out.write_all(text.as_bytes());
        return printed.map_or(ExitStatus::Failed, |()| ExitStatus::Ok);
    }
    let file = args.config.display();
    match write_new(&args.config, &text) {
        Ok(()) => {
            let printed = print_next(&args.config, &text, context.out);
            printed.map_or(ExitStatus::Failed, |()| ExitStatus::Ok)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let fix =
                "print the preset with --stdout and copy what you need, or name another file with --config";
            context.fail(format!("{file} exists and is not overwritten: {fix}"), ExitStatus::Failed)
        }
        Err(error) => context.fail(format!("{file} cannot be written: {error}"), ExitStatus::Failed),
    }
}

fn text(names: &[String]) -> Result<String, String> {
    let mut chosen = Vec::new();
    for name in names {
        let preset = presets::find(name)?;
        if !chosen.contains(&preset) {
            chosen.push(preset);
        }
    }
    Ok(if chosen.is_empty() { STARTER.to_owned() } else { presets::merged(&chosen) })
}

/// Creates the file with this content; an existing one, or a link, is an error.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn print_next(path: &Path, text: &str, out: &mut dyn Write) -> io::Result<()> {
    let argument =
        if path == Path::new("proxy.yaml") { String::new() } else { format!(" --config {}", path.display()) };
    writeln!(out, "wrote {}", path.display())?;
    for name in variables(text) {
        writeln!(out, "  export {name}=…          the secret that it names; or comment `credential` out")?;
    }
    writeln!(out, "  larder check{argument}             what it does")?;
    writeln!(out, "  larder exec{argument} -- CMD       your app, HTTPS included")
}

/// The environment variables that a file needs.
fn variables(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let named = lines.filter_map(|line| line.split_once("from_env: ").map(|(_, rest)| rest));
    named.filter_map(|rest| rest.split([' ', '}', ',']).next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::env::Env;

    fn init(args: &[&str], directory: &Path) -> (ExitStatus, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut context = Context { env: Env::default(), out: &mut out, err: &mut err };
        let names = args.iter().map(|name| (*name).to_owned()).collect();
        let args = Args { names, config: directory.join("proxy.yaml"), stdout: false };
        let exit = run(&args, &mut context);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_preset_is_written_once_and_never_over_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let (exit, out, _) = init(&["github"], directory.path());
        assert_eq!(exit, ExitStatus::Ok);
        assert!(out.contains("larder exec"), "{out}");
        let written = std::fs::read_to_string(directory.path().join("proxy.yaml")).unwrap();
        assert_eq!(written, presets::find("github").unwrap().text);
        let (exit, _, err) = init(&["stripe"], directory.path());
        assert_eq!(exit, ExitStatus::Failed);
        assert!(err.contains("is not overwritten"), "{err}");
        assert_eq!(std::fs::read_to_string(directory.path().join("proxy.yaml")).unwrap(), written);
    }

    #[test]
    fn a_link_to_nowhere_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("elsewhere");
        std::os::unix::fs::symlink(&target, directory.path().join("proxy.yaml")).unwrap();
        assert_eq!(init(&[], directory.path()).0, ExitStatus::Failed);
        assert!(!target.exists());
    }

    #[test]
    fn an_unknown_name_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (exit, _, err) = init(&["github", "strype"], directory.path());
        assert_eq!(exit, ExitStatus::Usage);
        assert!(err.contains("did you mean `stripe`?"), "{err}");
        assert!(!directory.path().join("proxy.yaml").exists());
    }

    #[test]
    fn the_starter_is_valid_and_variables_are_named() {
        let config = config::parse("proxy.yaml", STARTER, &Env::default());
        assert_eq!(config.unwrap_or_else(|report| panic!("{report}")).routes.routes().len(), 1);
        assert_eq!(variables(presets::find("discord").unwrap().text), ["DISCORD_TOKEN"]);
        assert_eq!(variables(presets::find("openai").unwrap().text), Vec::<&str>::new());
    }
}
