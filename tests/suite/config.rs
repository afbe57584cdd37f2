//! Valid and invalid configurations, each invalid one with its complete error report: `bad/NAME.txt` is the
//! report for `bad/NAME.yaml`.

use std::fs;
use std::path::{Path, PathBuf};

use larder::config::env::Env;
use larder::config::{Config, diagnostics::Report, load};

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind)
}

fn yaml_files(kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures(kind)).expect("the fixtures are there");
    let entries = entries.map(|entry| entry.expect("the fixtures can be listed").path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty(), "no fixtures in {kind}");
    files
}

/// The environment variables that the fixtures use.
fn env() -> Env {
    [("HOST", "api.example"), ("TTL", "5m"), ("SECRET", "hunter2"), ("LONG_SECRET", "correct horse battery")]
        .into_iter()
        .collect()
}

fn loaded(path: &Path) -> Result<Config, Report> {
    load(path, &env())
}

#[test]
fn every_invalid_file_produces_the_report_beside_it() {
    for path in yaml_files("bad") {
        let report = loaded(&path).expect_err(&path.display().to_string()).to_string();
        let directory = format!("{}/", fixtures("bad").display());
        let report = report.replace(&directory, "") + "\n";
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        assert_eq!(report, expected, "\n{}:\n{report}", path.display());
    }
}

#[test]
fn every_report_belongs_to_a_file() {
    for entry in fs::read_dir(fixtures("bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "txt") {
            assert!(path.with_extension("yaml").exists(), "{}", path.display());
        }
    }
}

#[test]
fn every_valid_file_is_accepted() {
    for path in yaml_files("good") {
        if let Err(report) = loaded(&path) {
            panic!("{report}");
        }
    }
}

#[test]
fn no_report_contains_a_value_of_the_environment() {
    for path in yaml_files("bad") {
        let report = loaded(&path).expect_err(&path.display().to_string()).to_string();
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn the_reference_configuration_is_valid() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.yaml");
    let config = loaded(&reference).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.routes.routes().len(), 2);
}

#[test]
fn a_missing_file_is_reported_in_one_line() {
    let report = loaded(Path::new("no-such-file.yaml")).expect_err("missing").to_string();
    assert!(report.starts_with("no-such-file.yaml: the file cannot be read:"), "{report}");
}
