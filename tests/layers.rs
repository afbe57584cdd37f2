//! The architecture as a test: which module may import which, where each third-party crate may be used,
//! that files import each other in no circle, and what the pure modules may not do. A violation is
//! reported as `file:line: what`.
//!
//! Comments and literals are blanked before looking. Limits: a macro or a re-export can hide an edge.
#![expect(clippy::string_slice, reason = "text is cut at ASCII signs, where a character begins")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::sources::{Source, code, sources_below};

#[path = "support/sources.rs"]
mod sources;

/// Modules, bottom first. A module may import what lies on lower lines, never its own line.
const LAYERS: &[&[&str]] = &[
    &["clock", "semantics"],
    &["policy", "stored"],
    &["route", "key"],
    &["decide", "config"],
    &["telemetry"],
    &["store", "upstream"],
    &["engine"],
    &["frontend", "admin", "exec_env", "fake"],
    &["proxy"],
    &["server"],
    &["cli"],
    &["main"],
];

/// The rooms on a request's way, and what is looked up there once for a request: the text of the step, and the
/// only files that contain it.
const ON_THE_WAY: &[&str] = &["frontend", "proxy", "engine", "upstream"];
const ONCE: &[(&str, &[&str])] = &[
    ("routes.find(", &["engine/router"]),
    ("key_builder.key(", &["engine/router"]),
    ("upstreams.lookup(", &["engine/router", "upstream/routed_request"]),
    ("head::read(", &["frontend/http1"]),
];

/// Values in, values out: no task, no socket, no disk.
const PURE: &[&str] = &["semantics", "policy", "stored", "route", "key", "decide"];

/// The words that a pure module may not contain.
const IMPURE: &[&str] = &[
    "tokio",
    "pingora",
    "sled",
    "async",
    "await",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];

/// A third-party crate, or a family of crates with this prefix, and the only places that know it.
const DOORS: &[(&str, &[&str])] = &[
    ("pingora", &["frontend", "proxy", "upstream", "fake"]),
    ("prometheus", &["telemetry/metrics"]),
    ("tracing_subscriber", &["telemetry/log"]),
    ("axum", &["admin", "fake"]),
    ("hickory_resolver", &["upstream"]),
    ("quick_cache", &["store", "frontend/ca"]),
    ("sled", &["store/disk", "store/state_db"]),
    ("redis", &["store/shared"]),
    ("serde_saphyr", &["config"]),
    ("jiff", &["semantics/time_zone", "semantics/rate_limit/unit"]),
    ("sfv", &["semantics/targeted_cache_control", "semantics/rate_limit"]),
    ("serde_json_path", &["semantics/json_path"]),
    ("flate2", &["upstream/outcome/body_inspection"]),
    ("clap", &["cli", "main"]),
    ("listenfd", &["cli/run"]),
    (
        "rustix",
        &[
            "store",
            "server/handover",
            "server/inherited_sockets",
            "upstream/connect/descriptors",
            "upstream/connect/happy_eyeballs",
            "frontend/ca",
            "exec_env",
            "cli",
        ],
    ),
    ("ureq", &["cli/admin_client"]),
    ("ring", &["store/disk/encryption", "frontend/ca"]),
    ("subtle", &["admin/acl"]),
    ("rcgen", &["frontend/ca", "config/client_cert", "config/resolve/upstreams"]),
    ("tokio_rustls", &["frontend", "upstream/connect/parent"]),
    ("tokio_socks", &["upstream/connect/parent"]),
    (
        "h2",
        &["frontend/http2", "frontend/session", "upstream/connect/shared_http2", "upstream/connect/session"],
    ),
    ("p12_keystore", &["exec_env"]),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every line that is crossed, as `src/FILE:LINE: WHAT`.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path != "lib") {
        let Some(own) = layer(source.module()) else {
            found.push(format!("src/{}.rs:1: no line of the table names it", source.path));
            continue;
        };
        for (index, line) in code(&source.text).lines().enumerate() {
            let whats = edges(source.module(), own, line)
                .into_iter()
                .chain(doors(source, line))
                .chain(impurities(source.module(), line));
            for what in whats {
                found.push(format!("src/{}.rs:{}: {what}", source.path, index + 1));
            }
        }
    }
    found
}

fn edges(module: &str, own: usize, line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let squeezed = line.split("::").map(str::trim).collect::<Vec<_>>().join("::");
    if squeezed.contains("super::super") {
        found.push("super::super hides where it leads; write crate::…".to_owned());
    }
    if squeezed.contains("crate::{") || squeezed.contains("crate::*") {
        found.push("crate::{ hides what is imported; one `use crate::module::…` each".to_owned());
    }
    if words(line).collect::<Vec<_>>().windows(2).any(|pair| pair == ["crate", "as"]) {
        found.push("`crate as` hides what is imported".to_owned());
    }
    let root = if module == "main" { "larder::" } else { "crate::" };
    for used in after_each(&squeezed, root) {
        let lower = layer(used).is_some_and(|layer| layer < own);
        let is_name = !used.is_empty();
        if is_name && used != module && !lower {
            found.push(format!("{module} may not use {used}"));
        }
    }
    found
}

fn doors<'a>(source: &'a Source, line: &'a str) -> impl Iterator<Item = String> + 'a {
    let through = |(name, places): &&(&'static str, &'static [&'static str])| {
        let known = places.iter().any(|place| source.is_within(place));
        !known && paths(line).any(|word| is_of_family(word, name))
    };
    DOORS.iter().filter(through).map(|(name, places)| format!("only {} may use {name}", places.join(", ")))
}

fn impurities(module: &str, line: &str) -> Vec<String> {
    if !PURE.contains(&module) {
        return Vec::new();
    }
    let has = |banned: &&&str| {
        if banned.contains("::") {
            return line.contains(**banned);
        }
        words(line).any(|word| is_of_family(word, banned))
    };
    let report = |banned: &&str| format!("{module} is pure and may not contain {banned}");
    IMPURE.iter().filter(has).map(report).collect()
}

/// `pingora` and `pingora_core` are of the family `pingora`; `clapping` is not of `clap`.
fn is_of_family(word: &str, name: &str) -> bool {
    word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The words that a path begins with: followed by `::`, or brought in by `use`.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let imported = line.trim_start().trim_start_matches("pub ").strip_prefix("use ");
    let imported = imported.and_then(|rest| words(rest).next());
    let led = line.match_indices("::").filter_map(|(at, _)| {
        let before = &line[..at];
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
        let begins = !before[..start].trim_end().ends_with("::");
        begins.then(|| &before[start..])
    });
    led.chain(imported)
}

/// The identifier behind each `root`.
fn after_each<'a>(line: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(root)
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(move |(at, _)| {
            let rest = &line[at + root.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
}

fn all_sources() -> Vec<Source> {
    let mut sources = Vec::new();
    sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    sources
}

/// The files that each file imports from, without tests. A `mod` declaration is no import, nor is the use
/// that a file makes of the modules that contain it.
fn imports(sources: &[Source]) -> BTreeMap<&str, Vec<&str>> {
    let is_test = |path: &str| path.split('/').any(|part| part == "tests");
    let sources = || sources.iter().filter(|source| !is_test(&source.path));
    let files: Vec<&str> = sources().map(|source| source.path.as_str()).collect();
    let imports_of = |source: &Source| {
        let text = code(&source.text);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let starts = text.match_indices("crate::").map(|(at, root)| at + root.len());
        let paths = starts.flat_map(|start| paths_at(&text[start..]));
        paths.filter_map(|path| file_of(&files, &path)).collect::<Vec<_>>()
    };
    sources()
        .map(|source| {
            let mut imported = imports_of(source);
            imported.retain(|file| !source.is_within(file));
            imported.sort_unstable();
            imported.dedup();
            (source.path.as_str(), imported)
        })
        .collect()
}

/// `a/b/Item` of a text that begins with `a::b::Item`, or all paths of `a::b::{c::Item, d}`.
fn paths_at(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let path = text[..end.unwrap_or(text.len())].replace("::", "/");
    let group = end.and_then(|end| text[end..].strip_prefix('{')?.split(['}', '{']).next());
    let Some(group) = group.filter(|_| path.ends_with('/')) else { return vec![path] };
    let names = group.split(',').map(|name| name.trim().replace("::", "/"));
    names.filter(|name| !name.is_empty()).map(|name| format!("{path}{name}")).collect()
}

/// The file that defines the item at `path`.
fn file_of<'a>(files: &[&'a str], path: &str) -> Option<&'a str> {
    let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    ends.push(path.len());
    ends.iter().rev().find_map(|end| files.iter().find(|file| **file == &path[..*end]).copied())
}

/// Files that import each other in circles, and files between two circles.
fn circles(imports: &BTreeMap<&str, Vec<&str>>) -> Vec<String> {
    let mut left: BTreeMap<&str, Vec<&str>> = imports.clone();
    loop {
        let before = left.len();
        let remaining: Vec<&str> = left.keys().copied().collect();
        for imported in left.values_mut() {
            imported.retain(|file| remaining.contains(file));
        }
        let imported: Vec<&str> = left.values().flatten().copied().collect();
        left.retain(|file, imports| !imports.is_empty() && imported.contains(file));
        if left.len() == before {
            break;
        }
    }
    left.iter().map(|(file, imports)| format!("src/{file}.rs: {}", imports.join(", "))).collect()
}

#[test]
fn every_module_imports_only_what_lies_below_it() {
    let sources = all_sources();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = all_sources();
    let found = circles(&imports(&sources));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_request_is_parsed_routed_and_keyed_in_one_place() {
    let sources = all_sources();
    let is_test = |source: &Source| source.path.ends_with("tests") || source.path.contains("tests/");
    for (step, places) in ONCE {
        let mut found: Vec<&str> = sources
            .iter()
            .filter(|source| ON_THE_WAY.contains(&source.module()) && !is_test(source))
            .filter(|source| code(&source.text).contains(step))
            .map(|source| &*source.path)
            .collect();
        found.sort_unstable();
        assert_eq!(found, *places, "the files that contain `{step}`");
    }
}

#[test]
fn a_circle_is_reported_and_a_chain_is_not() {
    let chain = [
        Source::new("engine.rs", "mod fill;\nuse crate::engine::{fill::Fill, retry};"),
        Source::new("engine/fill.rs", "use crate::engine::retry::next;"),
        Source::new("engine/retry.rs", "#[cfg(test)]\nmod tests {\n use crate::engine::fill::Fill;\n}"),
    ];
    assert_eq!(circles(&imports(&chain)), Vec::<String>::new());
    let circle = [
        Source::new("engine/fill.rs", "use crate::engine::retry::next;"),
        Source::new("engine/retry.rs", "fn f() -> crate::engine::fill::Fill {}"),
    ];
    let expected =
        ["src/engine/fill.rs: engine/retry", "src/engine/retry.rs: engine/fill"].map(str::to_owned);
    assert_eq!(circles(&imports(&circle)), expected);
}

#[test]
fn every_module_of_the_map_is_in_the_table_and_the_other_way_round() {
    let sources = all_sources();
    let lib = sources.iter().find(|source| source.path == "lib").expect("src/lib.rs is there");
    let declared: Vec<_> =
        lib.text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    for module in &declared {
        assert!(layer(module).is_some(), "{module} is not in the table");
        assert!(
            lib.text.contains(&format!("[`{module}`]")) || *module == "clock",
            "the map in lib.rs does not name {module}"
        );
    }
    for module in LAYERS.iter().copied().flatten().filter(|module| **module != "main") {
        assert!(declared.contains(module), "{module} is in the table, but not in lib.rs");
    }
}

/// The words in backquotes that are names of tests.
fn named_tests(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        word.matches('_').count() >= 2
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(is_name).collect()
}

#[test]
fn every_test_that_the_hazard_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/hazards.md")).expect("the page is there");
    let mut sources = all_sources();
    sources_below(&root.join("tests"), "", &mut sources);
    let named = named_tests(&page);
    assert!(named.len() > 30, "only {} tests are named", named.len());
    for name in named {
        let function = format!("fn {name}(");
        let exists = sources.iter().any(|source| source.text.contains(&function));
        assert!(exists, "docs/hazards.md names {name}, which is no test");
    }
}

/// The violations of one line of a file, without their place.
fn reported(path: &str, line: &str) -> Vec<String> {
    let found = violations(&[Source::new(path, &format!("//! doc\n{line}\n"))]);
    let place = format!("src/{path}:2: ");
    found
        .into_iter()
        .map(|violation| violation.strip_prefix(&place).expect("line 2 is named").to_owned())
        .collect()
}

#[test]
fn an_import_upwards_or_sideways_is_reported_with_file_and_line() {
    let seeded = [
        ("semantics/vary.rs", "use crate::store::Store;", "semantics may not use store"),
        ("policy.rs", "use crate::stored::StoredResponse;", "policy may not use stored"),
        ("engine/fill.rs", "    let x = crate::proxy::Proxy::new();", "engine may not use proxy"),
        ("frontend/http1.rs", "fn f(_: & crate :: admin::X) {}", "frontend may not use admin"),
        ("config.rs", "pub(crate) use crate::nowhere::X;", "config may not use nowhere"),
        ("server.rs", "use crate::cli::run;", "server may not use cli"),
        ("main.rs", "use larder::utils;", "main may not use utils"),
    ];
    for (path, line, what) in seeded {
        assert_eq!(reported(path, line), [what], "{path}: {line}");
    }
}

#[test]
fn imports_downwards_and_within_the_module_are_not_reported() {
    for (path, line) in [
        ("engine.rs", "use crate::store::Store;"),
        ("engine/fill.rs", "use crate::engine::body::Body;"),
        ("proxy.rs", "use crate::frontend::RequestHandler;"),
        ("main.rs", "use larder::cli::Context;"),
        ("semantics.rs", "// see crate::engine, and super::super, and tokio"),
        ("semantics.rs", "const X: &str = \"crate::engine \\\" tokio\"; /* async */"),
        ("semantics.rs", "const X: &str = r#\"crate::engine \" tokio\"#;"),
        ("semantics.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' }"),
        ("telemetry.rs", "let my_crate_is = clapping(pingora);"),
    ] {
        assert!(reported(path, line).is_empty(), "{path}: {line}: {:?}", reported(path, line));
    }
}

#[test]
fn a_hidden_import_is_reported() {
    for line in [
        "use crate::{semantics, engine};",
        "use crate :: { semantics };",
        "use super::super::engine;",
        "use crate::*;",
        "use crate as c;",
    ] {
        assert_eq!(reported("telemetry/log.rs", line).len(), 1, "{line}");
    }
}

#[test]
fn a_third_party_crate_beyond_its_door_is_reported() {
    for (path, line, what) in [
        ("engine.rs", "use pingora_core::X;", "only frontend, proxy, upstream, fake may use pingora"),
        ("telemetry.rs", "prometheus::gather();", "only telemetry/metrics may use prometheus"),
        ("telemetry/metricsx.rs", "use prometheus;", "only telemetry/metrics may use prometheus"),
        ("frontend.rs", "fn f() -> axum::Router {}", "only admin, fake may use axum"),
        ("server.rs", "use hickory_resolver::X;", "only upstream may use hickory_resolver"),
        ("engine.rs", "use quick_cache::sync::Cache;", "only store, frontend/ca may use quick_cache"),
        (
            "policy.rs",
            "use sfv::Parser;",
            "only semantics/targeted_cache_control, semantics/rate_limit may use sfv",
        ),
        ("config.rs", "#[derive(clap::Args)]", "only cli, main may use clap"),
        ("store/memory.rs", "use sled::Db;", "only store/disk, store/state_db may use sled"),
    ] {
        assert_eq!(reported(path, line), [what], "{path}: {line}");
    }
    for (path, line) in [
        ("upstream/fetch.rs", "use pingora_core::X;"),
        ("telemetry/metrics/register.rs", "use prometheus::X;"),
        ("store/memory.rs", "use quick_cache::sync::Cache;"),
        ("main.rs", "use clap::Parser;"),
        ("fake/discord.rs", "use axum::Router;"),
    ] {
        assert!(reported(path, line).is_empty(), "{path}: {line}");
    }
}

#[test]
fn an_act_in_a_pure_module_is_reported() {
    for line in [
        "use tokio::sync::watch;",
        "async fn f() {}",
        "x.await;",
        "use std::fs;",
        "std::env::vars();",
        "use std::net::TcpStream;",
    ] {
        for module in PURE {
            assert_eq!(reported(&format!("{module}/x.rs"), line).len(), 1, "{module}: {line}");
        }
        assert!(reported("engine/x.rs", line).is_empty(), "{line}");
    }
}

#[test]
fn a_module_that_the_table_does_not_know_is_reported() {
    let found = violations(&[Source::new("utils.rs", "")]);
    assert_eq!(found, ["src/utils.rs:1: no line of the table names it"]);
}

#[test]
fn blanking_keeps_every_line_where_it_is() {
    let text = "a \"x\ny\" b /* c\nd */ e\n// f\n'\\n' g";
    assert_eq!(code(text), "a   \n   b     \n     e\n    \n     g");
}
