//! Python: its own client, requests and httpx need the variables alone; aiohttp and certifi are told
//! by a `sitecustomize`.
//!
//! Owns: the place of that module on the path. Never touches: what it does
//! (`python/sitecustomize.py`).

use std::io;

use crate::launch::files::Files;
use crate::launch::{Launch, set};

const SITECUSTOMIZE: &str = include_str!("python/sitecustomize.py");

/// First on the path: a `sitecustomize` that is already there is run by ours.
pub(super) fn prepare(launch: &Launch<'_>, files: &Files) -> io::Result<Vec<(String, String)>> {
    let file = files.write("python/sitecustomize.py", SITECUSTOMIZE)?;
    files.write("python/larder.pem", launch.ca)?;
    let ours = file.trim_end_matches("/sitecustomize.py");
    let path = match launch.said("PYTHONPATH") {
        Some(theirs) => format!("{ours}:{theirs}"),
        None => ours.to_owned(),
    };
    Ok(vec![set("PYTHONPATH", path)])
}
