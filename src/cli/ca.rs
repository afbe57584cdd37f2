//! `larder ca`: the certificate authority of intercepted connections: shown, handed out, replaced.
//!
//! Owns: its arguments and what it prints; the key is never among it.
//! Never touches: what makes an authority fit (`front::authority`); a running larder.

mod show;

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustls_pki_types::CertificateDer;

use crate::cli::config_arg::Named;
use crate::cli::{Context, ExitStatus};
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
authority. `larder exec` sees to that by itself; elsewhere hand out what
`export` or `bundle` prints. If there is no authority yet, it is made, as at
larder's first start. A running larder is not needed, and not asked.

Example:
  larder ca export > larder.pem && curl --cacert larder.pem -x http://127.0.0.1:8080 https://…
  larder ca bundle --out bundle.pem && export SSL_CERT_FILE=$PWD/bundle.pem";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say whose it is, until when it counts, what it may vouch for, and where it lies.
    Show {
        #[command(flatten)]
        of: Named,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what the system trusts and the authority's certificate, all in one, for programs
    /// that take a bundle in place of the system's (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`).
    Bundle {
        #[command(flatten)]
        of: Named,
        /// Write it to this file instead.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the authority's certificate alone, for trust stores and for programs that add to the
    /// system's (`NODE_EXTRA_CA_CERTS`). A running larder hands it out too: `GET /ca.pem` on its
    /// admin listener.
    Export {
        #[command(flatten)]
        of: Named,
        /// Text, or bytes as some trust stores want them.
        #[arg(long, default_value = "pem")]
        format: Format,
        /// Write it to this file instead.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make another authority, constrained as the configuration says now. The old pair is kept
    /// beside; an authority that larder did not make is left alone. The new one counts from the
    /// next `larder reload`: clients must trust it by then.
    Rotate {
        #[command(flatten)]
        of: Named,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pem,
    Der,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] config::diagnostics::Report),
    #[error(transparent)]
    Authority(#[from] CaError),
    #[error(
        "nothing is kept on disk (store.disk: off), so each larder makes an authority of its own \
         and takes it along: name files in tls.ca to keep one; that of a running larder is at \
         /ca.pem on its admin listener"
    )]
    Nowhere,
    #[error("no certificate that this system trusts was found: use `larder ca export` instead")]
    NoRoots,
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("standard output: {0}")]
    Print(#[from] io::Error),
}

/// Does what the verb says.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let done = match &args.verb {
        Verb::Show { of, json } => show(of, *json, world),
        Verb::Bundle { of, out } => bundle(of, out.as_deref(), world),
        Verb::Export { of, format, out } => export(of, *format, out.as_deref(), world),
        Verb::Rotate { of, json } => rotate(of, *json, world),
    };
    let Err(failure) = done else { return ExitStatus::Ok };
    let named = if matches!(failure, Failure::Config(_)) { "" } else { "larder ca: " };
    // Whoever reads the output has gone: there is nobody left to tell.
    let _told = writeln!(world.err, "{named}{failure}");
    if matches!(failure, Failure::Config(_)) { ExitStatus::Invalid } else { ExitStatus::Failed }
}

fn show(of: &Named, json: bool, world: &mut Context<'_>) -> Result<(), Failure> {
    let authority = existing(of, world)?;
    if json {
        writeln!(world.out, "{:#}", show::to_json(&authority))?;
    } else {
        show::print(&authority, world.out)?;
    }
    Ok(())
}

fn bundle(of: &Named, out: Option<&Path>, world: &mut Context<'_>) -> Result<(), Failure> {
    let ca = existing(of, world)?.pem();
    let all = exec_env::bundle(&ca);
    if all == ca {
        return Err(Failure::NoRoots);
    }
    put(all.as_bytes(), out, world)
}

fn export(
    of: &Named,
    format: Format,
    out: Option<&Path>,
    world: &mut Context<'_>,
) -> Result<(), Failure> {
    let authority = existing(of, world)?;
    let der: &CertificateDer<'_> = authority.certificate().der();
    match format {
        Format::Pem => put(authority.pem().as_bytes(), out, world),
        Format::Der => put(der, out, world),
    }
}

fn rotate(of: &Named, json: bool, world: &mut Context<'_>) -> Result<(), Failure> {
    let (config, files) = read(of, world)?;
    let now = Clock::system().now();
    let authority = CertificateAuthority::rotated(files.clone(), &config.tls.ca.constrain, now)?;
    let kept = ca::kept_by_rotation(&files, now);
    let kept = kept.cert.exists().then_some(kept);
    if json {
        writeln!(world.out, "{:#}", show::rotated_to_json(&authority, kept.as_ref()))?;
        return Ok(());
    }
    show::print(&authority, world.out)?;
    if let Some(kept) = kept {
        writeln!(world.out, "before       {}, {}", kept.cert.display(), kept.key.display())?;
    }
    let file = of.path().display();
    writeln!(
        world.out,
        "\nNow let clients trust it (`larder ca export {file}`), then `larder reload`."
    )?;
    writeln!(
        world.out,
        "Remove the one before from their trust stores, and its files, once none needs it."
    )?;
    Ok(())
}

/// The authority, made if there is none.
fn existing(of: &Named, world: &Context<'_>) -> Result<CertificateAuthority, Failure> {
    let (config, files) = read(of, world)?;
    let now = Clock::system().now();
    Ok(CertificateAuthority::lasting(files, &config.tls.ca.constrain, now)?)
}

fn read(of: &Named, world: &Context<'_>) -> Result<(Config, CaFiles), Failure> {
    let config = config::load(of.path(), &world.env)?;
    let files = ca::files_of(&config).ok_or(Failure::Nowhere)?;
    Ok((config, files))
}

fn put(bytes: &[u8], out: Option<&Path>, world: &mut Context<'_>) -> Result<(), Failure> {
    let Some(path) = out else { return Ok(world.out.write_all(bytes)?) };
    std::fs::write(path, bytes).map_err(|source| Failure::Write { path: path.to_owned(), source })
}
