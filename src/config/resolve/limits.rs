//! `limits`, `log`, `store`: how much larder holds and what it writes.
//!
//! Owns: the bounds of bounds.
//! Never touches: whatever is being bounded.

use std::path::PathBuf;

use crate::config::diagnostics::Wrong;
use crate::config::duration::parse_positive;
use crate::config::reader::{Reader, Section, count, word};
use crate::config::{BodyLimits, Limits, Log, LogFormat, LogLevel, Store, size};

/// `limits`.
pub(super) fn limits(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Limits {
    let defaults = Limits::default();
    let Some(mut section) = top.section(reader, "limits") else { return defaults };
    let head = section.scalar(reader, "head", size::parse_memory);
    if let Some(at) = head.as_ref().filter(|at| !(1024..=1 << 20).contains(&at.value)) {
        let what =
            "a head limit below 1KiB refuses honest requests, one above 1MiB protects nobody";
        reader.problem(at.place, &at.path, what, "write a size from `1KiB` to `1MiB`");
    }
    let limits = Limits {
        head: head.map_or(defaults.head, |at| at.value),
        headers: section.scalar_or(reader, "headers", count(1, 256), defaults.headers),
        head_timeout: section.scalar_or(
            reader,
            "head_timeout",
            parse_positive,
            defaults.head_timeout,
        ),
        idle: section.scalar_or(reader, "idle", parse_positive, defaults.idle),
        tunnel_idle: section.scalar_or(reader, "tunnel_idle", parse_positive, defaults.tunnel_idle),
        body: BodyLimits {
            idle: section.scalar_or(reader, "body_idle", parse_positive, defaults.body.idle),
            min_rate: section.scalar_or(reader, "body_min_rate", speed, defaults.body.min_rate),
        },
        drain: section.scalar_or(reader, "drain", parse_positive, defaults.drain),
        connections: section.scalar_or(
            reader,
            "connections",
            count(1, usize::MAX),
            defaults.connections,
        ),
        waiters_per_key: section.scalar_or(
            reader,
            "waiters_per_key",
            count(0, usize::MAX),
            defaults.waiters_per_key,
        ),
        in_flight: section.scalar_or(reader, "in_flight", size::parse_memory, defaults.in_flight),
    };
    section.finish(reader);
    limits
}

/// Bytes a second, or `off`.
fn speed(text: &str) -> Result<u64, Wrong> {
    if text == "off" {
        return Ok(0);
    }
    let wanted = "bytes a second such as `64B/s`, or `off`";
    let bytes = text.strip_suffix("/s").ok_or_else(|| {
        Wrong::new(wanted, "is not a speed", "write a size and `/s`, such as `64B/s`")
    })?;
    size::parse(bytes)
}

/// `log`.
pub(super) fn log(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Log {
    let defaults = Log::default();
    let Some(mut section) = top.section(reader, "log") else { return defaults };
    let formats = [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)];
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let format = word("`pretty` or `json`", &formats);
    let level = word("one of error, warn, info, debug, trace", &levels);
    let log = Log {
        format: section.scalar_or(reader, "format", format, defaults.format),
        level: section.scalar_or(reader, "level", level, defaults.level),
    };
    section.finish(reader);
    log
}

/// The directory of the store, alone.
pub(super) fn store_path(top: Option<&mut Section<'_>>, reader: &mut Reader<'_>) -> PathBuf {
    let mut section = top.and_then(|top| top.section(reader, "store"));
    let path = section.as_mut().and_then(|section| {
        section.get("path").and_then(|node| reader.path(node, &section.at("path")))
    });
    path.map_or_else(|| reader.directory().join(Store::default().path), |at| at.value)
}

/// `store`.
pub(super) fn store(top: &mut Section<'_>, limits: &Limits, reader: &mut Reader<'_>) -> Store {
    let mut defaults = Store::default();
    defaults.path = reader.directory().join(defaults.path);
    let Some(mut section) = top.section(reader, "store") else { return defaults };
    let path = section.get("path").and_then(|node| reader.path(node, &section.at("path")));
    let memory = section.scalar(reader, "memory", size::parse_memory);
    let disk = section.scalar_or(reader, "disk", disk, defaults.disk);
    let sweep_every =
        section.scalar_or(reader, "sweep_every", parse_positive, defaults.sweep_every);
    let max_object = section.scalar(reader, "max_object", size::parse_memory);
    let store = Store {
        path: path.map_or(defaults.path, |at| at.value),
        memory: memory.as_ref().map_or(defaults.memory, |at| at.value),
        disk,
        sweep_every,
        max_object: max_object.as_ref().map_or(defaults.max_object, |at| at.value),
    };
    let shown = size::show(u64::try_from(store.max_object).unwrap_or(u64::MAX));
    let at = max_object.or(memory);
    let place = at.as_ref().map_or(section.place, |at| at.place);
    let path = at.map_or_else(|| section.path.clone(), |at| at.path);
    let needed = store.max_object.saturating_mul(4);
    if store.memory < needed {
        let needed = size::show(u64::try_from(needed).unwrap_or(u64::MAX));
        let what = format!(
            "an answer of `max_object` ({shown}) would push out most of the memory that holds others"
        );
        let fix = format!("set `store.memory` to 4 times that, `{needed}`, or `max_object` lower");
        reader.problem(place, &path, what, fix);
    } else if limits.in_flight - limits.in_flight / 4 < store.max_object {
        let what = format!(
            "an answer of `max_object` ({shown}) would not fit `limits.in_flight`, of which a quarter is left \
             to bodies that are not kept"
        );
        let least =
            size::show(u64::try_from(store.max_object.saturating_mul(2)).unwrap_or(u64::MAX));
        let fix = format!("set `limits.in_flight` to `{least}` or more");
        reader.problem(place, &path, what, fix);
    }
    section.finish(reader);
    store
}

/// A size, or `off`. A disk that holds next to nothing is a mistake: the database takes some itself.
fn disk(text: &str) -> Result<u64, Wrong> {
    if text == "off" {
        return Ok(0);
    }
    let bytes = size::parse(text)?;
    if bytes < SMALLEST_DISK {
        let wanted = "a size of at least 64MiB, or `off`";
        let fix = "give it more room, or write `off` to keep answers in memory alone";
        return Err(Wrong::new(wanted, "leaves no room beside the database itself", fix));
    }
    Ok(bytes)
}

const SMALLEST_DISK: u64 = 64 << 20;
