//! Finds the larder that already runs with a configuration.
//!
//! Owns: its identification: another larder may listen at the same address, or a program of another user
//! that imitates it. Never touches: starting one.

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

/// A running larder.
pub(in crate::cli) struct RunningLarder {
    admin_client: AdminClient,
    /// The address at which clients connect.
    pub(in crate::cli) proxy: SocketAddr,
    /// The certificate of its authority; empty if it intercepts no host.
    pub(in crate::cli) ca: String,
}

/// The reason why no running larder is used.
pub(in crate::cli) enum NotFound {
    /// No larder responds.
    Nobody(String),
    /// A larder responds, but must not be used.
    Unfit(String),
}

impl NotFound {
    /// The reason as text.
    pub(in crate::cli) fn said(&self) -> &str {
        match self {
            Self::Nobody(message) | Self::Unfit(message) => message,
        }
    }
}

/// Finds the larder that runs with the configuration at `file`: it has the same listeners, routes and
/// upstreams. A larder that requires its clients to authenticate is not used for a command.
pub(in crate::cli) fn find(
    file: &Path,
    config: &Config,
    env: &Env,
) -> Result<RunningLarder, NotFound> {
    let unreachable = |message: &str| Err(NotFound::Nobody(message.to_owned()));
    let Some(&listen) = config.listen.first() else { return unreachable("it has no listener") };
    if listen.port() == 0 {
        return unreachable("`listen` has no fixed port, so the address of larder is unknown");
    }
    let unsuitable = |message: &str| Err(NotFound::Unfit(message.to_owned()));
    if config.access.users.is_some() {
        return unsuitable("the larder of this configuration requires its clients to authenticate");
    }
    let found =
        TargetArgs::of(file).find(env).and_then(|client| Ok((client.get("/v1/config")?, client)));
    let (theirs, admin_client) = found.map_err(|error| match error.exit {
        ExitStatus::Unreachable => NotFound::Nobody(error.said),
        ExitStatus::Ok
        | ExitStatus::Failed
        | ExitStatus::Usage
        | ExitStatus::Invalid
        | ExitStatus::Command(_) => NotFound::Unfit(error.said),
    })?;
    let ours = redacted::to_json(config);
    if ours["listen"] != theirs["listen"] {
        return unreachable("the admin listener belongs to another larder");
    }
    if ["routes", "upstreams"].iter().any(|part| ours[part] != theirs[part]) {
        return unsuitable(
            "a larder listens there, but not with these routes (try `larder reload`)",
        );
    }
    let proxy = reached(listen);
    check_owner(file, config, proxy)?;
    match admin_client.text("/ca.pem") {
        Ok(ca) => Ok(RunningLarder { admin_client, proxy, ca: ca.unwrap_or_default() }),
        Err(error) => Err(NotFound::Unfit(error.said)),
    }
}

/// Checks the owner of the proxy listener too: traffic needs the same protection as a token.
fn check_owner(file: &Path, config: &Config, proxy: SocketAddr) -> Result<(), NotFound> {
    let trusted = Trusted::of(Some(file), Some(&config.store.path));
    trusted.check_listener(proxy).map_err(|error| match stranger(&error) {
        Some(untrusted) => NotFound::Unfit(untrusted.to_string()),
        None => NotFound::Nobody(format!("no larder listens at {proxy} ({})", error.kind())),
    })
}

impl RunningLarder {
    /// Its metrics; empty if it does not respond.
    pub(super) fn page(&self) -> String {
        self.admin_client.text("/metrics").ok().flatten().unwrap_or_default()
    }

    /// Its metrics after the end of the command. A response is counted shortly after its last byte is sent,
    /// so the metrics are requested until they no longer change.
    pub(super) async fn last_page(&self) -> String {
        let mut page = self.page();
        for _ in 0..MAX_POLLS {
            sleep(POLL_INTERVAL).await;
            let next = self.page();
            let is_unchanged = Counts::of(&next) == Counts::of(&page);
            page = next;
            if is_unchanged {
                break;
            }
        }
        page
    }
}

/// The limit for a larder with other clients, whose metrics keep changing.
const MAX_POLLS: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
