//! What became of each client, for people and for machines.
//!
//! Owns: the table. Never touches: how it came about.

use crate::programs::{Part, Program, Way};

/// What became of one client.
pub(crate) struct Row {
    name: &'static str,
    version: String,
    way: &'static str,
    outcome: &'static str,
    /// Everything that it said, where it failed.
    why: Option<String>,
    /// Whether the matrix may pass.
    pub(crate) is_well: bool,
}

impl Row {
    /// Both were hits the second time.
    pub(crate) fn hit(program: &Program, version: String) -> Self {
        Self { version, outcome: "hit, hit", ..Self::new(program) }
    }

    pub(crate) fn failed(program: &Program, version: String, why: String) -> Self {
        Self { version, outcome: "MISSED", why: Some(why), is_well: false, ..Self::new(program) }
    }

    /// Not there; `require` allows that only for those that CI does not cover.
    pub(crate) fn skipped(program: &Program, require: bool) -> Self {
        let is_well = !require || program.part == Part::Full;
        Self { outcome: "skipped", is_well, ..Self::new(program) }
    }

    fn new(program: &Program) -> Self {
        let way = match program.way {
            Way::Proxy => "proxy",
            Way::Mount => "mount",
        };
        let version = String::new();
        Self { name: program.name, version, way, outcome: "", why: None, is_well: true }
    }
}

/// The table, as it stands in `docs/clients.md`.
pub(crate) fn print(rows: &[Row]) {
    for row in rows {
        if let Some(why) = &row.why {
            println!("{}: {why}\n", row.name);
        }
    }
    println!("| {:<27} | {:<10} | way   | the second HTTPS and HTTP |", "client", "version");
    println!("|-{0:-<27}-|-{0:-<10}-|-------|---------------------------|", "");
    for Row { name, version, way, outcome, .. } in rows {
        println!("| {name:<27} | {version:<10} | {way} | {outcome:<25} |");
    }
    println!();
}

/// The same for machines, as one line.
pub(crate) fn json(rows: &[Row], reached: bool) -> serde_json::Value {
    let count = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    let missed: Vec<_> = rows.iter().filter(|row| row.why.is_some()).map(|row| row.name).collect();
    serde_json::json!({
        "example": "clients",
        "clients": rows.len(),
        "hit": count("hit, hit"),
        "skipped": count("skipped"),
        "missed": missed,
        "reached": reached,
    })
}
