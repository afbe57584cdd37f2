//! `limits`, `log`, `store`: resource limits, the log, and the sizes of the store.
//!
//! Owns: the bounds of their values, and the rules between them. Never touches: the objects that are limited.

use std::path::PathBuf;

use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::duration::parse_positive;
use crate::config::keyword::keyword;
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::resolve::bounds;
use crate::config::{BodyLimits, Limits, Log, LogFormat, LogLevel, Store, size};

/// `limits`, and the location of `in_flight` if it is set.
pub(super) fn limits(top: &mut Section<'_>, reader: &mut Reader<'_>) -> (Limits, Option<Spanned<usize>>) {
    let defaults = Limits::default();
    let Some(mut section) = top.section(reader, "limits") else { return (defaults, None) };
    let head = section.scalar(reader, "head", size::parse_memory);
    if let Some(at) = head.as_ref().filter(|at| !(1024..=1 << 20).contains(&at.value)) {
        let what = "a head limit below 1KiB refuses honest requests, one above 1MiB gives no protection";
        reader.problem(at.place, &at.path, what, "write a size from `1KiB` to `1MiB`");
    }
    let mut time = |key, usual, rule| bounds::time(&mut section, reader, key, usual, rule);
    let head_timeout = time("head_timeout", defaults.head_timeout, &bounds::HEAD_TIMEOUT);
    let idle = time("idle", defaults.idle, &bounds::IDLE);
    let tunnel_idle = time("tunnel_idle", defaults.tunnel_idle, &bounds::TUNNEL_IDLE);
    let patience = time("patience", defaults.patience, &bounds::PATIENCE);
    let drain = time("drain", defaults.drain, &bounds::DRAIN);
    let mut count = |key, usual, rule| bounds::count(&mut section, reader, key, usual, rule);
    let headers = count("headers", defaults.headers, &bounds::HEADERS);
    let connections = count("connections", defaults.connections, &bounds::CONNECTIONS);
    let waiters_per_key = count("waiters_per_key", defaults.waiters_per_key, &bounds::WAITERS);
    let body = body(&mut section, reader);
    let in_flight = section.scalar(reader, "in_flight", size::parse_memory);
    section.finish(reader);
    let limits = Limits {
        head: head.map_or(defaults.head, |at| at.value),
        headers,
        head_timeout,
        idle,
        tunnel_idle,
        patience,
        body,
        drain,
        connections,
        waiters_per_key,
        in_flight: in_flight.as_ref().map_or(defaults.in_flight, |at| at.value),
    };
    (limits, in_flight)
}

/// `limits.body_idle`, `limits.body_min_rate`.
fn body(section: &mut Section<'_>, reader: &mut Reader<'_>) -> BodyLimits {
    let BodyLimits { idle, min_rate } = Limits::default().body;
    let idle = bounds::time(section, reader, "body_idle", idle, &bounds::BODY_IDLE);
    let Some(at) = section.scalar(reader, "body_min_rate", speed) else {
        return BodyLimits { idle, min_rate };
    };
    if at.value > FAST {
        let text = "is more than many client connections can send: their uploads end with 408";
        reader.warn(&at, WarningKind::OddLimit, text);
    }
    BodyLimits { idle, min_rate: at.value }
}

/// A rate, in bytes per second, that many client connections cannot sustain.
const FAST: u64 = 1 << 20;

/// Parses a rate in bytes per second, or `off`.
fn speed(text: &str) -> Result<u64, ValueError> {
    if text == "off" {
        return Ok(0);
    }
    let wanted = "bytes a second such as `64B/s`, or `off`";
    let bytes = text
        .strip_suffix("/s")
        .ok_or_else(|| ValueError::new(wanted, "is not a speed", "write a size and `/s`, such as `64B/s`"))?;
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
    let format = keyword("`pretty` or `json`", &formats);
    let level = keyword("one of error, warn, info, debug, trace", &levels);
    let log = Log {
        format: section.scalar_or(reader, "format", format, defaults.format),
        level: section.scalar_or(reader, "level", level, defaults.level),
    };
    section.finish(reader);
    log
}

/// Only the directory of the store.
pub(super) fn store_path(top: Option<&mut Section<'_>>, reader: &mut Reader<'_>) -> PathBuf {
    let mut section = top.and_then(|top| top.section(reader, "store"));
    let path = section.as_mut().and_then(|section| section.file_path(reader, "path"));
    path.map_or_else(|| reader.directory().join(Store::default().path), |at| at.value)
}

/// `store`.
pub(super) fn store(
    top: &mut Section<'_>,
    limits: &Limits,
    in_flight: Option<Spanned<usize>>,
    reader: &mut Reader<'_>,
) -> Store {
    let mut defaults = Store::default();
    defaults.path = reader.directory().join(defaults.path);
    let Some(mut section) = top.section(reader, "store") else {
        check_in_flight(&defaults, limits, in_flight, reader);
        return defaults;
    };
    let path = section.file_path(reader, "path");
    let memory = section.scalar(reader, "memory", size::parse_memory);
    let disk = section.scalar_or(reader, "disk", disk, defaults.disk);
    let sweep_every = section.scalar_or(reader, "sweep_every", parse_positive, defaults.sweep_every);
    let max_object = section.scalar(reader, "max_object", size::parse_memory);
    let store = Store {
        path: path.map_or(defaults.path, |at| at.value),
        memory: memory.as_ref().map_or(defaults.memory, |at| at.value),
        disk,
        sweep_every,
        max_object: max_object.as_ref().map_or(defaults.max_object, |at| at.value),
    };
    section.finish(reader);
    let needed = store.max_object.saturating_mul(4);
    if store.memory >= needed {
        check_in_flight(&store, limits, max_object.or(in_flight), reader);
    } else if let Some(at) = max_object.or(memory) {
        let (max, needed) = (size::show_memory(store.max_object), size::show_memory(needed));
        let what = format!("a response of `max_object` ({max}) would evict most of the memory tier");
        let fix = format!("set `store.memory` to 4 times that, `{needed}`, or `max_object` lower");
        reader.problem(at.place, &at.path, what, fix);
    }
    store
}

/// Checks that the largest stored body fits into `limits.in_flight`. `configured`: the one of the two keys
/// that the file sets; the defaults of both fit.
fn check_in_flight(
    store: &Store,
    limits: &Limits,
    configured: Option<Spanned<usize>>,
    reader: &mut Reader<'_>,
) {
    let Some(at) = configured else { return };
    if limits.in_flight - limits.in_flight / 4 >= store.max_object {
        return;
    }
    let what = format!(
        "a response of `store.max_object` ({}) would not fit `limits.in_flight`, of which a quarter is reserved \
         for bodies that are not stored",
        size::show_memory(store.max_object)
    );
    let least = size::show_memory(store.max_object.saturating_mul(2));
    let fix = format!("set `limits.in_flight` to `{least}` or more, or `store.max_object` lower");
    reader.problem(at.place, &at.path, what, fix);
}

/// Parses a size, or `off`. A tiny disk tier is a mistake: the database itself needs space.
fn disk(text: &str) -> Result<u64, ValueError> {
    if text == "off" {
        return Ok(0);
    }
    let bytes = size::parse(text)?;
    if bytes < SMALLEST_DISK {
        let wanted = "a size of at least 64MiB, or `off`";
        let fix = "give it more space, or write `off` to store responses in memory only";
        return Err(ValueError::new(wanted, "leaves no space beside the database itself", fix));
    }
    Ok(bytes)
}

const SMALLEST_DISK: u64 = 64 << 20;
