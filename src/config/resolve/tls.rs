//! `tls`: which connections are intercepted, and the certificate authority for them.
//!
//! Owns: the rules between the intercepted hosts and the constraints of the authority.
//! Never touches: certificates; validation of the authority's files (`frontend::ca`).

use std::path::PathBuf;

use crate::config::diagnostics::WarningKind;
use crate::config::file::{Node, Value};
use crate::config::name_constraint::{NameConstraint, for_patterns};
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::resolve::destinations::{host_pattern, warn_trailing_dots};
use crate::config::{Ca, CaFiles, Interception};
use crate::route::pattern::HostPattern;
use crate::route::table::Table;

/// `tls`.
pub(super) fn read(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Interception {
    let Some(mut section) = top.section(reader, "tls") else { return Interception::default() };
    let ca = ca(&mut section, reader);
    let intercept = section.scalars(reader, "intercept", host_pattern).unwrap_or_default();
    let passthrough = section.scalars(reader, "passthrough", host_pattern).unwrap_or_default();
    warn_trailing_dots(&mut section, "intercept", reader);
    warn_trailing_dots(&mut section, "passthrough", reader);
    section.finish(reader);
    let values = |all: &[Spanned<HostPattern>]| all.iter().map(|at| at.value.clone()).collect();
    let tls = Interception { ca, intercept: values(&intercept), passthrough: values(&passthrough) };
    for host in intercept.iter().filter(|host| !is_passthrough(&host.value, &tls)) {
        check(host, &tls.ca.constrain, reader);
    }
    tls
}

/// Checks the hosts of routes against `tls.ca.constrain`.
pub(super) fn check_routes(
    top: &mut Section<'_>,
    tls: &Interception,
    routes: &Table,
    reader: &mut Reader<'_>,
) {
    let Some(Node { value: Value::List(nodes), .. }) = top.get("routes") else { return };
    for route in routes.routes().iter().filter(|route| !route.pattern.host.is_any()) {
        if is_passthrough(&route.pattern.host, tls) {
            continue;
        }
        let pattern = nodes.get(route.index).and_then(|node| value_of(node, "match"));
        let place = pattern.and_then(|node| value_of(node, "host")).map(|node| node.place);
        let (place, path) = (place.unwrap_or_default(), format!("routes[{}].match.host", route.name));
        check(&Spanned { value: route.pattern.host.clone(), place, path }, &tls.ca.constrain, reader);
    }
}

/// Warns if the certificate authority has no constraints.
pub(super) fn warn_unconstrained(
    top: &Section<'_>,
    tls: &Interception,
    routes: &Table,
    reader: &mut Reader<'_>,
) {
    let hosts = routes.routes().iter().map(|route| &route.pattern.host);
    let hosts = hosts.filter(|host| !host.is_any()).chain(&tls.intercept);
    let hosts: Vec<_> = hosts.filter(|host| !is_passthrough(host, tls)).collect();
    if hosts.is_empty() || !tls.ca.constrain.is_empty() {
        return;
    }
    let fix = match for_patterns(hosts) {
        None => "this is required as long as every host is intercepted; name hosts instead, or protect \
        the key"
            .to_owned(),
        Some(hosts) => {
            let more = if hosts.len() > SHOWN { ", …" } else { "" };
            let hosts: Vec<_> = hosts.iter().take(SHOWN).map(ToString::to_string).collect();
            format!(
                "`tls: {{ ca: {{ constrain: [{}{more}] }} }}` and `larder ca rotate` restrict it to \
                 the hosts of this file",
                hosts.join(", ")
            )
        }
    };
    let text = format!(
        "larder's certificate authority may issue certificates for any host: an attacker with its key \
         can impersonate every host to clients that trust it; {fix}"
    );
    let key = if top.has("tls") { "tls" } else { "routes" };
    let path = "tls.ca.constrain".to_owned();
    let at = Spanned { value: (), place: top.key_place(key), path };
    reader.warn(&at, WarningKind::Unconstrained, text);
}

/// The most hosts that a warning names.
const SHOWN: usize = 5;

fn ca(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Ca {
    let Some(mut ca) = section.section(reader, "ca") else { return Ca::default() };
    let (cert, key) = (ca.file_path(reader, "cert"), ca.file_path(reader, "key"));
    let constrain = ca.values(reader, "constrain", NameConstraint::parse);
    ca.finish(reader);
    for (present, missing) in [("cert", "key"), ("key", "cert")] {
        if ca.has(present) && !ca.has(missing) {
            let fix = format!("add `{missing}: …`, or leave both out: larder then generates its own");
            let what = "needs the other file of the pair";
            reader.problem(ca.key_place(present), &ca.key_path(present), what, fix);
        }
    }
    Ca { files: files(cert, key, reader), constrain }
}

fn files(
    cert: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    reader: &mut Reader<'_>,
) -> Option<CaFiles> {
    let (cert, key) = (cert?, key?);
    if cert.value == key.value {
        let fix = "name two files: the certificate is public, the key is secret";
        reader.problem(key.place, &key.path, "is the certificate's file too", fix);
    }
    Some(CaFiles { cert: cert.value, key: key.value })
}

/// Checks one intercepted host against the constraints.
fn check(host: &Spanned<HostPattern>, constrain: &[NameConstraint], reader: &mut Reader<'_>) {
    if constrain.is_empty() {
        return;
    }
    let enclosing = NameConstraint::for_pattern(&host.value);
    let (what, fix) = match &enclosing {
        Some(hosts) if constrain.iter().any(|one| one.covers(hosts)) => return,
        Some(hosts) => (
            "is outside tls.ca.constrain: larder could not issue a certificate for it",
            format!("add `{hosts}` there and run `larder ca rotate`, or name it in tls.passthrough"),
        ),
        None => (
            "is every host, but tls.ca.constrain admits only some",
            "name the hosts to intercept, or leave `constrain` out".to_owned(),
        ),
    };
    reader.problem(host.place, &host.path, format!("`{}` {what}", host.value), fix);
}

/// Whether `passthrough` covers all of this pattern.
fn is_passthrough(host: &HostPattern, tls: &Interception) -> bool {
    tls.passthrough.iter().any(|pattern| pattern.covers(host))
}

fn value_of<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}
