//! Detects request fields that prevent sharing between otherwise equal requests: each costs a call where
//! the operator may have meant one.
//!
//! Owns: finding the field, and logging it once per route. Never touches: cache keys, which have
//! separated the requests already; hits, which bear no cost for this.

use std::collections::{HashMap, HashSet};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Maximum number of requests remembered for comparison.
const MAX_REMEMBERED: usize = 1024;

/// Number of requests that a field separates before it is logged as a warning.
const WARN_AFTER: u32 = 16;

/// Maximum number of fields logged: a client may invent field names.
const MAX_WARNED: usize = 64;

/// The misses seen so far.
#[derive(Debug, Default)]
pub(crate) struct FragmentationLog(Mutex<SeenRequest>);

#[derive(Debug, Default)]
struct SeenRequest {
    /// The fields of the last request that was equal but for them: hashes of names and of values.
    last: HashMap<u128, Vec<(u64, u64)>>,
    /// Number of requests that a field of a route has separated.
    counts: HashMap<(usize, u64), u32>,
    warned: HashSet<(usize, u64)>,
}

/// A field that has separated a request from an equal one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FragmentingField<'a> {
    /// The field.
    pub(crate) name: &'a HeaderName,
    /// Whether to warn: the field has separated requests often and was not logged before.
    pub(crate) should_warn: bool,
}

impl FragmentationLog {
    /// Records a miss of a request of `route`. `rest`: the cache key without `fields`.
    pub(crate) fn record_miss<'a>(
        &self,
        route: usize,
        rest: u128,
        fields: &[(&'a HeaderName, &'a HeaderValue)],
    ) -> Option<FragmentingField<'a>> {
        let now: Vec<(u64, u64)> = fields.iter().map(|(name, value)| hashes(name, value)).collect();
        let mut seen = self.0.lock();
        if seen.last.len() >= MAX_REMEMBERED && !seen.last.contains_key(&rest) {
            seen.last.clear();
        }
        let previous = seen.last.insert(rest, now.clone())?;
        let hash = sole_difference(&previous, &now)?;
        let (name, _) = fields.iter().find(|(name, _)| xxh3_64(name.as_str().as_bytes()) == hash)?;
        Some(FragmentingField { name, should_warn: seen.should_warn((route, hash)) })
    }
}

impl SeenRequest {
    fn should_warn(&mut self, field: (usize, u64)) -> bool {
        if self.warned.len() >= MAX_WARNED || self.warned.contains(&field) {
            return false;
        }
        if self.counts.len() >= MAX_REMEMBERED && !self.counts.contains_key(&field) {
            self.counts.clear();
        }
        let count = self.counts.entry(field).or_default();
        *count += 1;
        *count >= WARN_AFTER && self.warned.insert(field)
    }
}

fn hashes(name: &HeaderName, value: &HeaderValue) -> (u64, u64) {
    (xxh3_64(name.as_str().as_bytes()), xxh3_64(value.as_bytes()))
}

/// The one name whose values differ; `None`: no name or several. Both slices are sorted by name.
fn sole_difference(previous: &[(u64, u64)], now: &[(u64, u64)]) -> Option<u64> {
    let values = |all: &[(u64, u64)], name: u64| -> Vec<u64> {
        all.iter().filter(|(one, _)| *one == name).map(|(_, value)| *value).collect()
    };
    let names: HashSet<u64> = previous.iter().chain(now).map(|(name, _)| *name).collect();
    let mut different = names.into_iter().filter(|name| values(previous, *name) != values(now, *name));
    different.next().filter(|_| different.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HeaderName = HeaderName::from_static("x-a");
    const B: HeaderName = HeaderName::from_static("x-b");

    /// Records a miss with these fields.
    fn missed(log: &FragmentationLog, rest: u128, fields: &[(&HeaderName, &str)]) -> Option<(String, bool)> {
        let values: Vec<HeaderValue> =
            fields.iter().map(|(_, value)| HeaderValue::from_str(value).unwrap()).collect();
        let fields: Vec<_> = fields.iter().map(|(name, _)| *name).zip(&values).collect();
        let field = log.record_miss(0, rest, &fields)?;
        Some((field.name.to_string(), field.should_warn))
    }

    #[test]
    fn the_only_field_that_differs_is_found() {
        let log = FragmentationLog::default();
        let found = |name: &HeaderName| Some((name.to_string(), false));
        assert_eq!(missed(&log, 1, &[(&A, "1"), (&B, "1")]), None, "nothing to compare with");
        assert_eq!(missed(&log, 1, &[(&A, "2"), (&B, "1")]), found(&A));
        assert_eq!(missed(&log, 1, &[(&A, "2")]), None, "the field is missing now");
        assert_eq!(missed(&log, 1, &[(&A, "2"), (&B, "2")]), found(&B), "the field was missing before");
        assert_eq!(missed(&log, 1, &[(&A, "3"), (&B, "3")]), None, "two fields differ");
        assert_eq!(missed(&log, 1, &[(&A, "3"), (&B, "3")]), None, "equal requests");
        assert_eq!(missed(&log, 2, &[(&A, "4"), (&B, "3")]), None, "another resource");
    }

    #[test]
    fn a_field_that_separates_often_is_warned_about_once() {
        let log = FragmentationLog::default();
        let warned: Vec<u32> = (0..100)
            .filter(|n| missed(&log, 1, &[(&A, &n.to_string())]).is_some_and(|(_, should_warn)| should_warn))
            .collect();
        assert_eq!(warned, [WARN_AFTER]);
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_names_and_requests() {
        let log = FragmentationLog::default();
        let mut warnings = 0;
        for n in 0..200_u32 {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            for value in 0..20 {
                let found = missed(&log, u128::from(n), &[(&name, &value.to_string())]);
                warnings += usize::from(found.is_some_and(|(_, should_warn)| should_warn));
            }
        }
        for n in 0..5000 {
            assert_eq!(missed(&log, 10_000 + n, &[]), None);
        }
        assert_eq!(warnings, MAX_WARNED);
        assert!(log.0.lock().last.len() <= MAX_REMEMBERED);
    }
}
