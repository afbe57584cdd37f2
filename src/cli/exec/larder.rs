//! The larder that a command uses: one that runs already, or one of its own.
//!
//! Owns: which of them. Never touches: how each is found or started.

use std::net::SocketAddr;
use std::path::Path;

use crate::cli::World;
use crate::cli::exec::guarded::Guarded;
use crate::cli::exec::left::Left;
use crate::cli::exec::private::Private;
use crate::cli::exec::running::{self, Missing, Running};
use crate::cli::exec::tell;
use crate::config::Config;

/// The larder that a command uses.
pub(in crate::cli) enum Larder {
    /// Somebody else's, with other clients perhaps.
    Running(Running),
    /// In this process.
    Private(Private),
    /// In another process, with this one behind it.
    Guarded(Guarded),
}

impl Larder {
    /// The larder of the configuration at `file`: it accepts connections when this returns.
    pub(super) fn find(file: &Path, config: Config, world: &mut World<'_>) -> Result<Self, String> {
        match running::find(file, &config, &world.env) {
            Ok(running) => return Ok(Self::Running(running)),
            Err(Missing::Nobody(_)) => {}
            Err(Missing::Unfit(said)) => tell(world, &format!("{said}: starting a private one")),
        }
        Private::start(file, config, world).map(Self::Private)
    }

    /// One that this process stands behind: never somebody else's, whose socket it could not hold.
    pub(super) async fn guarded(
        file: &Path,
        config: Config,
        verbose: bool,
        world: &mut World<'_>,
    ) -> Result<Self, String> {
        Guarded::start(file, config, verbose, world).await.map(Self::Guarded)
    }

    /// One of its own, whoever runs.
    pub(in crate::cli) fn own(
        file: &Path,
        config: Config,
        world: &mut World<'_>,
    ) -> Result<Self, String> {
        Private::start(file, config, world).map(Self::Private)
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
    pub(in crate::cli) async fn leave(self) -> Left {
        match self {
            Self::Running(running) => Left { page: running.last_page().await, ..Left::default() },
            Self::Private(private) => private.stop().await,
            Self::Guarded(guarded) => Left { page: guarded.stop().await, ..Left::default() },
        }
    }
}
