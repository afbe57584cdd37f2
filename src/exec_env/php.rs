//! PHP: settings in a directory that it reads last, and a file that runs before each script.
//!
//! Owns: which settings. Never touches: what that file does (`php/prepend.php`).

use std::io;

use crate::exec_env::ca_bundle::CaBundle;
use crate::exec_env::private_dir::{PrivateDir, is_larders};
use crate::exec_env::{ExecEnv, set};

const PREPEND: &str = include_str!("php/prepend.php");

/// curl in PHP reads the proxy's variables; streams read no variable at all.
pub(super) fn prepare(
    launch: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let prepend = files.write("php/prepend.php", PREPEND)?;
    let settings = format!(
        "openssl.cafile = '{bundle}'\n\
         curl.cainfo = '{bundle}'\n\
         auto_prepend_file = '{prepend}'\n\
         larder.proxy = 'tcp://{proxy}'\n\
         larder.authorization = '{authorization}'\n",
        bundle = trust.bundle,
        proxy = launch.proxy,
        authorization = launch.authorization().unwrap_or_default(),
    );
    let file = files.write("php/larder.ini", settings)?;
    let ours = file.trim_end_matches("/larder.ini");
    // Nothing before the colon stands for the directory that PHP was built with. A variable that is
    // set and empty means none at all.
    let theirs = match launch.env.get("PHP_INI_SCAN_DIR") {
        Some("") => None,
        said => Some(said.unwrap_or_default()),
    };
    let theirs =
        theirs.into_iter().flat_map(|list| list.split(':')).filter(|place| !is_ours(place));
    let directories: Vec<_> = theirs.chain([ours]).collect();
    Ok(vec![set("PHP_INI_SCAN_DIR", directories.join(":"))])
}

/// Whether an earlier larder has put it on the list.
fn is_ours(place: &str) -> bool {
    place.strip_suffix("/php").is_some_and(is_larders)
}
