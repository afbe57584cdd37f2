//! Bundles of certificates: what was trusted before, and larder.
//!
//! Owns: which variables name a bundle, and what a runtime trusted before. Never touches: trust
//! stores that are not PEM (`java`).

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::private_dir::PrivateDir;
use crate::exec_env::{ExecEnv, set};

/// Variables that name all that is trusted, each with those that count where it is not set. What
/// none of them names is the system's roots.
const REPLACING: [&[&str]; 7] = [
    &["SSL_CERT_FILE"],
    &["CURL_CA_BUNDLE"],
    &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
    &["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
    &["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"],
    &["GIT_SSL_CAINFO"],
    &["CARGO_HTTP_CAINFO"],
];

/// Variables that name what is trusted besides the runtime's own roots.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// More than any bundle has.
const LONGEST: usize = 16 * 1024 * 1024;

/// What a command trusts.
#[derive(Debug)]
pub(super) struct CaBundle<'a> {
    ca: &'a str,
    roots: String,
    /// The file with all of it.
    pub(super) bundle: String,
}

impl<'a> CaBundle<'a> {
    /// What the caller's `SSL_CERT_FILE` names, else the system's roots, and larder.
    pub(super) fn of(launch: &ExecEnv<'a>, files: &PrivateDir) -> io::Result<Self> {
        let roots = launch.said("SSL_CERT_FILE").and_then(pem_of).unwrap_or_else(systems_roots);
        let bundle = files.write("bundle.pem", both(&roots, launch.ca))?;
        Ok(Self { ca: launch.ca, roots, bundle })
    }

    /// The variables that name bundles, each with one that has larder in it.
    pub(super) fn variables(
        &self,
        launch: &ExecEnv<'_>,
        files: &PrivateDir,
    ) -> io::Result<Vec<(String, String)>> {
        let mut variables = Vec::new();
        for names in REPLACING {
            let base = names.iter().find_map(|name| launch.said(name)).and_then(pem_of);
            let path = match (names, base) {
                (["SSL_CERT_FILE"], _) | (_, None) => self.bundle.clone(),
                ([name, ..], Some(base)) => self.write(files, name, &base)?,
                ([], Some(_)) => continue,
            };
            variables.extend(names.first().map(|name| set(name, path)));
        }
        for name in ADDING {
            let base = launch.said(name).and_then(pem_of).unwrap_or_default();
            variables.push(set(name, self.write(files, name, &base)?));
        }
        Ok(variables)
    }

    /// `base` and larder in a file that is called like what names it.
    pub(super) fn write(&self, files: &PrivateDir, name: &str, base: &str) -> io::Result<String> {
        files.write(&format!("{}.pem", name.to_ascii_lowercase()), both(base, self.ca))
    }

    /// Every certificate of the bundle, larder's first.
    pub(super) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let all = [self.ca, &self.roots].into_iter();
        let all = all.flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
        all.filter_map(Result::ok).collect()
    }
}

/// The certificates in a file or a directory of files. `None` when there is nothing to be read: what
/// names it was of no use before, and is no reason to refuse the command.
pub(super) fn pem_of(path: &str) -> Option<String> {
    let path = Path::new(path);
    if path.is_dir() {
        let found = rustls_native_certs::load_certs_from_paths(None, Some(path));
        return Some(found.certs.iter().map(pem).collect());
    }
    let contents = Disk.read(path, LONGEST).ok()?;
    Some(String::from_utf8_lossy(&contents.bytes).into_owned())
}

pub(super) fn systems_roots() -> String {
    rustls_native_certs::load_native_certs().certs.iter().map(pem).collect()
}

pub(super) fn both(base: &str, ca: &str) -> String {
    // A shell that asked `larder env` before names bundles that have it.
    if base.contains(ca) {
        return base.to_owned();
    }
    let gap = if base.is_empty() || base.ends_with('\n') { "" } else { "\n" };
    format!("{base}{gap}{ca}")
}

/// RFC 7468 §2: 64 signs a line.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, sign) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push('\n');
        }
        out.push(sign);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}
