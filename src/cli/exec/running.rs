//! The larder that runs with a configuration already.
//!
//! Owns: recognising it: at the same address there may be another. Never touches: starting one.

use std::net::SocketAddr;
use std::path::Path;

use crate::cli::exec::tell;
use crate::cli::remote::{Remote, Where, reached};
use crate::cli::{Exit, World};
use crate::config::{Config, shown};

/// A larder that runs.
pub(super) struct Running {
    remote: Remote,
    /// Where clients connect.
    pub(super) proxy: SocketAddr,
    /// The certificate of its authority; empty where nothing is intercepted.
    pub(super) ca: String,
}

/// The larder that runs with the configuration at `file`, as far as can be seen: it listens there and
/// has the same routes. One that asks its clients for a user is nobody to start a command with.
pub(super) fn find(file: &Path, config: &Config, world: &mut World<'_>) -> Option<Running> {
    let listen = *config.listen.first()?;
    if listen.port() == 0 || config.access.users.is_some() {
        return None;
    }
    let remote = Where::of(file).find(&world.env).ok()?;
    let theirs = match remote.get("/v1/config") {
        Ok(theirs) => theirs,
        Err(failure) if failure.exit == Exit::Unreachable => return None,
        Err(failure) => {
            tell(world, &format!("{}; starting a private one", failure.said));
            return None;
        }
    };
    let ours = shown::to_json(config);
    if ours["listen"] != theirs["listen"] {
        return None;
    }
    if ["routes", "upstreams"].iter().any(|part| ours[part] != theirs[part]) {
        let said = "a larder listens there, but not with these routes: starting a private one \
                    (`larder reload`, if it should have them)";
        tell(world, said);
        return None;
    }
    let ca = remote.text("/ca.pem").ok()?.unwrap_or_default();
    Some(Running { remote, proxy: reached(listen), ca })
}

impl Running {
    /// Its metrics; an empty page where it has gone.
    pub(super) fn page(&self) -> String {
        self.remote.text("/metrics").ok().flatten().unwrap_or_default()
    }
}
