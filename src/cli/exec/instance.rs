//! The larder that a command uses: a running one, or a private one.
//!
//! Owns: the choice. Never touches: how each is found or started.

use std::path::Path;

use crate::cli::Context;
use crate::cli::exec::discovery::{self, NotFound, RunningLarder};
use crate::cli::exec::embedded::EmbeddedLarder;
use crate::cli::exec::summary::FinalStats;
use crate::cli::exec::supervisor::SupervisedLarder;
use crate::cli::exec::{Endpoint, print_note};
use crate::config::Config;

/// The larder that a command uses.
pub(in crate::cli) enum Instance {
    /// A running larder, which may have other clients.
    Running(RunningLarder),
    /// A private larder in this process.
    Embedded(EmbeddedLarder),
    /// A private larder in a child process, with this process as the fallback.
    Supervised(SupervisedLarder),
}

impl Instance {
    /// Finds the larder of the configuration at `file`, or starts a private one. It accepts connections
    /// when this returns.
    pub(super) fn find_or_start(
        file: &Path,
        config: Config,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        match discovery::find(file, &config, &context.env) {
            Ok(running) => return Ok(Self::Running(running)),
            Err(NotFound::Unreachable(_)) => {}
            Err(NotFound::Unsuitable(reason)) => {
                print_note(context, &format!("{reason}: starting a private one"));
            }
        }
        EmbeddedLarder::start(file, config, context).map(Self::Embedded)
    }

    /// The data that the command needs to use it.
    pub(in crate::cli) fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Running(running) => &running.endpoint,
            Self::Embedded(embedded) => &embedded.endpoint,
            Self::Supervised(supervised) => &supervised.endpoint,
        }
    }

    /// Whether it has other clients too.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Its metrics before the command; a private larder has none yet.
    pub(super) fn metrics(&self) -> String {
        match self {
            Self::Running(running) => running.metrics(),
            Self::Embedded(_) | Self::Supervised(_) => String::new(),
        }
    }

    /// Stops it if it is private, and returns its final statistics.
    pub(in crate::cli) async fn finish(self) -> FinalStats {
        match self {
            Self::Running(running) => {
                FinalStats { metrics: running.final_metrics().await, ..FinalStats::default() }
            }
            Self::Embedded(embedded) => embedded.stop().await,
            Self::Supervised(supervised) => {
                FinalStats { metrics: supervised.stop().await, ..FinalStats::default() }
            }
        }
    }
}
