//! Certificate bundles: the roots that were trusted before, plus larder's certificate.
//!
//! Owns: the variables that name a bundle, and the roots that a runtime trusted before. Never touches: trust
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

/// Variables whose bundle replaces the runtime's own roots, each followed by its fallbacks. If none of them
/// names a readable bundle, the variable gets the default bundle (`SSL_CERT_FILE` or the system roots).
const REPLACING: [&[&str]; 10] = [
    &["SSL_CERT_FILE"],
    &["CURL_CA_BUNDLE"],
    &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
    &["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
    &["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"],
    &["GIT_SSL_CAINFO"],
    &["CARGO_HTTP_CAINFO"],
    &["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"],
    &["HTTPLIB2_CA_CERTS"],
    &["CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"],
];

/// The same for clients that follow other settings unless a machine sets these.
const IF_SET: [&str; 2] = ["NIX_SSL_CERT_FILE", "YARN_HTTPS_CA_FILE_PATH"];

/// Variables whose bundle is trusted in addition to the runtime's own roots.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Maximum size of a bundle in bytes; larger than any real one.
const MAX_BUNDLE_BYTES: usize = 16 * 1024 * 1024;

/// The certificates that a command trusts.
#[derive(Debug)]
pub(super) struct CaBundle<'a> {
    ca: &'a str,
    roots: String,
    /// The path of the file that contains the roots and larder's certificate.
    pub(super) bundle_path: String,
}

impl<'a> CaBundle<'a> {
    /// The roots of the caller's `SSL_CERT_FILE`, else the system roots, plus larder's certificate.
    pub(super) fn create(exec_env: &ExecEnv<'a>, files: &PrivateDir) -> io::Result<Self> {
        let roots = exec_env.caller_variable("SSL_CERT_FILE").and_then(read_pem).unwrap_or_else(system_roots);
        let bundle = files.write("bundle.pem", append_ca(&roots, exec_env.ca))?;
        Ok(Self { ca: exec_env.ca, roots, bundle_path: bundle })
    }

    /// The variables that name bundles, each with a bundle that includes larder's certificate.
    pub(super) fn variables(
        &self,
        exec_env: &ExecEnv<'_>,
        files: &PrivateDir,
    ) -> io::Result<Vec<(String, String)>> {
        let mut variables = Vec::new();
        for names in REPLACING {
            let base = names.iter().find_map(|name| exec_env.caller_variable(name)).and_then(read_pem);
            let path = match (names, base) {
                (["SSL_CERT_FILE"], _) | (_, None) => self.bundle_path.clone(),
                ([name, ..], Some(base)) => self.write(files, name, &base)?,
                ([], Some(_)) => continue,
            };
            variables.extend(names.first().map(|name| set(name, path)));
        }
        for name in IF_SET {
            if let Some(base) = exec_env.caller_variable(name).and_then(read_pem) {
                variables.push(set(name, self.write(files, name, &base)?));
            }
        }
        for name in ADDING {
            let base = exec_env.caller_variable(name).and_then(read_pem).unwrap_or_default();
            variables.push(set(name, self.write(files, name, &base)?));
        }
        Ok(variables)
    }

    /// Writes `base` and larder's certificate to a file that is named after the variable `name`.
    pub(super) fn write(&self, files: &PrivateDir, name: &str, base: &str) -> io::Result<String> {
        files.write(&format!("{}.pem", name.to_ascii_lowercase()), append_ca(base, self.ca))
    }

    /// All certificates of the bundle, larder's first.
    pub(super) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let all = [self.ca, &self.roots].into_iter();
        let all = all.flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
        all.filter_map(Result::ok).collect()
    }
}

/// The certificates in a file or in a directory of files. `None` if the path cannot be read: the setting was
/// useless without larder as well, so it does not prevent the command from starting.
pub(super) fn read_pem(path: &str) -> Option<String> {
    let path = Path::new(path);
    if path.is_dir() {
        let found = rustls_native_certs::load_certs_from_paths(None, Some(path));
        return Some(found.certs.iter().map(pem).collect());
    }
    let contents = Disk.read(path, MAX_BUNDLE_BYTES).ok()?;
    Some(String::from_utf8_lossy(&contents.bytes).into_owned())
}

pub(super) fn system_roots() -> String {
    rustls_native_certs::load_native_certs().certs.iter().map(pem).collect()
}

pub(super) fn append_ca(base: &str, ca: &str) -> String {
    // A shell that ran `larder env` before names bundles that already contain larder's certificate.
    if base.contains(ca) {
        return base.to_owned();
    }
    let gap = if base.is_empty() || base.ends_with('\n') { "" } else { "\n" };
    format!("{base}{gap}{ca}")
}

/// Encodes a certificate as PEM with 64 characters per line (RFC 7468 §2).
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: String = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}
