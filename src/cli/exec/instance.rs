//! The larder that a command uses: one that runs already, or one of its own.
//!
//! Owns: which of them. Never touches: how each is found or started.

use std::net::SocketAddr;
use std::path::Path;

use crate::cli::Context;
use crate::cli::exec::discovery::{self, NotFound, RunningLarder};
use crate::cli::exec::embedded::EmbeddedLarder;
use crate::cli::exec::final_stats::FinalStats;
use crate::cli::exec::supervisor::SupervisedLarder;
use crate::cli::exec::tell;
use crate::config::Config;

/// The larder that a command uses.
pub(in crate::cli) enum Instance {
    /// Somebody else's, with other clients perhaps.
    Running(RunningLarder),
    /// In this process.
    Private(EmbeddedLarder),
    /// In another process, with this one behind it.
    Guarded(SupervisedLarder),
}

impl Instance {
    /// The larder of the configuration at `file`: it accepts connections when this returns.
    pub(super) fn find(
        file: &Path,
        config: Config,
        world: &mut Context<'_>,
    ) -> Result<Self, String> {
        match discovery::find(file, &config, &world.env) {
            Ok(running) => return Ok(Self::Running(running)),
            Err(NotFound::Nobody(_)) => {}
            Err(NotFound::Unfit(said)) => tell(world, &format!("{said}: starting a private one")),
        }
        EmbeddedLarder::start(file, config, world).map(Self::Private)
    }

    /// One that this process stands behind: never somebody else's, whose socket it could not hold.
    pub(super) async fn guarded(
        file: &Path,
        config: Config,
        verbose: bool,
        world: &mut Context<'_>,
    ) -> Result<Self, String> {
        SupervisedLarder::start(file, config, verbose, world).await.map(Self::Guarded)
    }

    /// One of its own, whoever runs.
    pub(in crate::cli) fn own(
        file: &Path,
        config: Config,
        world: &mut Context<'_>,
    ) -> Result<Self, String> {
        EmbeddedLarder::start(file, config, world).map(Self::Private)
    }

    /// Where it listens for the command.
    pub(in crate::cli) fn proxy(&self) -> SocketAddr {
        match self {
            Self::Running(running) => running.proxy,
            Self::Private(private) => private.proxy(),
            Self::Guarded(guarded) => guarded.proxy(),
        }
    }

    /// The user and the password that it asks for, `USER:PASSWORD`.
    pub(super) fn password(&self) -> Option<&str> {
        match self {
            Self::Running(_) => None,
            Self::Private(private) => private.password(),
            Self::Guarded(guarded) => guarded.password(),
        }
    }

    /// The certificate of its authority; empty where nothing is intercepted.
    pub(super) fn ca(&self) -> &str {
        match self {
            Self::Running(running) => &running.ca,
            Self::Private(private) => private.ca(),
            Self::Guarded(guarded) => guarded.ca(),
        }
    }

    /// Whether it has other clients too.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Its metrics before the command; one of its own has counted nothing yet.
    pub(super) fn page(&self) -> String {
        match self {
            Self::Running(running) => running.page(),
            Self::Private(_) | Self::Guarded(_) => String::new(),
        }
    }

    /// The command has ended.
    pub(in crate::cli) async fn leave(self) -> FinalStats {
        match self {
            Self::Running(running) => {
                FinalStats { page: running.last_page().await, ..FinalStats::default() }
            }
            Self::Private(private) => private.stop().await,
            Self::Guarded(guarded) => {
                FinalStats { page: guarded.stop().await, ..FinalStats::default() }
            }
        }
    }
}
