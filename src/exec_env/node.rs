//! Node: certificates and a proxy by variables (from 24 on), and a shim for what came before.
//!
//! Owns: how `NODE_OPTIONS` names a file. Never touches: what the shim does (`node/shim.cjs`).

use std::io;

use crate::exec_env::private_dir::{PrivateDir, is_larders};
use crate::exec_env::{ExecEnv, set};

const SHIM: &str = include_str!("node/shim.cjs");

/// `NODE_EXTRA_CA_CERTS` is among the bundles (`trust`).
pub(super) fn prepare(
    launch: &ExecEnv<'_>,
    files: &PrivateDir,
) -> io::Result<Vec<(String, String)>> {
    let shim = files.write("node/shim.cjs", SHIM)?;
    // Node splits the variable at spaces, except between double quotes.
    let ours = format!("{REQUIRE}{shim}\"");
    let options = match launch.said("NODE_OPTIONS").map(without_ours).as_deref() {
        Some("") | None => ours,
        Some(theirs) => format!("{theirs} {ours}"),
    };
    Ok(vec![set("NODE_OPTIONS", options), set("NODE_USE_ENV_PROXY", "1")])
}

const REQUIRE: &str = "--require \"";

/// The options without the shims of earlier larders.
fn without_ours(options: &str) -> String {
    let mut pieces = options.split(REQUIRE);
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once("/node/shim.cjs\"") {
            Some((directory, rest)) if is_larders(directory) => kept.push_str(rest.trim_start()),
            Some(_) | None => kept = kept + REQUIRE + piece,
        }
    }
    kept.trim().to_owned()
}
