//! `timeouts`, of an upstream and of a route.
//!
//! Owns: the forms of a deadline. Never touches: which deadline applies to a call (`policy::timeouts`).

use std::time::Duration;

use crate::config::diagnostics::ValueError;
use crate::config::duration::parse_positive;
use crate::config::file::Value;
use crate::config::reader::{Reader, Section};
use crate::policy::timeouts::{Deadline, TimeoutOverrides};

/// `timeouts`, as far as it is written.
pub(super) fn read(one: &mut Section<'_>, reader: &mut Reader<'_>) -> TimeoutOverrides {
    let Some(mut section) = one.section(reader, "timeouts") else { return TimeoutOverrides::default() };
    let timeouts = TimeoutOverrides {
        connect: section.scalar(reader, "connect", parse_positive).map(|at| at.value),
        first_byte: deadline(&mut section, "first_byte", reader),
        between_bytes: deadline(&mut section, "between_bytes", reader),
        total: deadline(&mut section, "total", reader),
    };
    section.finish(reader);
    timeouts
}

/// `30s`: hard; `{ soft: 30s }`; `off`.
fn deadline(section: &mut Section<'_>, key: &'static str, reader: &mut Reader<'_>) -> Option<Deadline> {
    let is_map = section.get(key).is_some_and(|node| matches!(node.value, Value::Map(_)));
    if !is_map {
        return section.scalar(reader, key, hard).map(|at| at.value);
    }
    let mut inner = section.section(reader, key)?;
    let fix = "write `{ soft: 30s }`, `30s` for a deadline that ends the call, or `off`";
    let soft = inner.required(reader, "soft", parse_positive, fix);
    inner.finish(reader);
    soft.map(|at| Deadline::Soft(at.value))
}

fn hard(text: &str) -> Result<Deadline, ValueError> {
    if text == "off" {
        return Ok(Deadline::Off);
    }
    let time: Result<Duration, ValueError> = parse_positive(text);
    let wanted = "a duration such as `30s`, `{ soft: 30s }` or `off`";
    time.map(Deadline::Hard).map_err(|wrong| ValueError { wanted, ..wrong })
}
