//! Node: certificates and a proxy by variables (from 24 on), and a shim for what came before.
//!
//! Owns: how `NODE_OPTIONS` names a file. Never touches: what the shim does (`node/shim.cjs`).

use std::io;

use crate::launch::files::Files;
use crate::launch::{Launch, set};

const SHIM: &str = include_str!("node/shim.cjs");

/// `NODE_EXTRA_CA_CERTS` is among the bundles (`trust`).
pub(super) fn prepare(launch: &Launch<'_>, files: &Files) -> io::Result<Vec<(String, String)>> {
    let shim = files.write("node/shim.cjs", SHIM)?;
    // Node splits the variable at spaces, except between double quotes.
    let ours = format!("--require \"{shim}\"");
    let options = match launch.said("NODE_OPTIONS") {
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours,
    };
    Ok(vec![set("NODE_OPTIONS", options), set("NODE_USE_ENV_PROXY", "1")])
}
