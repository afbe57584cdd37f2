//! PHP: settings in a directory that PHP reads last, and a file that PHP runs before each script.
//!
//! Owns: the settings. Never touches: the code of that file (`php/prepend.php`).

use std::io;

use crate::exec_env::ca_bundle::CaBundle;
use crate::exec_env::private_dir::{PrivateDir, others};
use crate::exec_env::{ExecEnv, set};

const PREPEND: &str = include_str!("php/prepend.php");

/// Writes the settings and the file. curl in PHP reads the proxy variables; PHP streams read no variable.
pub(super) fn prepare(
    exec_env: &ExecEnv<'_>,
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
        bundle = trust.bundle_path,
        proxy = exec_env.proxy,
        authorization = exec_env.authorization().unwrap_or_default(),
    );
    let file = files.write("php/larder.ini", settings)?;
    let ours = file.trim_end_matches("/larder.ini");
    // An empty list item means the directory that PHP was built with. A variable that is set but empty means
    // no directory.
    let theirs = match exec_env.env.get("PHP_INI_SCAN_DIR") {
        Some("") => None,
        value => Some(value.unwrap_or_default()),
    };
    let directories: Vec<_> = others(theirs, "/php").chain([ours]).collect();
    Ok(vec![set("PHP_INI_SCAN_DIR", directories.join(":"))])
}
