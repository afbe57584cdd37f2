//! References as a test: every relative link of the documents leads to a file, and every module that the header
//! of a source file names exists. A violation is reported as `file: what`.

#![expect(clippy::string_slice, reason = "text is cut at ASCII signs, where a character begins")]

use std::fs;
use std::path::Path;

use crate::sources::{Source, sources_below};

#[path = "support/sources.rs"]
mod sources;

/// The folders with documents.
const DOCUMENTS: &[&str] = &["", "docs", "docs/decisions", "deploy"];

/// The relative targets of the links in a document, without anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter_map(|target| target.split('#').next());
    files.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' ')).collect()
}

/// The names in backticks in the header of a source file that look like paths of modules.
fn named_modules(text: &str) -> Vec<&str> {
    let header = text.lines().take_while(|line| line.starts_with("//!"));
    let quoted = header.flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path = |name: &&str| {
        let is_name = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        name.contains("::") && name.split("::").all(is_name)
    };
    quoted.filter(is_path).collect()
}

/// Whether `name` is a module, or an item of the module before its last part. The first part is a module at the
/// top of the library, or beside or below the file that names it.
fn exists(sources: &[Source], file: &str, name: &str) -> bool {
    let path = name.replace("::", "/");
    let (parent, item) = path.rsplit_once('/').unwrap_or(("", &path));
    let beside = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let roots = [String::new(), format!("{file}/"), format!("{beside}/")];
    roots.iter().any(|root| {
        let has = |module: &str| sources.iter().find(|source| source.path == format!("{root}{module}"));
        let defines = |source: &Source| {
            ["fn ", "mod ", "const ", "static "]
                .iter()
                .any(|kind| source.text.contains(&format!("{kind}{item}")))
        };
        has(&path).is_some() || has(parent).is_some_and(defines)
    })
}

#[test]
fn every_relative_link_of_the_documents_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dead = Vec::new();
    for folder in DOCUMENTS.iter().map(|folder| root.join(folder)) {
        for entry in fs::read_dir(&folder).expect("the folder is there").flatten() {
            let file = entry.path();
            if file.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a document is text");
            let missing = links(&text).into_iter().filter(|link| !folder.join(link).exists());
            dead.extend(missing.map(|link| format!("{}: {link}", file.display())));
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn every_module_that_a_header_names_exists() {
    let mut sources = Vec::new();
    sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    let mut dead = Vec::new();
    for source in &sources {
        let missing =
            named_modules(&source.text).into_iter().filter(|name| !exists(&sources, &source.path, name));
        dead.extend(missing.map(|name| format!("src/{}.rs: {name}", source.path)));
    }
    assert!(dead.is_empty(), "modules that do not exist:\n{}", dead.join("\n"));
}

#[test]
fn dead_references_are_found() {
    assert_eq!(links("see [a](x.md#part), [b](https://h/p) and [c](#here)"), ["x.md"]);
    let header = "//! Never touches: keys (`engine::nowhere`), `Type`, `a word`.\n\nuse `engine::later`;";
    assert_eq!(named_modules(header), ["engine::nowhere"]);
    let sources = [Source::new("engine/fill.rs", "fn run() {}"), Source::new("engine.rs", "mod fill;")];
    for (name, found) in [("engine::fill", true), ("engine::fill::run", true), ("engine::nowhere", false)] {
        assert_eq!(exists(&sources, "engine", name), found, "{name}");
    }
}
