//! Python: its own client, requests and httpx need the variables alone; aiohttp and certifi are told
//! by a `sitecustomize`.
//!
//! Owns: the place of that module on the path. Never touches: what it does
//! (`python/sitecustomize.py`).

use std::io;

use crate::exec_env::private_dir::{PrivateDir, is_larders};
use crate::exec_env::{ExecEnv, set};

const SITECUSTOMIZE: &str = include_str!("python/sitecustomize.py");

/// First on the path: a `sitecustomize` that is already there is run by ours.
pub(super) fn prepare(
    launch: &ExecEnv<'_>,
    files: &PrivateDir,
) -> io::Result<Vec<(String, String)>> {
    let file = files.write("python/sitecustomize.py", SITECUSTOMIZE)?;
    files.write("python/larder.pem", launch.ca)?;
    let ours = file.trim_end_matches("/sitecustomize.py");
    let theirs = launch.said("PYTHONPATH");
    let theirs =
        theirs.into_iter().flat_map(|path| path.split(':')).filter(|place| !is_ours(place));
    let path: Vec<_> = [ours].into_iter().chain(theirs).collect();
    Ok(vec![set("PYTHONPATH", path.join(":"))])
}

/// Whether an earlier larder has put it on the path.
fn is_ours(place: &str) -> bool {
    place.strip_suffix("/python").is_some_and(is_larders)
}
