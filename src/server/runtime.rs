//! The runtime: the shared state and the current pipeline.
//!
//! Owns: the current pipeline, and replacing it. Never touches: listeners, signals.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::admin::api::{ReloadError, ReloadResult};
use crate::config::Config;
use crate::config::diagnostics::{Problem, Report};
use crate::frontend::CurrentFrontend;
use crate::frontend::http1::Frontend;
use crate::policy::Mode;
use crate::server::pipeline::{BuildError, Pipeline};
use crate::server::reload::{ConfigDiff, ConfigSource};
use crate::server::shared::SharedState;
use crate::telemetry::log;

/// The running server's state.
pub(super) struct Runtime {
    pub(super) shared: SharedState,
    pipeline: ArcSwap<Pipeline>,
    source: Option<ConfigSource>,
    /// Serialises reloads: the one requested last takes effect last.
    reloading: Mutex<()>,
}

impl Runtime {
    /// Builds the first pipeline on `shared`; later ones are built from `source`.
    pub(super) fn new(
        config: Config,
        shared: SharedState,
        source: Option<ConfigSource>,
    ) -> Result<Arc<Self>, BuildError> {
        let pipeline = Pipeline::build(config, &shared, None)?;
        record_insecure(&pipeline.config, &shared);
        shared.telemetry.cost().set_prices(&pipeline.config.upstreams);
        let pipeline = ArcSwap::from_pointee(pipeline);
        Ok(Arc::new(Self { shared, pipeline, source, reloading: Mutex::default() }))
    }

    /// The current pipeline.
    pub(super) fn pipeline(&self) -> Arc<Pipeline> {
        self.pipeline.load_full()
    }

    /// The absolute path of the configuration, if it comes from a file.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let source = self.source.as_ref()?;
        std::path::absolute(&source.name).ok()
    }

    /// Reloads the configuration. On an error the current pipeline stays.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<ReloadResult, ReloadError> {
        let _one = self.reloading.lock().await;
        let runtime = Arc::clone(self);
        // Reads files and certificates, so it must not block a serving thread.
        let built = tokio::task::spawn_blocking(move || runtime.build_next()).await;
        let outcome = match built {
            Ok(Ok(pipeline)) => Ok(self.swap(pipeline)),
            Ok(Err(report)) => {
                let problems = report.problems();
                let first = problems.first();
                tracing::error!(
                    config = report.name(),
                    problems = problems.len(),
                    line = first.map(|problem| problem.place.line).filter(|line| *line > 0),
                    at = first.map(|problem| problem.path.as_str()),
                    first = first.map(|problem| problem.what.as_str()),
                    "Configuration not reloaded: the old one stays"
                );
                Err(ReloadError { report: report.to_string() })
            }
            Err(_panicked) => {
                Err(ReloadError { report: "larder could not read the configuration".to_owned() })
            }
        };
        self.shared.telemetry.reloaded(outcome.is_ok());
        outcome
    }

    /// Sets the mode.
    pub(super) fn set_mode(&self, mode: Mode) {
        let before = self.shared.switch.set(mode);
        self.shared.telemetry.mode(mode);
        if before != mode {
            tracing::info!(mode = mode.token(), before = before.token(), "Mode changed");
        }
    }

    fn build_next(&self) -> Result<Pipeline, Report> {
        let Some(source) = &self.source else {
            return Err(whole_file_report("proxy.yaml", "this larder was not started from a file"));
        };
        let current = self.pipeline.load_full();
        let config = source.read_next(&current.config)?;
        Pipeline::build(config, &self.shared, Some(&current))
            .map_err(|error| whole_file_report(&source.name, &error.to_string()))
    }

    fn swap(&self, pipeline: Pipeline) -> ReloadResult {
        let old = self.pipeline.load_full();
        let (before, now) = (&old.config, &pipeline.config);
        // A mode that was set at run time stays, unless the file has a new value.
        if before.mode != now.mode {
            self.set_mode(now.mode);
        }
        if before.log.level != now.log.level {
            log::set_level(now.log.level);
        }
        let ConfigDiff { added, changed, removed, upstreams: upstreams_changed } =
            ConfigDiff::between(before, now);
        record_insecure(now, &self.shared);
        self.shared.telemetry.cost().set_prices(&now.upstreams);
        let routes = now.routes.routes().len();
        let notes: Vec<String> = now.warnings_to_log().map(ToString::to_string).collect();
        self.pipeline.store(Arc::new(pipeline));
        tracing::info!(routes, added, changed, removed, upstreams_changed, "Configuration reloaded");
        for note in &notes {
            tracing::warn!("{note}");
        }
        ReloadResult { routes, warnings: notes }
    }
}

fn record_insecure(config: &Config, shared: &SharedState) {
    let insecure = config.upstreams.iter().filter(|upstream| upstream.tls.insecure);
    shared.telemetry.insecure(insecure.map(|upstream| &*upstream.name));
}

/// A report of one problem that concerns the whole file.
fn whole_file_report(name: &str, problem: &str) -> Report {
    Report::new(name, "", vec![Problem::of_file(problem, "the old one stays")])
}

impl CurrentFrontend for Runtime {
    fn current(&self) -> Arc<Frontend> {
        Arc::clone(&self.pipeline.load().frontend)
    }
}
