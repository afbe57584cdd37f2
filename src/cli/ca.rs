//! `larder ca`: prints, exports and replaces the certificate authority for intercepted connections.
//!
//! Owns: its arguments and its output, which never contains the key.
//! Never touches: the checks of an authority (`frontend::ca`); a running larder.

mod show;

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustls_pki_types::CertificateDer;

use crate::cli::{ConfigArg, Context, ExitStatus};
use crate::clock::Clock;
use crate::config::{self, CaFiles, Config};
use crate::exec_env;
use crate::frontend::ca::{self, CaError, CertificateAuthority};

/// The arguments of `larder ca`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLE: &str = "\
An app whose HTTPS larder intercepts must trust larder's certificate
authority. `larder exec` configures this; elsewhere, install the output of
`export` or `bundle`. If there is no authority yet, it is created, as at
larder's first start. No running larder is needed or contacted.

Example:
  larder ca export > larder.pem && curl --cacert larder.pem -x http://127.0.0.1:8080 https://…
  larder ca bundle --out bundle.pem && export SSL_CERT_FILE=$PWD/bundle.pem";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print its subject, its validity, the hosts that it may sign for, and its files.
    Show {
        #[command(flatten)]
        config_file: ConfigArg,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the certificates that the system trusts and the authority's certificate as one bundle, for
    /// programs that use it in place of the system's (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`).
    Bundle {
        #[command(flatten)]
        config_file: ConfigArg,
        /// Write to this file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the authority's certificate alone, for trust stores and for programs that add it to the
    /// system's certificates (`NODE_EXTRA_CA_CERTS`). A running larder serves it too: `GET /ca.pem` on
    /// its admin listener.
    Export {
        #[command(flatten)]
        config_file: ConfigArg,
        /// PEM text, or DER bytes, which some trust stores require.
        #[arg(long, default_value = "pem")]
        format: Format,
        /// Write to this file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Create a new authority, with the constraints of the current configuration. The old pair is kept
    /// next to it; an authority that larder did not create is not replaced. The new one takes effect
    /// with the next `larder reload`: clients must trust it by then.
    Rotate {
        #[command(flatten)]
        config_file: ConfigArg,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Verb {
    fn config_file(&self) -> &ConfigArg {
        match self {
            Self::Show { config_file, .. }
            | Self::Bundle { config_file, .. }
            | Self::Export { config_file, .. }
            | Self::Rotate { config_file, .. } => config_file,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pem,
    Der,
}

/// The reason why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] config::diagnostics::Report),
    #[error(transparent)]
    Authority(#[from] CaError),
    #[error(
        "the store is in memory only (store.disk: off), so each larder creates its own authority \
         and loses it when it exits: specify files in tls.ca to keep one; the certificate of a \
         running larder is at /ca.pem on its admin listener"
    )]
    MemoryOnly,
    #[error("no certificate that this system trusts was found: use `larder ca export` instead")]
    NoRoots,
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("standard output: {0}")]
    Print(#[from] io::Error),
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    if let Err(exit) = args.verb.config_file().locate(context) {
        return exit;
    }
    let result = match &args.verb {
        Verb::Show { config_file, json } => show(config_file, *json, context),
        Verb::Bundle { config_file, out } => bundle(config_file, out.as_deref(), context),
        Verb::Export { config_file, format, out } => export(config_file, *format, out.as_deref(), context),
        Verb::Rotate { config_file, json } => rotate(config_file, *json, context),
    };
    let Err(failure) = result else { return ExitStatus::Ok };
    let prefix = if matches!(failure, Failure::Config(_)) { "" } else { "larder ca: " };
    // If the output is closed, only the exit code reports the failure.
    let _written = writeln!(context.err, "{prefix}{failure}");
    if matches!(failure, Failure::Config(_)) { ExitStatus::Invalid } else { ExitStatus::Failed }
}

fn show(config_file: &ConfigArg, json: bool, context: &mut Context<'_>) -> Result<(), Failure> {
    let authority = existing(config_file, context)?;
    if json {
        writeln!(context.out, "{:#}", show::to_json(&authority))?;
    } else {
        show::print(&authority, context.out)?;
    }
    Ok(())
}

fn bundle(config_file: &ConfigArg, out: Option<&Path>, context: &mut Context<'_>) -> Result<(), Failure> {
    let ca = existing(config_file, context)?.pem();
    let all = exec_env::bundle(&ca);
    if all == ca {
        return Err(Failure::NoRoots);
    }
    write_output(all.as_bytes(), out, context)
}

fn export(
    config_file: &ConfigArg,
    format: Format,
    out: Option<&Path>,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    let authority = existing(config_file, context)?;
    let der: &CertificateDer<'_> = authority.certificate().der();
    match format {
        Format::Pem => write_output(authority.pem().as_bytes(), out, context),
        Format::Der => write_output(der, out, context),
    }
}

fn rotate(config_file: &ConfigArg, json: bool, context: &mut Context<'_>) -> Result<(), Failure> {
    let (config, files) = read(config_file, context)?;
    let now = Clock::system().now();
    let authority = CertificateAuthority::rotated(files.clone(), &config.tls.ca.constrain, now)?;
    let kept = ca::rotation_backup(&files, now);
    let kept = kept.cert.exists().then_some(kept);
    if json {
        writeln!(context.out, "{:#}", show::rotated_to_json(&authority, kept.as_ref()))?;
        return Ok(());
    }
    show::print(&authority, context.out)?;
    if let Some(kept) = kept {
        writeln!(context.out, "previous     {}, {}", kept.cert.display(), kept.key.display())?;
    }
    let file = config_file.path().display();
    writeln!(
        context.out,
        "\nNow add it to the trust stores of clients (`larder ca export --config {file}`), then `larder reload`."
    )?;
    writeln!(
        context.out,
        "Remove the previous one from the trust stores, and its files, when no client needs it."
    )?;
    Ok(())
}

/// The authority; creates it if there is none.
fn existing(config_file: &ConfigArg, context: &Context<'_>) -> Result<CertificateAuthority, Failure> {
    let (config, files) = read(config_file, context)?;
    let now = Clock::system().now();
    Ok(CertificateAuthority::persistent(files, &config.tls.ca.constrain, now)?)
}

fn read(config_file: &ConfigArg, context: &Context<'_>) -> Result<(Config, CaFiles), Failure> {
    let config = config::load(config_file.path(), &context.env)?;
    let files = ca::files_for(&config).ok_or(Failure::MemoryOnly)?;
    Ok((config, files))
}

fn write_output(bytes: &[u8], out: Option<&Path>, context: &mut Context<'_>) -> Result<(), Failure> {
    let Some(path) = out else { return Ok(context.out.write_all(bytes)?) };
    std::fs::write(path, bytes).map_err(|source| Failure::Write { path: path.to_owned(), source })
}
