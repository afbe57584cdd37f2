//! The files that runtimes read: trust stores, settings, shims.
//!
//! Owns: which there are and what they hold. Never touches: the environment itself.

use std::fs;
use std::io;

use crate::launch::Launch;

/// Writes them all; the variables that point to them.
pub(super) fn prepare(launch: &Launch<'_>) -> io::Result<Vec<(String, String)>> {
    let bundle = launch.directory.join("bundle.pem");
    fs::write(&bundle, launch.ca)?;
    Ok(vec![("SSL_CERT_FILE".to_owned(), bundle.to_string_lossy().into_owned())])
}
