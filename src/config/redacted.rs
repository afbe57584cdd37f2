//! The active configuration as JSON, for operators.
//!
//! Owns: which parts are shown: no users, no secrets, no values that routes match requests by.
//! Never touches: access to it (`admin`).

use serde_json::{Value, json};

use crate::config::duration::show;
use crate::config::parent_proxy::{NamedParent, ParentProxies};
use crate::config::{Admin, Config, Interception, Limits, Store, Upstream, describe, size};
use crate::route::table::Route;
use crate::semantics::redaction;

/// `config` in the structure of proxy.yaml; policies as texts, as in `larder check`.
pub fn to_json(config: &Config) -> Value {
    let resolve = config.resolve.iter().map(describe::resolve).collect::<Vec<_>>();
    let clients = config.access.clients.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "listen": config.listen,
        "access": {
            "clients": clients,
            "users": config.access.users.as_ref().map(|users| users.0.len()),
        },
        "admin": config.admin.as_ref().map(admin),
        "limits": limits(&config.limits),
        "log": config.log,
        "tls": tls(&config.tls),
        "resolve": resolve,
        "proxy": proxies(&config.proxies),
        "store": store(&config.store),
        "defaults": { "mode": config.mode.token(), "cooldown": describe::cooldown(config.cooldown) },
        "credential_headers":
            config.credential_headers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "secret_query": config.secret_query,
        "secret_path": config.secret_path.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "upstreams": config.upstreams.iter().map(|one| upstream(one)).collect::<Vec<_>>(),
        "routes": config.routes.routes().iter().map(|one| route(one)).collect::<Vec<_>>(),
        "notes": config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The admin section. It shows whether there is a token, not its value.
fn admin(admin: &Admin) -> Value {
    let allow = admin.allow.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({ "listen": admin.listen, "token": admin.token.is_some(), "allow": allow })
}

/// The `tls` section. It shows the paths of the authority's files, not their content.
fn tls(tls: &Interception) -> Value {
    let files = tls.ca.files.as_ref();
    json!({
        "ca": {
            "cert": files.map(|files| files.cert.to_string_lossy()),
            "key": files.map(|files| files.key.to_string_lossy()),
            "constrain": tls.ca.constrain.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "intercept": tls.intercept.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "passthrough": tls.passthrough.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The parent proxies, without their users and passwords.
pub fn proxies(proxies: &ParentProxies) -> Value {
    let url = |parent: &Option<NamedParent>| parent.as_ref().map(|parent| parent.proxy.to_string());
    json!({ "http": url(&proxies.http), "https": url(&proxies.https) })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "head": size::show_memory(limits.head),
        "headers": limits.headers,
        "head_timeout": show(limits.head_timeout),
        "idle": show(limits.idle),
        "tunnel_idle": show(limits.tunnel_idle),
        "patience": show(limits.patience),
        "body_idle": show(limits.body.idle),
        "body_min_rate": match limits.body.min_rate {
            0 => "off".to_owned(),
            rate => format!("{}/s", size::show(rate)),
        },
        "drain": show(limits.drain),
        "connections": limits.connections,
        "waiters_per_key": limits.waiters_per_key,
        "in_flight": size::show_memory(limits.in_flight),
    })
}

fn store(store: &Store) -> Value {
    json!({
        "path": store.path.to_string_lossy(),
        "memory": size::show_memory(store.memory),
        "disk": size::show(store.disk),
        "sweep_every": show(store.sweep_every),
        "max_object": size::show_memory(store.max_object),
    })
}

fn upstream(upstream: &Upstream) -> Value {
    let timeouts = upstream.timeouts;
    let mut value = json!({
        "name": &*upstream.name,
        "hosts": describe::upstream(upstream),
        "timeouts": {
            "connect": show(timeouts.connect),
            "first_byte": describe::deadline(timeouts.first_byte),
            "between_bytes": describe::deadline(timeouts.between_bytes),
            "total": describe::deadline(timeouts.total),
        },
        "tls": {
            "extra_roots": upstream.tls.extra_roots.len(),
            "client_cert": upstream.tls.client_cert.is_some(),
            "insecure": upstream.tls.insecure,
            "http2": upstream.tls.http2,
        },
    });
    for (label, text) in describe::to_json_object(&describe::upstream_policy(upstream)) {
        value[label] = text;
    }
    value
}

fn route(route: &Route) -> Value {
    let pattern = &route.pattern;
    let mut value = json!({
        "name": &*route.name,
        "match": {
            "host": pattern.host.to_string(),
            "method": pattern.methods.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "path": redaction::paths_in(&pattern.path.to_string()),
            "headers": pattern.headers.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(),
            "query": pattern.query.iter().map(|param| &param.name).collect::<Vec<_>>(),
        },
    });
    for (label, text) in describe::policy(&route.policy) {
        value[label] = text.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env::Env;
    use crate::config::parse;

    #[test]
    fn the_reference_is_shown_with_its_values() {
        let text = include_str!("../../proxy.yaml");
        let config = parse("proxy.yaml", text, &Env::default()).unwrap();
        let shown = to_json(&config);
        assert_eq!(shown["limits"]["drain"], "30s");
        assert_eq!(shown["store"]["memory"], "128MiB");
        assert_eq!(shown["routes"][0]["match"]["path"], "/api/{v}/guilds/{guild}/roles");
        assert_eq!(shown["routes"][0]["scope"], "shared by all clients");
        assert_eq!(shown["defaults"]["mode"], "cache");
    }

    #[test]
    fn adm_07_matched_values_and_secrets_are_not_shown() {
        let env: Env = [("KEY", "hunter2")].into_iter().collect();
        let text = "version: 1\nroutes:\n  - name: r\n    match: { host: a, headers: { X-Key: \
                    \"${KEY}\" }, query: { k: \"${KEY}\" } }\n";
        let config = parse("proxy.yaml", text, &env).unwrap();
        let shown = to_json(&config).to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("x-key"), "{shown}");
    }
}
