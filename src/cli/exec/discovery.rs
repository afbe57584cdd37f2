//! Finds the larder that already runs with a configuration.
//!
//! Owns: its identification: another larder may listen at the same address, or a program of another user
//! that imitates it. Never touches: starting one.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::cli::ExitStatus;
use crate::cli::admin_client::port_owner::{TrustedUsers, untrusted_listener};
use crate::cli::admin_client::{AdminClient, TargetArgs, connect_address};
use crate::cli::exec::Endpoint;
use crate::cli::exec::summary::Counts;
use crate::config::env::Env;
use crate::config::{self, Config, redacted};

/// A running larder.
pub(in crate::cli) struct RunningLarder {
    admin_client: AdminClient,
    pub(in crate::cli) endpoint: Endpoint,
}

/// The reason why no running larder is used.
pub(in crate::cli) enum NotFound {
    /// No larder responds.
    Unreachable(String),
    /// A larder responds, but must not be used.
    Unsuitable(String),
}

impl NotFound {
    /// The reason as text.
    pub(in crate::cli) fn message(&self) -> &str {
        match self {
            Self::Unreachable(message) | Self::Unsuitable(message) => message,
        }
    }
}

/// Finds the larder that runs with the configuration at `file`: it has the same listeners, routes and
/// upstreams. A larder that requires its clients to authenticate is not used for a command.
pub(in crate::cli) fn find(file: &Path, config: &Config, env: &Env) -> Result<RunningLarder, NotFound> {
    let unreachable = |message: &str| Err(NotFound::Unreachable(message.to_owned()));
    let Some(&listen) = config.listen.first() else { return unreachable("it has no listener") };
    if listen.port() == 0 {
        return unreachable("`listen` has no fixed port, so the address of larder is unknown");
    }
    let unsuitable = |message: &str| Err(NotFound::Unsuitable(message.to_owned()));
    if config.access.users.is_some() {
        return unsuitable("the larder of this configuration requires its clients to authenticate");
    }
    let found =
        TargetArgs::for_config(file).find(env).and_then(|client| Ok((client.get("/v1/config")?, client)));
    let (theirs, admin_client) = found.map_err(|error| match error.exit {
        ExitStatus::Unreachable => NotFound::Unreachable(error.message),
        ExitStatus::Ok
        | ExitStatus::Failed
        | ExitStatus::Usage
        | ExitStatus::Invalid
        | ExitStatus::Command(_) => NotFound::Unsuitable(error.message),
    })?;
    let ours = redacted::to_json(config);
    if ours["listen"] != theirs["listen"] {
        return unreachable("the admin listener belongs to another larder");
    }
    if ["routes", "upstreams"].iter().any(|part| ours[part] != theirs[part]) {
        return unsuitable("a larder listens there, but not with these routes (try `larder reload`)");
    }
    // A shell that ran `larder env` before names larder itself, which is no parent.
    let parents = ["http", "https"].map(|scheme| (&ours["proxy"][scheme], &theirs["proxy"][scheme]));
    if parents.iter().any(|(ours, theirs)| !ours.is_null() && ours != theirs) {
        return unsuitable("a larder listens there, but it does not use the proxy of this environment");
    }
    let proxy = connect_address(listen);
    check_owner(file, config, proxy)?;
    let ca = admin_client.text("/ca.pem").map_err(|error| NotFound::Unsuitable(error.message))?;
    let endpoint = Endpoint { proxy, password: None, ca: ca.unwrap_or_default(), private: None };
    Ok(RunningLarder { admin_client, endpoint })
}

/// Finds the larder that runs with earlier contents of `file`, which is not valid at present, and the part of
/// its configuration that concerns a command: its listeners and the hosts that it names.
pub(in crate::cli) fn find_by_path(file: &Path, env: &Env) -> Option<(RunningLarder, Config)> {
    let admin_client = TargetArgs::for_config(file).find(env).ok()?;
    let theirs = admin_client.get("/v1/config").ok()?;
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    if canonical(Path::new(theirs["file"].as_str()?))? != canonical(file)?
        || !theirs["access"]["users"].is_null()
    {
        return None;
    }
    let hosts = theirs["routes"].as_array()?.iter().map(|route| &route["match"]["host"]);
    let routes = hosts
        .enumerate()
        .map(|(index, host)| json!({ "name": format!("r{index}"), "match": { "host": host } }));
    let known = json!({
        "version": 1,
        "listen": theirs["listen"],
        "tls": { "intercept": theirs["tls"]["intercept"] },
        "routes": routes.collect::<Vec<_>>(),
    });
    let mut config = config::parse("proxy.yaml", &known.to_string(), &Env::default()).ok()?;
    config.store.path = theirs["store"]["path"].as_str()?.into();
    let proxy = connect_address(*config.listen.first()?);
    check_owner(file, &config, proxy).ok()?;
    let ca = admin_client.text("/ca.pem").ok()?;
    let endpoint = Endpoint { proxy, password: None, ca: ca.unwrap_or_default(), private: None };
    Some((RunningLarder { admin_client, endpoint }, config))
}

/// Checks the owner of the proxy listener too: traffic needs the same protection as a token.
fn check_owner(file: &Path, config: &Config, proxy: SocketAddr) -> Result<(), NotFound> {
    let trusted = TrustedUsers::new(Some(file), Some(&config.store.path));
    trusted.check_listener(proxy).map_err(|error| match untrusted_listener(&error) {
        Some(untrusted) => NotFound::Unsuitable(untrusted.to_string()),
        None => NotFound::Unreachable(format!("no larder listens at {proxy} ({})", error.kind())),
    })
}

impl RunningLarder {
    /// Its metrics; empty if it does not respond.
    pub(super) fn metrics(&self) -> String {
        self.admin_client.text("/metrics").ok().flatten().unwrap_or_default()
    }

    /// Its metrics after the end of the command. A response is counted shortly after its last byte is sent,
    /// so the metrics are requested until they no longer change.
    pub(super) async fn final_metrics(&self) -> String {
        let mut page = self.metrics();
        for _ in 0..MAX_POLLS {
            sleep(POLL_INTERVAL).await;
            let next = self.metrics();
            let is_unchanged = Counts::parse(&next) == Counts::parse(&page);
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
