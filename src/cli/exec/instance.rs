//! The larder that a command uses: a running one, or a private one.
//!
//! Owns: the choice. Never touches: how each is found or started.

use crate::cli::Context;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::discovery::{self, NotFound, RunningLarder};
use crate::cli::exec::embedded::EmbeddedLarder;
use crate::cli::exec::lease::LeaseStats;
use crate::cli::exec::shared::SharedLarder;
use crate::cli::exec::summary::FinalStats;
use crate::cli::exec::supervisor::SupervisedLarder;
use crate::cli::exec::{Endpoint, print_note};
use crate::config::Config;

/// The larder that a command uses.
pub(in crate::cli) enum Instance {
    /// A running larder, which may have other clients.
    Running(RunningLarder),
    /// A private larder that other commands may share.
    Shared(SharedLarder),
    /// A private larder in this process.
    Embedded(EmbeddedLarder),
    /// A private larder in a child process, with this process as the fallback.
    Supervised(SupervisedLarder),
}

impl Instance {
    /// Finds the larder of the configuration at `place`, or starts a private one. It accepts connections
    /// when this returns.
    pub(super) async fn find_or_start(
        place: Place<'_>,
        config: Config,
        verbose: bool,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        // A running larder has another store.
        let found = if place.store.is_some() { None } else { Some(()) };
        let found = found.map(|()| discovery::find(place.file, &config, &context.env));
        match found.unwrap_or_else(|| Err(NotFound::Unreachable(String::new()))) {
            Ok(running) => return Ok(Self::Running(running)),
            Err(NotFound::Unreachable(_)) => {}
            Err(NotFound::Unsuitable(reason)) => {
                print_note(context, &format!("{reason}: starting a private one"));
            }
        }
        match SharedLarder::join_or_start(place, verbose, context).await {
            Ok(shared) => return Ok(Self::Shared(shared)),
            Err(reason) => print_note(context, &format!("other commands cannot share its larder: {reason}")),
        }
        EmbeddedLarder::start(place, config, context).map(Self::Embedded)
    }

    /// The data that the command needs to use it.
    pub(in crate::cli) fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Running(running) => &running.endpoint,
            Self::Shared(shared) => &shared.endpoint,
            Self::Embedded(embedded) => &embedded.endpoint,
            Self::Supervised(supervised) => &supervised.endpoint,
        }
    }

    /// Its metrics before the command; a private larder has none yet.
    pub(super) fn metrics(&self) -> String {
        match self {
            Self::Running(running) => running.metrics(),
            Self::Shared(_) | Self::Embedded(_) | Self::Supervised(_) => String::new(),
        }
    }

    /// Stops it if it is private, and returns its final statistics.
    pub(in crate::cli) async fn finish(self) -> FinalStats {
        match self {
            Self::Running(running) => {
                let metrics = running.final_metrics().await;
                FinalStats { metrics, shared: true, ..FinalStats::default() }
            }
            Self::Shared(shared) => {
                let LeaseStats { metrics, before, tunnelled, distrusted, shared } = shared.finish().await;
                FinalStats { metrics, before: Some(before), shared, tunnelled, distrusted }
            }
            Self::Embedded(embedded) => embedded.stop().await,
            Self::Supervised(supervised) => {
                FinalStats { metrics: supervised.stop().await, ..FinalStats::default() }
            }
        }
    }
}
