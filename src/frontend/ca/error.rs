//! Why there is no authority, or no leaf of it: the file, what is wrong with it, the fix.
//!
//! Owns: the words. Never touches: files, certificates, keys.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// Why there is no authority, or no leaf of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A certificate or key could not be made.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS does not take what was made.
    #[error("could not use a certificate: {0}")]
    Use(#[from] rustls::Error),
    /// A file could not be read or written.
    #[error("certificate authority: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pair could not be made where it shall lie.
    #[error("certificate authority: cannot be kept in {}: {source}", path.display())]
    Unwritten {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One file of the pair is missing.
    #[error(
        "certificate authority: {} is there, but {} is not: bring it back from a backup, or move \
         the other away too and larder makes a new pair", there.display(), missing.display()
    )]
    Half {
        /// The one that is there.
        there: PathBuf,
        /// The other one.
        missing: PathBuf,
    },
    /// Others may read the key.
    #[error(
        "certificate authority: its key {} may be read by others: `chmod 600` it, and make a new \
         one (`larder ca rotate`) if somebody could have", .0.display()
    )]
    Open(PathBuf),
    /// The key is another user's.
    #[error(
        "certificate authority: its key {} belongs to another user, who can read it: `chown` it to \
         the user that larder runs as", .0.display()
    )]
    Foreign(PathBuf),
    /// The key is a link.
    #[error(
        "certificate authority: its key {} is a symbolic link, which hides who can read it: name \
         the file itself in tls.ca.key, or copy it (`install -m 600`)", .0.display()
    )]
    Link(PathBuf),
    /// The key's file holds none that can be read.
    #[error(
        "certificate authority: {} holds no RSA, P-256 or P-384 key in PKCS#8 without a \
         passphrase: convert it, `openssl pkcs8 -topk8 -nocrypt -in FILE`", .0.display()
    )]
    Key(PathBuf),
    /// The certificate's file holds none.
    #[error("certificate authority: {} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// The certificate is not an authority's.
    #[error("certificate authority: {} {what}: name an authority's in tls.ca.cert", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// Certificate and key are not a pair.
    #[error(
        "certificate authority: {} is not the key of {}: name a pair in tls.ca, or bring the other \
         back from a backup", key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// It is not larder's to replace.
    #[error(
        "certificate authority: {} was not made by larder: replace both files with the next pair \
         from where they came, then `larder reload`", .0.display()
    )]
    Operators(PathBuf),
    /// Its time is over.
    #[error(
        "certificate authority: {subject} has expired on {}, no client accepts what it vouches \
         for: {fix}", humantime::format_rfc3339_seconds(*since)
    )]
    Expired {
        /// Whose time.
        subject: String,
        /// When it was over.
        since: SystemTime,
        /// How to get another.
        fix: &'static str,
    },
    /// Its name constraints leave a host out.
    #[error(
        "certificate authority: {subject} may not vouch for {host}: make one that may (`larder ca \
         rotate`), or name the host in tls.passthrough"
    )]
    Outside {
        /// Which host.
        host: String,
        /// Whose constraints.
        subject: String,
    },
    /// No certificate can be for this host.
    #[error("no certificate can be for a host named {0:?}")]
    Name(String),
}
