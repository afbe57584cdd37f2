//! The larder that runs with a configuration already.
//!
//! Owns: recognising it: at the same address there may be another, or another user's program that
//! would like to be taken for it. Never touches: starting one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::ExitStatus;
use crate::cli::admin_client::port_owner::{Trusted, stranger};
use crate::cli::admin_client::{AdminClient, TargetArgs, reached};
use crate::cli::exec::summary::Counts;
use crate::config::env::Env;
use crate::config::{Config, redacted};

/// A larder that runs.
pub(in crate::cli) struct RunningLarder {
    remote: AdminClient,
    /// Where clients connect.
    pub(in crate::cli) proxy: SocketAddr,
    /// The certificate of its authority; empty where nothing is intercepted.
    pub(in crate::cli) ca: String,
}

/// Why there is none to use.
pub(in crate::cli) enum NotFound {
    /// None answers.
    Nobody(String),
    /// One answers that is not to be used.
    Unfit(String),
}

impl NotFound {
    /// For people.
    pub(in crate::cli) fn said(&self) -> &str {
        match self {
            Self::Nobody(said) | Self::Unfit(said) => said,
        }
    }
}

/// The larder that runs with the configuration at `file`, as far as can be seen: it listens there and
/// has the same routes. One that asks its clients for a user is nobody to start a command with.
pub(in crate::cli) fn find(
    file: &Path,
    config: &Config,
    env: &Env,
) -> Result<RunningLarder, NotFound> {
    let nobody = |said: &str| Err(NotFound::Nobody(said.to_owned()));
    let Some(&listen) = config.listen.first() else { return nobody("it listens nowhere") };
    if listen.port() == 0 {
        return nobody("`listen` leaves its port open, so nobody can tell where larder runs");
    }
    let unfit = |said: &str| Err(NotFound::Unfit(said.to_owned()));
    if config.access.users.is_some() {
        return unfit("the larder of this configuration asks its clients for a user");
    }
    let asked =
        TargetArgs::of(file).find(env).and_then(|remote| Ok((remote.get("/v1/config")?, remote)));
    let (theirs, remote) = asked.map_err(|failure| match failure.exit {
        ExitStatus::Unreachable => NotFound::Nobody(failure.said),
        ExitStatus::Ok
        | ExitStatus::Failed
        | ExitStatus::Usage
        | ExitStatus::Invalid
        | ExitStatus::Command(_) => NotFound::Unfit(failure.said),
    })?;
    let ours = redacted::to_json(config);
    if ours["listen"] != theirs["listen"] {
        return nobody("another larder has its admin listener there");
    }
    if ["routes", "upstreams"].iter().any(|part| ours[part] != theirs[part]) {
        return unfit("a larder listens there, but not with these routes (try `larder reload`)");
    }
    let proxy = reached(listen);
    is_trusted(file, config, proxy)?;
    match remote.text("/ca.pem") {
        Ok(ca) => Ok(RunningLarder { remote, proxy, ca: ca.unwrap_or_default() }),
        Err(failure) => Err(NotFound::Unfit(failure.said)),
    }
}

/// Traffic is worth as much as a token: where clients connect is asked for its user, too.
fn is_trusted(file: &Path, config: &Config, proxy: SocketAddr) -> Result<(), NotFound> {
    let trusted = Trusted::of(Some(file), Some(&config.store.path));
    trusted.check_listener(proxy).map_err(|error| match stranger(&error) {
        Some(stranger) => NotFound::Unfit(stranger.to_string()),
        None => NotFound::Nobody(format!("no larder listens at {proxy} ({})", error.kind())),
    })
}

impl RunningLarder {
    /// Its metrics; an empty page where it has gone.
    pub(super) fn page(&self) -> String {
        self.remote.text("/metrics").ok().flatten().unwrap_or_default()
    }

    /// Its metrics once the command has ended: an answer is counted just after its last byte has left,
    /// so they are asked for until they stand still.
    pub(super) async fn last_page(&self) -> String {
        let mut page = self.page();
        for _ in 0..LOOKS {
            sleep(BETWEEN).await;
            let next = self.page();
            let stands = Counts::of(&next) == Counts::of(&page);
            page = next;
            if stands {
                break;
            }
        }
        page
    }
}

/// A larder that others use does not stand still.
const LOOKS: usize = 5;
const BETWEEN: Duration = Duration::from_millis(20);
