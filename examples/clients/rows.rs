//! The results of the clients, as a table and as JSON.
//!
//! Owns: the table. Never touches: running the clients.

use crate::programs::{AccessMode, Part, Program};

/// The result of one client.
pub(crate) struct Row {
    name: &'static str,
    version: String,
    access: &'static str,
    outcome: &'static str,
    /// Its complete output, if it failed.
    reason: Option<String>,
    /// Whether the run may pass.
    pub(crate) passes: bool,
}

impl Row {
    /// The second requests for both resources were hits.
    pub(crate) fn hit(program: &Program, version: String) -> Self {
        Self { version, outcome: "hit, hit", ..Self::new(program) }
    }

    pub(crate) fn failed(program: &Program, version: String, reason: String) -> Self {
        Self { version, outcome: "MISSED", reason: Some(reason), passes: false, ..Self::new(program) }
    }

    /// Not installed; with `require` that is allowed only for clients that CI does not cover.
    pub(crate) fn skipped(program: &Program, require: bool) -> Self {
        let is_well = !require || program.part == Part::Full;
        Self { outcome: "skipped", passes: is_well, ..Self::new(program) }
    }

    fn new(program: &Program) -> Self {
        let access = match program.access {
            AccessMode::Proxy => "proxy",
            AccessMode::Mount => "mount",
        };
        let version = String::new();
        Self { name: program.name, version, access, outcome: "", reason: None, passes: true }
    }
}

/// Prints the table of `docs/clients.md`.
pub(crate) fn print(rows: &[Row]) {
    for row in rows {
        if let Some(reason) = &row.reason {
            println!("{}: {reason}\n", row.name);
        }
    }
    println!("| {:<27} | {:<10} | access | second HTTPS and HTTP request |", "client", "version");
    println!("|-{0:-<27}-|-{0:-<10}-|--------|-------------------------------|", "");
    for Row { name, version, access, outcome, .. } in rows {
        println!("| {name:<27} | {version:<10} | {access:<6} | {outcome:<29} |");
    }
    println!();
}

/// The same as one line of JSON.
pub(crate) fn json(rows: &[Row], reached: bool) -> serde_json::Value {
    let count = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    let missed: Vec<_> = rows.iter().filter(|row| row.reason.is_some()).map(|row| row.name).collect();
    serde_json::json!({
        "example": "clients",
        "clients": rows.len(),
        "hit": count("hit, hit"),
        "skipped": count("skipped"),
        "missed": missed,
        "reached": reached,
    })
}
