//! Node: variables for certificates and, from version 24, the proxy; a shim for older versions.
//!
//! Owns: the option in `NODE_OPTIONS` that loads the shim. Never touches: the shim itself (`node/shim.cjs`).

use std::io;

use crate::exec_env::private_dir::{PrivateDir, is_larder_dir};
use crate::exec_env::{ExecEnv, set};

const SHIM: &str = include_str!("node/shim.cjs");

/// Writes the shim and sets the variables; `ca_bundle` sets `NODE_EXTRA_CA_CERTS`.
pub(super) fn prepare(exec_env: &ExecEnv<'_>, files: &PrivateDir) -> io::Result<Vec<(String, String)>> {
    let shim = files.write("node/shim.cjs", SHIM)?;
    // Node splits the variable at spaces, except between double quotes.
    let ours = format!("{REQUIRE}{shim}\"");
    let options = match exec_env.caller_variable("NODE_OPTIONS").map(without_ours).as_deref() {
        Some("") | None => ours,
        Some(theirs) => format!("{theirs} {ours}"),
    };
    Ok(vec![set("NODE_OPTIONS", options), set("NODE_USE_ENV_PROXY", "1")])
}

const REQUIRE: &str = "--require \"";

/// The options without the shims that earlier larders added.
fn without_ours(options: &str) -> String {
    let mut pieces = options.split(REQUIRE);
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once("/node/shim.cjs\"") {
            Some((directory, rest)) if is_larder_dir(directory) => kept.push_str(rest.trim_start()),
            Some(_) | None => kept = kept + REQUIRE + piece,
        }
    }
    kept.trim().to_owned()
}
