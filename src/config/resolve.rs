//! Conversion of the tree to a valid configuration.
//!
//! Owns: the keys, their defaults and the rules between them. The result is always valid.
//! Never touches: YAML, files and the environment, which the reader provides.

mod bounds;
mod destinations;
mod header_names;
mod limits;
mod listen;
mod policy;
mod proxy;
mod retry;
mod routes;
mod secret;
mod status;
mod timeouts;
mod tls;
mod unreachable;
mod upstreams;

use std::path::PathBuf;

use crate::config::diagnostics::{Problem, ValueError};
use crate::config::file::{Node, Value};
use crate::config::reader::{Reader, Section};
use crate::config::{Admin, Config};

/// The whole configuration; `None` if the reader has recorded problems.
pub(crate) fn resolve(tree: &Node, reader: &mut Reader<'_>) -> Option<Config> {
    let is_empty = matches!(tree.value, Value::Null);
    let mut top = if is_empty { None } else { reader.section(tree, "") };
    if is_empty {
        reader.problems.push(no_version(tree));
    }
    let top = top.as_mut()?;
    if !version(top, tree, reader) {
        return None;
    }
    let config = sections(top, reader);
    top.finish(reader);
    reader.problems.is_empty().then_some(config)
}

/// Only `admin`, even if the rest of the file has problems; `None` if it is switched off.
pub(crate) fn admin(tree: &Node, reader: &mut Reader<'_>) -> Option<Admin> {
    let mut top = if matches!(tree.value, Value::Map(_)) { reader.section(tree, "") } else { None };
    top.as_mut().map_or_else(|| Some(Admin::default()), |top| listen::admin(top, &[], reader))
}

/// Only the path of the store, even if the rest of the file has problems.
pub(crate) fn store_path(tree: &Node, reader: &mut Reader<'_>) -> PathBuf {
    let mut top = if matches!(tree.value, Value::Map(_)) { reader.section(tree, "") } else { None };
    limits::store_path(top.as_mut(), reader)
}

/// All sections, in the order of the reference file.
fn sections(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Config {
    let (listen, access, admin) = listen::read(top, reader);
    let destinations = destinations::read(top, reader);
    let (limits, in_flight) = limits::limits(top, reader);
    let log = limits::log(top, reader);
    let tls = tls::read(top, reader);
    let resolve = destinations::resolve(top, &destinations, reader);
    let proxies = proxy::read(top, &listen, reader);
    let caller_roots = proxy::caller_roots(reader);
    let store = limits::store(top, &limits, in_flight, reader);
    let scope_secret = secret::scope_secret(top, reader);
    let credential_headers = header_names::credential_headers(top, reader);
    let secret_query = header_names::secret_query(top, reader);
    let secret_path = header_names::secret_path(top, reader);
    let defaults = policy::defaults(top, reader);
    let upstreams = upstreams::read(top, (&destinations, &listen), limits.patience, reader);
    let routes = routes::read(top, &defaults, &upstreams, &credential_headers, reader);
    tls::check_routes(top, &tls, &routes, reader);
    tls::warn_unconstrained(top, &tls, &routes, reader);
    let notes = std::mem::take(&mut reader.warnings);
    Config {
        listen,
        access,
        destinations,
        limits,
        log,
        admin,
        tls,
        resolve,
        proxies,
        caller_roots,
        store,
        scope_secret,
        credential_headers,
        secret_query,
        secret_path,
        mode: defaults.mode,
        cooldown: defaults.cooldown,
        upstreams,
        routes,
        serves_command: false,
        warnings: notes,
    }
}

/// Whether this larder supports the version of the file; if not, other problems would be meaningless.
fn version(top: &mut Section<'_>, tree: &Node, reader: &mut Reader<'_>) -> bool {
    let Some(node) = top.get("version") else {
        reader.problems.push(no_version(tree));
        return true;
    };
    let version = reader.scalar(node, "version", |text| {
        let known = "a version that this larder reads";
        let fix = "write `version: 1`, or run the larder that this file was written for";
        let error = || ValueError::new(known, "is not known: this larder reads version 1", fix);
        if text == "1" { Ok(()) } else { Err(error()) }
    });
    version.is_some()
}

fn no_version(tree: &Node) -> Problem {
    Problem {
        place: tree.place,
        path: "version".to_owned(),
        what: "is missing; it keeps a later larder from misreading this file".to_owned(),
        fix: "begin the file with `version: 1`".to_owned(),
    }
}
