//! A text table: rows below column heads, and lines of details below them.
//!
//! Owns: the width of columns. Never touches: the content of cells.

use std::io::{self, Write};

use crate::cli::admin_client::sanitize;

/// Prints `heads` and `rows`, each column as wide as its widest cell. Control characters in cells are
/// replaced.
pub(in crate::cli) fn print<const N: usize>(
    heads: [&str; N],
    rows: Vec<[String; N]>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let plain = |row: [String; N]| row.map(|cell| sanitize(&cell).replace('\n', " "));
    let all = std::iter::once(heads.map(str::to_owned)).chain(rows);
    let all: Vec<_> = all.map(plain).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in &all {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints `lines` below a table, after an empty line if there are any.
pub(in crate::cli) fn print_details(
    lines: impl Iterator<Item = String>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", sanitize(&line).replace('\n', " "))?;
    }
    Ok(())
}
