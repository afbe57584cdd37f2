//! Errors of the certificate authority and its leaf certificates: the file, the problem, the fix.
//!
//! Owns: the messages. Never touches: files, certificates, keys.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// The reason why there is no authority, or no leaf certificate of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A certificate or key could not be created.
    #[error("could not create a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS rejects the created certificate.
    #[error("could not use a certificate: {0}")]
    Use(#[from] rustls::Error),
    /// A file could not be read or written.
    #[error("certificate authority: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A pair could not be written to its files.
    #[error("certificate authority: cannot write {}: {source}", path.display())]
    Unwritten {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One file of the pair is missing.
    #[error(
        "certificate authority: {} exists, but {} is missing: restore it from a backup, or move \
         the other away too and larder creates a new pair", there.display(), missing.display()
    )]
    Half {
        /// The file that exists.
        there: PathBuf,
        /// The missing file.
        missing: PathBuf,
    },
    /// Other users may read the key.
    #[error(
        "certificate authority: its key {} may be read by others: `chmod 600` it, and create a new \
         one (`larder ca rotate`) if another user may have read it", .0.display()
    )]
    Open(PathBuf),
    /// The key belongs to another user.
    #[error(
        "certificate authority: its key {} belongs to another user, who can read it: `chown` it to \
         the user that larder runs as", .0.display()
    )]
    Foreign(PathBuf),
    /// The key is a symbolic link.
    #[error(
        "certificate authority: its key {} is a symbolic link, which hides its permissions: name \
         the file itself in tls.ca.key, or copy it (`install -m 600`)", .0.display()
    )]
    Link(PathBuf),
    /// The key file contains no readable key.
    #[error(
        "certificate authority: {} holds no RSA, P-256 or P-384 key in PKCS#8 without a \
         passphrase: convert it, `openssl pkcs8 -topk8 -nocrypt -in FILE`", .0.display()
    )]
    Key(PathBuf),
    /// The certificate file contains no certificate.
    #[error("certificate authority: {} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// The certificate is not that of an authority.
    #[error("certificate authority: {} {what}: name that of an authority in tls.ca.cert", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// The defect of the certificate.
        what: &'static str,
    },
    /// Certificate and key are not a pair.
    #[error(
        "certificate authority: {} is not the key of {}: name a pair in tls.ca, or restore the other \
         from a backup", key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// larder did not create this authority, so it does not replace it.
    #[error(
        "certificate authority: {} was not made by larder: replace both files with a new pair \
         from their source, then run `larder reload`", .0.display()
    )]
    Operators(PathBuf),
    /// The certificate has expired.
    #[error(
        "certificate authority: {subject} has expired on {}, clients reject its \
         certificates: {fix}", humantime::format_rfc3339_seconds(*since)
    )]
    Expired {
        /// The subject of the certificate.
        subject: String,
        /// The expiry time.
        since: SystemTime,
        /// The instruction for replacing it.
        fix: &'static str,
    },
    /// The name constraints exclude a host.
    #[error(
        "certificate authority: {subject} may not issue certificates for {host}: create one \
         that may (`larder ca rotate`), or name the host in tls.passthrough"
    )]
    Outside {
        /// The host.
        host: String,
        /// The subject of the certificate.
        subject: String,
    },
    /// No certificate can be issued for this host.
    #[error("no certificate can be issued for a host named {0:?}")]
    Name(String),
}
