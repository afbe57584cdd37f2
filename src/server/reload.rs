//! Reload of the configuration: which keys may change, and which changes were made.
//!
//! Owns: the keys that are fixed for the lifetime of the process. Never touches: reading the file,
//! swapping pipelines.

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::config::diagnostics::{Problem, Report};
use crate::route::table::Route;

/// Reads the configuration again, as at start.
#[derive(Clone)]
pub struct ConfigSource {
    /// The file's name.
    pub(super) name: String,
    read: Arc<dyn Fn() -> Result<Config, Report> + Send + Sync>,
}

impl ConfigSource {
    /// A source that reads the file `name` with `read`.
    pub fn new(
        name: impl Into<String>,
        read: impl Fn() -> Result<Config, Report> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), read: Arc::new(read) }
    }

    /// Reads the new configuration. Fails if it differs from `old` in a fixed key.
    pub(super) fn read_next(&self, old: &Config) -> Result<Config, Report> {
        let new = (self.read)()?;
        let problems = changed_fixed_keys(&self.name, old, &new);
        if problems.is_empty() { Ok(new) } else { Err(Report::new(&self.name, "", problems)) }
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigSource({})", self.name)
    }
}

/// The fixed keys that differ.
fn changed_fixed_keys(name: &str, old: &Config, new: &Config) -> Vec<Problem> {
    let (old_store, new_store) = (&old.store, &new.store);
    let take_over =
        format!("put it back, or restart without dropping a connection: `larder run --take-over {name}`");
    // The next process would look for this one at the new path.
    let restart = "put it back, or stop larder and start it again".to_owned();
    let keys = [
        ("listen", old.listen != new.listen, &take_over),
        ("admin", old.admin != new.admin, &take_over),
        ("store.path", old_store.path != new_store.path, &restart),
        ("store.memory", old_store.memory != new_store.memory, &take_over),
        ("store.disk", old_store.disk != new_store.disk, &take_over),
        ("store.max_object", old_store.max_object != new_store.max_object, &take_over),
        ("store.sweep_every", old_store.sweep_every != new_store.sweep_every, &take_over),
        ("scope_secret", old.scope_secret != new.scope_secret, &take_over),
        ("limits.connections", old.limits.connections != new.limits.connections, &take_over),
        ("limits.in_flight", old.limits.in_flight != new.limits.in_flight, &take_over),
        ("log.format", old.log.format != new.log.format, &take_over),
    ];
    let changed = keys.into_iter().filter(|(_, differs, _)| *differs);
    let problem = |(key, _, fix): (&str, bool, &String)| Problem {
        path: key.to_owned(),
        ..Problem::of_file("cannot change while larder runs", fix)
    };
    changed.map(problem).collect()
}

/// The number of differences between two configurations, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfigDiff {
    pub(super) added: usize,
    pub(super) changed: usize,
    pub(super) removed: usize,
    pub(super) upstreams: usize,
}

impl ConfigDiff {
    /// Compares routes and upstreams by name.
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let (old_routes, new_routes) = (old.routes.routes(), new.routes.routes());
        let missing = |from: &[Arc<Route>], name: &str| !from.iter().any(|route| *route.name == *name);
        let differs =
            |route: &&Arc<Route>| old_routes.iter().any(|old| old.name == route.name && old != *route);
        let same = |upstream| old.upstreams.contains(upstream);
        Self {
            added: new_routes.iter().filter(|route| missing(old_routes, &route.name)).count(),
            changed: new_routes.iter().filter(differs).count(),
            removed: old_routes.iter().filter(|route| missing(new_routes, &route.name)).count(),
            upstreams: new.upstreams.iter().filter(|upstream| !same(upstream)).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env::Env;
    use crate::config::parse;

    fn config(rest: &str) -> Config {
        parse("proxy.yaml", &format!("version: 1\n{rest}\n"), &Env::default())
            .expect("the configuration is valid")
    }

    fn reload(old: &str, new: &str) -> Result<Config, Report> {
        let new = config(new);
        let source = ConfigSource::new("proxy.yaml", move || Ok(new.clone()));
        source.read_next(&config(old))
    }

    #[test]
    fn a_changed_fixed_key_is_reported_with_the_fix() {
        for (new, key) in [
            ("listen: 127.0.0.1:1", "listen"),
            ("admin: off", "admin"),
            ("store: { memory: 256MiB }", "store.memory"),
            ("store: { disk: 1GiB }", "store.disk"),
            ("store: { max_object: 1MiB }", "store.max_object"),
            ("store: { sweep_every: 2m }", "store.sweep_every"),
            ("limits: { connections: 5 }", "limits.connections"),
            ("limits: { in_flight: 64MiB }", "limits.in_flight"),
            ("log: { format: json }", "log.format"),
        ] {
            let report = reload("", new).expect_err(key).to_string();
            let expected = format!(
                "proxy.yaml: {key}: cannot change while larder runs\n   |  put it back, or restart \
                 without dropping a connection: `larder run --take-over proxy.yaml`\n\
                 proxy.yaml: 1 problem"
            );
            assert_eq!(report, expected);
        }
        let report = reload("", "store: { path: elsewhere }").expect_err("store.path").to_string();
        assert!(report.contains("stop larder and start it again"), "{report}");
    }

    #[test]
    fn all_changed_fixed_keys_are_reported_at_once() {
        let report = reload("", "listen: 127.0.0.1:1\nadmin: off").expect_err("two keys");
        assert_eq!(report.problems().len(), 2);
    }

    #[test]
    fn all_other_keys_may_change() {
        let new = "limits: { idle: 5s, drain: 1s, head: 2KiB }\nlog: { level: debug }\n\
                   defaults: { mode: bypass, retry: off, stale_if_error: { max_cooldown: 5m } }\n\
                   credential_headers: [X-A]\nsecret_query: [s]\nsecret_path: ['/{a}']\n\
                   destinations: { deny: [10.0.0.0/8] }\nresolve: { a: '127.0.0.1:1' }\n\
                   access: { clients: [127.0.0.1] }\nupstreams: { u: { hosts: [a], rate_limit: \
                   { limit: 5/s }, errors: [{ status: 403, class: auth }], breaker: {}, cost: {}, \
                   ban_guard: {} } }\nroutes: [{ name: r, match: { host: a }, retry: \
                   { retries: 1 } }]";
        assert!(reload("", new).is_ok());
    }

    #[test]
    fn changes_are_counted_by_name() {
        let old = config(
            "upstreams: { u: { hosts: [a] }, v: { hosts: [b] } }\n\
             routes: [{ name: a, match: { host: a } }, { name: b, match: { host: b } }]",
        );
        let new = config(
            "upstreams: { u: { hosts: [a] }, v: { hosts: [c] } }\n\
             routes: [{ name: a, match: { host: a }, ttl: 1h }, { name: c, match: { host: b } }]",
        );
        let expected = ConfigDiff { added: 1, changed: 1, removed: 1, upstreams: 1 };
        assert_eq!(ConfigDiff::between(&old, &new), expected);
        let none = ConfigDiff { added: 0, changed: 0, removed: 0, upstreams: 0 };
        assert_eq!(ConfigDiff::between(&old, &old.clone()), none);
    }
}
