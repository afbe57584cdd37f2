//! The estate: the ground and the house that stands on it now.
//!
//! Owns: which house is in force, and how another takes its place. Never touches: listeners, signals.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::admin::api::{ReloadError, ReloadResult};
use crate::config::Config;
use crate::config::diagnostics::{Problem, Report, SourceLocation};
use crate::frontend::CurrentFrontend;
use crate::frontend::http1::Frontend;
use crate::policy::Mode;
use crate::server::pipeline::{BuildError, Pipeline};
use crate::server::reload::{ConfigDiff, ConfigSource};
use crate::server::shared::SharedState;
use crate::telemetry::log;

/// What runs.
pub(super) struct Runtime {
    pub(super) ground: SharedState,
    house: ArcSwap<Pipeline>,
    source: Option<ConfigSource>,
    /// One reload at a time: the last one asked for is the one in force.
    reloading: Mutex<()>,
}

impl Runtime {
    /// The first house on `ground`; later ones come from `source`.
    pub(super) fn found(
        config: Config,
        ground: SharedState,
        source: Option<ConfigSource>,
    ) -> Result<Arc<Self>, BuildError> {
        let house = Pipeline::build(config, &ground, None)?;
        tell_insecure(&house.config, &ground);
        ground.account.ledger().price(&house.config.upstreams);
        let house = ArcSwap::from_pointee(house);
        Ok(Arc::new(Self { ground, house, source, reloading: Mutex::default() }))
    }

    /// The house in force.
    pub(super) fn house(&self) -> Arc<Pipeline> {
        self.house.load_full()
    }

    /// Reads the configuration again: another house, or the old one and why.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<ReloadResult, ReloadError> {
        let _one = self.reloading.lock().await;
        let estate = Arc::clone(self);
        // Files are read, and certificates: not on a thread that serves.
        let built = tokio::task::spawn_blocking(move || estate.build_next()).await;
        let outcome = match built {
            Ok(Ok(house)) => Ok(self.swap(house)),
            Ok(Err(report)) => {
                let problems = report.problems();
                let first = problems.first();
                tracing::error!(
                    config = report.name(),
                    problems = problems.len(),
                    line = first.map(|problem| problem.place.line),
                    at = first.map(|problem| problem.path.as_str()),
                    first = first.map(|problem| problem.what.as_str()),
                    "Configuration not reloaded: the old one stays"
                );
                Err(ReloadError { report: report.to_string() })
            }
            Err(_panicked) => Err(ReloadError { report: "larder could not read it".to_owned() }),
        };
        self.ground.account.reloaded(outcome.is_ok());
        outcome
    }

    /// Turns the master switch.
    pub(super) fn set_mode(&self, mode: Mode) {
        let before = self.ground.switch.turn(mode);
        self.ground.account.mode(mode);
        if before != mode {
            tracing::info!(mode = mode.token(), before = before.token(), "Mode changed");
        }
    }

    fn build_next(&self) -> Result<Pipeline, Report> {
        let Some(source) = &self.source else {
            return Err(whole("proxy.yaml", "this larder was not started from a file"));
        };
        let before = self.house.load_full();
        let config = source.successor_of(&before.config)?;
        Pipeline::build(config, &self.ground, Some(&before))
            .map_err(|error| whole(source.name(), &error.to_string()))
    }

    fn swap(&self, house: Pipeline) -> ReloadResult {
        let old = self.house.load_full();
        let (before, now) = (&old.config, &house.config);
        // Whoever turned the switch live keeps it, unless the file says something new.
        if before.mode != now.mode {
            self.set_mode(now.mode);
        }
        if before.log.level != now.log.level {
            log::set_level(now.log.level);
        }
        let ConfigDiff { added, changed, removed, upstreams } = ConfigDiff::between(before, now);
        tell_insecure(now, &self.ground);
        self.ground.account.ledger().price(&now.upstreams);
        let routes = now.routes.routes().len();
        let notes: Vec<String> = now.notes.iter().map(ToString::to_string).collect();
        self.house.store(Arc::new(house));
        tracing::info!(routes, added, changed, removed, upstreams, "Configuration reloaded");
        for note in &notes {
            tracing::warn!("{note}");
        }
        ReloadResult { routes, notes }
    }
}

fn tell_insecure(config: &Config, ground: &SharedState) {
    let insecure = config.upstreams.iter().filter(|upstream| upstream.tls.insecure);
    ground.account.insecure(insecure.map(|upstream| &*upstream.name));
}

/// A report of one problem of the file as a whole.
fn whole(name: &str, what: &str) -> Report {
    let (place, path, fix) =
        (SourceLocation::default(), String::new(), "the old one stays".to_owned());
    Report::new(name, "", vec![Problem { place, path, what: what.to_owned(), fix }])
}

impl CurrentFrontend for Runtime {
    fn current(&self) -> Arc<Frontend> {
        Arc::clone(&self.house.load().door)
    }
}
