//! Python: urllib, requests and httpx need only the variables; a `sitecustomize` module configures aiohttp
//! and certifi.
//!
//! Owns: the position of that module on the path. Never touches: the module's code
//! (`python/sitecustomize.py`).

use std::io;

use crate::exec_env::private_dir::{PrivateDir, others};
use crate::exec_env::{ExecEnv, set};

const SITECUSTOMIZE: &str = include_str!("python/sitecustomize.py");

/// Puts larder's `sitecustomize` first on the path; it runs the one that was there before.
pub(super) fn prepare(exec_env: &ExecEnv<'_>, files: &PrivateDir) -> io::Result<Vec<(String, String)>> {
    let file = files.write("python/sitecustomize.py", SITECUSTOMIZE)?;
    files.write("python/larder.pem", exec_env.ca)?;
    let ours = file.trim_end_matches("/sitecustomize.py");
    let theirs = exec_env.caller_variable("PYTHONPATH");
    let path: Vec<_> = [ours].into_iter().chain(others(theirs, "/python")).collect();
    Ok(vec![set("PYTHONPATH", path.join(":"))])
}
